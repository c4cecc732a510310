"""Random initial values: drawn on the CPU, block by block, whatever device they are for.

The values of a CUDA generator depend on the GPU's number of multiprocessors. Those of torch's CPU generator do not
depend on the device, nor on the number of threads. Drawn are the values that `torch.nn.init` draws into a whole CPU
tensor, but the host holds one block of them at a time: a vocabulary's embedding takes gigabytes, on every rank of a
node at once.
"""

from collections.abc import Iterator

import torch

# Values of a block, 16 MiB in float32.
BLOCK = 2**22
# torch's kernel draws 16 at a time, and fewer by another way: no block but a whole small tensor may be shorter.
_KERNEL = 16


def normal_(tensor: torch.Tensor, *, std: float) -> None:
    """Fill the contiguous `tensor` with N(0, std^2) from torch's default CPU generator."""
    values_N = tensor.view(-1)
    buffer = _buffer(tensor)
    for block in _blocks(len(values_N)):
        values_N[block] = _drawn(block, buffer, std).to(tensor.device)


def truncated_normal_(tensor: torch.Tensor, *, std: float, bound: float) -> None:
    """Fill the contiguous `tensor` with N(0, std^2) within `bound`; what falls outside is drawn again.

    As by `nn.init.trunc_normal_` of torch 2.13, each round draws as many values as the tensor has and takes those that
    it needs: with a bound of 3 std, the head of a vocabulary takes four or five rounds.
    """
    values_N = tensor.view(-1)
    limit = torch.tensor(bound, dtype=tensor.dtype, device="cpu").item()
    buffer = _buffer(tensor)
    beyond = torch.empty_like(buffer, dtype=torch.bool)
    blocks = list(_blocks(len(values_N)))
    outside = []
    for block in blocks:
        drawn = _drawn(block, buffer, std)
        values_N[block] = drawn.to(tensor.device)
        torch.gt(drawn.abs_(), limit, out=beyond[: len(drawn)])
        outside.append(beyond[: len(drawn)].nonzero()[:, 0])
    while any(map(len, outside)):
        for number, block in enumerate(blocks):
            places = outside[number]
            again = _drawn(block, buffer, std)[places]
            values_N[block][places.to(tensor.device)] = again.to(tensor.device)
            outside[number] = places[again.abs() > limit]


def _blocks(size: int) -> Iterator[slice]:
    start = 0
    while start < size:
        end = start + BLOCK
        if size - end < _KERNEL:
            end = size
        yield slice(start, end)
        start = end


def _buffer(tensor: torch.Tensor) -> torch.Tensor:
    """One for all blocks: fresh ones would leave holes in the heap, the small tensors between them."""
    return torch.empty(min(tensor.numel(), BLOCK + _KERNEL), dtype=tensor.dtype, device="cpu")


def _drawn(block: slice, buffer: torch.Tensor, std: float) -> torch.Tensor:
    return buffer[: block.stop - block.start].normal_(0.0, std)
