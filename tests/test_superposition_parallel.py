"""Vocabulary-parallel loss: two ranks with uneven halves of the vocabulary against one with the whole."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tst_titan.superposition import BAG_WEIGHTINGS, SUM_OF_PROBABILITIES, multi_hot_cross_entropy

VOCAB_SIZE = 23
BOUNDS = (0, 12, VOCAB_SIZE)
WEIGHTINGS = (*BAG_WEIGHTINGS, SUM_OF_PROBABILITIES)


def whole_case(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(2, 8, VOCAB_SIZE, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, VOCAB_SIZE, (2, 8, 6), generator=generator)
    labels[0, 3] = -100
    labels[1, :, 4:] = -100
    return logits.to(dtype), labels


def rank_losses(rank: int, folder: str) -> None:
    """What one rank computes from its columns of the logits, saved to `folder`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    group = dist.group.WORLD
    assert group is not None
    results = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        logits, labels = whole_case(dtype)
        for bag_weighting in WEIGHTINGS:
            shard = logits[..., BOUNDS[rank] : BOUNDS[rank + 1]].clone().requires_grad_()
            loss = multi_hot_cross_entropy(
                shard, labels, bag_weighting=bag_weighting, vocab_group=group, vocab_offset=BOUNDS[rank]
            )
            loss.backward()
            results[f"{dtype} {bag_weighting}"] = (loss.detach(), shard.grad)
    compiled = torch.compile(multi_hot_cross_entropy, fullgraph=True, backend="aot_eager")
    logits, labels = whole_case(torch.float64)
    shard = logits[..., BOUNDS[rank] : BOUNDS[rank + 1]].clone().requires_grad_()
    loss = compiled(shard, labels, vocab_group=group, vocab_offset=BOUNDS[rank])
    loss.backward()
    results["compiled"] = (loss.detach(), shard.grad)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(rank_losses, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize(
    ("dtype", "relative"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2**-8)]
)
@pytest.mark.parametrize("bag_weighting", WEIGHTINGS)
def test_two_ranks_equal_one(shards, bag_weighting: str, dtype: torch.dtype, relative: float) -> None:
    logits, labels = whole_case(dtype)
    logits.requires_grad_()
    loss = multi_hot_cross_entropy(logits, labels, bag_weighting=bag_weighting)
    loss.backward()
    (loss_0, grad_0), (loss_1, grad_1) = (shard[f"{dtype} {bag_weighting}"] for shard in shards)
    assert loss_0.dtype == loss.dtype
    assert torch.equal(loss_0, loss_1)
    torch.testing.assert_close(loss_0, loss.detach(), rtol=min(relative, 1e-6), atol=0)
    assert logits.grad is not None
    error = (torch.cat([grad_0, grad_1], -1) - logits.grad).abs().max()
    assert error <= relative * logits.grad.abs().max()


def test_compiled_ranks_equal_eager_ranks(shards) -> None:
    for shard in shards:
        loss, gradient = shard["compiled"]
        expected, expected_gradient = shard["torch.float64 uniform"]
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-15)
