"""Multi-hot cross-entropy equals the loop over S cross-entropies that defines it, in value and gradient."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional as F

from tst_titan.superposition import BAG_WEIGHTINGS, bag_weights, multi_hot_cross_entropy


def loop(logits_BLV: torch.Tensor, labels_BLS: torch.Tensor, bag_weighting: str = "uniform") -> torch.Tensor:
    """The definition in float64: weighted sum over targets of ordinary cross-entropies, mean over positions."""
    weights_S = bag_weights(bag_weighting, labels_BLS.shape[-1])
    logits_NV = logits_BLV.double().flatten(0, 1)
    return sum(
        weight * F.cross_entropy(logits_NV, labels_BLS[..., i].flatten())
        for i, weight in enumerate(weights_S)
    )


def draw(bag_size: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(bag_size)
    logits_BLV = (3 * torch.randn(2, 5, 23, dtype=torch.float64)).to(dtype).requires_grad_()
    labels_BLS = torch.randint(0, 23, (2, 5, bag_size))
    if bag_size > 1:
        labels_BLS[0, 0, 1] = labels_BLS[0, 0, 0]  # a token twice in one bag counts twice
    return logits_BLV, labels_BLS


@pytest.mark.parametrize("bag_weighting", BAG_WEIGHTINGS)
@pytest.mark.parametrize("bag_size", [1, 2, 3, 6, 16])
def test_value_and_gradient_equal_the_loop(bag_size: int, bag_weighting: str) -> None:
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        logits_BLV, labels_BLS = draw(bag_size, dtype)
        loss = multi_hot_cross_entropy(logits_BLV, labels_BLS, bag_weighting=bag_weighting)
        (gradient,) = torch.autograd.grad(loss, logits_BLV)
        expected = loop(logits_BLV, labels_BLS, bag_weighting)
        (expected_gradient,) = torch.autograd.grad(expected, logits_BLV)
        assert loss.dtype == gradient.dtype == dtype
        assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
        error = (gradient.double() - expected_gradient.double()).norm() / expected_gradient.double().norm()
        assert error < tolerance


def test_one_target_is_cross_entropy_bit_for_bit() -> None:
    logits_BLV, labels_BLS = draw(1, torch.float32)
    loss = multi_hot_cross_entropy(logits_BLV, labels_BLS, reduction="sum")
    expected = F.cross_entropy(logits_BLV.flatten(0, 1), labels_BLS.flatten(), reduction="sum")
    assert torch.equal(loss, expected)
    assert torch.equal(torch.autograd.grad(loss, logits_BLV)[0], torch.autograd.grad(expected, logits_BLV)[0])


def test_sum_divided_by_the_number_of_targets_is_the_mean() -> None:
    for bag_weighting in BAG_WEIGHTINGS:
        logits_BLV, labels_BLS = draw(3)
        total = multi_hot_cross_entropy(logits_BLV, labels_BLS, bag_weighting=bag_weighting, reduction="sum")
        mean = multi_hot_cross_entropy(logits_BLV, labels_BLS, bag_weighting=bag_weighting)
        torch.testing.assert_close(total / labels_BLS.numel(), mean, rtol=1e-14, atol=0)


def test_equal_logits_give_ln_vocabulary() -> None:
    for bag_weighting in BAG_WEIGHTINGS:
        loss = multi_hot_cross_entropy(
            torch.zeros(2, 5, 23), torch.randint(0, 23, (2, 5, 6)), bag_weighting=bag_weighting
        )
        assert loss.item() == pytest.approx(math.log(23), rel=1e-6)


def test_ignored_targets_are_left_out_and_change_no_other_weight() -> None:
    logits_BLV, labels_BLS = draw(3)
    labels_BLS[0, 1, 2] = labels_BLS[1, 4, 0] = -100
    labels_BLS[1, 2] = -100
    weights_S = 3 * bag_weights("power_law", 3)
    log_probabilities = torch.log_softmax(logits_BLV, -1)
    terms = [
        -weights_S[i] * log_probabilities[b, l, labels_BLS[b, l, i]]
        for b in range(2)
        for l in range(5)
        for i in range(3)
        if labels_BLS[b, l, i] != -100
    ]
    expected = torch.stack(terms).sum() / len(terms)
    loss = multi_hot_cross_entropy(logits_BLV, labels_BLS, bag_weighting="power_law")
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    gradient, expected_gradient = (torch.autograd.grad(value, logits_BLV)[0] for value in (loss, expected))
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-14)
    assert not gradient[1, 2].any()


def test_sum_of_probabilities_is_minus_log_of_their_sum() -> None:
    logits_BLV, labels_BLS = draw(4)
    labels_BLS[0, 3, 1] = -100
    valid_BLS = labels_BLS != -100
    probabilities = torch.softmax(logits_BLV, -1).gather(2, labels_BLS.clamp(0)) * valid_BLS
    expected = (-probabilities.sum(-1).log() * valid_BLS.sum(-1)).sum() / valid_BLS.sum()
    loss = multi_hot_cross_entropy(logits_BLV, labels_BLS, objective="sum_of_probabilities")
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    gradient, expected_gradient = (torch.autograd.grad(value, logits_BLV)[0] for value in (loss, expected))
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-14)


def test_explicit_weights_are_normalized_and_checked() -> None:
    logits_BLV, labels_BLS = draw(2)
    loss = multi_hot_cross_entropy(logits_BLV, labels_BLS, bag_weighting=[2, 1])
    torch.testing.assert_close(loss, loop(logits_BLV, labels_BLS, "power_law"), rtol=1e-12, atol=0)
    for wrong in ([1.0], [1, -1], [0, 0]):
        with pytest.raises(ValueError, match="2 targets need 2 weights"):
            multi_hot_cross_entropy(logits_BLV, labels_BLS, bag_weighting=wrong)


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits_BLV, labels_BLS = draw(6, torch.bfloat16)
    loss = multi_hot_cross_entropy(logits_BLV, labels_BLS)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(loop(logits_BLV, labels_BLS).item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits_BLV)
    (expected,) = torch.autograd.grad(loop(logits_BLV, labels_BLS), logits_BLV)
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient, expected.to(torch.bfloat16), rtol=1e-2, atol=1e-6)


def test_huge_logits_stay_finite_and_logits_are_left_alone() -> None:
    logits_BLV, labels_BLS = draw(3, torch.float32)
    huge = (logits_BLV.detach() * 1e4).requires_grad_()
    before = huge.detach().clone()
    loss = multi_hot_cross_entropy(huge, labels_BLS)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(huge.grad).all()
    assert torch.equal(huge, before)
    assert loss.item() == pytest.approx(loop(huge, labels_BLS).item(), rel=1e-5)


def test_second_backward_is_refused_instead_of_wrong() -> None:
    logits_BLV, labels_BLS = draw(3)
    loss = multi_hot_cross_entropy(logits_BLV, labels_BLS)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second forward"):
        loss.backward()


def test_shapes_and_names_that_do_not_fit_are_refused() -> None:
    logits_BLV, labels_BLS = draw(3)
    with pytest.raises(ValueError, match="positions differ"):
        multi_hot_cross_entropy(logits_BLV[:, :4], labels_BLS)
    with pytest.raises(ValueError, match="'median'"):
        multi_hot_cross_entropy(logits_BLV, labels_BLS, reduction="median")  # type: ignore[arg-type]


def test_compiled_whole_without_graph_breaks_it_is_the_same() -> None:
    logits_BLV, labels_BLS = draw(3, torch.float32)
    compiled = torch.compile(multi_hot_cross_entropy, fullgraph=True, backend="aot_eager")
    loss = compiled(logits_BLV, labels_BLS, bag_weighting="power_law")
    eager = multi_hot_cross_entropy(logits_BLV, labels_BLS, bag_weighting="power_law")
    torch.testing.assert_close(loss, eager)
    gradient, expected = (torch.autograd.grad(value, logits_BLV)[0] for value in (loss, eager))
    torch.testing.assert_close(gradient, expected)


def test_meta_tensors_pass_through() -> None:
    logits_BLV = torch.empty(2, 5, 23, device="meta", requires_grad=True)
    loss = multi_hot_cross_entropy(logits_BLV, torch.zeros(2, 5, 3, dtype=torch.int64, device="meta"))
    loss.backward()
    assert loss.shape == ()
    assert logits_BLV.grad.shape == (2, 5, 23)


def _on_a_slice_of_the_vocabulary(rank: int, num_ranks: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=num_ranks)
    for objective in ("multi_hot", "sum_of_probabilities"):
        logits_BLV, labels_BLS = draw(3)
        labels_BLS[0, 3, 1] = -100
        whole = multi_hot_cross_entropy(
            logits_BLV, labels_BLS, bag_weighting="power_law", objective=objective
        )
        (gradient,) = torch.autograd.grad(whole, logits_BLV)
        mine = logits_BLV.detach().chunk(num_ranks, -1)[rank].clone().requires_grad_()
        split = multi_hot_cross_entropy(
            mine,
            labels_BLS,
            bag_weighting="power_law",
            objective=objective,
            vocab_group=dist.group.WORLD,
            vocab_size=23,
        )
        split.backward()
        torch.testing.assert_close(split, whole, rtol=1e-12, atol=0)
        torch.testing.assert_close(mine.grad, gradient.chunk(num_ranks, -1)[rank], rtol=1e-10, atol=1e-14)
    dist.destroy_process_group()


def test_vocabulary_split_over_two_ranks_gives_the_whole_loss(tmp_path: Path) -> None:
    mp.spawn(_on_a_slice_of_the_vocabulary, (2, str(tmp_path / "store")), nprocs=2)
