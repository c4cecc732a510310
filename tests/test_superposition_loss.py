"""Multi-hot cross-entropy against the definition written as loops in float64."""

import math
import shutil
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tst_titan.superposition import BAG_WEIGHTINGS, SUM_OF_PROBABILITIES, multi_hot_cross_entropy

BAG_SIZES = (1, 2, 3, 6, 16)
WEIGHTINGS = (*BAG_WEIGHTINGS, SUM_OF_PROBABILITIES)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def place_weight(bag_weighting: str | Sequence[float], i: int) -> float:
    """The weight of place i = 1, 2, ... up to a factor, as method.md writes it."""
    if not isinstance(bag_weighting, str):
        return bag_weighting[i - 1]
    return {
        "uniform": 1.0,
        "power_law": 1 / i,
        "exponential": math.exp(-i),
        "first_token": 1.0 if i == 1 else 0.0,
        "mutual_information": 3.63 + 1.35 * i**-1.25,
    }[bag_weighting]


def looped_loss(logits: torch.Tensor, labels: torch.Tensor, bag_weighting: str | Sequence[float]) -> torch.Tensor:
    """The mean loss by the definition: a loop over positions and over the cross-entropies of each one's targets."""
    total = logits.new_zeros(())
    num_valid = 0
    for z, targets in zip(logits.flatten(0, 1), labels.flatten(0, 1).tolist(), strict=True):
        log_p = z - z.max() - torch.log(torch.exp(z - z.max()).sum())
        valid = [(i, y) for i, y in enumerate(targets, start=1) if y != -100]
        num_valid += len(valid)
        if not valid:
            continue
        if bag_weighting == SUM_OF_PROBABILITIES:
            loss = -torch.log(sum(torch.exp(log_p[y]) for _, y in valid))
        else:
            weights = [place_weight(bag_weighting, i) for i, _ in valid]
            if sum(weights) == 0:
                continue
            loss = -sum(w / sum(weights) * log_p[y] for w, (_, y) in zip(weights, valid, strict=True))
        total = total + len(valid) * loss
    return total / num_valid


def value_and_gradient(loss_fn, logits: torch.Tensor, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits.detach().clone().requires_grad_()
    loss = loss_fn(logits, *args, **kwargs)
    loss.backward()
    assert logits.grad is not None
    return loss.detach(), logits.grad


def assert_close(actual: torch.Tensor, expected: torch.Tensor, relative: float) -> None:
    assert (actual.double() - expected.double()).abs().max() <= relative * expected.double().abs().max()


def random_case(bag_size: int, dtype: torch.dtype = torch.float64, ignored: float = 0.0):
    generator = torch.Generator().manual_seed(bag_size)
    logits = 3 * torch.randn(2, 4, 11, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 11, (2, 4, bag_size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = -100
    return logits.to(dtype), labels


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("ignored", [0.0, 0.4])
@pytest.mark.parametrize("bag_weighting", WEIGHTINGS)
@pytest.mark.parametrize("bag_size", BAG_SIZES)
def test_value_and_gradient_equal_the_definition(
    bag_size: int, bag_weighting: str, ignored: float, dtype: torch.dtype
) -> None:
    logits, labels = random_case(bag_size, dtype, ignored)
    value, gradient = value_and_gradient(multi_hot_cross_entropy, logits, labels, bag_weighting=bag_weighting)
    expected, expected_gradient = value_and_gradient(looped_loss, logits.double(), labels, bag_weighting)
    assert value.dtype == gradient.dtype == dtype
    assert_close(value, expected, TOLERANCE[dtype])
    assert_close(gradient, expected_gradient, TOLERANCE[dtype])


@pytest.mark.parametrize("weights", [[3, 1, 2], (0.0, 0.0, 5.0)])
def test_given_weights_equal_the_definition(weights: Sequence[float]) -> None:
    logits, labels = random_case(3, ignored=0.3)
    value, gradient = value_and_gradient(multi_hot_cross_entropy, logits, labels, bag_weighting=weights)
    expected, expected_gradient = value_and_gradient(looped_loss, logits, labels, weights)
    assert_close(value, expected, 1e-10)
    assert_close(gradient, expected_gradient, 1e-10)


@pytest.mark.parametrize("bag_weighting", WEIGHTINGS)
def test_gradcheck(bag_weighting: str) -> None:
    logits, labels = random_case(3, ignored=0.3)
    assert torch.autograd.gradcheck(
        lambda z: multi_hot_cross_entropy(z, labels, bag_weighting=bag_weighting), logits.requires_grad_()
    )


@pytest.mark.parametrize(("offset", "scale"), [(1000.0, 1.0), (-1000.0, 1.0), (0.0, 300.0)])
def test_large_logits_stay_exact_in_float32(offset: float, scale: float) -> None:
    logits, labels = random_case(6)
    logits = (offset + scale * logits).float()
    value, gradient = value_and_gradient(multi_hot_cross_entropy, logits, labels)
    expected, expected_gradient = value_and_gradient(looped_loss, logits.double(), labels, "uniform")
    assert_close(value, expected, 1e-6)
    assert_close(gradient, expected_gradient, 1e-6)


@pytest.mark.parametrize("bag_weighting", WEIGHTINGS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_one_target_is_cross_entropy_bit_for_bit(bag_weighting: str, reduction: str) -> None:
    torch.manual_seed(0)
    logits = 4 * torch.randn(2, 40, 1000)
    labels = torch.randint(0, 1000, (2, 40))
    labels[1, 30:] = -100
    value, gradient = value_and_gradient(
        multi_hot_cross_entropy, logits, labels[..., None], bag_weighting=bag_weighting, reduction=reduction
    )
    expected, expected_gradient = value_and_gradient(
        lambda z: F.cross_entropy(z.flatten(0, 1), labels.flatten(), reduction=reduction), logits
    )
    assert torch.equal(value, expected)
    # Softmax is rounded here before it is scaled, in cross_entropy after; vectors of a processor may round once more.
    assert_close(gradient, expected_gradient, 2 * torch.finfo(torch.float32).eps)
    assert torch.equal(multi_hot_cross_entropy(logits, labels, reduction=reduction), expected)


@pytest.mark.parametrize("bag_size", BAG_SIZES)
@pytest.mark.parametrize("bag_weighting", BAG_WEIGHTINGS)
def test_initial_loss_is_log_of_the_vocabulary(bag_size: int, bag_weighting: str) -> None:
    labels = torch.randint(0, 50, (2, 3, bag_size))
    labels[0, 1] = -100
    labels[1, 2, 1:] = -100
    loss = multi_hot_cross_entropy(torch.zeros(2, 3, 50), labels, bag_weighting=bag_weighting)
    assert loss.item() == pytest.approx(math.log(50), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), bag_weighting=st.sampled_from(WEIGHTINGS), bag_size=st.integers(1, 6))
def test_sums_of_chunks_over_the_valid_targets_are_the_mean(data, bag_weighting: str, bag_size: int) -> None:
    """What torchtitan does: sums of micro-batches and sequence chunks, divided by the count of valid labels."""
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    logits = torch.randn(2, 6, 9, dtype=torch.float64)
    labels = torch.randint(0, 9, (2, 6, bag_size))
    labels[torch.rand(labels.shape) < 0.3] = -100
    labels[0, 0] = 1
    cut = data.draw(st.integers(1, 5))
    parts = [
        multi_hot_cross_entropy(z, y, bag_weighting=bag_weighting, reduction="sum")
        for z, y in zip(logits.split([cut, 6 - cut], 1), labels.split([cut, 6 - cut], 1), strict=True)
    ]
    mean = multi_hot_cross_entropy(logits, labels, bag_weighting=bag_weighting)
    assert (sum(parts) / (labels != -100).sum()).item() == pytest.approx(mean.item(), rel=1e-12)


@pytest.mark.parametrize("bag_weighting", WEIGHTINGS)
def test_ignored_positions_get_no_gradient_and_no_target_at_all_is_nan(bag_weighting: str) -> None:
    logits, labels = random_case(3)
    labels[0, 1] = -100
    _, gradient = value_and_gradient(multi_hot_cross_entropy, logits, labels, bag_weighting=bag_weighting)
    assert not gradient[0, 1].any()
    assert gradient[0, 0].any()
    labels[:] = -100
    value, gradient = value_and_gradient(
        multi_hot_cross_entropy, logits, labels, bag_weighting=bag_weighting, reduction="sum"
    )
    assert value == 0
    assert not gradient.any()
    assert multi_hot_cross_entropy(logits, labels, bag_weighting=bag_weighting).isnan()


def test_a_target_without_weight_may_have_probability_zero() -> None:
    logits = torch.tensor([[[0.0, 0.0, -math.inf]]])
    labels = torch.tensor([[[1, 2]]])
    value, gradient = value_and_gradient(multi_hot_cross_entropy, logits, labels, bag_weighting="first_token")
    assert value.item() == pytest.approx(math.log(2))
    assert gradient.flatten().tolist() == pytest.approx([0.5, -0.5, 0.0])


def test_a_repeated_target_counts_each_time() -> None:
    logits, _ = random_case(2)
    twice = torch.full((2, 4, 2), 5)
    value, gradient = value_and_gradient(multi_hot_cross_entropy, logits, twice)
    expected, expected_gradient = value_and_gradient(multi_hot_cross_entropy, logits, twice[..., :1])
    assert_close(value, expected, 1e-12)
    assert_close(gradient, expected_gradient, 1e-12)


# 40 rows of this vocabulary are several blocks of rows on one thread.
WIDE = (1, 40, 40000)


def test_logits_are_left_alone_and_backward_can_run_twice() -> None:
    torch.manual_seed(0)
    logits = torch.randn(WIDE, requires_grad=True)
    before = logits.detach().clone()
    loss = multi_hot_cross_entropy(logits, torch.randint(0, WIDE[-1], (1, 40, 4)))
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (second,) = torch.autograd.grad(loss, logits)
    assert torch.equal(first, second)
    assert torch.equal(logits, before)
    assert logits._version == 0


class LargestOutput(TorchDispatchMode):
    """The most elements of any one tensor of `dtype` that an operation returned."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.num_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.dtype == self.dtype:
                self.num_elements = max(self.num_elements, tensor.numel())
        return out


def test_bfloat16_logits_are_accumulated_in_float32_without_a_float32_copy() -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(WIDE)).bfloat16()
    labels = torch.randint(0, WIDE[-1], (1, 40, 4))
    with LargestOutput(torch.float32) as largest:
        value, gradient = value_and_gradient(multi_hot_cross_entropy, logits, labels)
    assert largest.num_elements < logits.numel() * torch.get_num_threads()
    exact, exact_gradient = value_and_gradient(multi_hot_cross_entropy, logits.double(), labels)
    assert value.dtype == torch.float32
    assert_close(value, exact, 1e-6)
    assert gradient.dtype == torch.bfloat16
    # One rounding to bfloat16 of each element, which has 8 significant bits.
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=2**-8, atol=1e-12)


@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param("inductor", marks=pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")),
    ],
)
@pytest.mark.parametrize("weighting", ["power_law", "mutual_information(3.2,1.1,-0.9)"])
def test_compiles_to_one_graph(backend: str, weighting: str) -> None:
    torch.compiler.reset()
    logits, labels = random_case(6, torch.float32, ignored=0.3)
    compiled = torch.compile(multi_hot_cross_entropy, fullgraph=True, backend=backend)
    value, gradient = value_and_gradient(compiled, logits, labels, bag_weighting=weighting)
    expected, expected_gradient = value_and_gradient(multi_hot_cross_entropy, logits, labels, bag_weighting=weighting)
    assert_close(value, expected, 1e-6)
    assert_close(gradient, expected_gradient, 1e-6)


@pytest.mark.parametrize("bag_weighting", [*WEIGHTINGS, [1.0, 2.0, 3.0]])
def test_meta_tensors(bag_weighting: str | list[float]) -> None:
    logits = torch.empty(2, 4, 11, device="meta", dtype=torch.bfloat16, requires_grad=True)
    labels = torch.empty(2, 4, 3, device="meta", dtype=torch.long)
    loss = multi_hot_cross_entropy(logits, labels, bag_weighting=bag_weighting)
    loss.backward()
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert logits.grad is not None
    assert logits.grad.shape == logits.shape
    assert logits.grad.dtype == torch.bfloat16


def test_mistakes_are_named() -> None:
    logits, labels = random_case(3)
    with pytest.raises(ValueError, match=r"labels \[2, 3, 3\] do not match logits \[2, 4, 11\]"):
        multi_hot_cross_entropy(logits, labels[:, :3])
    with pytest.raises(ValueError, match="reduction must be"):
        multi_hot_cross_entropy(logits, labels, reduction="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown bag_weighting 'linear'"):
        multi_hot_cross_entropy(logits, labels, bag_weighting="linear")
    with pytest.raises(RuntimeError, match="index 11 is out of bounds"):
        multi_hot_cross_entropy(logits, labels + 11 - labels)
