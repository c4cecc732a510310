"""The command line of the data stage as a user meets it."""

import argparse

import pytest
from data_fixtures import jsonl, settings, texts

from tst_titan.data import command
from tst_titan.data.build import build_corpus
from tst_titan.errors import UserError
from tst_titan.superposition.weights import relative_weights


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["data", *map(str, arguments)])
    args.run(args)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    build_corpus(settings(jsonl(folder / "in.jsonl", texts(300))), folder / "built", num_workers=1)
    return folder / "built"


def test_inspect_shows_a_corpus_and_verifies_it(corpus, capsys):
    run("inspect", corpus, "--verify")
    shown = capsys.readouterr().out
    assert "unigram entropy" in shown
    assert "document 0-" in shown
    assert "one document in 20, by its hash, is held out" in shown
    assert "all checksums right" in shown


def test_inspect_shows_a_shard_with_header_and_samples(corpus, capsys):
    run("inspect", corpus / "train/local/00000.arrow", "--verify", "--samples", 2)
    shown = capsys.readouterr().out
    for part in (
        "tokenizer_digest",
        "num_documents",
        "dtype: uint16",
        "bytes a token",
        "checksum right",
    ):
        assert part in shown
    assert shown.count("tokens): ") == 2


def test_inspect_names_what_is_wrong(corpus, tmp_path):
    shard = tmp_path / "cut.arrow"
    shard.write_bytes((corpus / "train/local/00000.arrow").read_bytes()[:-20])
    with pytest.raises(UserError, match=r"cut\.arrow: not a whole shard"):
        run("inspect", shard)
    with pytest.raises(UserError, match="no whole corpus there"):
        run("inspect", tmp_path)


def test_bench_measures_and_compares_with_what_training_consumed(corpus, tmp_path, capsys):
    options = ("--seq-len", 32, "--bag-size", 2, "--block-tokens", 64, "--sequences", 4, "--seconds", 0.05)
    run("bench", corpus, *options)
    assert "M tokens/s" in capsys.readouterr().out
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 3.0, "data_tokens_per_s": 10.0}\n{"step": 1, "validation_loss": 3.0}\n'
    )
    run("bench", corpus, *options, "--segment", tmp_path)
    assert "consumed 10 data tokens/s" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"metrics\.jsonl: no such file"):
        run("bench", corpus, *options, "--segment", tmp_path / "none")


def test_stats_prints_the_fit(corpus, capsys):
    run("stats", corpus, "--distance", 6, "--tokens", 8000)
    shown = capsys.readouterr().out
    assert "fit: " in shown
    line = shown.splitlines()[-1]
    if "-" not in shown.split("fit: ")[1].split(" * ")[0]:
        assert relative_weights(line.split("bag_weighting: ")[1], 6).shape == (6,)


@pytest.mark.parametrize("part", ["3/3", "x/2", "1", "-1/2"])
def test_a_share_that_does_not_exist_is_refused(part, capsys):
    with pytest.raises(SystemExit):
        run("build", "study.yaml", f"--part={part}")
    assert "write K/N" in capsys.readouterr().err
