"""Run one segment: hold its lock, start its training processes, show progress, record how it ended.

This process imports no torch. The workers' output goes to `train.log`; numbers come from `metrics.jsonl`.
"""

import math
import shutil
import sys
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace

from tst_titan.cluster import own_job
from tst_titan.cluster.devices import HeldGpus, gpus_for_job, promised_gpus
from tst_titan.cluster.lock import FolderLock, HeldByJob, segment_lock
from tst_titan.data.manifest import verify_corpus
from tst_titan.data.stream import TokenStream
from tst_titan.errors import UserError
from tst_titan.files import open_own, read_json, write_json
from tst_titan.meeting import private_meeting
from tst_titan.metrics_rows import last_training_rows, read_rows
from tst_titan.processes import held_port
from tst_titan.pruned import is_pruned, pruned_mend
from tst_titan.results import CorpusFiles, checkpoint_name, checkpoint_steps, segment_of_checkpoint
from tst_titan.train import node
from tst_titan.train.attempts import (
    STANDSTILL,
    Attempt,
    end_attempt,
    stands_still,
    start_attempt,
    usage_record,
)
from tst_titan.train.failures import Failure, first_failure, has_failure
from tst_titan.train.job import EXIT_CONTINUE, Job, write_job
from tst_titan.train.record import sealed
from tst_titan.train.seals import read_seals
from tst_titan.train.stop_clock import StopClock
from tst_titan.units import duration

PROGRESS_SECONDS = 10.0
# Corpora up to this size are read and checked whole before each segment (about a second); larger ones are opened, which
# finds shards that were cut short, and checked whole by `tst-titan data inspect --verify`.
VERIFY_TOKENS = 200_000_000


def run_segment(job: Job) -> int:
    """Train `job.segment` to its end unless it is finished already.

    Returns 0 when `done.json` is written, `EXIT_CONTINUE` when the job was told to stop and has saved, lost a node, or
    met another job at work on the segment; a job of Slurm is then back in Slurm's queue. Raises `UserError` with one
    message for failures that are the user's to mend.
    """
    if job.files.done.exists():
        return 0
    _check_inputs(job)
    try:
        with segment_lock(job.folder) as lock:
            if job.files.done.exists():
                return 0
            status = _attempt(job, lock)
    except HeldByJob as held:
        return go_behind(job, held)
    # With the lock given back: the next start may come at once, on another node.
    if status == EXIT_CONTINUE and own_job.launches():
        _run_again(job)
    return status


def go_behind(job: Job, held: HeldByJob) -> int:
    """Put this job of Slurm into the queue behind the one that holds its segment; returns the exit status."""
    print(f"{job.segment.id}: Slurm job {held.job} trains it; this job goes behind that", file=sys.stderr)
    _run_again(job, after=held.job)
    return EXIT_CONTINUE


def _run_again(job: Job, *, after: str | None = None) -> None:
    """Put this job of Slurm back into the queue. That Slurm does not is no failure of the segment's: its state is
    saved."""
    try:
        own_job.run_again(after=after)
    except UserError as error:
        print(
            f"{job.segment.id}: could not be put back into Slurm's queue; start it again to go on: {error}",
            file=sys.stderr,
        )


def _attempt(job: Job, lock: FolderLock) -> int:
    for stale in (job.files.outcome, job.files.failure):
        stale.unlink(missing_ok=True)
    for stale in (job.files.nodes, job.files.failures):
        shutil.rmtree(stale, ignore_errors=True)
    if own_job.launches():
        own_job.describe(f"{'+'.join(job.studies)} {job.segment.id}".strip())
    with _gpus(job) as held:
        job = replace(job, gpus=held.gpus)
        write_job(job)
        start_attempt(job, len(held.gpus))
        returncode = _train(job, lock, held)
    # After a node hung, others' files may lie here by now.
    lock.check()
    outcome = read_json(job.files.outcome) if job.files.outcome.exists() else None
    if outcome is not None and not outcome["stopped"]:
        _finish(job, end_attempt(job, "finished"))
        return 0
    if outcome is not None:
        why, attempts = f"stopped and saved at step {outcome['step']}", end_attempt(job, "stopped")
    else:
        failure = first_failure(job.folder)
        why = _not_its_fault(job, failure)
        attempts = end_attempt(job, "killed" if why else "failed")
        if not why:
            message = _failure(job, failure, returncode)
            write_json(job.files.failure, {"message": message})
            raise UserError(message)
    if stands_still(attempts):
        raise UserError(
            f"{why}, and so it went {STANDSTILL} times without getting any further; give jobs more time "
            f"between start and stop (runtime, time limit of the partition) or look at {job.files.log}",
            where=job.segment.id,
        )
    print(f"{job.segment.id}: {why}; run again to go on", file=sys.stderr)
    return EXIT_CONTINUE


def _gpus(job: Job) -> AbstractContextManager[HeldGpus]:
    """The GPUs of this machine that the job may use: what Slurm gave it, or what it holds."""
    return nullcontext(HeldGpus(promised_gpus())) if own_job.launches() else gpus_for_job(job.hardware.processes)


def _not_its_fault(job: Job, failure: Failure | None) -> str:
    """Why processes ended without an outcome, where that is no fault of the job's; else ""."""
    if own_job.launches() and not (failure and failure.known):
        try:
            if own_job.own_state() != "RUNNING":
                return "ended by Slurm"
        except own_job.NoAnswer as error:
            return str(error)
        lost = node.silent_nodes(job)
        if lost:
            return f"node {', '.join(map(str, lost))} of {job.hardware.nodes} ended without a word (counted from 0)"
    return ""


def _check_inputs(job: Job) -> None:
    if not CorpusFiles(job.corpus_dir).manifest.exists():
        raise UserError("no such corpus; build it first: tst-titan data build STUDY", where=job.corpus_dir)
    if job.parent_checkpoint and is_pruned(segment_of_checkpoint(job.parent_checkpoint), job.segment.start_step):
        raise UserError(
            f"the checkpoint that {job.segment.id} starts from {pruned_mend(str(job.segment.parent))}",
            where=job.parent_checkpoint,
        )
    if job.parent_checkpoint and not job.parent_checkpoint.is_dir():
        raise UserError(
            f"the checkpoint that {job.segment.id} starts from is missing; train "
            f"{job.segment.parent} first (if its folder has a done.json, delete that)",
            where=job.parent_checkpoint,
        )
    recipe = job.segment.recipe
    job.hardware.local_batch_size(recipe.sequences_per_step)
    verify_corpus(job.corpus_dir, largest=VERIFY_TOKENS)
    stream = TokenStream(
        job.corpus_dir,
        seed=recipe.seed,
        num_lanes=recipe.sequences_per_step,
        block_tokens=recipe.block_tokens,
    )
    if stream.corpus.vocab_size > recipe.model.vocab_size:
        raise UserError(
            f"token ids go up to {stream.corpus.vocab_size - 1}, but model {recipe.model.name} has "
            f"{recipe.model.vocab_size} embeddings: the corpus was made with another tokenizer",
            where=job.corpus_dir,
        )
    for warning in stream.check_enough(job.segment.data_tokens, job.segment.window_length):
        print(f"warning: {job.segment.id}: {warning}", file=sys.stderr)


def _train(job: Job, lock: FolderLock, held: HeldGpus) -> int:
    """Run the training processes on every node to their end; a stop signal to this process reaches them all."""
    progress = Progress(job)
    clock = StopClock(job, own_job.seconds_left() if own_job.launches() else math.inf)
    if warning := clock.warning():
        print(f"warning: {job.segment.id}: {warning}", file=sys.stderr)

    def each_round() -> bool:
        lock.beat()
        progress.show()
        return clock.is_due()

    if job.hardware.nodes > 1 and not own_job.launches():
        raise UserError(
            f"hardware: nodes {job.hardware.nodes} needs jobs that Slurm starts (--profile slurm); use nodes: 1"
        )
    environment, locks = node.environment(job) | held.environment, [lock.fileno(), *held.locks]
    with open_own(job.files.log, "a") as log, ExitStack() as meeting:
        running: node.Running
        if own_job.launches():
            several = job.hardware.nodes > 1
            master = f"{own_job.address_in_job()}:{meeting.enter_context(held_port())}" if several else None
            running = node.start_step(job, environment, master=master, output=log.fileno(), pass_fds=locks)
        else:
            file = meeting.enter_context(private_meeting())
            running = node.start_here(job, environment, meeting=file, output=log.fileno(), pass_fds=locks)
        return node.supervise(running, each_round, said=f"{job.segment.id}: saving before it stops")


class Progress:
    """Step, loss, tokens/s and time left as lines on stderr, read from the last row of `metrics.jsonl`."""

    def __init__(self, job: Job):
        self.job = job
        self.next_time = time.monotonic()
        self.shown_step = -1

    def show(self) -> None:
        """Print a line if one is due and there is news."""
        if time.monotonic() < self.next_time:
            return
        self.next_time = time.monotonic() + PROGRESS_SECONDS
        rows = last_training_rows(self.job.files.metrics, 1)
        if not rows or rows[0]["step"] <= self.shown_step:
            return
        row = rows[0]
        self.shown_step = row["step"]
        segment = self.job.segment
        left = max(0.0, (segment.end_step - row["step"]) * row["step_time_s"])
        print(
            f"{segment.id}: step {row['step']}/{segment.end_step}  loss {row['loss']:.3f}  "
            f"{row['tokens_per_s']:,.0f} tokens/s  {duration(left)} left",
            file=sys.stderr,
            flush=True,
        )


def _failure(job: Job, failure: Failure | None, returncode: int) -> str:
    log = job.files.log
    if failure is None:
        return (
            f"{job.segment.id}: the training processes ended with status {returncode} without a word; see {log}; run "
            "again to go on from the last checkpoint"
        )
    if failure.known:
        return failure.message
    silent = [rank for rank in range(job.hardware.world_size) if not has_failure(job.folder, rank)]
    waits = f"; no word from rank {', '.join(map(str, silent))}" if failure.consequence and silent else ""
    return f"{job.segment.id}: training failed: {failure.message}{waits}; see {log}"


def _finish(job: Job, attempts: list[Attempt]) -> None:
    """Write what it used into `provenance.json`, then `done.json`, sealed; drop the checkpoints before the last."""
    segment = job.segment
    rows = list(read_rows(job.files.metrics))
    training = [row for row in rows if "loss" in row]
    validation = [row for row in rows if "validation_loss" in row]
    seals = read_seals(job.files.checkpoint(segment.end_step))
    provenance = read_json(job.files.provenance)
    write_json(job.files.provenance, provenance | usage_record(attempts))
    write_json(
        job.files.done,
        sealed(
            {
                "segment": segment.id,
                "start_step": segment.start_step,
                "end_step": segment.end_step,
                "checkpoint": checkpoint_name(segment.end_step),
                "checkpoint_digest": seals.digest if seals else None,
                "equivalent_tokens": segment.equivalent_tokens,
                "data_tokens": segment.data_tokens,
                "flops": training[-1]["flops"],
                "wall_clock_s": sum(attempt["end"] - attempt["start"] for attempt in attempts),
                "attempts": attempts,
                "train_loss": training[-1]["loss"],
                "validation_loss": validation[-1]["validation_loss"],
                "corpus_digest": provenance["corpus_digest"],
            },
            job.folder,
        ),
    )
    for step in checkpoint_steps(job.checkpoints):
        if step != segment.end_step:
            shutil.rmtree(job.files.checkpoint(step))
    for path in (job.files.outcome, job.files.attempts, job.files.last_save):
        path.unlink(missing_ok=True)
    for path in (job.files.nodes, job.files.failures):
        shutil.rmtree(path, ignore_errors=True)
