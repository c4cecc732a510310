"""One rank of a training job, started by `tst_titan.train.node`: `python -m tst_titan.train.titan.worker job.json`."""

import errno
import faulthandler
import json
import logging
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist
from torchtitan.tools.logging import init_logger, logger

from tst_titan.cluster.driver import check_torch_sees
from tst_titan.errors import UserError
from tst_titan.files import write_json
from tst_titan.meeting import met_ranks
from tst_titan.metrics_rows import read_rows
from tst_titan.train.failures import record_failure
from tst_titan.train.job import STOP_SIGNALS, Job, read_job
from tst_titan.train.time_bounds import END_SECONDS
from tst_titan.train.titan.checkpoints import latest_whole_step
from tst_titan.train.titan.checks import check_job
from tst_titan.train.titan.config import trainer_config
from tst_titan.train.titan.provenance import provenance
from tst_titan.train.titan.trainer import SegmentTrainer


def train_segment(job: Job) -> None:
    """Train to the segment's end, or to a stop signal; then validate what is missing at the end."""
    if job.gpus:
        check_torch_sees(job.hardware.processes, job.gpus, job.segment.id)
    check_job(job)
    if int(os.environ["RANK"]) == 0:
        write_json(job.files.provenance, provenance(job))
    with met_ranks():
        trainer = trainer_config(job).build()
    trainer.train()
    if not trainer.stopped:
        _validate_the_end(trainer, job)
    if dist.get_rank() == 0:
        write_json(job.files.outcome, {"step": trainer.step, "stopped": trainer.stopped})
    # Only here: after a failure these would wait for ranks that wait for this one. All is on the disk by now, so a rank
    # that hangs in its end is left (with status 1 and its traceback in the log), and the outcome holds.
    faulthandler.dump_traceback_later(END_SECONDS, exit=True)
    trainer.close()
    dist.destroy_process_group()
    faulthandler.cancel_dump_traceback_later()


def _validate_the_end(trainer: SegmentTrainer, job: Job) -> None:
    """A job killed between its last checkpoint and its last validation owes the validation."""
    end = job.segment.end_step
    wrote = [row for row in read_rows(job.files.metrics) if row["step"] == end and "validation_loss" in row]
    owes = torch.tensor(not wrote, dtype=torch.int32, device=trainer.device)
    if dist.get_world_size() > 1:
        dist.all_reduce(owes, op=dist.ReduceOp.MAX)
    if owes and trainer.validator.last_step != end:  # type: ignore[attr-defined]
        trainer.metrics_processor.resume(end)  # type: ignore[attr-defined]
        trainer.validator.validate(trainer.model_parts, end)


def failure_message(error: Exception, job: Job) -> str | None:
    """One clear message for the failures that a user can meet; None for a defect of ours."""
    if isinstance(error, UserError):
        return str(error)
    last = latest_whole_step(job.checkpoints)
    good = f"the last good checkpoint is {job.files.checkpoint(last)}" if last else "no checkpoint was saved before"
    if isinstance(error, FloatingPointError):
        return f"{job.segment.id}: {error}; {good}. Lower the learning rate or look at the data there."
    if isinstance(error, torch.OutOfMemoryError):
        return f"{job.segment.id}: out of device memory; lower hardware.micro_batch or raise the sharding. {good}."
    # A connection that another rank's end has cut is no reason.
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError | TimeoutError):
        return f"{job.segment.id}: {error.strerror} ({error.filename or job.folder}); {good}"
    if os.strerror(errno.ENOSPC) in str(error) or shutil.disk_usage(job.folder).free < 1 << 16:
        # torch wraps what a writer met into errors of its own.
        return f"{job.segment.id}: no space left on the device of {job.folder}; make room and run again; {good}"
    return None


def main() -> int:
    job = read_job(Path(sys.argv[1]))
    init_logger()
    torch.set_num_threads(job.hardware.threads)
    try:
        train_segment(job)
    except Exception as error:
        _fail(error, job)
    # Told to stop again while it ends: Python gives up its handlers before it is gone.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    return 0


def _fail(error: Exception, job: Job) -> NoReturn:
    """Say why, and be gone.

    The other ranks may wait for this one in a collective, and what Python and NCCL do at their end (exit handlers,
    destructors of process groups) may wait for them: none of it runs, so that the launcher can end all.
    """
    try:
        message = failure_message(error, job)
        if message is None:
            traceback.print_exception(error)
        else:
            logger.error(json.dumps(message)[1:-1])
        record_failure(job.folder, int(os.environ["RANK"]), message or _one_line(error), known=message is not None)
    except Exception:  # such as a full disk; the launcher says that there was no word
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}"


if __name__ == "__main__":
    sys.exit(main())
