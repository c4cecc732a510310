"""The bag embedding is the published definition: the mean of the token embeddings, and its gradient."""

import pytest
import torch
from torch.nn import functional as F

from tst_titan.superposition import BagEmbedding, bag_embedding


def reference(tokens_BLS: torch.Tensor, weight_VD: torch.Tensor) -> torch.Tensor:
    """Sum of S look-ups in float64, divided by S."""
    total = sum(weight_VD.double()[tokens_BLS[..., i]] for i in range(tokens_BLS.shape[-1]))
    return total / tokens_BLS.shape[-1]


@pytest.mark.parametrize("bag_size", [1, 2, 3, 6, 16])
def test_value_and_gradient_are_those_of_the_mean(bag_size: int) -> None:
    torch.manual_seed(0)
    tokens_BLS = torch.randint(0, 11, (2, 5, bag_size))  # few ids: each occurs often, within bags too
    weight_VD = torch.randn(11, 7, dtype=torch.float64, requires_grad=True)
    pull_BLD = torch.randn(2, 5, 7, dtype=torch.float64)
    (expected,) = torch.autograd.grad((reference(tokens_BLS, weight_VD) * pull_BLD).sum(), weight_VD)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        embedding = BagEmbedding(11, 7, dtype=dtype)
        with torch.no_grad():
            embedding.weight.copy_(weight_VD)
        out_BLD = embedding(tokens_BLS)
        assert out_BLD.dtype == dtype
        torch.testing.assert_close(
            out_BLD.double(), reference(tokens_BLS, embedding.weight), atol=tolerance, rtol=0
        )
        (out_BLD * pull_BLD).sum().backward()
        torch.testing.assert_close(embedding.weight.grad.double(), expected, atol=10 * tolerance, rtol=0)


def test_tokens_are_looked_up_as_by_torch() -> None:
    embedding = BagEmbedding(11, 7)
    tokens_BL = torch.randint(0, 11, (2, 5))
    assert torch.equal(embedding(tokens_BL), F.embedding(tokens_BL, embedding.weight))


def test_bfloat16_bags_are_summed_in_float32() -> None:
    # 255 ones and a 1: in bfloat16 the running sum would stop growing at 256 and lose the small addends.
    weight_VD = torch.tensor([[1.0], [0.00390625]], dtype=torch.bfloat16)
    tokens_BLS = torch.tensor([[[0] + [1] * 255]])
    exact = (1 + 255 * 0.00390625) / 256
    assert bag_embedding(tokens_BLS, weight_VD).item() == torch.tensor(exact).bfloat16().item()


def test_shards_of_the_vocabulary_add_up_to_the_whole() -> None:
    torch.manual_seed(0)
    tokens_BLS = torch.randint(0, 11, (2, 5, 3))
    whole = torch.randn(11, 7, dtype=torch.float64, requires_grad=True)
    bag_embedding(tokens_BLS, whole).square().sum().backward()
    parts = [part.detach().requires_grad_() for part in whole.chunk(3)]
    starts = [0, 4, 8]
    out = sum(
        bag_embedding(tokens_BLS, part, vocab_start=start) for part, start in zip(parts, starts, strict=True)
    )
    torch.testing.assert_close(out, bag_embedding(tokens_BLS, whole))
    out.square().sum().backward()
    torch.testing.assert_close(torch.cat([part.grad for part in parts]), whole.grad)


def test_no_intermediate_holds_every_token_of_every_bag() -> None:
    from torch.profiler import ProfilerActivity, profile

    tokens_BLS = torch.randint(0, 50, (4, 64, 16))
    weight_VD = torch.randn(50, 32, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        bag_embedding(tokens_BLS, weight_VD).sum().backward()
    largest = max(event.cpu_memory_usage for event in trace.events())
    assert largest < 4 * tokens_BLS.numel() * 32 / 2


def test_gradient_is_deterministic_and_allowed_in_deterministic_mode() -> None:
    tokens_BLS = torch.randint(0, 5, (8, 128, 4))
    weight_VD = torch.randn(5, 16, requires_grad=True)
    pull_BLD = torch.randn(8, 128, 16)
    torch.use_deterministic_algorithms(True)
    try:
        gradients = [
            torch.autograd.grad((bag_embedding(tokens_BLS, weight_VD) * pull_BLD).sum(), weight_VD)[0]
            for _ in range(3)
        ]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(gradients[0], gradient) for gradient in gradients)


def test_meta_tensors_have_the_right_shape() -> None:
    out = bag_embedding(
        torch.zeros(2, 5, 3, dtype=torch.int64, device="meta"), torch.empty(11, 7, device="meta")
    )
    assert (out.shape, out.device.type) == ((2, 5, 7), "meta")
