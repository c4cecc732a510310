"""Bags and their labels: every index is where the method says, and no position reads what it predicts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tst_titan.superposition import (
    bag_embedding,
    fold_bags,
    next_bag_labels,
    superpose_window,
    window_length,
)
from tst_titan.superposition.weights import relative_weights

sizes = st.integers(1, 9)
modes = st.sampled_from(["both", "input", "output"])


def numbered_window(num_tokens: int, batch: int = 2) -> torch.Tensor:
    """Token ids that are their own positions in the stream: row b starts at 1000 b."""
    return torch.stack([torch.arange(num_tokens) + 1000 * b for b in range(batch)])


@given(seq_len=sizes, bag_size=sizes)
def test_bags_and_labels_equal_explicit_loops(seq_len: int, bag_size: int) -> None:
    window = numbered_window(seq_len * bag_size + bag_size)
    bags = fold_bags(window[:, : seq_len * bag_size], bag_size)
    labels = next_bag_labels(window, bag_size)
    assert bags.shape == labels.shape == (2, seq_len, bag_size)
    for b in range(2):
        for j in range(seq_len):
            for i in range(bag_size):
                assert bags[b, j, i] == window[b, j * bag_size + i]
                assert labels[b, j, i] == window[b, (j + 1) * bag_size + i]


@given(seq_len=sizes, bag_size=sizes, superpose=modes)
def test_windows_of_every_mode_equal_explicit_loops(seq_len: int, bag_size: int, superpose: str) -> None:
    window = numbered_window(window_length(seq_len, bag_size, superpose))
    inputs, labels = superpose_window(window, seq_len, bag_size, superpose)
    stride = 1 if superpose == "output" else bag_size
    for b in range(2):
        for j in range(seq_len):
            read = [1000 * b + j * stride + i for i in range(stride)]
            first_target = 1000 * b + (j + 1) * stride
            num_targets = 1 if superpose == "input" else bag_size
            targets = [first_target + i for i in range(num_targets)]
            assert inputs[b, j].flatten().tolist() == read
            assert labels[b, j].flatten().tolist() == targets


@given(seq_len=sizes, bag_size=sizes, superpose=modes)
def test_targets_come_after_everything_that_was_read(seq_len: int, bag_size: int, superpose: str) -> None:
    window = numbered_window(window_length(seq_len, bag_size, superpose), batch=1)
    inputs, labels = superpose_window(window, seq_len, bag_size, superpose)
    for j in range(seq_len):
        assert inputs[0, : j + 1].max() < labels[0, j].min()


@given(seq_len=sizes, superpose=modes)
def test_bag_size_1_is_next_token_training(seq_len: int, superpose: str) -> None:
    window = numbered_window(seq_len + 1)
    assert window_length(seq_len, 1, superpose) == seq_len + 1
    inputs, labels = superpose_window(window, seq_len, 1, superpose)
    assert torch.equal(inputs, window[:, :-1])
    assert torch.equal(labels, window[:, 1:])


@pytest.mark.parametrize("superpose", ["both", "input", "output"])
def test_a_changed_token_reaches_no_position_that_predicts_it(superpose: str) -> None:
    """Perturb each data token in turn: in a causal model only positions after its predictors may move."""
    seq_len, bag_size, vocab_size = 5, 3, 32
    torch.manual_seed(0)
    table = torch.randn(vocab_size, 8)
    window = torch.randint(0, vocab_size, (1, window_length(seq_len, bag_size, superpose)))

    def hidden(window: torch.Tensor) -> torch.Tensor:
        inputs, _ = superpose_window(window, seq_len, bag_size, superpose)
        bags = inputs if inputs.ndim == 3 else inputs[..., None]
        return bag_embedding(bags, table).cumsum(1)[0]  # the simplest causal decoder: position j sees 0..j

    for token in range(window.shape[1]):
        changed = window.clone()
        changed[0, token] = (changed[0, token] + 1) % vocab_size
        moved = (hidden(changed) != hidden(window)).any(-1)
        labels = superpose_window(window, seq_len, bag_size, superpose)[1]
        other_labels = superpose_window(changed, seq_len, bag_size, superpose)[1]
        predicts = (labels != other_labels).view(seq_len, -1).any(-1)
        assert not (moved & predicts).any(), f"token {token} is read by a position that predicts it"
        # Input-only windows are as long as those of "both"; of the last bag it predicts the first token alone.
        unused = superpose == "input" and token > seq_len * bag_size
        assert (moved.any() or predicts.any()) != unused


def test_labels_may_be_written_to_one_by_one() -> None:
    window = numbered_window(window_length(4, 3, "output"))
    _, labels = superpose_window(window, 4, 3, "output")
    labels[0, 0, 1] = -100
    assert (labels == -100).sum() == 1


def test_mistaken_sizes_are_named() -> None:
    window = numbered_window(12)
    with pytest.raises(ValueError, match="12 tokens cannot be folded into bags of 5: 2 left over"):
        fold_bags(window, 5)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        fold_bags(window, 0)
    with pytest.raises(ValueError, match="has 15 tokens, not 12"):
        superpose_window(window, 4, 3)
    with pytest.raises(ValueError, match="'neither'"):
        window_length(4, 3, "neither")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"not \[12\]"):
        next_bag_labels(window[0], 3)


# Independent of the code: normalized by hand for four places.
FOUR_WEIGHTS = {
    "uniform": [0.25, 0.25, 0.25, 0.25],
    "power_law": [12 / 25, 6 / 25, 4 / 25, 3 / 25],
    "exponential": [0.6439142598879724, 0.23688281808991013, 0.08714431874203257, 0.03205860328008499],
    "first_token": [1.0, 0.0, 0.0, 0.0],
    "mutual_information": [0.29262824193747833, 0.24665417570179138, 0.23339312040505197, 0.2273244619556784],
}


def normalized(bag_weighting: str | list[float], bag_size: int) -> torch.Tensor:
    weights = relative_weights(bag_weighting, bag_size)
    return weights / weights.sum()


@pytest.mark.parametrize("name", FOUR_WEIGHTS)
def test_weights_of_four_places(name: str) -> None:
    assert normalized(name, 4).tolist() == pytest.approx(FOUR_WEIGHTS[name], rel=1e-14)


@given(name=st.sampled_from(sorted(FOUR_WEIGHTS)), bag_size=st.integers(1, 64))
def test_weights_sum_to_1_and_never_rise(name: str, bag_size: int) -> None:
    weights = normalized(name, bag_size)
    assert weights.shape == (bag_size,)
    assert weights.sum().item() == pytest.approx(1, abs=1e-14)
    assert (weights.diff() <= 0).all()


def test_given_weights_are_scaled_and_checked() -> None:
    assert normalized([2, 1, 1], 3).tolist() == [0.5, 0.25, 0.25]
    for weights in ([1, 1], [1, -1, 1], [0, 0, 0], [1, float("nan"), 1], [1, float("inf"), 1]):
        with pytest.raises(ValueError, match="3 finite numbers >= 0 with a sum above 0"):
            relative_weights(weights, 3)
    published = relative_weights("mutual_information", 6)
    assert torch.equal(relative_weights("mutual_information(3.63,1.35,-1.25)", 6), published)
    assert not torch.equal(relative_weights("mutual_information(0,1.35,-1.25)", 6), published)
    with pytest.raises(ValueError, match="unknown bag_weighting 'powerlaw'; known are uniform, power_law"):
        relative_weights("powerlaw", 3)
    with pytest.raises(ValueError, match="at least 1"):
        relative_weights("uniform", 0)
