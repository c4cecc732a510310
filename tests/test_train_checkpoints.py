"""Checkpoints of long jobs: how many lie on the disk at any moment, which one is gone on from, when one is whole.

Timed saves were never deleted before the segment's end: 97 hours of the 10B model would have left 73 TB.
"""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from ranks import errors, train_on_ranks
from torch.distributed.checkpoint import FileSystemWriter
from training import assert_same_state, chain, constant, make_job, recipe, rows, saved_state, train_here

from tst_titan.results import checkpoint_steps
from tst_titan.train.job import Job, write_job
from tst_titan.train.titan import worker
from tst_titan.train.titan.checkpoints import SegmentCheckpoints, whole_checkpoint
from tst_titan.train.titan.config import trainer_config
from tst_titan.train.titan.trainer import SegmentTrainer

KEPT = 2
# Due again at every question whether one is due: at each step on one rank, on several where ranks agree.
AT_ONCE = 1e-9
# A day of saves every half hour; on two ranks, which agree every few steps, fewer.
DAY, STEPS_ON_TWO = 48, 30


class Watch(threading.Thread):
    """Looks at a folder of checkpoints all the time; `most` is the largest number of `step-N` there at once."""

    def __init__(self, folder: Path):
        super().__init__(daemon=True)
        self.folder, self.most, self.seen = folder, 0, set[int]()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.001):
            steps = checkpoint_steps(self.folder)
            self.most, self.seen = max(self.most, len(steps)), self.seen | set(steps)


@contextmanager
def watched(job: Job) -> Iterator[Watch]:
    watch = Watch(job.checkpoints)
    watch.start()
    yield watch
    watch.over.set()
    watch.join()


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint's data reach the disk after the next steps."""
    write = FileSystemWriter.write_data

    def late(self: FileSystemWriter, *arguments: Any) -> Any:
        time.sleep(0.3)
        return write(self, *arguments)

    monkeypatch.setattr(FileSystemWriter, "write_data", late)


@pytest.mark.usefixtures("process_group")
def test_a_day_of_timed_checkpoints_leaves_two_and_the_one_being_written(tmp_path: Path, corpus_dir: Path) -> None:
    (segment,) = chain(constant(DAY + 1), recipe=recipe())
    job = make_job(segment, tmp_path, corpus_dir, checkpoint_minutes=AT_ONCE)
    with watched(job) as watch:
        train_here(segment, tmp_path, corpus_dir, checkpoint_minutes=AT_ONCE)
    assert watch.most <= KEPT + 1
    assert len(watch.seen) > DAY / 2
    assert sorted(checkpoint_steps(job.checkpoints)) == [DAY, DAY + 1]


@pytest.mark.usefixtures("process_group", "slow_disk")
def test_checkpoints_written_behind_the_training_are_as_few_and_bit_equal(tmp_path: Path, corpus_dir: Path) -> None:
    """The weights of the step that was saved, not of those that were trained while it was written."""
    (segment,) = chain(constant(8), recipe=recipe())
    plain = train_here(segment, tmp_path / "plain", corpus_dir, checkpoint_steps=1)
    job = make_job(segment, tmp_path, corpus_dir)
    with watched(job) as watch:
        behind = train_here(segment, tmp_path, corpus_dir, checkpoint_steps=1, async_checkpoints=True)
    assert watch.most <= KEPT + 1
    assert sorted(checkpoint_steps(job.checkpoints)) == [7, 8]
    for step in (7, 8):
        assert_same_state(saved_state(plain, step), saved_state(behind, step))


@pytest.mark.usefixtures("process_group", "slow_disk")
def test_a_stopped_job_says_so_when_its_checkpoint_is_whole(
    tmp_path: Path, corpus_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (segment,) = chain(constant(8), recipe=recipe())
    step, write = SegmentTrainer.train_step, worker.write_json
    whole_at_outcome = []

    def stopped_at_three(self: SegmentTrainer, data: Any) -> None:
        step(self, data)
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGUSR1)

    def look(path: Path, value: Any) -> None:
        if path.name == "outcome.json":
            whole_at_outcome.append((value["step"], whole_checkpoint(path.parent / "checkpoint" / "step-3")))
        write(path, value)

    monkeypatch.setattr(SegmentTrainer, "train_step", stopped_at_three)
    monkeypatch.setattr(worker, "write_json", look)
    # Saved at step 3 by the interval already, and still being written when the stop is seen.
    train_here(segment, tmp_path, corpus_dir, checkpoint_steps=3, async_checkpoints=True)
    assert whole_at_outcome == [(3, True)]


@pytest.mark.usefixtures("process_group")
def test_a_folder_full_of_old_checkpoints_is_cleaned_when_a_job_goes_on(tmp_path: Path, corpus_dir: Path) -> None:
    (segment,) = chain(constant(9), recipe=recipe())
    folder = train_here(segment, tmp_path, corpus_dir, checkpoint_steps=4)
    shutil.rmtree(folder / "checkpoint" / "step-9")
    for step in (1, 2, 3, 5, 6):
        shutil.copytree(folder / "checkpoint" / "step-8", folder / "checkpoint" / f"step-{step}")
    trainer = trainer_config(make_job(segment, tmp_path, corpus_dir)).build()
    try:
        trainer.checkpointer.load()
        assert trainer.step == 8
        assert sorted(checkpoint_steps(folder / "checkpoint")) == [6, 8]
    finally:
        trainer.close()
        dist.destroy_process_group()


def behind_rank_zero(job: Job) -> None:
    """Train as a worker does, with a rank 1 that is slower: it looks for a checkpoint when rank 0 has looked."""
    from tst_titan.train.titan import checks

    rank, load = int(os.environ["RANK"]), SegmentCheckpoints._load
    passed = job.folder / "rank-0-passed"
    look, check = checks.latest_whole_step, worker.check_job

    def late(folder: Path) -> int | None:
        while not passed.exists():
            time.sleep(0.01)
        write_list(job.folder / "seen-1.json", sorted(path.name for path in folder.iterdir()))
        return look(folder)

    def passes(job: Job) -> None:
        check(job)
        passed.touch()

    def loads(self: SegmentCheckpoints, step: int = -1) -> bool:
        loaded = load(self, step)
        write_list(job.folder / f"loaded-{rank}.json", [self.states["train_state"].step])
        return loaded

    if rank:
        checks.latest_whole_step = late
    else:
        worker.check_job = passes
    SegmentCheckpoints._load = loads  # type: ignore[method-assign]
    try:
        worker.train_segment(job)
    finally:
        checks.latest_whole_step, worker.check_job = look, check
        SegmentCheckpoints._load = load  # type: ignore[method-assign]


def write_list(path: Path, value: list[Any]) -> None:
    path.write_text(json.dumps(value))


@pytest.fixture(scope="module")
def two_ranks(
    tmp_path_factory: pytest.TempPathFactory, corpus_dir: Path, process_group: None
) -> dict[str, tuple[Job, Watch]]:
    """Jobs of two ranks: timed saves, the same written behind the training, and a start beside a broken checkpoint."""
    results = tmp_path_factory.mktemp("two-ranks")
    (day,) = chain(constant(STEPS_ON_TWO), recipe=recipe())
    (short,) = chain(constant(6), recipe=recipe())
    broken = train_here(short, results / "broken", corpus_dir, checkpoint_steps=2)
    shutil.rmtree(broken / "checkpoint" / "step-6")
    shutil.copytree(broken / "checkpoint" / "step-4", broken / "checkpoint" / "step-5")
    data = max((broken / "checkpoint" / "step-5").glob("*.distcp"), key=lambda path: path.stat().st_size)
    os.truncate(data, data.stat().st_size // 2)
    timed: dict[str, Any] = {"processes": 2, "checkpoint_minutes": AT_ONCE}
    jobs = {
        "timed": make_job(day, results / "timed", corpus_dir, **timed),
        "behind": make_job(day, results / "behind", corpus_dir, async_checkpoints=True, **timed),
        "broken": make_job(short, results / "broken", corpus_dir, processes=2),
    }
    for job in jobs.values():
        write_job(job)
    watches = {name: Watch(job.checkpoints) for name, job in jobs.items()}
    for watch in watches.values():
        watch.start()
    train_on_ranks(jobs, 2, train={"broken": behind_rank_zero})
    for watch in watches.values():
        watch.over.set()
        watch.join()
    return {name: (jobs[name], watches[name]) for name in jobs}


@pytest.mark.parametrize("name", ["timed", "behind"])
def test_two_ranks_keep_two_checkpoints_and_the_one_being_written(  # type: ignore[no-untyped-def]
    two_ranks, name: str
) -> None:
    job, watch = two_ranks[name]
    assert not errors(job.folder)
    assert watch.most <= KEPT + 1
    assert len(watch.seen) >= 5
    last = checkpoint_steps(job.checkpoints)
    assert len(last) == KEPT
    assert STEPS_ON_TWO in last
    assert all(whole_checkpoint(job.checkpoints / f"step-{step}") for step in last)


def test_two_ranks_write_the_same_behind_the_training(two_ranks) -> None:  # type: ignore[no-untyped-def]
    states = [saved_state(two_ranks[name][0].folder, STEPS_ON_TWO) for name in ("timed", "behind")]
    assert_same_state(*states)


def test_a_broken_checkpoint_is_discarded_when_every_rank_has_looked(two_ranks) -> None:  # type: ignore[no-untyped-def]
    """Rank 0 deleted it while others were reading it; now it does so when all are there, and says what is loaded."""
    job, _ = two_ranks["broken"]
    assert not errors(job.folder)
    assert json.loads((job.folder / "seen-1.json").read_text()) == ["step-4", "step-5"]
    assert [json.loads((job.folder / f"loaded-{rank}.json").read_text()) for rank in (0, 1)] == [[4], [4]]
    assert [step for (step,) in rows(job.folder, "step")] == [1, 2, 3, 4, 5, 6]
    assert sorted(checkpoint_steps(job.checkpoints)) == [4, 6]
