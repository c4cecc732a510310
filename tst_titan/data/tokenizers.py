"""The corpus's tokenizer: trained here, a given tokenizer.json, or one of the hub.

A tokenizer folder holds tokenizer.json and tokenizer_config.json, as `transformers.AutoTokenizer` reads them. Every
document is followed by the end-of-text token. One rule holds wherever text becomes ids, in training, evaluation and
exports: no special token is added to a text, and none is recognized inside of one: a literal "<|endoftext|>" there is
ordinary characters.
"""

import json
import os
import shutil
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import groupby, islice
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tst_titan.bounds import RECORD_BYTES, too_much
from tst_titan.errors import UserError
from tst_titan.files import digest_file, read_json, whole_file, write_json
from tst_titan.plan.settings import TokenizerSettings

END_OF_TEXT = "<|endoftext|>"
# Looked for in this order where no tokenizer_config.json names the end-of-text token.
KNOWN_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")
# The trainer's time grows with the square of a run of characters of one class, which is one pre-token.
_LONGEST_RUN = 4096
_LONG_RUNS = "|".join(f"{kind}{{{_LONGEST_RUN}}}" for kind in (r"\p{L}", r"\p{N}", r"\s", r"[^\s\p{L}\p{N}]"))


@dataclass(frozen=True)
class CorpusTokenizer:
    """A loaded tokenizer. `digest` is the SHA-256 of its tokenizer.json; `num_ids` counts special tokens too."""

    tokenizer: Tokenizer
    digest: str
    eos_id: int
    num_ids: int

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids (int64) of each text, special tokens neither added nor recognized."""
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]


def use_threads(threads: bool) -> None:
    """Whether the `tokenizers` library spreads a call over all cores of this process."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads else "false"


def load_tokenizer(folder: Path) -> CorpusTokenizer:
    """Load a tokenizer folder. Raises `UserError` where a file is missing or damaged or no end of text is known."""
    path = Path(folder) / "tokenizer.json"
    tokenizer = _from_file(path)
    eos = _end_of_text(tokenizer, path)
    eos_id = tokenizer.token_to_id(eos)
    assert eos_id is not None
    # Some files hold it as an ordinary added token, which would be recognized inside of a text.
    tokenizer.add_special_tokens([eos])
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    num_ids = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    return CorpusTokenizer(tokenizer, digest_file(path), eos_id, num_ids)


def train_bpe(folder: Path, texts: Iterable[str], vocab_size: int) -> None:
    """Train a byte-level BPE of `vocab_size` ids (256 bytes and the end of text included) and write its folder.

    The same texts give the same file. Fewer ids result where the texts have too few pairs to merge. Runs of letters,
    digits, spaces or other characters are cut after `_LONGEST_RUN` characters, for training alone.
    """
    if vocab_size < 257:
        raise UserError(f"tokenizer vocab_size {vocab_size}: a byte-level BPE needs at least 257 ids")
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_LONG_RUNS), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tokenizer.pre_tokenizer = byte_level
    _write(folder, tokenizer)


def copy_tokenizer(folder: Path, settings: TokenizerSettings) -> None:
    """Bring a given tokenizer ("file" or "hub") into `folder`. Raises `UserError` where it cannot be had."""
    if settings.kind == "hub":
        from transformers import AutoTokenizer

        try:
            given = AutoTokenizer.from_pretrained(settings.name, revision=settings.revision or "main")
        except Exception as error:  # the files of a repository are anybody's
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"tokenizer {settings.name}: cannot be loaded from the hub: {reason}") from error
        backend = getattr(given, "backend_tokenizer", None)
        if backend is None:
            raise UserError(f"tokenizer {settings.name}: has no tokenizer.json; choose one that has")
        _write(folder, backend, eos=given.eos_token)
        return
    path = given_file(settings)
    assert path is not None
    tokenizer = _from_file(path)
    _write(folder, tokenizer, eos=_end_of_text(tokenizer, path), original=path)


def given_file(settings: TokenizerSettings) -> Path | None:
    """The tokenizer.json that a study names; None where it is trained here or comes from the hub."""
    if settings.kind != "file":
        return None
    path = Path(settings.name).expanduser()
    return path / "tokenizer.json" if path.is_dir() else path


def check_vocabulary(tokenizer: CorpusTokenizer, settings: TokenizerSettings) -> None:
    """Raise `UserError` where the tokenizer has ids that a model with this `vocab_size` lacks, or would drop
    characters."""
    name = settings.name or settings.kind
    try:
        lost = _dropped(tokenizer.tokenizer)
    except Exception as error:  # the library raises nothing narrower
        raise UserError(
            f"tokenizer {name}: cannot encode text outside of its vocabulary ({error}); give it the unknown token that "
            "it names"
        ) from error
    if lost:
        raise UserError(
            f"tokenizer {name}: has no token for {', '.join(map(repr, lost[:5]))}{' and others' if lost[5:] else ''} "
            "and no unknown token, and would drop them in silence; give it an unknown token, byte_fallback, or all "
            "bytes of a byte-level alphabet"
        )
    if tokenizer.num_ids > settings.vocab_size:
        raise UserError(
            f"tokenizer {name}: has ids up to {tokenizer.num_ids - 1}, beyond vocab_size "
            f"{settings.vocab_size}; set vocab_size to {tokenizer.num_ids} or more in the study"
        )


@cache
def _probe() -> list[str]:
    """Letters of all scripts, and emoji: no normalizer takes them away, and their UTF-8 holds nearly every byte there
    is."""
    letters = [chr(code) for code in range(0x21, 0x10000) if unicodedata.category(chr(code)).startswith("L")]
    by_lead = groupby(letters, lambda letter: letter.encode()[0])
    ascii_others = [chr(code) for code in range(0x21, 0x7F) if not chr(code).isalpha()]
    emoji = [chr(code) for code in range(0x1F600, 0x1F640)]
    return [*ascii_others, *(letter for _, group in by_lead for letter in islice(group, 64)), *emoji]


def _dropped(tokenizer: Tokenizer) -> list[str]:
    """Characters that leave no token, or not all of their bytes."""
    probe = _probe()
    encodings = tokenizer.encode_batch_fast(probe, add_special_tokens=False)
    lost = [character for character, encoding in zip(probe, encodings, strict=True) if not encoding.ids]
    model, splitter = tokenizer.model, tokenizer.pre_tokenizer
    if lost or splitter is None or not isinstance(model, models.BPE):
        return lost
    if model.unk_token is not None or model.byte_fallback or model.end_of_word_suffix:
        return lost
    # A byte-level alphabet has a character for each byte; of a character's bytes some may be missing.
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    for character in probe:
        symbols = {symbol for piece, _ in splitter.pre_tokenize_str(character) for symbol in piece}
        if symbols <= alphabet and any(tokenizer.token_to_id(symbol) is None for symbol in symbols):
            lost.append(character)
    return lost


def _from_file(path: Path) -> Tokenizer:
    if not path.is_file():
        raise UserError("no such tokenizer file; correct the tokenizer's path in the study", where=path)
    if path.stat().st_size > RECORD_BYTES.most():
        raise too_much(path, RECORD_BYTES)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"not a tokenizer.json ({' '.join(str(error).split())[:200]})", where=path) from error


def _end_of_text(tokenizer: Tokenizer, path: Path) -> str:
    """The end-of-text token: what tokenizer_config.json beside the file says, else the first known one."""
    config = path.with_name("tokenizer_config.json")
    if config.is_file():
        settings = read_json(config, mend="replace it")
        eos = settings.get("eos_token") if isinstance(settings, dict) else settings
        eos = eos.get("content") if isinstance(eos, dict) else eos
        if eos is not None and not isinstance(eos, str):
            raise UserError(
                f'eos_token: {eos!r} is no token\'s text; name the end-of-text token, as in "{END_OF_TEXT}"',
                where=config,
            )
        if eos is not None:
            if tokenizer.token_to_id(eos) is None:
                raise UserError(f"eos_token: {eos!r} is no token of {path}; name one that is", where=config)
            return eos
    for eos in KNOWN_ENDS:
        if tokenizer.token_to_id(eos) is not None:
            return eos
    raise UserError(
        f"no end-of-text token among {', '.join(KNOWN_ENDS)}; name it as `eos_token` in tokenizer_config.json beside "
        "it",
        where=path,
    )


def _write(folder: Path, tokenizer: Tokenizer, eos: str = END_OF_TEXT, original: Path | None = None) -> None:
    with whole_file(Path(folder) / "tokenizer.json") as partial:
        if original is not None:
            shutil.copyfile(original, partial)
        else:
            partial.write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False), encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos,
        "bos_token": None,
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**30,
    }
    write_json(Path(folder) / "tokenizer_config.json", config)
