"""Windows over the held-out split, the same ones for every run of a corpus."""

from pathlib import Path

import numpy as np

from tst_titan.data.manifest import open_corpus
from tst_titan.errors import UserError


def validation_windows(corpus_dir: Path, seq_len: int, max_tokens: int = 0) -> np.ndarray:
    """Held-out tokens as windows of `seq_len` inputs and their next tokens: int64 [N, seq_len + 1].

    No position is predicted twice. With `max_tokens`, as many windows as hold at most that many predicted tokens (one
    at least), spread evenly over the whole split. Raises `UserError` where the split is shorter than one window.
    """
    run = open_corpus(corpus_dir).validation_run
    there = (run.num_tokens - 1) // seq_len
    if there < 1:
        raise UserError(
            f"{corpus_dir}: the validation split has {run.num_tokens:,} tokens, one window needs {seq_len + 1:,}; "
            "raise validation_tokens in the study"
        )
    count = min(there, max(1, max_tokens // seq_len)) if max_tokens else there
    windows = np.empty((count, seq_len + 1), dtype=np.int64)
    starts = (np.arange(count) * there // count * seq_len).tolist()
    for start in starts:
        run.will_need(start, seq_len + 1)
    for row, start in zip(windows, starts, strict=True):
        run.read_into(row, start)
    return windows
