"""Tiny segments, trained in this process and finished as the launcher does, for tests of what may happen to them
afterwards."""

import shutil
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from evaluate_segments import scratch
from training import chain, make_job, recipe, recovery, superposition, train_here

from tst_titan.plan.settings import Segment
from tst_titan.train.attempts import end_attempt, start_attempt
from tst_titan.train.launch import _finish


@dataclass(frozen=True)
class Finished:
    """Two seeds of a superposition of two steps in `results`, and what could be trained after the first."""

    results: Path
    first: Segment
    child: Segment
    other_seed: Segment

    @property
    def segments(self) -> Path:
        return self.results / "segments"

    @property
    def folder(self) -> Path:
        return self.segments / self.first.id

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint" / "step-2"

    @property
    def others_checkpoint(self) -> Path:
        return self.segments / self.other_seed.id / "checkpoint" / "step-2"

    def copy(self, folder: Path) -> "Finished":
        """A copy for a test to damage."""
        shutil.copytree(self.results, folder, symlinks=True)
        return replace(self, results=folder)


@cache
def finished(corpus_dir: Path) -> Finished:
    """The segments; needs the environment of the fixture `process_group`."""
    results = Path(mkdtemp(dir=scratch()))
    first, child = chain(superposition(0, 2), recovery(2, 3), recipe=recipe())
    (other,) = chain(superposition(0, 2), recipe=recipe(seed=1))
    for segment in (first, other):
        finish(segment, results / "segments", corpus_dir)
    (results / "data").mkdir()
    (results / "data" / first.recipe.corpus.id).symlink_to(corpus_dir)
    return Finished(results, first, child, other)


def finish(segment: Segment, segments: Path, corpus_dir: Path) -> None:
    """Train a segment and finish it as the launcher does."""
    job = make_job(segment, segments, corpus_dir)
    job.folder.mkdir(parents=True)
    start_attempt(job, 0)
    train_here(segment, segments, corpus_dir)
    _finish(job, end_attempt(job, "finished"))
