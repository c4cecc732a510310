"""Whether torch sees the GPUs that a process holds, and what of the driver to say where it does not.

A torch for a newer CUDA than the driver's finds no device and raises no error: a job would train on the CPU while it
holds GPUs. `python -m tst_titan.cluster.driver` says in one line what is there, or with status 1 what is wrong
(`tst-titan nodes` runs it).
"""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tst_titan.errors import UserError

KERNEL_MODULE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Driver:
    """NVIDIA's driver and the newest CUDA that it runs, as far as the machine tells them."""

    version: str | None = None
    cuda: str | None = None

    def __str__(self) -> str:
        if self.version is None:
            return "no NVIDIA driver found"
        return f"driver {self.version}" + (f" (up to CUDA {self.cuda})" if self.cuda else "")


def find_driver(kernel_module: Path = KERNEL_MODULE) -> Driver:
    """Ask nvidia-smi, or where it is not there or fails, the kernel's module."""
    answer = _nvidia_smi() + _nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader")
    version = re.search(r"Driver Version: *(\d[\d.]*)", answer) or re.search(r"^(\d[\d.]*) *$", answer, re.MULTILINE)
    if version is None and kernel_module.is_file():
        version = re.search(r"Kernel Module.*? (\d+\.\d[\d.]*)", kernel_module.read_text(errors="replace"))
    cuda = re.search(r"CUDA Version: *(\d[\d.]*)", answer)
    return Driver(version and version.group(1), cuda and cuda.group(1))


def check_torch_sees(count: int, held: tuple[str, ...], where: str) -> None:
    """`UserError`, with what torch and the driver are and the mend, where torch sees fewer than `count` of the GPUs
    `held`."""
    import torch

    seen = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if seen >= count:
        return
    if len(held) < count:
        mend = f"{count} processes on a machine need {count} GPUs"
    elif _built_for() is None:
        mend = "install a torch that is built for this driver's CUDA, not for CPUs"
    else:
        mend = "install a torch that is built for a CUDA which the driver runs, or a newer driver"
    raise UserError(
        f"holds {len(held)} GPUs ({', '.join(held)}), torch sees {seen}: {describe_torch()}, {find_driver()}"
        f"{_why_no_cuda()}; {mend} (docs/cluster.md, Driver and CUDA); an empty CUDA_VISIBLE_DEVICES trains on the CPU",
        where=where,
    )


def describe_torch() -> str:
    """Version of torch and what it was built for."""
    import torch

    return f"torch {torch.__version__} (built for {_built_for() or 'CPUs alone'})"


def _built_for() -> str | None:
    import torch

    return (
        f"CUDA {torch.version.cuda}"
        if torch.version.cuda
        else f"ROCm {torch.version.hip}"
        if torch.version.hip
        else None
    )


def _why_no_cuda() -> str:
    """What torch says when it is made to use CUDA; "" where it says nothing or was not built for it."""
    import torch

    if _built_for() is None:
        return ""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return f"; torch says: {str(error).splitlines()[0]}"
    return ""


def _nvidia_smi(*options: str) -> str:
    try:
        run = subprocess.run(["nvidia-smi", *options], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout + "\n" if run.returncode == 0 else ""


def main() -> int:
    import torch

    from tst_titan.cluster.devices import promised_gpus

    held = promised_gpus()
    try:
        check_torch_sees(len(held), held, "this node")
    except UserError as error:
        print(error.what)
        return 1
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    devices = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or "no GPU"
    print(f"{devices}; {describe_torch()}, {find_driver()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
