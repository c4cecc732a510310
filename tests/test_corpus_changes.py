"""A corpus that is another one than a segment was trained on is noticed wherever the segment is used; one that has
grown is not.

Before, a shard dropped from corpus.json, another held-out text (3.54 bits a byte became 3.59) and another
tokenizer.json went
unnoticed: the digest in done.json was compared with nothing.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from collect_support import fill_results, make_plan
from data_fixtures import settings, texts
from finished_segments import Finished, finished
from test_data_build import grown, many_files

from tst_titan.collect.study import gather
from tst_titan.data import order, sources
from tst_titan.data.content import changes, content
from tst_titan.errors import UserError
from tst_titan.evaluate.checkpoint import find_checkpoint
from tst_titan.evaluate.environment import prepare_environment
from tst_titan.evaluate.export import export
from tst_titan.evaluate.run import Evaluation, evaluate
from tst_titan.files import read_json, write_json
from tst_titan.seal import with_seal


@pytest.fixture
def own(corpus_dir: Path, process_group: None, tmp_path: Path) -> Finished:
    """Finished segments beside a corpus of their own, to change."""
    mine = finished(corpus_dir).copy(tmp_path / "results")
    corpus = corpus_of(mine)
    corpus.unlink()
    shutil.copytree(corpus_dir, corpus)
    return mine


def corpus_of(own: Finished) -> Path:
    return own.results / "data" / own.first.recipe.corpus.id


def in_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(corpus: Path) -> None:
        manifest = read_json(corpus / "corpus.json")
        change(manifest)
        write_json(corpus / "corpus.json", with_seal(manifest))

    return apply


def test_another_end_of_text_is_neither_evaluated_nor_exported(own: Finished) -> None:
    """It stands before every text that is scored; training reads it from corpus.json. A corpus of an earlier version
    has no digest of it."""
    corpus = corpus_of(own)
    in_manifest(lambda manifest: manifest["tokenizer"].pop("config_digest"))(corpus)
    path = corpus / "tokenizer" / "tokenizer_config.json"
    vocabulary = read_json(path.with_name("tokenizer.json"))["model"]["vocab"]
    write_json(path, read_json(path) | {"eos_token": max(vocabulary, key=vocabulary.get)})
    for use in (find_checkpoint, export):
        with pytest.raises(
            UserError, match=r"tokenizer_config\.json: its end of text is token \d+, that of the corpus \d+"
        ):
            use(own.results, own.first.id)


def test_a_corpus_that_has_grown_is_the_same(own: Finished) -> None:
    corpus = corpus_of(own)

    def grow(manifest: dict[str, Any]) -> None:
        source = manifest["sources"][0]
        source["shards"].append({**source["shards"][-1], "checksum": "0" * 64})

    manifest = read_json(corpus / "corpus.json")
    grow(manifest)
    assert changes(read_json(own.folder / "provenance.json")["corpus"], manifest) == []
    in_manifest(grow)(corpus)
    find_checkpoint(own.results, own.first.id)


def test_what_really_grows_keeps_what_was_read_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_SMALLEST_GROUP", 20_000)
    monkeypatch.setattr(order, "_FIRST_STRETCH", 2000)
    chosen = settings(many_files(tmp_path / "in", texts(600), count=30))
    folder = tmp_path / "corpus"
    small = grown(folder, chosen, 4_000)
    large = grown(folder, chosen, 16_000)
    assert len(large["sources"][0]["shards"]) > len(small["sources"][0]["shards"])
    assert changes(content(small), large) == []
    (shorter,) = changes(content(large), small)
    assert "shards of source local" in shorter
    other = grown(tmp_path / "other", settings(many_files(tmp_path / "in", texts(600, seed=1), count=30)), 4_000)
    assert "other text of source local" in changes(content(small), other)


@pytest.mark.parametrize(
    ("change", "recorded"),
    [
        *((change, True) for change in ("text", "id", "twice", "line lost", "no JSON")),
        # A corpus of an earlier version has the hashes of its held-out texts alone.
        *((change, False) for change in ("text", "twice", "line lost", "no JSON")),
    ],
)  # fmt: skip
def test_another_held_out_text_is_not_evaluated_on(own: Finished, change: str, recorded: bool) -> None:
    corpus = corpus_of(own)
    if not recorded:
        in_manifest(lambda manifest: manifest["validation"].pop("text_digest"))(corpus)
        provenance = read_json(own.folder / "provenance.json")
        assert changes(provenance["corpus"], read_json(corpus / "corpus.json")) == []
    prepare_environment()
    evaluation = Evaluation(results=own.results, segment=own.first.id, groups=["offline"], limit=2)
    path = corpus / "validation.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    changed = {
        "text": [lines[0].replace("e", "f"), *lines[1:]],
        "id": [lines[0].replace('"id": "texts/', '"id": "texts/x'), *lines[1:]],
        "twice": [*lines, lines[0]],
        "line lost": lines[:-1],
        "no JSON": [*lines[:-1], lines[-1][:-5]],
    }[change]
    assert changed != lines
    path.write_text("".join(changed), encoding="utf-8")
    with pytest.raises(UserError, match=r"validation\.jsonl: not the held-out text that this corpus was made with"):
        evaluate(evaluation)


def recorded_study(tmp_path: Path) -> tuple[Any, Path]:
    """A study's finished segments, each with the record of the corpus that it read."""
    plan = make_plan(tmp_path)
    results = tmp_path / "results"
    fill_results(plan, results)
    (corpus_id,) = plan.corpora
    manifest = read_json(results / "data" / corpus_id / "corpus.json")
    manifest["sources"][0]["shards"] = [{"checksum": "a" * 64}, {"checksum": "b" * 64}]
    write_json(results / "data" / corpus_id / "corpus.json", manifest)
    for segment in plan.segments.values():
        path = results / "segments" / segment.id / "provenance.json"
        write_json(path, read_json(path) | {"corpus": content(manifest)})
    return plan, results


def told(plan: Any, results: Path) -> list[str]:
    return [str(notice) for notice in gather(plan, results).notices if notice.kind == "damaged"]


def test_the_table_tells_of_a_corpus_that_changed_since_its_runs(tmp_path: Path) -> None:
    plan, results = recorded_study(tmp_path)
    assert told(plan, results) == []
    file = results / "data" / next(iter(plan.corpora)) / "corpus.json"
    manifest = read_json(file)
    manifest["sources"][0]["shards"].append({"checksum": "c" * 64})
    write_json(file, manifest)
    assert told(plan, results) == []
    manifest["sources"][0]["shards"].pop(0)
    write_json(file, manifest)
    (notice,) = told(plan, results)
    assert notice.startswith(f"{file}: another corpus than the one that {len(plan.segments)} segments were trained on")
    assert "other text of source python-stdlib" in notice


def test_the_table_tells_of_runs_that_read_two_corpora_of_one_name(tmp_path: Path) -> None:
    plan, results = recorded_study(tmp_path)
    segment = plan.segments[plan.runs[1].final]
    path = results / "segments" / segment.id / "provenance.json"
    provenance = read_json(path)
    provenance["corpus"]["sources"][0]["digest"] = "0" * 64
    write_json(path, provenance)
    (results / "data" / next(iter(plan.corpora)) / "corpus.json").unlink()
    (notice,) = told(plan, results)
    assert notice.startswith(f"{path}: {segment.id} was trained on another corpus than ")
