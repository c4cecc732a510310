"""HSDP under gradient accumulation: gradients cross the replicas once a step, not once a micro-batch.

torchtitan leaves FSDP's all-reduce over replicas on in every micro-batch; between nodes it is the slow part. Switched
off, FSDP keeps the reduce-scattered sum of the micro-batches so far instead of `.grad`, of the same size and dtype.
"""

from itertools import cycle

from torch.distributed.fsdp import FSDPModule
from torchtitan.models.common.decoder import Decoder

from tst_titan.train.titan.torch_private import fsdp_group


class ReplicaSums:
    """Call `next_micro_batch` before each forward; the last of every `micro_batches` all-reduces all gradients.

    `head_apart`: the loss runs the head's backward before the rest's (in chunks). Then the head and the norm, one group
    of FSDP's, are reduced one after the other, which no sum of both can take up: that group is all-reduced each time.
    """

    def __init__(self, model: Decoder, micro_batches: int, *, head_apart: bool):
        modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
        head = model.lm_head
        apart = fsdp_group(head) if head_apart and isinstance(head, FSDPModule) else None
        self.groups = [module for module in modules if fsdp_group(module) is not apart]
        self.is_last = cycle(number + 1 == micro_batches for number in range(micro_batches))

    def next_micro_batch(self) -> None:
        last = next(self.is_last)
        for group in self.groups:
            group.set_requires_all_reduce(last, recurse=False)
