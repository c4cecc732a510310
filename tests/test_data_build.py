"""A built corpus holds every document once, on one side, and its bytes depend on its inputs alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from data_fixtures import jsonl, numbered_corpus, settings, texts

from tst_titan.data import build, inputs, order, sources, tokenize
from tst_titan.data import documents as documents_module
from tst_titan.data.build import build_corpus, tokenize_share
from tst_titan.data.documents import document_hash
from tst_titan.data.held_out import ONE_IN, held_out_rule
from tst_titan.data.inputs import VERIFIED, check_inputs
from tst_titan.data.manifest import open_corpus, verify_corpus
from tst_titan.data.needed import tokens_needed
from tst_titan.data.shards import open_shard
from tst_titan.data.sources import list_source, read_documents
from tst_titan.data.stream import TokenStream
from tst_titan.data.tokenize import finished
from tst_titan.data.tokenizers import load_tokenizer, train_bpe
from tst_titan.errors import UserError
from tst_titan.files import digest_file
from tst_titan.plan import load_plan
from tst_titan.plan.settings import SourceSettings, TokenizerSettings


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    """Groups of a few files, so that a small corpus has several."""
    monkeypatch.setattr(sources, "_SMALLEST_GROUP", 20_000)


def many_files(folder: Path, documents: list[str], count: int = 12) -> Path:
    for number in range(count):
        jsonl(folder / f"{number:02d}.jsonl", documents[number::count])
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files by name, but the note of what was compared, which holds times."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != VERIFIED]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def training_texts(folder: Path) -> list[str]:
    """Decoded documents of the training split: each ends with the end of text and has none inside."""
    corpus = open_corpus(folder)
    tokenizer = load_tokenizer(corpus.tokenizer_folder)
    found = []
    for source in corpus.manifest["sources"]:
        for entry in source["shards"]:
            shard = open_shard(folder / entry["file"])
            for start, end in zip(shard.document_offsets[:-1], shard.document_offsets[1:], strict=True):
                ids = shard.ids[start:end]
                assert ids[-1] == tokenizer.eos_id
                assert tokenizer.eos_id not in ids[:-1]
                found.append(tokenizer.tokenizer.decode(ids[:-1].tolist(), skip_special_tokens=False))
    return found


def held_out_texts(folder: Path) -> list[str]:
    return [json.loads(line)["text"] for line in (folder / "validation.jsonl").read_text().splitlines()]


def test_every_document_is_on_exactly_one_side_and_reads_back_as_it_was(tmp_path):
    documents = [*texts(400), "with a literal <|endoftext|> inside", "umlaut ü, emoji 🙂, tab\t and   spaces"]
    folder = tmp_path / "corpus"
    manifest = build_corpus(settings(many_files(tmp_path / "in", documents)), folder, num_workers=1)
    training, held_out = training_texts(folder), held_out_texts(folder)
    assert len(manifest["sources"][0]["shards"]) > 1
    assert sorted(training) == sorted(text for text in documents if document_hash(text) >= 2**64 // ONE_IN)
    assert held_out
    assert set(held_out) <= set(documents) - set(training)
    assert (
        verify_corpus(folder)
        == sum(manifest[k]["num_tokens"] for k in ["validation"]) + manifest["sources"][0]["num_tokens"]
    )
    assert not (folder / ".work").exists()


def test_the_manifest_counts_what_the_shards_hold(tmp_path):
    folder = tmp_path / "corpus"
    manifest = build_corpus(settings(many_files(tmp_path / "in", texts(300))), folder, num_workers=1)
    source = manifest["sources"][0]
    ids = np.concatenate([open_shard(folder / entry["file"]).ids for entry in source["shards"]])
    training = training_texts(folder)
    assert source["num_tokens"] == len(ids)
    assert source["num_documents"] == len(training)
    assert source["num_bytes"] == sum(len(text.encode()) for text in training)
    assert manifest["bytes_per_token"] == pytest.approx(source["num_bytes"] / len(ids))
    share = np.bincount(ids) / len(ids)
    assert manifest["unigram_entropy"] == pytest.approx(-sum(p * np.log(p) for p in share if p > 0))
    assert manifest["validation"]["num_tokens"] >= 50
    assert manifest == json.loads((folder / "corpus.json").read_text())


def test_the_number_of_workers_and_parts_changes_no_byte(tmp_path):
    documents = texts(400)
    chosen = settings(many_files(tmp_path / "in", documents + documents[:40]))
    for name, workers in [("one", 1), ("three", 3)]:
        build_corpus(chosen, tmp_path / name, num_workers=workers)
    for part in (2, 0, 1):
        tokenize_share(chosen, tmp_path / "parts", (part, 3), num_workers=1)
    build_corpus(chosen, tmp_path / "parts", num_workers=1)
    assert contents(tmp_path / "one") == contents(tmp_path / "three") == contents(tmp_path / "parts")


def test_a_share_beyond_the_groups_has_nothing_to_do(tmp_path):
    chosen = settings(many_files(tmp_path / "in", texts(40)))
    tokenize_share(chosen, tmp_path / "parts", (1000, 1001), num_workers=2)
    build_corpus(chosen, tmp_path / "parts", num_workers=1)
    build_corpus(chosen, tmp_path / "one", num_workers=1)
    assert contents(tmp_path / "one") == contents(tmp_path / "parts")


def test_a_shard_closes_at_its_size_whatever_its_group_holds(tmp_path, monkeypatch):
    path = jsonl(tmp_path / "in.jsonl", texts(300))
    monkeypatch.setattr(tokenize, "_BATCH_CHARACTERS", 1000)
    read = {}
    for name, size in [("one", 2**27), ("many", 2000)]:
        monkeypatch.setattr(tokenize, "SHARD_TOKENS", size)
        manifest = build_corpus(settings(path), tmp_path / name, num_workers=1)
        sizes = [entry["num_tokens"] for entry in manifest["sources"][0]["shards"]]
        read[name] = np.concatenate(
            [open_shard(tmp_path / name / e["file"]).ids for e in manifest["sources"][0]["shards"]]
        )
    assert len(sizes) > 5
    assert all(2000 <= size < 3000 for size in sizes[:-1])
    assert np.array_equal(read["one"], read["many"])


def test_exact_duplicates_are_dropped_within_and_across_files(tmp_path):
    documents = texts(200)
    many_files(tmp_path / "in", documents)
    jsonl(tmp_path / "in/again.jsonl", documents[:150] * 2)
    folder = tmp_path / "corpus"
    manifest = build_corpus(settings(tmp_path / "in"), folder, num_workers=1)
    found = training_texts(folder)
    assert len(found) == len(set(found)) == sum(document_hash(text) >= 2**64 // ONE_IN for text in documents)
    ids = np.concatenate([open_shard(folder / e["file"]).ids for e in manifest["sources"][0]["shards"]])
    share = np.bincount(ids) / len(ids)
    assert manifest["unigram_entropy"] == pytest.approx(-sum(p * np.log(p) for p in share if p > 0))
    assert any("exact duplicates dropped" in note for note in manifest["notes"])
    assert len(set(held_out_texts(folder))) == len(held_out_texts(folder))


def test_growing_a_corpus_moves_no_held_out_document_into_training(tmp_path):
    documents = texts(900)
    held_out, training = [], []
    for name, count in [("small", 300), ("large", 900)]:
        path = jsonl(tmp_path / f"{name}.jsonl", documents[:count])
        build_corpus(settings(path, validation_tokens=400), tmp_path / name, num_workers=1)
        held_out.append(set(held_out_texts(tmp_path / name)))
        training.append(set(training_texts(tmp_path / name)))
    assert held_out[0]
    assert not held_out[0] & training[1]
    assert training[0] <= training[1]


def test_long_documents_are_cut_into_pieces(tmp_path):
    documents = texts(120)
    for name, longest in [("whole", 0), ("cut", 40)]:
        build_corpus(
            settings(jsonl(tmp_path / "in.jsonl", documents), max_document_tokens=longest),
            tmp_path / name,
            num_workers=1,
        )
    whole, cut = (open_shard(tmp_path / name / "train/local/00000.arrow") for name in ("whole", "cut"))
    assert np.diff(cut.document_offsets).max() == 40
    eos = load_tokenizer(tmp_path / "cut/tokenizer").eos_id
    assert (cut.ids[cut.document_offsets[1:] - 1] == eos).all()
    assert np.array_equal(cut.ids[cut.ids != eos], whole.ids[whole.ids != eos])
    assert cut.header.num_bytes == whole.header.num_bytes


def test_max_tokens_takes_whole_documents_from_the_front_and_reads_no_more_files(tmp_path):
    many_files(tmp_path / "in", texts(400))
    everything = build_corpus(settings(tmp_path / "in"), tmp_path / "all", num_workers=1)
    total = everything["sources"][0]["num_tokens"]
    limited = settings(tmp_path / "in", max_tokens=total // 3, validation_tokens=20)
    # One tokenizer for both: the BPE is trained on all training documents in any case.
    manifest = build_corpus(limited, tmp_path / "some", num_workers=2)
    assert total // 3 - 300 < manifest["sources"][0]["num_tokens"] <= total // 3
    some, whole = training_texts(tmp_path / "some"), training_texts(tmp_path / "all")
    assert some == whole[: len(some)]
    used = {name for row in pq.read_table(tmp_path / "some/shards.parquet").to_pylist() for name in row["inputs"]}
    assert 0 < len(used) < 12


def grown(folder: Path, chosen, needed: int | None) -> dict:
    return build_corpus(chosen, folder, num_workers=1, needed=None if needed is None else {"local": needed})


def test_a_corpus_holds_as_much_as_is_needed_and_grows_without_a_change_of_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(order, "_FIRST_STRETCH", 2000)
    chosen = settings(many_files(tmp_path / "in", texts(600) + texts(60), count=30))
    everything = grown(tmp_path / "all", chosen, None)
    total = everything["sources"][0]["num_tokens"]
    folder = tmp_path / "corpus"
    some = grown(folder, chosen, total // 4)
    assert total // 4 <= some["sources"][0]["num_tokens"] < total // 2
    assert not some["sources"][0]["complete"]
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (folder / "train").rglob("*.arrow")}
    validation = (folder / "validation.jsonl").read_bytes()
    stream = TokenStream(folder, seed=3, num_lanes=4, block_tokens=32)
    read = stream.windows(0, total // 20)
    with pytest.raises(
        UserError,
        match="source local is not tokenized that far; tokenize more of it with `tst-titan data build",
    ):
        stream.windows(0, total)
    with pytest.raises(UserError, match="needs 100,000 data tokens, and source local is not tokenized that far"):
        stream.check_enough(100_000, 33)
    assert grown(folder, chosen, total // 5) == some

    more = grown(folder, chosen, total // 2)
    assert more["sources"][0]["shards"][: len(before)] == some["sources"][0]["shards"]
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in before} == before
    assert contents(folder / "train") == {
        name: data for name, data in contents(tmp_path / "all/train").items() if (folder / "train" / name).exists()
    }
    assert np.array_equal(TokenStream(folder, seed=3, num_lanes=4, block_tokens=32).windows(0, total // 20), read)
    assert (folder / "validation.jsonl").read_bytes() == validation

    assert grown(folder, chosen, 10 * total) == everything
    assert contents(folder) == contents(tmp_path / "all")
    assert np.array_equal(TokenStream(folder, seed=3, num_lanes=4, block_tokens=32).windows(0, total // 20), read)


def without_work(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if not name.startswith(".work/")}


@pytest.mark.parametrize("kind", ["bpe", "file"])
def test_a_corpus_whose_files_changed_does_not_grow_and_stays_as_it_was(tmp_path, kind):
    """The refused growth trained the tokenizer anew first: after it every run said "another tokenizer"."""
    train_bpe(tmp_path / "t", texts(100), 300)
    given = TokenizerSettings(kind="file", vocab_size=300, name=str(tmp_path / "t"))
    chosen = settings(many_files(tmp_path / "in", texts(400)), **({"tokenizer": given} if kind == "file" else {}))
    grown(tmp_path / "corpus", chosen, 3000)
    before = without_work(tmp_path / "corpus")
    many_files(tmp_path / "in", texts(400, seed=1))
    with pytest.raises(UserError, match=r"corpus: the files of source local have changed since this corpus"):
        grown(tmp_path / "corpus", chosen, 20_000)
    with pytest.raises(UserError, match=r"corpus: the files of source local have changed since this corpus"):
        build.tokenize_share(chosen, tmp_path / "corpus", (0, 1), num_workers=1, needed={"local": 20_000})
    assert without_work(tmp_path / "corpus") == before
    verify_corpus(tmp_path / "corpus")


@pytest.mark.parametrize("which", ["training", "held out"])
def test_a_growth_refused_late_changes_nothing_either(tmp_path, which):
    """A corpus of an earlier version has no digest of its inputs: then the shards tell, training and held out."""
    chosen = settings(many_files(tmp_path / "in", texts(400)))
    grown(tmp_path / "corpus", chosen, 6000)
    manifest = json.loads((tmp_path / "corpus/corpus.json").read_text())
    del manifest["seal"]
    manifest["sources"][0]["origin"] = {"path": str(tmp_path / "in")}
    (tmp_path / "corpus/corpus.json").write_text(json.dumps(manifest))
    before = without_work(tmp_path / "corpus")
    first = held_out_texts(tmp_path / "corpus")[0]
    old = json.dumps(first if which == "held out" else training_texts(tmp_path / "corpus")[0])
    # For a held-out document another one: that of the smallest hash.
    new = next(
        t for t in texts(10**5, seed=5, words=3) if (document_hash(t) < document_hash(first)) == (which == "held out")
    )
    for file in (tmp_path / "in").iterdir():
        file.write_text(file.read_text().replace(old, json.dumps(new)))
    with pytest.raises(UserError, match="the files that it was made of have changed"):
        grown(tmp_path / "corpus", chosen, 20_000)
    assert without_work(tmp_path / "corpus") == before


def test_a_corpus_grows_after_its_work_folder_is_gone_and_its_files_were_copied(tmp_path):
    chosen = settings(many_files(tmp_path / "in", texts(400)))
    total = grown(tmp_path / "all", chosen, None)["sources"][0]["num_tokens"]
    grown(tmp_path / "corpus", chosen, total // 3)
    shutil.rmtree(tmp_path / "corpus/.work")
    for file in (tmp_path / "in").iterdir():
        os.utime(file, (0, 0))
    grown(tmp_path / "corpus", chosen, 10 * total)
    assert contents(tmp_path / "corpus") == contents(tmp_path / "all")


def test_changed_inputs_of_a_whole_corpus_are_named(tmp_path):
    train_bpe(tmp_path / "t", texts(100), 300)
    given = TokenizerSettings(kind="file", vocab_size=300, name=str(tmp_path / "t"))
    chosen = settings(many_files(tmp_path / "in", texts(400)), tokenizer=given)
    folder = tmp_path / "corpus"
    manifest = build_corpus(chosen, folder, num_workers=1)
    file = tmp_path / "in/03.jsonl"
    good = file.read_text()

    file.write_text(good.replace("a", "b"))  # of the same size
    with pytest.raises(UserError, match=r"files of source local have changed .* \(their content differs\): bring"):
        build_corpus(chosen, folder, num_workers=1)
    file.write_text(good + good)
    with pytest.raises(UserError, match=r"\(num_bytes: \d+ then, \d+ now, names or sizes differ"):
        build_corpus(chosen, folder, num_workers=1)
    file.write_text(good)
    assert build_corpus(chosen, folder, num_workers=1) == manifest

    train_bpe(tmp_path / "t", texts(100, seed=2), 300)
    with pytest.raises(UserError, match=r"t/tokenizer\.json is another tokenizer than the one that made this corpus"):
        build_corpus(chosen, folder, num_workers=1)
    train_bpe(tmp_path / "t", texts(100), 300)

    shard = folder / manifest["sources"][0]["shards"][1]["file"]
    shard.rename(tmp_path / "away")
    with pytest.raises(UserError, match=f"{shard.name}"):
        build_corpus(chosen, folder, num_workers=1)
    (tmp_path / "away").rename(shard)
    assert build_corpus(chosen, folder, num_workers=1) == manifest


def test_a_whole_corpus_stays_when_its_text_is_removed(tmp_path, capsys):
    chosen = settings(jsonl(tmp_path / "in.jsonl", texts(150)))
    manifest = build_corpus(chosen, tmp_path / "corpus", num_workers=1)
    (tmp_path / "in.jsonl").unlink()
    capsys.readouterr()
    assert build_corpus(chosen, tmp_path / "corpus", num_workers=1) == manifest
    assert "not compared with what the corpus was made of: corpus source local" in capsys.readouterr().err


def test_inputs_that_did_not_move_are_compared_without_being_read(tmp_path, monkeypatch):
    """Each comparison read up to a gigabyte of each source; what moved is still read, and found where it is another
    text."""
    chosen = settings(many_files(tmp_path / "in", texts(400)))
    folder = tmp_path / "corpus"
    build_corpus(chosen, folder, num_workers=1)
    read = []

    def watched(path: Path) -> str:
        read.append(Path(path).name)
        return digest_file(path)

    monkeypatch.setattr(inputs, "digest_file", watched)
    check_inputs(chosen, folder)
    assert len(read) == 12
    check_inputs(chosen, folder)
    assert len(read) == 12

    file = tmp_path / "in/03.jsonl"
    os.utime(file, (0, 0))
    check_inputs(chosen, folder)
    assert len(read) == 24
    # The same size and time, as a copy with its times has.
    good = file.read_text()
    file.write_text(good.replace("a", "b"))
    os.utime(file, (0, 0))
    for _ in range(2):
        with pytest.raises(UserError, match=r"source local have changed .*\(their content differs\)"):
            check_inputs(chosen, folder)
    file.write_text(good)
    check_inputs(chosen, folder)
    read.clear()

    # A corpus that was built again is another one.
    noted = (folder / VERIFIED).read_text()
    shutil.rmtree(folder)
    file.write_text(good + good)
    build_corpus(chosen, folder, num_workers=1)
    file.write_text(good)
    (folder / VERIFIED).write_text(noted)
    with pytest.raises(UserError, match="have changed"):
        check_inputs(chosen, folder)


def test_a_damaged_note_of_what_was_compared_is_no_comparison(tmp_path):
    chosen = settings(many_files(tmp_path / "in", texts(200)))
    manifest = build_corpus(chosen, tmp_path / "corpus", num_workers=1)
    (tmp_path / "in/03.jsonl").write_text("{}")
    for content in ("", "[]", "{", json.dumps({"corpus": manifest["digest"], "sources": [1]})):
        (tmp_path / "corpus" / VERIFIED).write_text(content)
        with pytest.raises(UserError, match="have changed"):
            check_inputs(chosen, tmp_path / "corpus")


def test_all_that_changed_is_named_at_once(tmp_path):
    """The first source that differed was named, the others one by one in later runs."""
    train_bpe(tmp_path / "t", texts(100), 300)
    sources = tuple(
        SourceSettings(name=name, kind="files", path=str(many_files(tmp_path / name, texts(200, seed)))) for seed, name in enumerate("abc")  # noqa: E501
    )  # fmt: skip
    given = TokenizerSettings(kind="file", vocab_size=300, name=str(tmp_path / "t"))
    chosen = replace(settings(tmp_path, tokenizer=given), sources=sources)
    build_corpus(chosen, tmp_path / "corpus", num_workers=1)
    for name in "ac":
        (tmp_path / name / "03.jsonl").unlink()
    train_bpe(tmp_path / "t", texts(100, seed=2), 300)
    with pytest.raises(UserError) as refused:
        check_inputs(chosen, tmp_path / "corpus")
    lines = str(refused.value).splitlines()
    assert [line.split("source ")[1][0] for line in lines[:2]] == ["a", "c"]
    assert "another tokenizer" in lines[2]
    assert len(lines) == 3


def test_tokens_dropped_as_duplicates_are_made_up_for(tmp_path):
    # Most of what is read first is a repetition.
    documents = texts(40) * 8 + texts(400, seed=1)
    chosen = settings(many_files(tmp_path / "in", documents, count=24))
    manifest = grown(tmp_path / "corpus", chosen, 12_000)
    assert manifest["sources"][0]["num_tokens"] >= 12_000
    assert not manifest["sources"][0]["complete"]


@pytest.mark.parametrize("block_tokens", [512, 2048])
def test_what_a_plan_needs_is_what_its_longest_run_reads(tmp_path, monkeypatch, block_tokens):
    monkeypatch.setattr(order, "_FIRST_STRETCH", 10_000)
    study = tmp_path / "two.yaml"
    study.write_text(
        "corpus: {mix: {a: 0.7, b: 0.3}, sources: {a: {kind: files, path: x}, b: {kind: files, path: y}}, tokenizer: "
        "bpe-512,"
        " validation_tokens: 100}\n"
        "models: {m: {shape: {dim: 32, num_layers: 2, num_heads: 2, num_kv_heads: 1, head_dim: 16, ffn_dim: 64}, "
        "learning_rate: 1e-2}}\n"
        "steps: [40, 200]\narms: {baseline: {}, tst: {bag_size: 5, step_ratio: 0.5}}\n"
        f"training: {{seq_len: 64, sequences_per_step: 8, warmup_steps: 3, precision: float32, block_tokens: "
        f"{block_tokens}}}\n"
    )
    plan = load_plan(study, tmp_path)
    ((_, needed),) = tokens_needed([plan], {}).items()
    longest = max(plan.segments.values(), key=lambda segment: segment.data_tokens)
    folder = numbered_corpus(tmp_path / "corpus", needed, {"a": 0.7, "b": 0.3}, shard_tokens=20_000)
    manifest = json.loads((folder / "corpus.json").read_text())
    for source in manifest["sources"]:
        source["complete"] = False
    (folder / "corpus.json").write_text(json.dumps(manifest))
    stream = TokenStream(folder, seed=0, num_lanes=8, block_tokens=block_tokens)
    assert stream.check_enough(longest.data_tokens, 64 + 1) == []
    assert stream.windows(longest.data_tokens - 8 * 64, 64 + 1).shape == (8, 65)
    assert sum(needed.values()) < 1.6 * longest.data_tokens + 60 * block_tokens


def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(tmp_path):
    many_files(tmp_path / "in", texts(3000), count=24)
    chosen = settings(tmp_path / "in")
    build_corpus(chosen, tmp_path / "undisturbed", num_workers=1)
    folder = tmp_path / "killed"
    program = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path; from data_fixtures import settings\n"
        "from tst_titan.data import build, sources; sources._SMALLEST_GROUP = 20_000\n"
        "build.build_corpus(settings(sys.argv[3]), Path(sys.argv[4]), num_workers=1)\n"
    )
    here = Path(__file__).parent
    process = subprocess.Popen([sys.executable, "-c", program, here, here.parent, tmp_path / "in", folder])
    records = folder / ".work/local"
    deadline = time.monotonic() + 60
    while len(list(records.glob("[0-9]*.json"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "corpus.json").exists()
    kept = {p: p.stat().st_ino for p in records.glob("*.arrow") if p.with_name(f"{p.name[:5]}.json").exists()}
    assert kept

    build_corpus(chosen, folder, num_workers=1)
    final = {p.stat().st_ino for p in (folder / "train/local").glob("*.arrow")}
    assert set(kept.values()) <= final
    assert contents(folder) == contents(tmp_path / "undisturbed")


def test_a_worker_and_putting_together_import_no_pandas_and_no_schema_of_studies(tmp_path):
    """Each costs a process more than reading, hashing and writing a small corpus."""
    jsonl(tmp_path / "in.jsonl", texts(150))
    program = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path; from data_fixtures import settings\n"
        "from tst_titan.data.build import build_corpus; from tst_titan.data.stream import TokenStream\n"
        "build_corpus(settings(sys.argv[3]), Path(sys.argv[4]), num_workers=1)\n"
        "TokenStream(Path(sys.argv[4]), seed=0, num_lanes=2, block_tokens=64).windows(0, 64)\n"
        "print(*{'pandas', 'pydantic', 'tst_titan.study', 'numpy'} & set(sys.modules))\n"
    )
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", program, here, here.parent, tmp_path / "in.jsonl", tmp_path / "corpus"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["numpy"]


def test_one_damaged_file_is_named_the_rest_is_done_and_mending_it_redoes_its_group_only(tmp_path):
    many_files(tmp_path / "in", texts(400))
    build_corpus(settings(tmp_path / "in"), tmp_path / "first", num_workers=1)
    given = {
        "tokenizer": settings("x").tokenizer.__class__(
            kind="file", vocab_size=300, name=str(tmp_path / "first/tokenizer")
        )
    }
    good = (tmp_path / "in/05.jsonl").read_bytes()
    (tmp_path / "in/05.jsonl").write_bytes(good[: len(good) // 2] + b"{")
    folder = tmp_path / "corpus"
    with pytest.raises(UserError, match=r"05\.jsonl, line \d+: not JSON"):
        build_corpus(settings(tmp_path / "in", **given), folder, num_workers=2)
    (tmp_path / "in/05.jsonl").write_bytes(good)
    (prepared,) = build.prepare(settings(tmp_path / "in", **given), folder, num_workers=1)
    unfinished = [job for job in prepared.jobs if not finished(job)]
    assert len(prepared.jobs) > 3
    assert [any(entry.name == "05.jsonl" for entry in job.inputs) for job in unfinished] == [True]
    manifest = build_corpus(settings(tmp_path / "in", **given), folder, num_workers=1)
    assert manifest["sources"][0]["num_documents"] == len(training_texts(tmp_path / "first"))


def test_files_that_are_empty_invalid_enormous_or_damaged_are_each_dealt_with(tmp_path, monkeypatch):
    monkeypatch.setattr(documents_module, "LONGEST_DOCUMENT", 50_000)
    folder = many_files(tmp_path / "in", texts(400))
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "invalid.txt").write_bytes(b"caf\xe9 " * 50)
    (folder / "enormous.txt").write_text("\n".join(texts(300, seed=1)))
    (folder / "damaged.jsonl.gz").write_bytes(b"\x1f\x8b no gzip")
    with pytest.raises(UserError, match=r"damaged\.jsonl\.gz: damaged compressed file .* replace or remove it"):
        build_corpus(settings(folder), tmp_path / "corpus", num_workers=1)
    (folder / "damaged.jsonl.gz").unlink()
    manifest = build_corpus(settings(folder), tmp_path / "corpus", num_workers=1)
    assert "local: 1 documents longer than 50000 characters, cut at line ends" in manifest["notes"]
    assert "local: 1 documents with invalid UTF-8, replaced by U+FFFD" in manifest["notes"]
    joined = "".join(training_texts(tmp_path / "corpus")) + "".join(held_out_texts(tmp_path / "corpus"))
    assert "caf\ufffd" in joined
    rows = pq.read_table(tmp_path / "corpus/shards.parquet").to_pylist()
    assert [row["file"] for row in rows] == [entry["file"] for entry in manifest["sources"][0]["shards"]]
    assert {"empty.jsonl", "enormous.txt", "invalid.txt", "00.jsonl"} <= {
        name for row in rows for name in row["inputs"]
    }


def test_a_whole_corpus_is_returned_as_it_is_and_not_mistaken_for_another(tmp_path):
    path = jsonl(tmp_path / "in.jsonl", texts(100))
    manifest = build_corpus(settings(path), tmp_path / "corpus", num_workers=1)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "corpus").rglob("*")}
    assert build_corpus(settings(path), tmp_path / "corpus", num_workers=1) == manifest
    (tmp_path / "corpus" / VERIFIED).unlink()
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "corpus").rglob("*")} == before
    with pytest.raises(UserError, match="use another folder"):
        build_corpus(settings(path, validation_tokens=60), tmp_path / "corpus", num_workers=1)


def test_too_little_text_is_one_clear_error(tmp_path):
    path = jsonl(tmp_path / "in.jsonl", texts(100))
    with pytest.raises(
        UserError, match=r"validation_tokens is 1,000,000, but the \d+ held-out documents hold [\d,]+ tokens"
    ):
        build_corpus(settings(path, validation_tokens=10**6), tmp_path / "a", num_workers=1)
    with pytest.raises(UserError, match="no document to train on"):
        build_corpus(settings(jsonl(tmp_path / "none.jsonl", ["", " "])), tmp_path / "b", num_workers=1)
    assert not (tmp_path / "a/corpus.json").exists()


def test_no_space_and_no_permission_are_one_clear_error_and_keep_what_is_done(tmp_path):
    path = many_files(tmp_path / "in", texts(200))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file.*cannot be written"):
        build_corpus(settings(path), tmp_path / "file/corpus", num_workers=1)

    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount a small file system here (not root)")
    try:
        with pytest.raises(UserError, match="cannot be written: No space left on device"):
            build_corpus(settings(many_files(tmp_path / "more", texts(2000))), small / "corpus", num_workers=1)
        assert not (small / "corpus/corpus.json").exists()
        assert list((small / "corpus/.work/local").glob("*.json"))
        subprocess.run(["mount", "-o", "remount,size=20m", small], check=True)
        build_corpus(settings(tmp_path / "more"), small / "corpus", num_workers=1)
        assert verify_corpus(small / "corpus")
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


def test_sources_are_kept_apart_with_their_weights_and_origins(tmp_path):
    source = settings("x").sources[0].__class__
    sources = tuple(
        source(
            name=name,
            kind="files",
            path=str(jsonl(tmp_path / f"{name}.jsonl", texts(150, seed=seed))),
            weight=weight,
        )
        for name, seed, weight in [("a", 1, 0.75), ("b", 2, 0.25)]
    )
    manifest = build_corpus(settings("x", sources=sources), tmp_path / "corpus", num_workers=1)
    assert [(s["name"], s["weight"]) for s in manifest["sources"]] == [("a", 0.75), ("b", 0.25)]
    assert {json.loads(line)["id"][0] for line in (tmp_path / "corpus/validation.jsonl").read_text().splitlines()} <= {
        "a",
        "b",
    }
    with pytest.raises(UserError, match="names of their own"):
        build.prepare(settings("x", sources=sources[:1] * 2), tmp_path / "c", num_workers=1)


def test_the_standard_library_holds_out_as_much_as_is_asked_for(tmp_path):
    source = SourceSettings(name="python-stdlib", kind="python-stdlib")
    listing = list_source(source)
    sizes = {
        document_hash(d.text): len(d.text.encode())
        for group in listing.groups
        for entry in group
        for d in read_documents(source, entry, Counter())
    }
    for wanted in (1_000, 200_000):
        below = held_out_rule(settings("", sources=(source,), validation_tokens=wanted), [listing]).below
        held_out = [size for identity, size in sorted(sizes.items()) if identity < below]
        assert sum(held_out) >= 6 * wanted > sum(held_out[:-1])

    train_bpe(tmp_path / "tokenizer", texts(100), 300)
    tokenizer = TokenizerSettings(kind="file", vocab_size=300, name=str(tmp_path / "tokenizer"))
    limited = settings("", sources=(source,), tokenizer=tokenizer, validation_tokens=20_000, max_tokens=200_000)
    manifest = build_corpus(limited, tmp_path / "corpus", num_workers=1)
    assert 150_000 < manifest["sources"][0]["num_tokens"] <= 200_000
