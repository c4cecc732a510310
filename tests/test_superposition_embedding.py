"""The bag embedding against its definition: the mean of the tokens' embeddings, summed in float32."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tst_titan.superposition import bag_embedding


def defined_mean(tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The mean in the weight's own precision, one lookup a place of the bag: the published loop."""
    return sum(weight[tokens[..., i]] for i in range(tokens.shape[-1])) / tokens.shape[-1]


def gradient_of(embed, tokens: torch.Tensor, weight: torch.Tensor, grad_out: torch.Tensor) -> torch.Tensor:
    weight = weight.detach().clone().requires_grad_()
    embed(tokens, weight).backward(grad_out.to(weight.dtype))
    assert weight.grad is not None
    return weight.grad


@pytest.mark.parametrize(
    ("dtype", "relative"),
    [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 2**-8), (torch.float16, 2**-11)],
)
@pytest.mark.parametrize("bag_size", [1, 2, 3, 6, 16])
def test_value_and_gradient_equal_the_definition(bag_size: int, dtype: torch.dtype, relative: float) -> None:
    torch.manual_seed(bag_size)
    weight = torch.randn(40, 8).to(dtype)  # few rows, so that tokens repeat within and between bags
    tokens = torch.randint(0, 40, (2, 30, bag_size))
    grad_out = torch.randn(2, 30, 8).to(dtype)
    bags = bag_embedding(tokens, weight)
    assert bags.shape == (2, 30, 8)
    assert bags.dtype == dtype
    expected = defined_mean(tokens, weight.double())
    # One rounding to the dtype: relative to the value, or in float32 to the terms that were added.
    torch.testing.assert_close(bags.double(), expected, rtol=relative, atol=1e-6 if dtype != torch.float64 else 1e-14)
    gradient = gradient_of(bag_embedding, tokens, weight, grad_out)
    expected_gradient = gradient_of(defined_mean, tokens, weight.double(), grad_out)
    assert gradient.dtype == dtype
    torch.testing.assert_close(
        gradient.double(), expected_gradient, rtol=relative, atol=1e-6 if dtype != torch.float64 else 1e-14
    )


def test_a_bag_of_one_is_a_lookup() -> None:
    weight = torch.randn(40, 8)
    tokens = torch.randint(0, 40, (2, 30))
    assert torch.equal(bag_embedding(tokens[..., None], weight), nn.functional.embedding(tokens, weight))


def test_a_models_embedding_takes_bags_and_looks_up_tokens_bit_for_bit() -> None:
    """That of a superposition segment, whose checkpoint the plain embedding of recovery loads."""
    import tst_titan.train.titan  # noqa: F401
    from tst_titan.train.titan.components import BagEmbedding

    torch.manual_seed(0)
    init = {"weight": nn.init.normal_}
    ours = BagEmbedding.Config(num_embeddings=40, embedding_dim=8, param_init=init).build()
    plain = nn.Embedding(40, 8)
    plain.load_state_dict(ours.state_dict())
    tokens = torch.randint(0, 40, (2, 30))
    assert torch.equal(ours(tokens), plain(tokens))
    ours(tokens).square().sum().backward()
    plain(tokens).square().sum().backward()
    assert torch.equal(ours.weight.grad, plain.weight.grad)
    bags = tokens.view(2, 10, 3)
    assert torch.equal(ours(bags), bag_embedding(bags, ours.weight))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), bag_size=st.integers(1, 6), cut=st.integers(1, 39))
def test_shards_of_the_vocabulary_sum_to_the_whole(seed: int, bag_size: int, cut: int) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(40, 8, dtype=torch.float64)
    tokens = torch.randint(0, 40, (2, 5, bag_size))
    grad_out = torch.randn(2, 5, 8, dtype=torch.float64)
    shards = [(weight[:cut], 0), (weight[cut:], cut)]
    whole = sum(bag_embedding(tokens, shard, vocab_offset=offset) for shard, offset in shards)
    torch.testing.assert_close(whole, bag_embedding(tokens, weight), rtol=1e-13, atol=1e-13)
    gradients = [
        gradient_of(lambda t, w, o=offset: bag_embedding(t, w, vocab_offset=o), tokens, shard, grad_out)
        for shard, offset in shards
    ]
    expected = gradient_of(bag_embedding, tokens, weight, grad_out)
    torch.testing.assert_close(torch.cat(gradients), expected, rtol=1e-13, atol=1e-13)


def test_gradient_is_deterministic_and_dense() -> None:
    torch.manual_seed(0)
    weight = torch.randn(50, 16)
    tokens = torch.randint(0, 50, (4, 64, 8))
    grad_out = torch.randn(4, 64, 16)
    torch.use_deterministic_algorithms(True)
    try:
        first = gradient_of(bag_embedding, tokens, weight, grad_out)
        second = gradient_of(bag_embedding, tokens, weight, grad_out)
        shard = gradient_of(lambda t, w: bag_embedding(t, w, vocab_offset=0), tokens, weight, grad_out)
    finally:
        torch.use_deterministic_algorithms(False)
    assert first.layout == torch.strided
    assert torch.equal(first, second)
    torch.testing.assert_close(shard, first)


class NumElements(TorchDispatchMode):
    """The most elements of any one floating-point tensor that an operation returned."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self.largest = max(self.largest, tensor.numel())
        return out


@pytest.mark.parametrize("vocab_offset", [None, 0])
def test_no_tensor_holds_the_embeddings_of_all_data_tokens(vocab_offset: int | None) -> None:
    weight = torch.randn(20, 16)
    tokens = torch.randint(0, 20, (4, 64, 8))
    with NumElements() as seen:
        gradient_of(
            lambda t, w: bag_embedding(t, w, vocab_offset=vocab_offset),
            tokens,
            weight,
            torch.randn(4, 64, 16),
        )
    assert seen.largest == 4 * 64 * 16


def test_compiles_to_one_graph() -> None:
    torch.compiler.reset()
    weight, tokens, grad_out = torch.randn(40, 8), torch.randint(0, 40, (2, 5, 3)), torch.randn(2, 5, 8)
    compiled = torch.compile(bag_embedding, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        gradient_of(compiled, tokens, weight, grad_out), gradient_of(bag_embedding, tokens, weight, grad_out)
    )


@pytest.mark.parametrize("vocab_offset", [None, 10])
def test_meta_tensors(vocab_offset: int | None) -> None:
    weight = torch.empty(40, 8, device="meta", dtype=torch.bfloat16, requires_grad=True)
    bags = bag_embedding(torch.empty(2, 5, 3, device="meta", dtype=torch.long), weight, vocab_offset=vocab_offset)
    bags.sum().backward()
    assert bags.shape == (2, 5, 8)
    assert bags.dtype == torch.bfloat16
    assert weight.grad is not None
    assert weight.grad.shape == weight.shape


@pytest.mark.parametrize("token", [40, -1])
def test_a_token_outside_the_table_is_an_error(token: int) -> None:
    with pytest.raises((IndexError, RuntimeError)):
        bag_embedding(torch.full((1, 2, 3), token), torch.randn(40, 8))


def test_bags_need_three_dimensions() -> None:
    with pytest.raises(ValueError, match=r"\[batch, positions, bag_size\], not \[2, 3\]"):
        bag_embedding(torch.zeros(2, 3, dtype=torch.long), torch.zeros(4, 4))
