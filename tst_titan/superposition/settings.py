"""What may be chosen of the method, and how many data tokens it then takes. Importing this imports no torch.

Sizes: L latent positions of a sequence, S tokens of a bag.
"""

from typing import Literal, get_args

Superpose = Literal["both", "input", "output"]
# Where bags are: read and predicted, read alone, or predicted alone.
SUPERPOSE = get_args(Superpose)
# How much each target of a bag counts (`tst_titan.superposition.weights`).
BAG_WEIGHTINGS = ("uniform", "power_law", "exponential", "first_token", "mutual_information")


def tokens_per_position(bag_size: int, superpose: Superpose = "both") -> int:
    """Data tokens that one latent position consumes: S where the input is bags, else 1."""
    if superpose not in SUPERPOSE:
        raise ValueError(f'superpose must be "both", "input" or "output", not {superpose!r}')
    return 1 if superpose == "output" else bag_size


def window_length(seq_len: int, bag_size: int, superpose: Superpose = "both") -> int:
    """Data tokens of the window that `superpose_window` needs for `seq_len` positions, lookahead included.

    `L*S + S` where the input is bags, `L + S` where only the output is; `L + 1` at bag size 1. Input-only
    windows end with a whole bag too, so that "both" and "input" read the same windows.
    """
    return seq_len * tokens_per_position(bag_size, superpose) + bag_size
