"""A corpus of any size from a seed: files of made-up text, some of them bad in the ways that files are."""

import gzip
import json
from itertools import pairwise
from pathlib import Path

import numpy as np

BAD = {
    "corrupt": "corrupt.jsonl.gz",
    "empty": "empty.jsonl",
    "invalid": "invalid.jsonl",
    "enormous": "enormous.txt",
}
# Longer than documents may be (`LONGEST_DOCUMENT`), so that it is cut.
_ENORMOUS_CHARACTERS = 5 * 2**20


def write_corpus(folder: Path, num_bytes: int, num_files: int, seed: int = 0) -> int:
    """Write `num_files` files, together about `num_bytes` besides those four in `BAD`; returns the documents.

    A tenth of the files are gzip. The corrupt file counts no document, the enormous one counts one.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 9, 4000)
    letters = rng.choice(list("abcdefghiklmnoprstuw"), size=(4000, 9))
    words = ["".join(row[:length]) for row, length in zip(letters, lengths, strict=True)]
    # Frequencies as in language, so that a tokenizer does what it does on text.
    reach = np.cumsum(1 / np.arange(1, len(words) + 1))

    def text(num_characters: int) -> str:
        chosen = reach.searchsorted(rng.random(num_characters // 4) * reach[-1])
        return " ".join([words[n] for n in chosen.tolist()])[:num_characters]

    good = num_files - len(BAD)
    share = num_bytes // good
    documents = 0
    for number in range(good):
        body = text(share)
        ends = np.cumsum(rng.integers(200, 6000, size=share // 200)).tolist()
        cut = [body[start:end] for start, end in pairwise([0, *ends]) if start < len(body)]
        lines = [json.dumps({"text": f"{number}-{n} {part}"}) + "\n" for n, part in enumerate(cut)]
        data = "".join(lines).encode()
        if number % 10 == 9:
            (folder / f"{number:05d}.jsonl.gz").write_bytes(gzip.compress(data, 1, mtime=0))
        else:
            (folder / f"{number:05d}.jsonl").write_bytes(data)
        documents += len(lines)
    (folder / BAD["corrupt"]).write_bytes(gzip.compress(data, 1, mtime=0)[: len(data) // 8])
    (folder / BAD["empty"]).write_bytes(b"")
    (folder / BAD["invalid"]).write_bytes(b'{"text": "caf\xe9 of latin letters"}\n{"text": "in order"}\n')
    lines = text(_ENORMOUS_CHARACTERS - 2**16)
    (folder / BAD["enormous"]).write_text(
        "\n".join(lines[start : start + 70] for start in range(0, len(lines), 70)) + "\n" + "x" * 2**16
    )
    return documents + 3
