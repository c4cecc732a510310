"""Peak speeds of devices, by the exact name that `torch.cuda.get_device_name` prints: what utilization is a share of.

Dense bf16 with float32 accumulation, in FLOP/s, from the makers' data sheets; where one gives the rate with sparsity
alone, half of it. A name that is not here has no peak: a part of a GPU (MIG), a variant that nobody looked up, a CPU.
Names that begin alike are different devices (an H20 has a seventh of an H200's speed), so none is found by a part of
its name.
"""

from tst_titan.plan.costs import PEAK_FLOPS

_A100, _H100, _H200, _B200 = (PEAK_FLOPS[name] for name in ("a100", "h100", "h200", "b200"))
# The PCIe cards with two of their GPUs bridged run at lower clocks: 1,671 TFLOPS with sparsity each.
_NVL = 835e12

PEAK_BY_NAME = {
    # NVIDIA A100 data sheet; the A800 differs in NVLink alone. Drivers before 470 print no "NVIDIA".
    "A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA A800-SXM4-80GB": _A100,
    "NVIDIA A800 80GB PCIe": _A100,
    # Data sheets of the A30, A40, RTX A6000.
    "NVIDIA A30": 165e12,
    "NVIDIA A40": 149.7e12,
    "NVIDIA RTX A6000": 154.8e12,
    # NVIDIA H100 data sheet (SXM, PCIe, NVL); the H800 differs in NVLink and float64; GH200 data sheet.
    "NVIDIA H100 80GB HBM3": _H100,
    "NVIDIA H800": _H100,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": _NVL,
    "NVIDIA GH200 480GB": _H100,
    "NVIDIA GH200 120GB": _H100,
    "NVIDIA GH200 144G HBM3e": _H200,
    # NVIDIA H200 data sheet (SXM, NVL).
    "NVIDIA H200": _H200,
    "NVIDIA H200 NVL": _NVL,
    # H20 data sheet: 148 TFLOPS, 296 in float8.
    "NVIDIA H20": 148e12,
    "NVIDIA H20-3e": 148e12,
    # Data sheets of the L4, L40, L40S, RTX 6000 Ada.
    "NVIDIA L4": 121e12,
    "NVIDIA L40": 181e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA RTX 6000 Ada Generation": 364e12,
    # DGX B200 and B300 data sheets, and GB200 NVL72 and GB300 NVL72, whose GPUs run at higher clocks.
    "NVIDIA B200": _B200,
    "NVIDIA B300 SXM6 AC": _B200,
    "NVIDIA GB200": 2.5e15,
    "NVIDIA GB300": 2.5e15,
    # AMD Instinct data sheets; of an MI250X torch sees each half as a device.
    "AMD Instinct MI250X": 191.5e12,
    "AMD Instinct MI300X": 1307e12,
    "AMD Instinct MI325X": 1307e12,
    "AMD Instinct MI355X": 2.5e15,
}


def peak_flops(device_name: str, *, float8: bool) -> float | None:
    """The peak that utilization is measured against: dense bf16, or dense float8 where layers are quantized to it.

    Every device here that has float8 does it at twice its bf16 rate. The head and attention are not quantized and
    run at the lower rate, so that a float8 utilization of 1 cannot be reached. None where the peak is not known.
    """
    peak = PEAK_BY_NAME.get(device_name)
    return None if peak is None else peak * (2 if float8 else 1)
