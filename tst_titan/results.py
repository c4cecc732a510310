"""Where every artifact lies (docs/files.md): the one file that joins these names.

`Results(root)` names what studies share below `results/`; each of its parts can also be made of a folder that one has
at hand, such as a job's `SegmentFiles(job.folder)`. Nothing here reads or writes.
"""

from dataclasses import dataclass
from pathlib import Path

# Of a segment's folder; its record (`tst_titan.train.record`) seals them by these names.
SETTINGS, METRICS, PROVENANCE, DONE = "settings.json", "metrics.jsonl", "provenance.json", "done.json"
# The folder of a segment's checkpoints, below which torchtitan names them.
CHECKPOINTS = "checkpoint"
# The index of a checkpoint, which DCP writes last.
INDEX = ".metadata"
_STEP = "step-"


@dataclass(frozen=True)
class Results:
    """The folder of shared artifacts, each addressed by its identity."""

    root: Path

    @property
    def segments(self) -> Path:
        return self.root / "segments"

    def segment(self, id: str) -> "SegmentFiles":
        return SegmentFiles(self.segments / id)

    def corpus(self, id: str) -> "CorpusFiles":
        return CorpusFiles(self.root / "data" / id)

    def evaluations(self, segment_id: str) -> "EvaluationFiles":
        return EvaluationFiles(self.root / "evaluations" / segment_id)

    def evaluation(self, segment_id: str, group: str) -> Path:
        """The scores of a segment's end on a task group, put together of its tasks'."""
        return self.evaluations(segment_id).group(group)

    def export(self, segment_id: str) -> Path:
        """A Hugging Face model directory."""
        return self.root / "exports" / segment_id

    @property
    def parts(self) -> tuple[Path, ...]:
        """The folders that builds make in it."""
        return (self.root / "data", self.segments, self.root / "evaluations", self.root / "exports")


@dataclass(frozen=True)
class SegmentFiles:
    """A segment's folder. `done` is written last: a segment without it is not finished."""

    folder: Path

    @property
    def settings(self) -> Path:
        return self.folder / SETTINGS

    @property
    def metrics(self) -> Path:
        return self.folder / METRICS

    @property
    def provenance(self) -> Path:
        return self.folder / PROVENANCE

    @property
    def done(self) -> Path:
        return self.folder / DONE

    @property
    def log(self) -> Path:
        return self.folder / "train.log"

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    def checkpoint(self, step: int) -> Path:
        return step_folder(self.checkpoints, step)

    @property
    def pruned(self) -> Path:
        """The record of a checkpoint that `tst-titan prune` deleted."""
        return self.folder / "pruned.json"

    @property
    def pruned_index(self) -> Path:
        """What is kept of that checkpoint: its index and its seals."""
        return self.folder / "pruned"

    def pruned_aside(self, step: int) -> Path:
        """A checkpoint that is being deleted: no longer one, as its name says."""
        return self.checkpoints / f".pruned-{_STEP}{step}"

    @property
    def restoring(self) -> Path:
        """Where a segment whose checkpoint was pruned is trained again: a segment's folder, too."""
        return self.folder / "restoring"

    @property
    def restored(self) -> Path:
        """The workflow's mark that the checkpoint is there again."""
        return self.folder / "restored"

    @property
    def job(self) -> Path:
        """What the launcher told the workers."""
        return self.folder / "job.json"

    @property
    def attempts(self) -> Path:
        return self.folder / "attempts.json"

    @property
    def last_save(self) -> Path:
        """How long the last save took."""
        return self.folder / "last_save.json"

    @property
    def outcome(self) -> Path:
        """How the workers ended, where they did of their own will."""
        return self.folder / "outcome.json"

    @property
    def failure(self) -> Path:
        """Why the last attempt failed, in one message."""
        return self.folder / "failure.json"

    @property
    def failures(self) -> Path:
        """The last word of each rank that failed."""
        return self.folder / "failures"

    def failure_of(self, rank: int) -> Path:
        return self.failures / f"{rank}.json"

    @property
    def nodes(self) -> Path:
        """How each node ended."""
        return self.folder / "nodes"

    def node(self, number: int) -> Path:
        return self.nodes / f"{number}.json"


def checkpoint_name(step: int) -> str:
    """A checkpoint in its segment's folder, as `done.json` has it: ``checkpoint/step-100``."""
    return f"{CHECKPOINTS}/{_STEP}{step}"


def step_folder(checkpoints: Path, step: int) -> Path:
    """The checkpoint of a step in a folder of checkpoints."""
    return checkpoints / f"{_STEP}{step}"


def step_of(checkpoint: Path) -> int | None:
    """N of a folder `step-N`; None for any other name."""
    number = checkpoint.name.removeprefix(_STEP)
    return int(number) if checkpoint.name.startswith(_STEP) and number.isdecimal() else None


def checkpoint_steps(checkpoints: Path) -> list[int]:
    """N of every folder `step-N`, whole or not, in rising order; [] where there is none."""
    return sorted(step for path in checkpoints.glob(f"{_STEP}*") if (step := step_of(path)) is not None)


def checkpoint_index(checkpoint: Path) -> Path:
    """Where there is none, the checkpoint is not whole."""
    return checkpoint / INDEX


def segment_of_checkpoint(checkpoint: Path) -> SegmentFiles:
    """The files of the segment that a checkpoint lies in."""
    return SegmentFiles(checkpoint.parent.parent)


@dataclass(frozen=True)
class CorpusFiles:
    """A corpus's folder. `manifest` is written last: a corpus without it is not whole."""

    folder: Path

    @property
    def manifest(self) -> Path:
        return self.folder / "corpus.json"

    @property
    def shard_index(self) -> Path:
        return self.folder / "shards.parquet"

    @property
    def tokenizer(self) -> Path:
        """A folder that `transformers` can load."""
        return self.folder / "tokenizer"

    @property
    def held_out_text(self) -> Path:
        """The documents of the validation split."""
        return self.folder / "validation.jsonl"

    @property
    def tasks(self) -> Path:
        """The offline evaluation tasks, for lm-eval's own command."""
        return self.folder / "tasks"

    @property
    def work(self) -> Path:
        """What a build has finished that is not yet part of the corpus, and what one that may grow needs for it."""
        return self.folder / ".work"

    @property
    def downloads(self) -> Path:
        """Temporary files of a build's jobs."""
        return self.work / "downloads"

    @property
    def listed(self) -> Path:
        """The workflow's mark that the sources are listed and the tokenizer is there."""
        return self.work / "listed"

    def part(self, number: int | str, count: int | str) -> Path:
        """The workflow's mark that one of `count` shares of the files is tokenized."""
        return self.work / f"part-{number}-of-{count}"

    def grown(self, tokens: int | str) -> Path:
        """The workflow's mark that the corpus grew to hold so many tokens."""
        return self.folder / f"grown-{tokens}"


@dataclass(frozen=True)
class EvaluationFiles:
    """The scores of one segment's end."""

    folder: Path

    def group(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    @property
    def groups(self) -> list[Path]:
        """Those that are there, by name."""
        return sorted(self.folder.glob("*.json"))

    @property
    def tasks(self) -> Path:
        """The finished tasks that groups are put together of, a file each."""
        return self.folder / "tasks"

    def task(self, name: str) -> Path:
        return self.tasks / f"{name}.json"

    @property
    def trials(self) -> "EvaluationFiles":
        """Those of trials, which no study reads."""
        return EvaluationFiles(self.folder / "trials")


@dataclass(frozen=True)
class Logs:
    """The logs of jobs, below the working directory; training's lie with the segments."""

    root: Path = Path("logs")

    def evaluation(self, segment_id: str, group: str) -> Path:
        return self.root / "evaluations" / segment_id / f"{group}.log"

    def export(self, segment_id: str) -> Path:
        return self.root / "exports" / f"{segment_id}.log"

    @property
    def parts(self) -> tuple[Path, ...]:
        """The folders that builds make in it; `slurm` is named by the profile."""
        return (self.root / "evaluations", self.root / "exports", self.root / "slurm")
