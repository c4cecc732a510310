"""Run one segment: hold its lock, start torchrun, show progress, pass stop signals on, record how it ended.

This process imports no torch. The workers' output goes to `train.log`; numbers come from `metrics.jsonl`.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

from tst_titan.cluster.devices import HeldGpus, gpus_for_job
from tst_titan.data.manifest import verify_corpus
from tst_titan.data.stream import TokenStream
from tst_titan.errors import UserError
from tst_titan.files import read_json, write_json
from tst_titan.train.attempts import Attempt, end_attempt, start_attempt, usage_record
from tst_titan.train.job import EXIT_CONTINUE, Job, write_job

PROGRESS_SECONDS = 10.0
# Corpora up to this size are read and checked whole before each segment (about a second); larger ones are opened, which
# finds shards that were cut short, and checked whole by `tst-titan data inspect --verify`.
VERIFY_TOKENS = 200_000_000
# glibc returns each freed buffer of some megabytes to the system and faults it in anew every step. Kept, a CPU
# superposition step of the quickstart's model costs 1.04 instead of 1.21 recovery steps (benchmarks/cpu_overhead.py).
MALLOC_KEEPS_BUFFERS = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(4 << 30)}
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def run_segment(job: Job) -> int:
    """Train `job.segment` to its end unless it is finished already.

    Returns 0 when `done.json` is written, `EXIT_CONTINUE` when the job was told to stop and has saved. Raises
    `UserError` with one message for failures that are the user's to mend.
    """
    if (job.folder / "done.json").exists():
        return 0
    _check_inputs(job)
    with segment_lock(job.folder) as lock:
        if (job.folder / "done.json").exists():
            return 0
        write_job(job)
        for stale in ("outcome.json", "failure.json"):
            (job.folder / stale).unlink(missing_ok=True)
        with gpus_for_job(job.hardware.processes) as held:
            start_attempt(job.folder, job.hardware, len(held.gpus))
            returncode = _run_workers(job, lock, held)
        outcome_file = job.folder / "outcome.json"
        outcome = read_json(outcome_file) if outcome_file.exists() else None
        attempts = end_attempt(job.folder, outcome)
        if outcome is None:
            raise UserError(_failure(job, returncode))
        if outcome["stopped"]:
            print(
                f"{job.segment.id}: stopped and saved at step {outcome['step']}; run again to go on",
                file=sys.stderr,
            )
            return EXIT_CONTINUE
        _finish(job, attempts)
        return 0


def _check_inputs(job: Job) -> None:
    if not (job.corpus_dir / "corpus.json").exists():
        raise UserError(f"{job.corpus_dir}: no such corpus; build it first: tst-titan data build STUDY")
    if job.parent_checkpoint and not job.parent_checkpoint.is_dir():
        raise UserError(
            f"{job.parent_checkpoint}: the checkpoint that {job.segment.id} starts from is missing; train "
            f"{job.segment.parent} first (if its folder has a done.json, delete that)"
        )
    recipe, stage = job.segment.recipe, job.segment.stage
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
            f"{job.corpus_dir}: token ids go up to {stream.corpus.vocab_size - 1}, but model {recipe.model.name} has "
            f"{recipe.model.vocab_size} embeddings: the corpus was made with another tokenizer"
        )
    window = recipe.seq_len * stage.data_tokens_per_position + stage.bag_size
    for warning in stream.check_enough(job.segment.data_tokens, window):
        print(f"warning: {job.segment.id}: {warning}", file=sys.stderr)


@contextmanager
def segment_lock(folder: Path) -> Iterator[IO[str]]:
    """Hold `folder/lock`: two jobs never write one segment.

    The lock is the kernel's, held by this process and the workers that inherit it, so it ends with the last of
    them however they die. A second job waits for the first and then finds the segment finished, or goes on with it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            print(
                f"{folder}: being trained by {lock.read().strip() or 'another job'}; waiting for it",
                file=sys.stderr,
            )
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        lock.truncate()
        slurm = f", Slurm job {os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else ""
        lock.write(f"process {os.getpid()} on {socket.gethostname()}{slurm}\n")
        lock.flush()
        yield lock


def _run_workers(job: Job, lock: IO[str], held: HeldGpus) -> int:
    """Run torchrun to its end; a stop signal to this process reaches every worker once."""
    command = [
        sys.executable, "-m", "torch.distributed.run",
        "--nnodes=1", f"--nproc-per-node={job.hardware.processes}", "--standalone", "--log-dir", str(job.folder / "torchrun"),
        "-m", "tst_titan.train.titan.worker", str(job.folder / "job.json"),
    ]  # fmt: skip
    threads = str(job.hardware.threads)
    environment = (
        MALLOC_KEEPS_BUFFERS
        | os.environ
        | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
        | ({"CUDA_VISIBLE_DEVICES": ",".join(held.gpus)} if held.gpus else {})
    )
    told_to_stop = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal told_to_stop
        told_to_stop = True

    previous = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        with (job.folder / "train.log").open("a", encoding="utf-8") as log:
            # A session of its own: Ctrl-C on the terminal reaches the workers through us alone, once.
            torchrun = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
                pass_fds=[lock.fileno(), *held.locks],
            )  # fmt: skip
            progress = Progress(job)
            passed_on = False
            while True:
                try:
                    return torchrun.wait(timeout=0.2)
                except subprocess.TimeoutExpired:
                    pass
                if told_to_stop and not passed_on:
                    print(f"{job.segment.id}: saving before it stops", file=sys.stderr, flush=True)
                    passed_on = _signal_workers(torchrun.pid)
                progress.show()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _signal_workers(torchrun: int) -> bool:
    """Send SIGUSR1 to torchrun's workers; False while there are none yet.

    Not to torchrun itself, which would kill them 30 seconds later, whether they have saved or not.
    """
    sent = False
    for pid in _children(torchrun):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"tst_titan.train.titan.worker" in command:
            os.kill(pid, signal.SIGUSR1)
            sent = True
    return sent


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


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
        row = last_training_row(self.job.folder / "metrics.jsonl")
        if row is None or row["step"] <= self.shown_step:
            return
        self.shown_step = row["step"]
        segment = self.job.segment
        left = max(0.0, (segment.end_step - row["step"]) * row["step_time_s"])
        print(
            f"{segment.id}: step {row['step']}/{segment.end_step}  loss {row['loss']:.3f}  "
            f"{row['tokens_per_s']:,.0f} tokens/s  {int(left // 60)}:{int(left % 60):02d} left",
            file=sys.stderr,
            flush=True,
        )


def last_training_row(path: Path) -> dict[str, Any] | None:
    """The last whole row with a training loss, read from the file's end."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 8192))
            lines = file.read().split(b"\n")
    except OSError:
        return None
    for line in reversed(lines[:-1]):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "loss" in row:
            return row
    return None


def _failure(job: Job, returncode: int) -> str:
    path = job.folder / "failure.json"
    if path.exists():
        failure = read_json(path)
        if failure["known"]:
            return failure["message"]
        return f"{job.segment.id}: training failed: {failure['message']}; see {job.folder / 'train.log'}"
    return (
        f"{job.segment.id}: the training processes ended with status {returncode} without a word (killed, or out of "
        f"memory?); see {job.folder / 'train.log'}; run again to go on from the last checkpoint"
    )


def _finish(job: Job, attempts: list[Attempt]) -> None:
    """Write what it used into `provenance.json`, then `done.json`; drop the checkpoints before the last."""
    segment = job.segment
    rows = [
        json.loads(line) for line in (job.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    training = [row for row in rows if "loss" in row]
    validation = [row for row in rows if "validation_loss" in row]
    checkpoint = f"checkpoint/step-{segment.end_step}"
    provenance = read_json(job.folder / "provenance.json")
    write_json(job.folder / "provenance.json", provenance | usage_record(attempts))
    write_json(
        job.folder / "done.json",
        {
            "segment": segment.id,
            "start_step": segment.start_step,
            "end_step": segment.end_step,
            "checkpoint": checkpoint,
            "equivalent_tokens": segment.equivalent_tokens,
            "data_tokens": segment.data_tokens,
            "flops": training[-1]["flops"],
            "wall_clock_s": sum(attempt["end"] - attempt["start"] for attempt in attempts),
            "attempts": attempts,
            "train_loss": training[-1]["loss"],
            "validation_loss": validation[-1]["validation_loss"],
            "corpus_digest": provenance["corpus_digest"],
        },
    )
    for path in job.checkpoints.glob("step-*"):
        if path.name != f"step-{segment.end_step}":
            shutil.rmtree(path)
    for name in ("outcome.json", "attempts.json"):
        (job.folder / name).unlink()
    shutil.rmtree(job.folder / "torchrun", ignore_errors=True)
