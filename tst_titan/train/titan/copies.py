"""Batches on their way to an accelerator while it computes.

torchtitan counts a batch's labels on the CPU and then calls `tensor.to(device)` on each of its tensors, a copy for
which both the host and the computation wait. Here the copy starts as soon as the batch is made, from page-locked memory
and on a stream of its own, and `to` hands it out: what torchtitan sees stays a CPU tensor.
"""

from typing import Any

import torch

from tst_titan.train.titan.torch_private import PLAIN_RESULTS


class CopiesAhead:
    """Starts copies to `device`, an accelerator of this process; any thread may ask."""

    def __init__(self, device: torch.device):
        self.device = device
        # torch.cuda, torch.xpu: the names used here are the same in all.
        self.module: Any = getattr(torch, device.type)
        self.stream = self.module.Stream()

    def start(self, values: torch.Tensor) -> "OnItsWay":
        """`values`, a CPU tensor, with their copy begun."""
        with self.module.stream(self.stream):
            source = values.pin_memory()
            copy = source.to(self.device, non_blocking=True)
            arrived = self.module.Event()
            arrived.record(self.stream)
        on_its_way = source.as_subclass(OnItsWay)
        on_its_way.ahead = (self, copy, arrived)
        return on_its_way


class OnItsWay(torch.Tensor):
    """A CPU tensor whose copy on an accelerator is under way; `to` that device returns the copy, once it is there."""

    ahead: tuple[CopiesAhead, torch.Tensor, Any]
    # Whatever is computed from it is a plain tensor.
    __torch_function__ = PLAIN_RESULTS  # type: ignore[assignment]

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        copies, copy, arrived = self.ahead
        if kwargs or args != (copies.device,):
            return super().to(*args, **kwargs)
        computing = copies.module.current_stream()
        computing.wait_event(arrived)
        # Allocated on the copying stream: its memory must not be used again before the computation is past it.
        copy.record_stream(computing)
        return copy
