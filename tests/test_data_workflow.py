"""A corpus of many files through the workflow: shares as jobs, each bad file dealt with by its rule, the rest
complete."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from checkouts import REPOSITORY, copy_workflow
from data_fixtures import jsonl, texts
from data_hub_server import HubServer
from synthetic_corpus import BAD, write_corpus

from tst_titan.data.manifest import verify_corpus
from tst_titan.data.tokenizers import train_bpe
from tst_titan.files import write_json
from tst_titan.plan import load_plan, segment_to_dict
from tst_titan.seal import with_seal

STUDY = """\
corpus:
  source: made-up
  sources: {{made-up: {{kind: files, path: {files}}}}}
  tokenizer: {{kind: file, vocab_size: 4096, name: {tokenizer}}}
  validation_tokens: 20k
models: {{tiny: {{shape: {{dim: 32, num_layers: 2, num_heads: 2, num_kv_heads: 1, head_dim: 16, ffn_dim: 64}}, learning_rate: 1e-2}}}}
steps: {steps}
arms: {{baseline: {{}}}}
training: {{seq_len: 2048, sequences_per_step: 8, warmup_steps: 3, precision: float32}}
"""  # noqa: E501


def snakemake(folder: Path, *arguments: str, profile: str = "local") -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", profile, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def planned(folder: Path, target: str) -> set[str]:
    """The rules of the data stage that a dry run would run."""
    dry = snakemake(folder, "-n", target)
    assert dry.returncode == 0, dry.stderr
    return {line.split()[0] for line in dry.stdout.splitlines() if line.startswith("corpus")}


@pytest.mark.parametrize(
    ("num_bytes", "num_files", "num_jobs"),
    [
        (4_000_000, 20, 2),
        pytest.param(1_000_000_000, 200, 12, marks=[pytest.mark.long, pytest.mark.timeout(0)]),
    ],
)
def test_a_corpus_with_bad_files_is_tokenized_share_by_share(tmp_path, num_bytes, num_files, num_jobs):
    copy_workflow(tmp_path)
    num_documents = write_corpus(tmp_path / "in", num_bytes, num_files)
    train_bpe(tmp_path / "tokenizer", texts(2000), 4096)
    # Enough steps to read all of it: a token a byte at most.
    study = STUDY.format(files=tmp_path / "in", tokenizer=tmp_path / "tokenizer", steps=num_bytes // (8 * 2048) + 100)
    (tmp_path / "studies/big.yaml").write_text(study)
    plan = load_plan(tmp_path / "studies/big.yaml", tmp_path / "results")
    (identity,) = plan.corpora
    tokens_per_job = max(plan.data_tokens[identity], 2**25) // num_jobs + 1
    target = f"results/data/{identity}/corpus.json"
    config = ("--config", f"data={json.dumps({'tokens_per_job': tokens_per_job, 'most_jobs': 100})}")

    first = snakemake(tmp_path, target, *config)
    said = first.stdout + first.stderr
    folder = tmp_path / "results/data" / identity
    assert first.returncode != 0
    assert f"{BAD['corrupt']}: damaged compressed file" in said
    assert "replace or remove it and run again" in said
    assert not (folder / "corpus.json").exists()
    # One share failed; every file outside the corrupt one's group is tokenized.
    shares = len(list((folder / ".work").glob("part-*"))) + 1
    assert num_jobs <= shares <= 1.3 * num_jobs + 1
    done = {record: record.stat().st_mtime_ns for record in (folder / ".work/made-up").glob("[0-9]*.json")}
    tokenized = {name for record in done for name in json.loads(record.read_text())["inputs"]}
    assert BAD["corrupt"] not in tokenized
    assert len(tokenized) >= num_files - 1 - 2 * num_files // 8

    (tmp_path / "in" / BAD["corrupt"]).unlink()
    again = snakemake(tmp_path, target, *config)
    assert again.returncode == 0, again.stdout + again.stderr
    manifest = json.loads((folder / "corpus.json").read_text())
    (source,) = manifest["sources"]
    assert source["complete"]
    assert verify_corpus(folder) == source["num_tokens"] + manifest["validation"]["num_tokens"]
    notes = manifest["notes"]
    assert "made-up: 1 documents with invalid UTF-8, replaced by U+FFFD" in notes
    assert "made-up: 1 documents longer than 4194304 characters, cut at line ends" in notes
    held_out = sum(1 for _ in (folder / "validation.jsonl").open())
    # One document in twenty is held out; the enormous one is two.
    assert 0.93 * num_documents < source["num_documents"] < 0.97 * num_documents + 2
    assert 0 < held_out < 0.07 * num_documents
    assert not (folder / ".work").exists()

    # A whole corpus has nothing to wait for; one that is too small for a run to come grows before it trains.
    final = f"results/segments/{plan.runs[0].final}/done.json"
    assert planned(tmp_path, final) == set()
    manifest["sources"][0]["complete"] = False
    (folder / "corpus.json").write_text(json.dumps(with_seal(manifest)))
    assert planned(tmp_path, final) == {"corpus_growth"}


def test_changed_inputs_are_refused_before_anything_trains(tmp_path: Path) -> None:
    """Snakemake saw a corpus.json and took it: other texts, or another tokenizer.json, went unnoticed into the next
    runs."""
    copy_workflow(tmp_path)
    targets, finals = [], []
    for number, name in enumerate(("old", "newer", "same")):
        files, tokenizer = tmp_path / f"in-{name}", tmp_path / f"tokenizer-{name}"
        jsonl(files / "1.jsonl", texts(3000, seed=number))
        train_bpe(tokenizer, texts(2000, seed=number), 4096)
        study = STUDY.format(files=files, tokenizer=tokenizer, steps=4).replace("warmup_steps: 3", "warmup_steps: 1")
        (tmp_path / f"studies/{name}.yaml").write_text(study.replace("20k", "1k").replace("2048", "128"))
    for name in ("old", "newer", "same"):
        plan = load_plan(tmp_path / f"studies/{name}.yaml", tmp_path / "results")
        (identity,) = plan.corpora
        targets.append(f"results/data/{identity}/corpus.json")
        finals.append(f"results/segments/{plan.runs[0].final}/done.json")
    built = snakemake(tmp_path, *targets)
    assert built.returncode == 0, built.stdout + built.stderr
    assert snakemake(tmp_path, "-n", "studies/old", "studies/newer").returncode == 0

    good = (tmp_path / "in-old/1.jsonl").read_text()
    (tmp_path / "in-old/1.jsonl").write_text(good.replace("a", "b"))
    shutil.copy(tmp_path / "tokenizer-old/tokenizer.json", tmp_path / "tokenizer-newer")
    told = {
        "old": f"{Path(targets[0]).parent}: the files of source made-up have changed since this corpus was made",
        "newer": f"{Path(targets[1]).parent}: {tmp_path}/tokenizer-newer/tokenizer.json is another tokenizer",
    }
    for name, words in told.items():
        dry = snakemake(tmp_path, "-n", f"studies/{name}")
        assert dry.returncode == 1
        (line,) = dry.stderr.splitlines()[1:]
        assert line.startswith(f"error: {words}")
    # Whoever asks for segments, too, all of them at once; a study of other inputs is not held up.
    run = snakemake(tmp_path, *finals[:2])
    assert run.returncode == 1
    assert all(f"error: {words}" in run.stderr for words in told.values())
    assert not (tmp_path / finals[0]).parent.exists()
    assert snakemake(tmp_path, "-n", "studies/same").returncode == 0

    # A whole corpus needs no inputs that are gone, and what is trained needs none at all.
    shutil.rmtree(tmp_path / "in-old")
    dry = snakemake(tmp_path, "-n", "studies/old")
    assert dry.returncode == 0, dry.stderr
    assert (
        f"not compared with what the corpus was made of: corpus source made-up: path '{tmp_path}/in-old'" in dry.stderr
    )
    jsonl(tmp_path / "in-old/1.jsonl", texts(10))
    for segment in load_plan(tmp_path / "studies/old.yaml", tmp_path / "results").segments.values():
        write_json(tmp_path / "results/segments" / segment.id / "settings.json", segment_to_dict(segment))
        write_json(tmp_path / "results/segments" / segment.id / "done.json", {})
    dry = snakemake(tmp_path, "-n", "studies/old")
    assert dry.returncode == 0, dry.stderr
    assert "made of" not in dry.stderr


def test_downloads_lie_beside_the_corpus_until_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snakemake points jobs to the node's /tmp: 16 processes with files of 2 GB filled it."""
    for name in ("Snakefile", "workflow", "local", "slurm"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    train_bpe(tmp_path / "tokenizer", texts(200), 4096)
    (tmp_path / "studies").mkdir()
    study = STUDY.format(files="org/name", tokenizer=tmp_path / "tokenizer", steps=20)
    (tmp_path / "studies/hub.yaml").write_text(study.replace("kind: files", "kind: hub").replace("20k", "1k"))
    (identity,) = load_plan(tmp_path / "studies/hub.yaml", tmp_path / "results").corpora
    seen: set[Path] = set()

    class Watched(dict[str, bytes]):
        """Files that look, when they are asked for, where downloads have been begun."""

        def __getitem__(self, name: str) -> bytes:
            seen.update(folder.parent for folder in tmp_path.rglob("tst-titan-*"))
            return super().__getitem__(name)

    documents = "".join(json.dumps({"text": text}) + "\n" for text in texts(500)).encode()
    server = HubServer(Watched({"train.jsonl": documents}), {})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    built = snakemake(tmp_path, f"results/data/{identity}/corpus.json")
    server.shutdown()
    assert built.returncode == 0, built.stdout + built.stderr
    assert seen == {tmp_path / "results" / "data" / identity / ".work" / "downloads"}
    assert not (tmp_path / "results" / "data" / identity / ".work").exists()
