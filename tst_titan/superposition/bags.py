"""Windows of data tokens as inputs and labels: folding, and the next bag as the target.

Shape suffixes: B sequences, L latent positions, S tokens of a bag, T data tokens of a window.
"""

from typing import Literal

import torch

Superpose = Literal["both", "input", "output"]


def fold_bags(tokens_BT: torch.Tensor, bag_size: int) -> torch.Tensor:
    """Contiguous, non-overlapping bags: `[B, L*S]` to `[B, L, S]`, a view where the memory allows it.

    Raises `ValueError` where the tokens do not fill whole bags.
    """
    num_tokens = tokens_BT.shape[1]
    if bag_size < 1 or num_tokens % bag_size:
        raise ValueError(f"{num_tokens} tokens cannot be folded into bags of {bag_size}")
    return tokens_BT.unflatten(1, (num_tokens // bag_size, bag_size))


def next_bag_labels(tokens_BT: torch.Tensor, bag_size: int) -> torch.Tensor:
    """The bag after each position's own: `[B, (L+1)*S]` to `[B, L, S]`.

    Position j predicts the data tokens `[(j+1)*S, (j+2)*S)` of the window, none of which is in its own bag or in any
    before it. With bag size 1 these are the next tokens, `[B, L, 1]`.
    """
    return fold_bags(tokens_BT, bag_size)[:, 1:]


def input_tokens_per_position(bag_size: int, superpose: Superpose = "both") -> int:
    """Data tokens that a latent position consumes: S where bags go in, 1 where only the output is superposed."""
    return 1 if superpose == "output" else bag_size


def window_length(seq_len: int, bag_size: int, superpose: Superpose = "both") -> int:
    """Data tokens of a window that give `seq_len` positions and all of their targets: T.

    The last position's targets are looked ahead at: S tokens, or one where a single token is predicted.
    """
    lookahead = 1 if superpose == "input" else bag_size
    return seq_len * input_tokens_per_position(bag_size, superpose) + lookahead


def superpose_window(
    window_BT: torch.Tensor, seq_len: int, bag_size: int, superpose: Superpose = "both"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels of one window `[B, T]`, with T as `window_length` says.

    bag size 1: tokens `[B, L]` and next tokens `[B, L]`, ordinary training.
    "both": bags `[B, L, S]` and next bags `[B, L, S]`.
    "input" (ablation): bags `[B, L, S]`; position j predicts the token that follows its bag, `[B, L]`.
    "output" (ablation): tokens `[B, L]`; position j predicts the S tokens after it, `[B, L, S]`.
    """
    expected = window_length(seq_len, bag_size, superpose)
    if window_BT.shape[1] != expected:
        raise ValueError(f"a window of {window_BT.shape[1]} tokens, but {seq_len} positions need {expected}")
    if bag_size == 1:
        return window_BT[:, :-1], window_BT[:, 1:]
    if superpose == "both":
        return fold_bags(window_BT[:, :-bag_size], bag_size), next_bag_labels(window_BT, bag_size)
    if superpose == "input":
        return fold_bags(window_BT[:, :-1], bag_size), window_BT[:, bag_size::bag_size]
    return window_BT[:, :seq_len], window_BT[:, 1:].unfold(1, bag_size, 1)
