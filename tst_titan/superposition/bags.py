"""Which tokens a latent position reads, and which it predicts. All bookkeeping of indices is here.

Shapes: B sequences, T data tokens of a window, L latent positions, S tokens of a bag.
"""

from torch import Tensor

from tst_titan.superposition.settings import Superpose, window_length


def fold_bags(tokens_BT: Tensor, bag_size: int) -> Tensor:
    """Fold every `bag_size` contiguous tokens into one bag: `[B, T]` -> `[B, T / S, S]`, a view where it can be.

    Position j of the result holds tokens `[jS, (j+1)S)`.

    Raises:
        ValueError: `bag_size` is below 1 or does not divide T.
    """
    _check_sizes(tokens_BT, bag_size)
    num_tokens = tokens_BT.shape[1]
    if num_tokens % bag_size:
        raise ValueError(
            f"{num_tokens} tokens cannot be folded into bags of {bag_size}: {num_tokens % bag_size} left over"
        )
    return tokens_BT.unflatten(1, (num_tokens // bag_size, bag_size))


def next_bag_labels(tokens_BT: Tensor, bag_size: int) -> Tensor:
    """The targets of every position of a window of `T = L*S + S` tokens: `[B, T]` -> `[B, L, S]`.

    Position j reads tokens `[jS, (j+1)S)` and predicts the bag after it, tokens `[(j+1)S, (j+2)S)`. Folding
    comes first and the shift is by a whole bag, so no target lies in a bag that its predictor has read.
    """
    return fold_bags(tokens_BT, bag_size)[:, 1:]


def superpose_window(
    window_BT: Tensor, seq_len: int, bag_size: int, superpose: Superpose = "both"
) -> tuple[Tensor, Tensor]:
    """Split a window of `window_length(...)` tokens into the inputs and labels of `seq_len` positions.

    "both":   bags `[B, L, S]` in, the next bag `[B, L, S]` out.
    "input":  bags `[B, L, S]` in, the first token of the next bag `[B, L]` out.
    "output": single tokens `[B, L]` in, the S tokens after position j, `[j+1, j+1+S)`, `[B, L, S]` out.

    At bag size 1 all three are ordinary next-token training, with inputs and labels `[B, L]`.

    Raises:
        ValueError: the window has another length, or the bag size is below 1.
    """
    _check_sizes(window_BT, bag_size)
    needed = window_length(seq_len, bag_size, superpose)
    if window_BT.shape[1] != needed:
        raise ValueError(
            f"a window for seq_len {seq_len}, bag_size {bag_size}, superpose {superpose!r} "
            f"has {needed} tokens, not {window_BT.shape[1]}"
        )
    if bag_size == 1:
        return window_BT[:, :-1], window_BT[:, 1:]
    if superpose == "output":
        # A copy: the overlapping view would make a write to one label write to its neighbours.
        return window_BT[:, :seq_len], window_BT[:, 1:].unfold(1, bag_size, 1).contiguous()
    inputs_BLS = fold_bags(window_BT[:, : seq_len * bag_size], bag_size)
    labels_BLS = next_bag_labels(window_BT, bag_size)
    return inputs_BLS, labels_BLS[..., 0] if superpose == "input" else labels_BLS


def _check_sizes(tokens_BT: Tensor, bag_size: int) -> None:
    if tokens_BT.ndim != 2:
        raise ValueError(f"tokens must be [batch, tokens], not {list(tokens_BT.shape)}")
    if bag_size < 1:
        raise ValueError(f"bag_size must be at least 1, not {bag_size}")
