"""Windows, bags and labels: nothing that is predicted is seen by its predictor."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tst_titan.superposition import (
    bag_weights,
    fold_bags,
    input_tokens_per_position,
    next_bag_labels,
    superpose_window,
    window_length,
)

SUPERPOSE = ("both", "input", "output")


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 7))
def test_bags_are_contiguous_and_labels_are_the_next_bag(batch: int, seq_len: int, bag_size: int) -> None:
    tokens_BT = torch.arange(batch * (seq_len + 1) * bag_size).view(batch, -1)
    bags_BLS = fold_bags(tokens_BT[:, : seq_len * bag_size], bag_size)
    labels_BLS = next_bag_labels(tokens_BT, bag_size)
    for row in range(batch):
        for j in range(seq_len):
            assert bags_BLS[row, j].tolist() == tokens_BT[row, j * bag_size : (j + 1) * bag_size].tolist()
            assert (
                labels_BLS[row, j].tolist()
                == tokens_BT[row, (j + 1) * bag_size : (j + 2) * bag_size].tolist()
            )


@pytest.mark.parametrize("superpose", SUPERPOSE)
@given(seq_len=st.integers(1, 9), bag_size=st.integers(1, 7))
def test_no_target_is_in_the_input_up_to_its_position(superpose: str, seq_len: int, bag_size: int) -> None:
    # Token ids are stream positions, so what a position has seen and predicts can be compared as numbers.
    window_BT = torch.arange(window_length(seq_len, bag_size, superpose)).unsqueeze(0)
    inputs, labels = superpose_window(window_BT, seq_len, bag_size, superpose)
    read = input_tokens_per_position(bag_size, superpose)
    for j in range(seq_len):
        seen = inputs[0, : j + 1].flatten().tolist()
        targets = labels[0, j].flatten().tolist()
        assert seen == list(range((j + 1) * read))
        num_targets = 1 if superpose == "input" else bag_size
        assert targets == list(range((j + 1) * read, (j + 1) * read + num_targets))


def test_bag_size_one_is_next_token_training() -> None:
    window_BT = torch.randint(0, 99, (3, 9))
    for superpose in SUPERPOSE:
        inputs, labels = superpose_window(window_BT, 8, 1, superpose)
        assert torch.equal(inputs, window_BT[:, :-1])
        assert torch.equal(labels, window_BT[:, 1:])


def test_windows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="7 tokens cannot be folded into bags of 2"):
        fold_bags(torch.zeros(1, 7, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="a window of 9 tokens, but 4 positions need 10"):
        superpose_window(torch.zeros(1, 9, dtype=torch.int64), 4, 2)


def test_bag_weights_follow_their_definitions() -> None:
    def normalized(values: list[float]) -> list[float]:
        return [value / sum(values) for value in values]

    assert bag_weights("uniform", 4).tolist() == [0.25] * 4
    assert bag_weights("power_law", 3).tolist() == pytest.approx(normalized([1, 1 / 2, 1 / 3]), rel=1e-15)
    assert bag_weights("exponential", 3).tolist() == pytest.approx(
        normalized([0.36787944117144233, 0.1353352832366127, 0.049787068367863944]), rel=1e-15
    )
    assert bag_weights("first_token", 3).tolist() == [1, 0, 0]
    assert bag_weights("mutual_information", 2).tolist() == pytest.approx(
        normalized([3.63 + 1.35, 3.63 + 1.35 * 2**-1.25]), rel=1e-15
    )
    with pytest.raises(ValueError, match="no bag weighting 'linear'; there are: uniform, power_law"):
        bag_weights("linear", 2)


def test_the_study_knows_exactly_the_weightings_that_there_are() -> None:
    from tst_titan.study import catalogue
    from tst_titan.superposition import BAG_WEIGHTINGS

    assert catalogue.BAG_WEIGHTINGS == BAG_WEIGHTINGS
