"""A finished study whose files are then damaged, edited, lost or mixed up: each is named with its mend or mended, and
no number changes in silence.

One table: what is done to which file, and what each reader says of it. Whatever it is, every number that is shown
afterwards is the one of before, or absent with a word about it, and so it stays when the study is evaluated, exported
and collected once more.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from finished_study import FinishedStudy, finished_study, numbers

from tst_titan.collect.study import StudyResults
from tst_titan.data.tokenizers import load_tokenizer, train_bpe
from tst_titan.errors import UserError
from tst_titan.evaluate.checkpoint import find_checkpoint
from tst_titan.files import read_json, write_json
from tst_titan.seal import with_seal

Change = Callable[[FinishedStudy], object]
Place = Callable[[FinishedStudy], Path]

# What a message must hold beside the file: what to do.
MEND = r"(bring (it|that|them|back)|put the folder back|restore|delete|evaluat(e|ing) again|export(ing)? again|run: tst-titan|train .*first|build|move it away|run the study)"


@dataclass(frozen=True)
class Mutation:
    """A change and, by reader, words of the message that names it (`MEND` is asked of each too).

    `mended`: afterwards everything is as it was, without a notice. Nothing said and not mended: a file that no number
    comes from.
    """

    change: Change
    said: dict[str, str] = field(default_factory=dict)
    mended: bool = False


# Places.


def final(name: str) -> Place:
    return lambda study: study.segment(study.final) / name


def checkpoint(name: str = "") -> Place:
    return lambda study: study.checkpoint(study.final) / name


def parents(name: str = "") -> Place:
    return lambda study: study.checkpoint(study.parent) / name


def scores(name: str) -> Place:
    return lambda study: study.scores(study.final) / name


def corpus(name: str) -> Place:
    return lambda study: study.corpus / name


def exported(name: str) -> Place:
    return lambda study: study.exported / name


def others_checkpoint(study: FinishedStudy) -> Path:
    return study.checkpoint(study.other)


def parents_checkpoint_of_another_run(study: FinishedStudy) -> Path:
    """The baseline's, of the same step."""
    return study.checkpoint(study.path("baseline")[-2])


# What is done to a file.


def flipped(place: Place, at: float, bit: int = 3) -> Change:
    """One bit is another, `at` (0 to 1) of the way through the file."""

    def change(study: FinishedStudy) -> None:
        path = place(study)
        content = bytearray(path.read_bytes())
        content[int(at * (len(content) - 1))] ^= 1 << bit
        path.write_bytes(content)

    return change


def cut(place: Place, to: float = 0.5) -> Change:
    def change(study: FinishedStudy) -> None:
        path = place(study)
        os.truncate(path, int(to * path.stat().st_size))

    return change


def deleted(*places: Place) -> Change:
    def change(study: FinishedStudy) -> None:
        for place in places:
            path = place(study)
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def replaced(place: Place, by: Place) -> Change:
    def change(study: FinishedStudy) -> None:
        there, here = place(study), by(study)
        if here.is_dir():
            shutil.rmtree(there)
            shutil.copytree(here, there)
        else:
            shutil.copyfile(here, there)

    return change


def text(place: Place, new: Callable[[str], str]) -> Change:
    """The text of a file is another."""

    def change(study: FinishedStudy) -> None:
        path = place(study)
        before = path.read_text(encoding="utf-8")
        assert new(before) != before
        path.write_text(new(before), encoding="utf-8")

    return change


def record(place: Place, edit: Callable[[Any], object], *, sealed_anew: bool = False) -> Change:
    """A JSON file is edited in place; `sealed_anew`: by a program that writes the seal, such as another build."""

    def change(study: FinishedStudy) -> None:
        value = read_json(place(study))
        edit(value)
        write_json(place(study), with_seal(value) if sealed_anew else value)

    return change


def done(**values: Any) -> Change:
    return record(final("done.json"), lambda value: value.update(values))


def all_of(*changes: Change) -> Change:
    return lambda study: [change(study) for change in changes]


def written(place: Place, content: str) -> Change:
    def change(study: FinishedStudy) -> None:
        path = place(study)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")

    return change


# Checkpoints: whoever scores or exports reads the last one, whoever trains on the one before.
BYTES = r"__0_0\.distcp: its bytes are not those that were saved \(SHA-256\).*bring back a copy"
INDEX = r"\.metadata: its bytes are not those that were saved \(SHA-256\).*bring back a copy"
DATA = "__0_0.distcp"


def load(words: str) -> dict[str, str]:
    return {"evaluate": words, "export": words, "through": words}


def exchanged_and_the_time_put_back(study: FinishedStudy) -> None:
    """The file is as long and as old as it was, and was compared before."""
    find_checkpoint(study.results, study.final.id)
    path = checkpoint(DATA)(study)
    before = path.stat()
    flipped(checkpoint(DATA), 0.5)(study)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def in_its_place(study: FinishedStudy) -> None:
    """A new file of the same size and time is renamed to the old one's name."""
    find_checkpoint(study.results, study.final.id)
    path = checkpoint(DATA)(study)
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    new = path.with_name("new")
    new.write_bytes(content)
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.rename(path)


def seals_gone(place: Place) -> Change:
    return lambda study: [path.unlink() for path in place(study).glob("seal-*.json")]


def another_digest(value: dict[str, Any]) -> None:
    for seal in value["files"].values():
        seal["sha256"] = "0" * 64


OF_ANOTHER = (
    r"step-12: is the checkpoint of tiny-baseline/\S+ at step 12, not of tiny-tst-s2/\S+ at step 12.*bring back"
)
CHECKPOINTS = {
    **{f"bit flipped at {at}": Mutation(flipped(checkpoint(DATA), at, bit), load(BYTES)) for at, bit in ((0, 0), (0.25, 7), (0.5, 3), (0.75, 5), (1, 1))},
    "cut short": Mutation(cut(checkpoint(DATA)), load(r"__0_0\.distcp: has [\d,]+ bytes, [\d,]+ were saved.*bring back")),
    "emptied": Mutation(cut(checkpoint(DATA), 0), load(r"__0_0\.distcp: has 0 bytes.*bring back")),
    "data deleted": Mutation(deleted(checkpoint(DATA)), load(r"__0_0\.distcp: missing.*bring back")),
    "data of another segment": Mutation(replaced(checkpoint(DATA), lambda study: others_checkpoint(study) / DATA), load(r"__0_0\.distcp: (its bytes|has ).*bring back")),
    "bytes exchanged, same size and time": Mutation(exchanged_and_the_time_put_back, load(BYTES)),
    "another file of same size and time": Mutation(in_its_place, load(BYTES)),
    "index flipped": Mutation(flipped(checkpoint(".metadata"), 0.5), load(INDEX)),
    "index cut short": Mutation(cut(checkpoint(".metadata")), load(r"\.metadata: has [\d,]+ bytes.*bring back")),
    "index deleted": Mutation(deleted(checkpoint(".metadata")), load(r"step-12: the checkpoint is missing; delete .*done\.json")),
    "seal edited": Mutation(record(checkpoint("seal-0.json"), another_digest), load(BYTES)),
    "seal of another step": Mutation(record(checkpoint("seal-0.json"), lambda value: value.update(step=11)), load(r"step-12: files of several checkpoints.*delete")),
    "seal cut short": Mutation(cut(checkpoint("seal-0.json")), load(r"seal-0\.json: not a whole JSON file.*delete")),
    "seal deleted": Mutation(deleted(checkpoint("seal-0.json")), load(r"step-12: is another checkpoint .* than the one that .*done\.json was written for.*bring")),
    "index seal deleted": Mutation(deleted(checkpoint("seal-index.json")), load(r"step-12: is another checkpoint .*bring")),
    "all seals deleted": Mutation(seals_gone(checkpoint()), load(r"step-12: its seals \(seal-\*\.json\) are missing; bring them back")),
    "another segment's folder": Mutation(replaced(checkpoint(), others_checkpoint), load(OF_ANOTHER)),
    "another step's folder": Mutation(replaced(checkpoint(), parents()), load(r"step-12: is the checkpoint of \S+ at step 11, not of \S+ at step 12.*bring back")),
    "folder renamed": Mutation(lambda study: checkpoint()(study).rename(checkpoint()(study).with_name("step-13")), load(r"step-12: the checkpoint is missing; delete")),
    "folder deleted": Mutation(deleted(checkpoint()), load(r"step-12: the checkpoint is missing; delete")),
    "a file more": Mutation(replaced(checkpoint("__1_0.distcp"), checkpoint(DATA))),
    "note of what was compared edited": Mutation(written(checkpoint("verified.json"), '{"seals": "0", "files": {}}')),
    "note of what was compared cut short": Mutation(cut(checkpoint("verified.json"))),
}  # fmt: skip
TRAINS = r"step-11.*"
PARENTS = {
    **{f"bit flipped at {at}": Mutation(flipped(parents(DATA), at), {"train": BYTES}) for at in (0.1, 0.9)},
    "cut short": Mutation(cut(parents(DATA)), {"train": r"__0_0\.distcp: has [\d,]+ bytes.*bring back"}),
    "index cut short": Mutation(cut(parents(".metadata")), {"train": r"\.metadata: has [\d,]+ bytes.*bring back"}),
    "all seals deleted": Mutation(seals_gone(parents()), {"train": r"step-11: its seals .* are missing; bring them back"}),
    "another run's folder": Mutation(replaced(parents(), parents_checkpoint_of_another_run), {"train": r"step-11: is the checkpoint of tiny-baseline/\S+ at step 11, not of tiny-tst-s2/\S+"}),
    "folder deleted": Mutation(deleted(parents()), {"train": r"step-11: the checkpoint that \S+ starts from is missing; train \S+ first"}),
    "other settings": Mutation(record(lambda study: study.segment(study.parent) / "settings.json", lambda value: value["recipe"].update(learning_rate=0.02)), {"train": r"trained with other settings: recipe\.learning_rate is 0\.02", "collect": r"settings\.json: not as it was"}),
}  # fmt: skip

# done.json: each of its keys is another, and is gone.
WRONG: dict[str, Any] = {
    "segment": "tiny-tst-s2/decay-11-12-00000000", "start_step": 10, "end_step": 13, "checkpoint": "../../other/checkpoint/step-12",
    "checkpoint_digest": "0" * 16, "equivalent_tokens": 1, "data_tokens": 1, "flops": 1.0, "wall_clock_s": 1.0, "attempts": [],
    "train_loss": 1.0, "validation_loss": 1.0, "corpus_digest": "0" * 64, "files": {}, "digest": "0" * 64,
}  # fmt: skip
DONE = {
    "collect": r"done\.json: .*bring it back, or delete",
    "status": r"done\.json: .*bring it back, or delete",
    **load(r"done\.json: .*delete"),
}


def another_segments(name: str) -> Change:
    return replaced(final(name), lambda study: study.segment(study.other) / name)


RECORDS = {
    **{f"another {key}": Mutation(done(**{key: value}), DONE) for key, value in WRONG.items()},
    **{f"no {key}": Mutation(record(final("done.json"), lambda value, key=key: value.pop(key)), DONE) for key in WRONG},
    **{f"checkpoint: {value!r}": Mutation(done(checkpoint=value), DONE) for value in ("/tmp", "", ".", None, 2, ["checkpoint/step-12"], "checkpoint/step-11", "checkpoint/../checkpoint/step-12")},
    "cut short": Mutation(cut(final("done.json")), DONE),
    "emptied": Mutation(written(final("done.json"), ""), DONE),
    "a list": Mutation(written(final("done.json"), "[]"), DONE),
    "another segment's": Mutation(another_segments("done.json"), DONE),
    "deleted": Mutation(deleted(final("done.json")), {"collect": "tiny-tst-s2-r0.5-12-seed0: at step 12 of 12, without done.json: run the study again", **load(r"not finished \(no done\.json\); train it first")}),
}  # fmt: skip


def rewritten(lines: Callable[[list[dict[str, Any]]], object]) -> Callable[[str], str]:
    """Rows of metrics.jsonl, edited."""

    def new(before: str) -> str:
        rows = [json.loads(line) for line in before.splitlines()]
        lines(rows)
        return "".join(json.dumps(row) + "\n" for row in rows)

    return new


def metrics(new: Callable[[str], str], place: Place | None = None) -> Mutation:
    return Mutation(text(place or final("metrics.jsonl"), new), METRICS)


METRICS = {
    "collect": r"metrics\.jsonl: not as it was when the segment was finished, so that none of its numbers is shown; bring it back, or delete"
}
ROWS = {
    "a loss rewritten": metrics(rewritten(lambda rows: rows[0].update(loss=1.0))),
    "a validation loss rewritten": metrics(rewritten(lambda rows: rows[-1].update(validation_loss=1.0))),
    "a row deleted": metrics(rewritten(lambda rows: rows.pop(0))),
    "a row appended": metrics(rewritten(lambda rows: rows.append(rows[0] | {"loss": 1.0}))),
    "a loss that is no number": metrics(rewritten(lambda rows: rows[0].update(loss=float("nan")))),
    "the last line cut short": metrics(lambda before: before[:-20]),
    "emptied": metrics(lambda before: ""),
    "a row of the segment before": metrics(rewritten(lambda rows: rows[2].update(loss=1.0)), lambda study: study.segment(study.parent) / "metrics.jsonl"),
    "another segment's": Mutation(another_segments("metrics.jsonl"), METRICS),
    "deleted": Mutation(deleted(final("metrics.jsonl")), METRICS),
}  # fmt: skip


def kept(name: str, **more: str) -> dict[str, str]:
    """A small file that collecting, evaluation and export compare."""
    escaped = re.escape(name)
    collect = rf"{escaped}: not as it was when the segment was finished.*bring it back, or delete"
    return {"collect": collect} | load(rf"{escaped}: .*{MEND}") | more


SMALL_FILES = {
    "provenance.json: another commit": Mutation(record(final("provenance.json"), lambda value: value.update(git_commit="0" * 40)), kept("provenance.json")),
    "provenance.json: fewer hours": Mutation(record(final("provenance.json"), lambda value: value.update(device_hours=0.0)), kept("provenance.json")),
    "provenance.json: another corpus": Mutation(record(final("provenance.json"), lambda value: value.pop("corpus")), kept("provenance.json")),
    "provenance.json: another segment's": Mutation(another_segments("provenance.json"), kept("provenance.json")),
    "provenance.json: cut short": Mutation(cut(final("provenance.json")), kept("provenance.json")),
    "provenance.json: deleted": Mutation(deleted(final("provenance.json")), kept("provenance.json")),
    "settings.json: another learning rate": Mutation(record(final("settings.json"), lambda value: value["recipe"].update(learning_rate=0.02)), kept("settings.json", plan=rf"settings\.json: .*{MEND}")),
    "settings.json: another segment's": Mutation(another_segments("settings.json"), kept("settings.json", plan=rf"settings\.json: .*{MEND}")),
    "settings.json: cut short": Mutation(cut(final("settings.json")), kept("settings.json", plan=rf"settings\.json: .*{MEND}")),
    "settings.json: deleted": Mutation(deleted(final("settings.json")), {"collect": r"settings\.json: not as it was.*bring it back", "plan": rf"settings\.json: .*{MEND}"}),
    # Nothing is read of these once a segment is finished.
    "torchtitan.json: edited": Mutation(record(final("torchtitan.json"), lambda value: value.update(training={}))),
    "job.json: edited": Mutation(record(final("job.json"), lambda value: value.update(log_every=9))),
    "train.log: an error": Mutation(written(final("train.log"), "RuntimeError: out of cheese\n")),
    "attempts.json: more hours": Mutation(written(final("attempts.json"), '[{"start": 0, "end": 9e9, "outcome": "failed", "step": 12, "world_size": 99}]')),
    "failure.json: of nothing": Mutation(written(final("failure.json"), '{"message": "out of cheese"}')),
}  # fmt: skip

# The corpus: its list is read by all; its shards by training; its held-out text by evaluation.


def everyone(words: str) -> dict[str, str]:
    return load(words) | {"train": words}


def manifest(edit: Callable[[dict[str, Any]], object]) -> Mutation:
    words = r"corpus\.json: not as it was written .*bring it back, or delete"
    return Mutation(record(corpus("corpus.json"), edit), everyone(words) | {"collect": words})


def built_anew(edit: Callable[[dict[str, Any]], object], words: str, training: str = "") -> Mutation:
    """Another corpus of the same name, whole in itself."""
    words += ".*restore"
    said = load(words) | {"collect": rf"corpus\.json: {words}", "train": training or words}
    return Mutation(record(corpus("corpus.json"), edit, sealed_anew=True), said)


def another_tokenizer(study: FinishedStudy) -> None:
    train_bpe(study.corpus / "tokenizer", ["other text, other text, other merges"] * 9, 300)


def all_with_another_tokenizer(study: FinishedStudy) -> None:
    another_tokenizer(study)
    digest = load_tokenizer(study.corpus / "tokenizer").digest
    record(corpus("corpus.json"), lambda value: value["tokenizer"].update(digest=digest), sealed_anew=True)(study)


SHARD, HELD_OUT, TOKENIZER = "train/library/00000.arrow", "validation/00000.arrow", "tokenizer/tokenizer.json"
TEXT = {"evaluate": r"validation\.jsonl: .*(bring it back|build the corpus again)"}
VOCABULARY = everyone(r"tokenizer\.json: another tokenizer than the one that made the shards; delete the corpus folder")
CONFIG = everyone(r"tokenizer_config\.json: .*bring it back, or delete")
CORPUS = {
    "corpus.json: a shard dropped": manifest(lambda value: value["sources"][0]["shards"].pop()),
    "corpus.json: fewer tokens": manifest(lambda value: value["sources"][0].update(num_tokens=1000)),
    "corpus.json: another share": manifest(lambda value: value["sources"][0].update(weight=0.5)),
    "corpus.json: another entropy": manifest(lambda value: value.update(unigram_entropy=1.0)),
    "corpus.json: other bytes a token": manifest(lambda value: value.update(bytes_per_token=1.0)),
    "corpus.json: another held-out split": manifest(lambda value: value["validation"]["shards"][0].update(checksum="0" * 64)),
    "corpus.json: another text digest": manifest(lambda value: value["validation"].update(text_digest="0" * 64)),
    "corpus.json: another end of text": manifest(lambda value: value["tokenizer"].update(eos_id=5)),
    "corpus.json: cut short": Mutation(cut(corpus("corpus.json")), everyone(r"corpus\.json: not a whole JSON file.*bring it back") | {"collect": r"corpus\.json: not a whole JSON file.*bring it back"}),
    "corpus.json: deleted": Mutation(deleted(corpus("corpus.json")), load(r"corpus.*is missing; build it") | {"train": "no such corpus; build it first", "collect": r"corpus\.json: missing"}),
    "corpus.json: a shard dropped, built anew": built_anew(lambda value: value["sources"][0]["shards"].pop(), r"another corpus than .*0 shards of source library, 1 then", r"corpus\.json: library has no shards; bring it back, or delete"),
    "corpus.json: a shard is another, built anew": built_anew(lambda value: value["sources"][0]["shards"][0].update(checksum="0" * 64), "another corpus than .*other text of source library", r"train/library/00000\.arrow: its checksum is .*delete"),
    "corpus.json: another held-out split, built anew": built_anew(lambda value: value["validation"]["shards"][0].update(checksum="0" * 64), "another corpus than .*another held-out split", r"validation/00000\.arrow: its checksum is .*delete"),
    "corpus.json: another share, built anew": built_anew(lambda value: value["sources"][0].update(weight=0.5), "another corpus than .*other sources or shares"),
    "shard: bit flipped": Mutation(flipped(corpus(SHARD), 0.5), {"train": r"00000\.arrow: wrong checksum.*delete"}),
    "shard: bit flipped near its start": Mutation(flipped(corpus(SHARD), 0.2, 0), {"train": r"00000\.arrow: wrong checksum.*delete"}),
    "shard: cut short": Mutation(cut(corpus(SHARD)), {"train": r"00000\.arrow: not a whole shard.*delete"}),
    "shard: deleted": Mutation(deleted(corpus(SHARD)), {"train": r"00000\.arrow: no such shard; delete"}),
    "shard: the held-out one in its place": Mutation(replaced(corpus(SHARD), corpus(HELD_OUT)), {"train": r"train/library/00000\.arrow: its checksum is .*delete"}),
    "held-out shard: bit flipped": Mutation(flipped(corpus(HELD_OUT), 0.5), {"train": r"validation/00000\.arrow: wrong checksum.*delete"}),
    "held-out shard: the training one in its place": Mutation(replaced(corpus(HELD_OUT), corpus(SHARD)), {"train": r"validation/00000\.arrow: its checksum is .*delete"}),
    "held-out text: another letter": Mutation(text(corpus("validation.jsonl"), lambda before: before.replace("e", "f", 50)), TEXT),
    "held-out text: a line lost": Mutation(text(corpus("validation.jsonl"), lambda before: before[: before.rindex("\n", 0, -1) + 1]), TEXT),
    "held-out text: cut short": Mutation(cut(corpus("validation.jsonl")), TEXT),
    "held-out text: deleted": Mutation(deleted(corpus("validation.jsonl")), TEXT),
    "tokenizer.json: another": Mutation(another_tokenizer, VOCABULARY),
    "tokenizer.json: bit flipped": Mutation(flipped(corpus(TOKENIZER), 0.5, 0), VOCABULARY),
    "tokenizer.json: deleted": Mutation(deleted(corpus(TOKENIZER)), everyone(r"tokenizer\.json: missing; delete")),
    "tokenizer.json: another, in corpus.json too": Mutation(all_with_another_tokenizer, load("another (tokenizer|corpus) .*restore") | {"train": r"00000\.arrow: its tokenizer_digest is .*delete", "collect": r"corpus\.json: another corpus than .*another tokenizer"}),
    "tokenizer_config.json: another end of text": Mutation(record(corpus("tokenizer/tokenizer_config.json"), lambda value: value.update(eos_token="e")), CONFIG),
    "tokenizer_config.json: another class": Mutation(record(corpus("tokenizer/tokenizer_config.json"), lambda value: value.update(tokenizer_class="LlamaTokenizer")), CONFIG),
    "tokenizer_config.json: deleted": Mutation(deleted(corpus("tokenizer/tokenizer_config.json")), CONFIG),
    "tasks: a question edited": Mutation(text(corpus("tasks/heldout_cloze.jsonl"), lambda before: before.replace("e", "f", 50)), mended=True),
    "tasks: another definition": Mutation(text(corpus("tasks/heldout_cloze.yaml"), lambda before: before.replace("acc", "exact_match")), mended=True),
    "shards.parquet: cut short": Mutation(cut(corpus("shards.parquet"))),
}  # fmt: skip

# Scores: evaluated again they are what they were.
EDITED = r"not as it was written \(its own digest differs\)"
GROUP = {"collect": rf"offline\.json: {EDITED}; left out; delete it and evaluate again"}
BITS, CLOZE = "heldout_bits_per_byte", "heldout_cloze"
TASK = {
    "collect": rf"tasks/{CLOZE}\.json: {EDITED}; evaluate again",
    "evaluate": rf"tasks/{CLOZE}\.json: {EDITED}; evaluating again",
}


def score(task: str, metric: str, value: float) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["tasks"][task][metric].update(value=value)


def anothers_scores(name: str) -> Change:
    return replaced(scores(name), lambda study: study.scores(study.other) / name)


def trial(*names: str) -> Change:
    """A trial's files in the place of a study's."""
    return all_of(*(replaced(scores(name), scores(f"trials/{name}")) for name in names))


def trial_in_bfloat16(study: FinishedStudy) -> None:
    """As `--dtype bfloat16` leaves them: whole in themselves, all samples, other numbers."""
    for name in ("offline.json", f"tasks/{BITS}.json", f"tasks/{CLOZE}.json"):
        content = read_json(scores(name)(study))
        for task in content["tasks"].values():
            task[task["metric"]]["value"] += 0.01
        of_group = {"dtype": "bfloat16", "trial": True} if "segment" in content else {}
        of_task = {"key": content["key"] | {"dtype": "bfloat16"}} if "key" in content else {}
        write_json(scores(name)(study), with_seal(content | of_group | of_task))


SCORES = {
    "group: a score edited": Mutation(record(scores("offline.json"), score(CLOZE, "acc_norm", 0.9)), GROUP, mended=True),
    "group: a standard error edited": Mutation(record(scores("offline.json"), lambda value: value["tasks"][CLOZE]["acc_norm"].update(stderr=0.0)), GROUP, mended=True),
    "group: NaN": Mutation(record(scores("offline.json"), score(BITS, "bits_per_byte", float("nan"))), GROUP, mended=True),
    "group: a member missing": Mutation(record(scores("offline.json"), lambda value: value["tasks"].pop(BITS)), GROUP, mended=True),
    "group: a metric missing": Mutation(record(scores("offline.json"), lambda value: value["tasks"][CLOZE].pop("acc")), GROUP, mended=True),
    "group: another shown metric": Mutation(record(scores("offline.json"), lambda value: value["tasks"][CLOZE].update(metric="acc")), GROUP, mended=True),
    "group: of fewer samples": Mutation(record(scores("offline.json"), lambda value: value.update(limit=5)), GROUP, mended=True),
    "group: another segment's": Mutation(anothers_scores("offline.json"), {"collect": r"offline\.json: evaluates segment tiny-baseline/\S+, not \S+; left out; .*evaluate again", "evaluate": r"offline\.json: is the evaluation of \S+, not of \S+; move or delete it"}),
    "group: cut short": Mutation(cut(scores("offline.json")), {"collect": r"offline\.json: not a whole JSON file.*evaluate again", "evaluate": r"offline\.json: not a whole JSON file.*delete it and evaluate again"}),
    "group: deleted": Mutation(deleted(scores("offline.json")), {"collect": r"offline\.json: missing: \S+ is not evaluated on offline; run: tst-titan evaluate"}, mended=True),
    "group: of another checkpoint": Mutation(record(scores("offline.json"), lambda value: value.update(checkpoint_digest="0" * 16), sealed_anew=True), {"collect": r"offline\.json: evaluates another checkpoint \(0{16}\) than the segment's.*evaluate again"}, mended=True),
    "task: a score edited": Mutation(record(scores(f"tasks/{CLOZE}.json"), score(CLOZE, "acc_norm", 0.9)), TASK, mended=True),
    "task: NaN": Mutation(record(scores(f"tasks/{CLOZE}.json"), score(CLOZE, "acc_norm", float("nan"))), TASK, mended=True),
    "task: another definition in its key": Mutation(record(scores(f"tasks/{CLOZE}.json"), lambda value: value["key"].update(version="0.5"), sealed_anew=True), {"evaluate": rf"{CLOZE}\.json: of another version; evaluating again"}, mended=True),
    "task: another segment's": Mutation(anothers_scores(f"tasks/{BITS}.json"), {"collect": rf"offline\.json: its scores of {BITS} are not those of the finished task beside it; left out; delete both and evaluate again", "evaluate": rf"{BITS}\.json: of another checkpoint_digest; evaluating again"}, mended=True),
    "task: cut short": Mutation(cut(scores(f"tasks/{CLOZE}.json")), {"collect": rf"{CLOZE}\.json: not a whole JSON file.*evaluate again", "evaluate": rf"{CLOZE}\.json: not a whole JSON file.*evaluating again"}, mended=True),
    "task: deleted": Mutation(deleted(scores(f"tasks/{CLOZE}.json")), mended=True),
    "both: a score edited": Mutation(all_of(*(record(scores(name), score(CLOZE, "acc_norm", 0.9)) for name in ("offline.json", f"tasks/{CLOZE}.json"))), TASK | {"collect": GROUP["collect"]}, mended=True),
    "a trial's group": Mutation(trial("offline.json"), {"collect": r"offline\.json: a trial \(2 samples a task\).*left out; delete it and evaluate again"}, mended=True),
    "a trial's tasks": Mutation(trial(f"tasks/{BITS}.json"), {"evaluate": rf"{BITS}\.json: of another limit; evaluating again"}, mended=True),
    "a trial's group and tasks": Mutation(trial("offline.json", f"tasks/{CLOZE}.json", f"tasks/{BITS}.json"), {"collect": r"offline\.json: a trial \(2 samples a task\)"}, mended=True),
    "a trial in bfloat16": Mutation(trial_in_bfloat16, {"collect": r"offline\.json: a trial \(in bfloat16\)", "evaluate": r"json: of another dtype; evaluating again"}, mended=True),
    "a trial's own file": Mutation(record(scores("trials/offline.json"), score(CLOZE, "acc_norm", 0.9))),
}  # fmt: skip

# The export: nothing is scored through one that is another, and exporting makes it anew.


def anew(change: Change, name: str) -> Mutation:
    name = re.escape(name)
    return Mutation(
        change,
        {
            "through": rf"{name}: not as it was exported; run: tst-titan export",
            "export": rf"{name}: not as it was exported; exporting again",
        },
        mended=True,
    )


WEIGHTS, EXPORT_RECORD = "model.safetensors", r"tst_titan\.json: .*delete the folder and export again"
EXPORTS = {
    **{f"weights: bit flipped at {at}": anew(flipped(exported(WEIGHTS), at), WEIGHTS) for at in (0.3, 0.6, 1)},
    "weights: cut short": anew(cut(exported(WEIGHTS)), WEIGHTS),
    "weights: deleted": anew(deleted(exported(WEIGHTS)), WEIGHTS),
    "config.json: another rope_theta": anew(record(exported("config.json"), lambda value: value.update(rope_theta=1.0)), "config.json"),
    "config.json: cut short": Mutation(cut(exported("config.json")), {"through": r"config\.json: not a whole JSON file.*export again", "export": r"config\.json: not as it was exported; exporting again"}, mended=True),
    "generation_config.json: another end": anew(record(exported("generation_config.json"), lambda value: value.update(eos_token_id=5)), "generation_config.json"),
    "tokenizer.json: truncation": Mutation(record(exported("tokenizer.json"), lambda value: value.update(truncation={"max_length": 16, "stride": 0, "strategy": "LongestFirst", "direction": "Right"})), {"through": r"its tokenizer is not the corpus's; run: tst-titan export", "export": r"tokenizer\.json: not as it was exported; exporting again"}, mended=True),
    "tokenizer.json: cut short": Mutation(cut(exported("tokenizer.json")), {"export": r"tokenizer\.json: not as it was exported; exporting again"}, mended=True),
    "record: another loss": Mutation(record(exported("tst_titan.json"), lambda value: value["done"].update(validation_loss=1.0)), {"through": EXPORT_RECORD, "export": EXPORT_RECORD}),
    "record: another checkpoint": Mutation(record(exported("tst_titan.json"), lambda value: value.update(checkpoint_digest="0" * 16)), {"through": EXPORT_RECORD, "export": EXPORT_RECORD}),
    "record: no digests": Mutation(record(exported("tst_titan.json"), lambda value: value.pop("files")), {"through": EXPORT_RECORD, "export": EXPORT_RECORD}),
    "record: cut short": Mutation(cut(exported("tst_titan.json")), {"through": EXPORT_RECORD, "export": EXPORT_RECORD}),
    "record: deleted": Mutation(deleted(exported("tst_titan.json")), {"through": r"not an export of tst-titan \(tst_titan\.json is missing\); delete", "export": r"not an export of tst-titan \(tst_titan\.json is missing\); delete.*choose another --out"}),
    "weights beside the weights": Mutation(replaced(exported("pytorch_model.bin"), exported(WEIGHTS)), {"through": r"pytorch_model\.bin: is no part of the export, and might change it; (move it away|delete it)"}),
    "an adapter": Mutation(written(exported("adapter_config.json"), '{"peft_type": "LORA"}'), {"through": r"adapter_config\.json: is no part of the export"}),
    "card: another loss": Mutation(text(exported("README.md"), lambda before: before.replace("nats a token", "nits a token")), {"export": r"README\.md: was edited; left as it is, delete it and export again"}),
}  # fmt: skip

# Tables are made anew each time.
TABLES = {
    **{f"{name}: edited": Mutation(text(lambda study, name=name: study.tables / name, lambda before: re.sub("[0-9]", "7", before)), mended=True) for name in ("table.csv", "table.md", "segments.csv", "comparisons.csv", "downstream.csv", "report.html", "curves.svg")},
    **{f"{name}: cut short": Mutation(cut(lambda study, name=name: study.tables / name), mended=True) for name in ("runs.parquet", "curves.parquet", "evaluations.parquet")},
    "all deleted": Mutation(deleted(lambda study: study.tables), mended=True),
}  # fmt: skip

MUTATIONS = {
    f"{kind}: {name}": mutation
    for kind, table in {
        "checkpoint": CHECKPOINTS, "parent": PARENTS, "done.json": RECORDS, "metrics.jsonl": ROWS, "segment": SMALL_FILES,
        "corpus": CORPUS, "evaluation": SCORES, "export": EXPORTS, "tables": TABLES,
    }.items()
    for name, mutation in table.items()
}  # fmt: skip


@pytest.fixture(scope="module")
def untouched(process_group: None) -> FinishedStudy:
    return finished_study()


@pytest.fixture(scope="module")
def before(untouched: FinishedStudy) -> StudyResults:
    return untouched.gather()


def heard(reader: Callable[[], object], capfd: pytest.CaptureFixture[str]) -> str:
    """What a reader says: its error, or its notices and what it prints on stderr."""
    capfd.readouterr()
    try:
        notices = reader()
    except UserError as error:
        notices = [error]
    return "\n".join([*map(str, notices or ()), capfd.readouterr().err])


def words_of(found: StudyResults) -> list[str]:
    """Notices that something is damaged or not there."""
    return [str(notice) for notice in found.notices if notice.kind in ("damaged", "unfinished", "uncertain")]


def no_other_number(study: FinishedStudy, found: StudyResults, before: StudyResults) -> None:
    """Every number that is shown is the one of before, or absent with a word about it."""
    there, here = numbers(study, before), numbers(study, found)
    assert {place: (there[place], here[place]) for place in there.keys() & here.keys() if there[place] != here[place]} == {}  # fmt: skip
    if there.keys() != here.keys():
        assert words_of(found), sorted(there.keys() ^ here.keys())
    # Of runs that have no validation loss the training loss is compared, and said so.
    assert {place for place in here.keys() - there.keys() if place[0] != "comparisons"} == set()


def same_export(study: FinishedStudy, untouched: FinishedStudy) -> bool:
    names = {path.name for path in untouched.exported.iterdir()}
    same = {path.name for path in study.exported.iterdir()} == names
    return same and all((study.exported / n).read_bytes() == (untouched.exported / n).read_bytes() for n in names)


def readers(study: FinishedStudy) -> dict[str, Callable[[], object]]:
    return {
        "collect": lambda: study.gather().notices,
        "status": study.shows_its_status,
        "plan": study.plans,
        "evaluate": study.evaluates,
        "through": study.evaluates_through_the_export,
        "export": study.exports,
    }


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_named_with_its_mend_or_mended_and_changes_no_number_in_silence(
    name: str,
    untouched: FinishedStudy,
    before: StudyResults,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    mutation, study = MUTATIONS[name], untouched.copy(tmp_path / "study")
    mutation.change(study)
    no_other_number(study, study.gather(), before)
    if words := mutation.said.get("train"):
        message = heard(study.copy(tmp_path / "trained on").trains_on, capfd)
        assert re.search(words, message), message
    for reader, read in readers(study).items():
        message = heard(read, capfd)
        if words := mutation.said.get(reader):
            assert (found := re.search(f".*{words}.*", message)), (reader, message)
            assert re.search(MEND, found.group()), (reader, message)
    if name.startswith("tables: "):
        study.collects()
        same_tables(study, untouched)
    after = study.gather()
    no_other_number(study, after, before)
    if mutation.mended:
        assert numbers(study, after) == numbers(study, before)
        assert words_of(after) == words_of(before)
        assert same_export(study, untouched)


def same_tables(study: FinishedStudy, untouched: FinishedStudy) -> None:
    names = sorted(path.name for path in untouched.tables.iterdir())
    assert sorted(path.name for path in study.tables.iterdir()) == names
    for name in names:
        if name == "evaluations.parquet":  # names the files that it is of
            here, there = (
                pd.read_parquet(folder / name).drop(columns="file") for folder in (study.tables, untouched.tables)
            )
            pd.testing.assert_frame_equal(here, there)
        else:
            assert (study.tables / name).read_bytes() == (untouched.tables / name).read_bytes(), name


def test_nothing_is_said_of_a_study_that_is_as_it_was_finished(
    untouched: FinishedStudy, before: StudyResults, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    study = untouched.copy(tmp_path / "study")
    assert words_of(before) == []
    for reader, read in readers(study).items():
        if reader not in ("collect", "through", "status"):  # notes on seeds; a progress bar; the view
            assert heard(read, capfd).strip() == ""
    assert numbers(study, study.gather()) == numbers(study, before)
    assert same_export(study, untouched)
    study.trains_on()
    again = [json.loads(line)["loss"] for line in (study.segment(study.final) / "metrics.jsonl").read_text().splitlines()[:1]]  # fmt: skip
    once = [json.loads(line)["loss"] for line in (untouched.segment(study.final) / "metrics.jsonl").read_text().splitlines()[:1]]  # fmt: skip
    assert again == once


def test_the_mutations_are_of_every_artifact_that_the_docs_list() -> None:
    assert len(MUTATIONS) >= 46
