"""The tokenizer of an export, which makes of a text what training made of it."""

from pathlib import Path
from typing import Any

from tst_titan.evaluate.checkpoint import Checkpoint
from tst_titan.files import read_json


def has_tokenizer_of(folder: Path, checkpoint: Checkpoint) -> bool:
    """Whether an export's tokenizer makes of a text what training made of it; that of an older version may not."""
    files = tokenizer_files(checkpoint.tokenizer_dir, checkpoint.segment.recipe.seq_len)
    mend = "delete the folder and export again"
    return all(
        (folder / name).is_file() and read_json(folder / name, mend=mend) == content for name, content in files.items()
    )


def tokenizer_files(source: Path, seq_len: int) -> dict[str, dict[str, Any]]:
    """The corpus's tokenizer, which makes of a text the ids that training saw: nothing added, cut, filled or
    recognized.

    `tokenizers` keeps no setting for the last in its file: transformers does, in tokenizer_config.json.
    """
    tokenizer = read_json(source / "tokenizer.json", mend="build the corpus again")
    config = read_json(source / "tokenizer_config.json", mend="build the corpus again")
    tokenizer |= {
        "post_processor": _offsets_only(tokenizer.get("post_processor")),
        "truncation": None,
        "padding": None,
    }
    for token in tokenizer.get("added_tokens") or ():
        token["special"] = token["special"] or token["content"] == config["eos_token"]
    config |= {
        "bos_token": None,
        "add_bos_token": False,
        "add_eos_token": False,
        "split_special_tokens": True,
        "model_max_length": seq_len,
    }
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": config}


def _offsets_only(post_processor: dict[str, Any] | None) -> dict[str, Any] | None:
    """What of a post-processor adds no token: the byte level's, which trims offsets."""
    if post_processor is not None and post_processor["type"] == "Sequence":
        kept = [part for part in map(_offsets_only, post_processor["processors"]) if part is not None]
        return {**post_processor, "processors": kept} if kept else None
    return post_processor if post_processor is not None and post_processor["type"] == "ByteLevel" else None
