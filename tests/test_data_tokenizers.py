"""Tokenizers: the same texts give the same file, every text reads back, and nothing in a text becomes a special
token."""

import json
import shutil
import time

import numpy as np
import pytest
from data_fixtures import jsonl, settings, texts
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer

from tst_titan.data.build import build_corpus
from tst_titan.data.tokenize import pieces
from tst_titan.data.tokenizers import END_OF_TEXT, check_vocabulary, copy_tokenizer, load_tokenizer, train_bpe
from tst_titan.errors import UserError
from tst_titan.plan.settings import TokenizerSettings

STRANGE = ["", " ", "\n\n\t", "naïve 🙂 \u200b\x00", "<|endoftext|><|endoftext|>", "a" * 1000]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe(folder, texts(100), 400)
    return folder


def test_training_is_deterministic_and_gives_the_asked_size(folder, tmp_path):
    train_bpe(tmp_path, reversed(texts(100)), 400)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert load_tokenizer(folder).num_ids == 400


def test_training_takes_time_in_proportion_to_a_run_of_letters_without_a_space(tmp_path):
    """A run was one pre-token, and the time for it grew with its square: 320,000 letters took 126 s, 9 million
    hours."""
    letters = np.random.default_rng(0).choice(list("abcdefghij"), size=400_000)
    run = "".join(letters)
    pieces_of_it = [run[start : start + 4096] for start in range(0, len(run), 4096)]
    seconds = {}
    for name, given in (("cut", pieces_of_it), ("whole", [run])):
        before = time.process_time()
        train_bpe(tmp_path / name, given, 400)
        seconds[name] = time.process_time() - before
    assert seconds["whole"] < 6 * seconds["cut"]
    trained = (tmp_path / "whole/tokenizer.json").read_text()
    assert trained == (tmp_path / "cut/tokenizer.json").read_text()
    assert json.loads(trained)["pre_tokenizer"]["type"] == "ByteLevel"


def test_any_text_reads_back_and_a_literal_end_of_text_stays_text(folder):
    tokenizer = load_tokenizer(folder)
    for text, ids in zip(STRANGE, tokenizer.encode(STRANGE), strict=True):
        assert tokenizer.tokenizer.decode(ids.tolist(), skip_special_tokens=False) == text
        assert tokenizer.eos_id not in ids


def test_transformers_loads_the_folder_and_agrees(folder):
    theirs, ours = AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    assert theirs.eos_token == END_OF_TEXT
    assert theirs.eos_token_id == ours.eos_id
    assert len(theirs) == ours.num_ids
    for text in texts(5):
        assert theirs(text)["input_ids"] == ours.encode([text])[0].tolist()


def test_a_given_tokenizer_is_used_as_it_is(folder, tmp_path):
    given = TokenizerSettings(kind="file", vocab_size=500, name=str(folder / "tokenizer.json"))
    build_corpus(settings(jsonl(tmp_path / "in.jsonl", texts(150)), tokenizer=given), tmp_path / "c", num_workers=1)
    assert load_tokenizer(tmp_path / "c/tokenizer").digest == load_tokenizer(folder).digest
    for kind in ("file", "hub"):
        copy_tokenizer(tmp_path / kind, TokenizerSettings(kind=kind, vocab_size=500, name=str(folder)))
        copied = load_tokenizer(tmp_path / kind)
        assert copied.encode(texts(3))[2].tolist() == load_tokenizer(folder).encode(texts(3))[2].tolist()
        assert copied.eos_id == load_tokenizer(folder).eos_id


def test_a_vocabulary_smaller_than_the_tokenizers_ids_is_refused_before_anything_is_tokenized(folder, tmp_path):
    given = TokenizerSettings(kind="file", vocab_size=399, name=str(folder))
    with pytest.raises(UserError, match="ids up to 399, beyond vocab_size 399; set vocab_size to 400"):
        build_corpus(settings(jsonl(tmp_path / "in.jsonl", texts(50)), tokenizer=given), tmp_path / "c", num_workers=1)
    check_vocabulary(load_tokenizer(folder), TokenizerSettings(kind="bpe", vocab_size=400))
    with pytest.raises(UserError, match="at least 257"):
        train_bpe(tmp_path, ["x"], 256)


def test_the_end_of_text_is_what_the_tokenizers_configuration_says_or_a_known_one(tmp_path):
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"no end-of-text token among <\|endoftext\|>"):
        load_tokenizer(tmp_path)
    tokenizer.add_special_tokens(["<|end_of_text|>", "<stop>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).eos_id == 2
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<stop>"}}))
    assert load_tokenizer(tmp_path).eos_id == 3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"eos_token": "<stop>"}, "eos_token: '<stop>' is no token of .*tokenizer.json; name one that is"),
        ({"eos_token": 0}, "eos_token: 0 is no token's text"),
        ({"eos_token": {"content": ["</s>"]}}, "eos_token: .* is no token's text"),
        ([{"eos_token": "</s>"}], "eos_token: .* is no token's text"),
    ],
)
def test_an_end_of_text_that_the_tokenizer_lacks_is_no_other_token(config, message, folder, tmp_path):
    """Another known one was taken in silence; a number or a list was a traceback."""
    shutil.copy(folder / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"tokenizer_config.json: {message}"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match=rf"tokenizer_config.json: {message}"):
        copy_tokenizer(tmp_path / "copy", TokenizerSettings(kind="file", vocab_size=400, name=str(tmp_path)))


def without_bytes(data: dict) -> None:
    for symbol in ("Ã", "©", "ä"):
        del data["model"]["vocab"][symbol]


def letters_alone(data: dict) -> None:
    data["pre_tokenizer"] = data["decoder"] = None
    data["model"] |= {"vocab": {"<|endoftext|>": 0, "a": 1, "b": 2}, "merges": []}


def with_unknown(data: dict) -> None:
    letters_alone(data)
    data["model"]["unk_token"] = "<|endoftext|>"


def with_missing_unknown(data: dict) -> None:
    letters_alone(data)
    data["model"]["unk_token"] = "<unk>"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_bytes, "has no token for .* and would drop them in silence"),
        (letters_alone, "has no token for '!', '\"', .* and others and no unknown token"),
        (with_missing_unknown, "cannot encode text outside of its vocabulary"),
        (with_unknown, None),
    ],
)
def test_a_tokenizer_that_drops_characters_is_refused(change, message, tmp_path):
    """Of 54,463 tokens 38,599 were left, without a word."""
    train_bpe(tmp_path, ["text"], 257)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    change(data)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    given = TokenizerSettings(kind="file", vocab_size=400, name=str(tmp_path))
    if message is None:
        check_vocabulary(load_tokenizer(tmp_path), given)
        return
    with pytest.raises(UserError, match=rf"tokenizer {tmp_path}: {message}"):
        build_corpus(settings(jsonl(tmp_path / "in.jsonl", texts(50)), tokenizer=given), tmp_path / "c", num_workers=1)


def test_a_missing_or_broken_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json: no such tokenizer file"):
        copy_tokenizer(
            tmp_path / "out",
            TokenizerSettings(kind="file", vocab_size=9, name=str(tmp_path / "tokenizer.json")),
        )
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json: not a tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="cannot be loaded from the hub"):
        copy_tokenizer(tmp_path / "out", TokenizerSettings(kind="hub", vocab_size=9, name=str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    ("length", "longest", "lengths"),
    [(5, 0, [6]), (5, 6, [6]), (5, 5, [5, 2]), (6, 3, [3, 3, 3]), (0, 4, [])],
)
def test_pieces_end_with_the_end_of_text_and_are_at_most_as_long_as_allowed(length, longest, lengths):
    cut = pieces(np.arange(1, length + 1), 0, longest)
    assert [len(piece) for piece in cut] == lengths
    assert [piece[-1] for piece in cut] == [0] * len(cut)
    assert [n for piece in cut for n in piece[:-1]] == list(range(1, length + 1))
