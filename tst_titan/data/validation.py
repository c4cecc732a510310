"""The held-out split: windows of its tokens, the same ones for every run of a corpus; and whether its text is still
theirs."""

import json
from pathlib import Path

import numpy as np

from tst_titan.bounds import RECORD_BYTES, bounded_lines
from tst_titan.data.documents import document_hash
from tst_titan.data.manifest import open_corpus
from tst_titan.errors import UserError
from tst_titan.files import digest_file
from tst_titan.results import CorpusFiles


def validation_windows(corpus_dir: Path, seq_len: int, max_tokens: int = 0) -> np.ndarray:
    """Held-out tokens as windows of `seq_len` inputs and their next tokens: int64 [N, seq_len + 1].

    No position is predicted twice. With `max_tokens`, as many windows as hold at most that many predicted tokens (one
    at least), spread evenly over the whole split. Raises `UserError` where the split is shorter than one window.
    """
    run = open_corpus(corpus_dir).validation_run
    num_windows = (run.num_tokens - 1) // seq_len
    if num_windows < 1:
        raise UserError(
            f"the validation split has {run.num_tokens:,} tokens, one window needs {seq_len + 1:,}; "
            "raise validation_tokens in the study",
            where=corpus_dir,
        )
    count = min(num_windows, max(1, max_tokens // seq_len)) if max_tokens else num_windows
    windows = np.empty((count, seq_len + 1), dtype=np.int64)
    starts = (np.arange(count) * num_windows // count * seq_len).tolist()
    for start in starts:
        run.will_need(start, seq_len + 1)
    for row, start in zip(windows, starts, strict=True):
        run.read_into(row, start)
    return windows


def check_held_out_text(corpus_dir: Path) -> None:
    """Raise `UserError` where `validation.jsonl` is not the text that the corpus's validation shards were made of.

    Corpora of earlier versions have no digest of it; the shards have the hash of every document.
    """
    corpus, file = open_corpus(corpus_dir), CorpusFiles(corpus_dir).held_out_text
    mend = (
        f"{file}: not the held-out text that this corpus was made with; bring it back, or delete the corpus folder and "
        "build it again"
    )
    try:
        if (recorded := corpus.manifest["validation"].get("text_digest")) is not None:
            if digest_file(file) != recorded:
                raise UserError(mend)
            return
        with file.open("rb") as text:
            lines = bounded_lines(text, file, RECORD_BYTES)
            hashes = [document_hash(json.loads(line)["text"]) for _, line in lines]
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}; build the corpus again", where=file) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(mend) from error
    run = corpus.validation_run
    pieces = np.concatenate([run.shard(number).document_hashes for number in range(run.num_shards)])
    # A document of several pieces has its hash at each of them.
    if list(dict.fromkeys(pieces.tolist())) != hashes:
        raise UserError(mend)
