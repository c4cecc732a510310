"""What of torch is private and used here; each line says what for. torchtitan's own is in `upstream.py`."""

from datetime import timedelta
from typing import Any

import torch
from torch.distributed import distributed_c10d
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

# Of a tensor's subclass: whatever is computed from it is a plain tensor.
PLAIN_RESULTS = torch._C._disabled_torch_function_impl


def set_group_timeout(timeout: timedelta, group: Any = None) -> None:
    """torch.distributed.set_timeout, whose twin torch 2.13 has under this name alone."""
    distributed_c10d._set_pg_timeout(timeout, group)


def shard_of(tensor: DTensor) -> torch.Tensor:
    """This rank's part, as it lies in memory: `to_local` hands out a view, to be differentiated."""
    return tensor._local_tensor


def fsdp_group(module: FSDPModule) -> object:
    """What modules that FSDP gathers and reduces together have in common."""
    return module._get_fsdp_state()
