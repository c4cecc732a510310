"""`mix: proportional`: sources are read in the ratio of their files' bytes."""

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_fixtures import jsonl, settings, texts

from tst_titan import cli
from tst_titan.data import order
from tst_titan.data import sources as sources_module
from tst_titan.data.build import build_corpus
from tst_titan.data.needed import holds, recorded_weights, tokens_needed
from tst_titan.data.shares import shares_of
from tst_titan.data.stream import TokenStream
from tst_titan.errors import UserError
from tst_titan.plan import load_plan
from tst_titan.plan.settings import CorpusSettings, SourceSettings, segment_from_dict, segment_to_dict
from tst_titan.results import Results
from tst_titan.seal import with_seal

STUDY = """\
corpus: {{mix: {mix}, sources: {{a: {{kind: files, path: a}}, b: {{kind: files, path: b}}}}, tokenizer: bpe-512, validation_tokens: 20}}
models: {{m: {{shape: {{dim: 32, num_layers: 2, num_heads: 2, num_kv_heads: 1, head_dim: 16, ffn_dim: 64}}, learning_rate: 1e-2}}}}
steps: 40
arms: {{baseline: {{}}}}
training: {{seq_len: 64, sequences_per_step: 8, warmup_steps: 3, precision: float32, block_tokens: 128}}
"""  # noqa: E501


def write(folder: Path, *, mix: str = "proportional") -> Path:
    """A study, and beside it sources of which `a` has three times the texts of `b`."""
    for name, count in (("a", 900), ("b", 300)):
        for number in range(40):
            jsonl(folder / name / f"{number}.jsonl", texts(count, seed=count)[number::40])
    (folder / "study.yaml").write_text(STUDY.format(mix=mix))
    return folder / "study.yaml"


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def of(folder: Path, *names: str) -> CorpusSettings:
    sources = tuple(
        SourceSettings(name=name, kind="files", weight="proportional", path=str(folder / name)) for name in names
    )
    return replace(settings(folder), sources=sources, validation_tokens=20)


def test_a_build_tokenizes_what_is_needed_in_the_ratio_of_the_files_and_the_workflow_finds_it_enough(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sources_module, "_SMALLEST_GROUP", 4_000)
    monkeypatch.setattr(order, "_FIRST_STRETCH", 2_000)
    # A period of 4096 blocks is more than there is.
    monkeypatch.setattr(order, "LONGEST_PERIOD", 16)
    study, results = write(tmp_path), tmp_path / "results"
    cli.main(["data", "build", str(study), "--results", str(results), "--workers", "1"])
    plan = load_plan(study, results)
    (identity,) = plan.corpora
    manifest = json.loads((results / "data" / identity / "corpus.json").read_text())
    shares = [source["weight"] for source in manifest["sources"]]
    total = size(tmp_path / "a") + size(tmp_path / "b")
    assert shares == [size(tmp_path / "a") / total, size(tmp_path / "b") / total]
    assert f"read in the shares a {shares[0]:.2%}, b {shares[1]:.2%}" in capsys.readouterr().out
    assert not any(source["complete"] for source in manifest["sources"])
    # As the Snakefile asks; before the files are listed their sum is about what it will be.
    weights = recorded_weights(plan.corpora, Results(results))
    assert weights == {identity: shares}
    (needed,) = tokens_needed([plan], weights).values()
    assert needed["a"] > 2 * needed["b"]
    assert holds(manifest, needed)
    (estimated,) = tokens_needed([plan], {}).values()
    assert 0.5 < sum(estimated.values()) / sum(needed.values()) < 2
    # What training reads.
    stream = TokenStream(results / "data" / identity, seed=0, num_lanes=8, block_tokens=128)
    sources, _ = stream.block_places(np.arange(160))
    assert abs((sources == 0).mean() - shares[0]) < 1 / 16


def test_an_identity_holds_the_word_and_no_size(tmp_path):
    plan = load_plan(write(tmp_path), tmp_path / "results")
    (corpus,) = plan.corpora.values()
    assert [source.weight for source in corpus.sources] == ["proportional", "proportional"]
    for segment in plan.segments.values():
        stored = json.loads(json.dumps(segment_to_dict(segment)))
        assert segment_from_dict(stored) == segment
    shutil.rmtree(tmp_path / "a")
    assert list(load_plan(tmp_path / "study.yaml", tmp_path / "results").segments) == list(plan.segments)
    # Sources of the catalogue are named one by one.
    study = write(tmp_path, mix="{b: proportional, python-stdlib: proportional}")
    (corpus,) = load_plan(study, tmp_path / "results").corpora.values()
    assert {source.name: source.weight for source in corpus.sources} == dict.fromkeys(
        ("b", "python-stdlib"), "proportional"
    )


def test_shares_stay_when_a_corpus_grows(tmp_path, monkeypatch):
    """They are what was recorded: sizes of other files, which a corpus of an earlier version does not notice, would
    shift them."""
    monkeypatch.setattr(sources_module, "_SMALLEST_GROUP", 4_000)
    write(tmp_path)
    chosen, folder = of(tmp_path, "a", "b"), tmp_path / "corpus"
    first = build_corpus(chosen, folder, num_workers=1, needed={"a": 3000, "b": 1000})
    weights = [source["weight"] for source in first["sources"]]
    for source in first["sources"]:
        source["origin"] = {"path": source["origin"]["path"]}
    (folder / "corpus.json").write_text(json.dumps(with_seal(first)))
    with (tmp_path / "b/7.jsonl").open("a") as file:
        file.write("\n" * 5000)
    grown = build_corpus(chosen, folder, num_workers=1, needed={"a": 60_000, "b": 20_000})
    assert all(
        now["num_tokens"] > then["num_tokens"] for now, then in zip(grown["sources"], first["sources"], strict=True)
    )
    assert [source["weight"] for source in grown["sources"]] == weights


def test_the_standard_library_counts_by_what_is_read_of_it(tmp_path):
    write(tmp_path)
    library = SourceSettings(name="python-stdlib", kind="python-stdlib", weight="proportional")
    sources = [*of(tmp_path, "a").sources, library]
    listings = [sources_module.list_source(source) for source in sources]
    read = sum(Path(entry.path).stat().st_size for group in listings[1].groups for entry in group)
    total = size(tmp_path / "a") + read
    assert shares_of(sources, listings) == [size(tmp_path / "a") / total, read / total]


def test_bytes_that_do_not_compare_are_refused_before_any_work(tmp_path):
    """A compressed source would count for a fourth of its text."""
    write(tmp_path)
    for file in list((tmp_path / "b").iterdir()):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    with pytest.raises(UserError) as refused:
        build_corpus(of(tmp_path, "a", "b"), tmp_path / "corpus", num_workers=1)
    assert str(refused.value) == (
        "corpus.mix = proportional: the sources' files are packed in different ways (a: plain, b: gzip), so that their "
        "bytes do not "
        "compare; state weights: mix: {a: ..., b: ...}"
    )
    assert not list((tmp_path / "corpus").rglob("*.arrow"))
    assert not (tmp_path / "corpus/tokenizer").exists()
    # Two that are packed alike do.
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    manifest = build_corpus(of(tmp_path, "b", "c"), tmp_path / "alike", num_workers=1)
    assert [source["weight"] for source in manifest["sources"]] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ("proportionate", "corpus.mix = 'proportionate': must be proportional or a mapping of sources"),
        ("{a: proportional, b: 0.5}", "must be proportional for each source, or a number for each"),
        ("{a: proportional, nothing: proportional}", "no such source 'nothing'"),
        ("proportional, x: 1", "corpus.x"),
    ],
)
def test_a_mix_that_is_neither_is_one_message(tmp_path, mix, message):
    with pytest.raises(UserError, match=message):
        load_plan(write(tmp_path, mix=mix), tmp_path / "results")


def test_one_source_is_no_mix(tmp_path):
    study = write(tmp_path)
    study.write_text(study.read_text().replace(", b: {kind: files, path: b}", ""))
    with pytest.raises(UserError, match="describe two sources or more there"):
        load_plan(study, tmp_path / "results")
