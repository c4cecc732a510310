"""torchtitan on a machine without an accelerator: a CPU device module, set before torchtitan's modules load.

torchtitan takes "cuda" where it finds no accelerator, and its modules import `device_type`, `device_module` and
`get_local_device` by value. So the replacement happens here, at import, and `tst_titan.train.titan` imports this
module first.
"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed
from torchtitan.tools import utils

from tst_titan.train.titan.torch_private import set_group_timeout

DEVICE_TYPE: str = torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"  # type: ignore[union-attr]


@dataclass(frozen=True)
class _CPUProperties:
    name: str
    total_memory: int


def _cpu_properties(device: Any = None) -> _CPUProperties:
    return _CPUProperties(cpu_name(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def cpu_name() -> str:
    """The processor's name as the system states it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "CPU"


def _peak_memory(device: Any = None) -> dict[str, int]:
    """Peak resident memory of this process, under the names of torch.cuda.memory_stats."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "active_bytes.all.peak": peak,
        "reserved_bytes.all.peak": peak,
        "num_alloc_retries": 0,
        "num_ooms": 0,
    }


def _nothing(*args: Any, **kwargs: Any) -> None:
    """A CPU has no device to select, stream to wait for or allocator cache to empty."""


_CPU_MODULE = SimpleNamespace(
    __name__="tst_titan.cpu",
    set_device=_nothing,
    synchronize=_nothing,
    empty_cache=_nothing,
    reset_peak_memory_stats=_nothing,
    device_count=lambda: 1,
    current_device=lambda: 0,
    is_available=lambda: True,
    get_device_name=lambda device=None: cpu_name(),
    get_device_properties=_cpu_properties,
    memory_stats=_peak_memory,
    manual_seed=torch.manual_seed,
    get_rng_state=lambda device=None: torch.get_rng_state(),
    set_rng_state=lambda state, device=None: torch.set_rng_state(state),
)


if DEVICE_TYPE == "cpu":
    utils.device_type = "cpu"
    utils.device_module = _CPU_MODULE  # type: ignore[assignment]
    utils.get_local_device = lambda: torch.device("cpu")

if not hasattr(torch.distributed, "set_timeout"):
    torch.distributed.set_timeout = set_group_timeout  # type: ignore[attr-defined]
