"""A model's weights as a checkpoint holds them: the numbers, without the wrapper that float8 experts compute
through."""

from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from tst_titan.train.titan.torch_private import shard_of
from tst_titan.train.titan.upstream import CheckpointWeights


class PlainWeights(CheckpointWeights):
    """torchtitan's view of a model for checkpoints, with plain tensors for float8 experts.

    torchao wraps their weights into a tensor without storage, which torchtitan compares by storage and DCP writes from
    it. So a checkpoint does not depend on the precision that computed it. The parts of a fused weight are views into
    it; as DTensors they say so a second time in their own offset, which torch's staging for saves behind the training
    takes for memory of their own.
    """

    def tensors(self) -> dict[str, Any]:
        return {name: plain(value) for name, value in super().tensors().items()}


def plain(value: Any) -> Any:
    """`value` in the same memory, as a plain tensor or a DTensor of one."""
    if isinstance(value, DTensor):
        shard = shard_of(value)
        local = plain(shard)
        if value.storage_offset():
            # The same memory as a storage of its own, which begins where the view does.
            local = torch.from_dlpack(local.detach())
        if local is shard:
            return value
        with torch.no_grad():
            return DTensor.from_local(
                local,
                value.device_mesh,
                value.placements,
                run_check=False,
                shape=value.shape,
                stride=value.stride(),
            )
    if is_traceable_wrapper_subclass(value):
        (inner,), _ = value.__tensor_flatten__()
        return getattr(value, inner)
    return value
