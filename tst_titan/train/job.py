"""One training job as a file: what the launcher hands to the workers (`job.json`)."""

import signal
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tst_titan.files import read_json, write_json
from tst_titan.plan.costs import Accelerator
from tst_titan.plan.settings import Segment, segment_from_dict, segment_to_dict
from tst_titan.results import SegmentFiles
from tst_titan.train.hardware import Hardware

# Exit status of a job that was told to stop, saved, and should be run again (BSD's EX_TEMPFAIL).
EXIT_CONTINUE = 75
# What tells a job to stop: the launcher passes them on to the ranks, which save first. Ranks start with these ignored:
# one that comes before a rank can save is left to the next one.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A segment to train in `folder`, with what it reads, how often it logs and validates, and who asked for it.

    `accelerator`: of the devices that it is planned for (time bounds, no identity); measured times take its place.
    `studies`: digests of each study that has the segment and of its files, by the study's name (provenance, no
    identity). `gpus`: those that the job holds on each node, by the names that `CUDA_VISIBLE_DEVICES` takes on the
    first; () where it trains on CPUs.
    """

    segment: Segment
    hardware: Hardware
    folder: Path
    corpus_dir: Path
    parent_checkpoint: Path | None
    log_every: int
    validate_every: int
    validation_tokens: int
    studies: dict[str, Any]
    accelerator: Accelerator = field(default_factory=lambda: Accelerator("cpu"))
    gpus: tuple[str, ...] = ()

    @property
    def files(self) -> SegmentFiles:
        """Where the segment's files lie in `folder`."""
        return SegmentFiles(self.folder)

    @property
    def checkpoints(self) -> Path:
        return self.files.checkpoints


def write_job(job: Job) -> Path:
    """Write `job.json` and `settings.json` (the science alone) into the segment's folder."""
    paths = {name: str(getattr(job, name).absolute()) for name in ("folder", "corpus_dir")}
    write_json(job.files.settings, segment_to_dict(job.segment))
    write_json(
        job.files.job,
        {
            "segment": segment_to_dict(job.segment),
            "hardware": asdict(job.hardware),
            **paths,
            "parent_checkpoint": str(job.parent_checkpoint.absolute()) if job.parent_checkpoint else None,
            "log_every": job.log_every,
            "validate_every": job.validate_every,
            "validation_tokens": job.validation_tokens,
            "studies": job.studies,
            "accelerator": asdict(job.accelerator),
            "gpus": job.gpus,
        },
    )
    return job.files.job


def read_job(path: Path) -> Job:
    """The inverse of `write_job`."""
    value = read_json(path)
    parent = value.pop("parent_checkpoint")
    return Job(
        segment=segment_from_dict(value.pop("segment")),
        hardware=Hardware(**value.pop("hardware")),
        accelerator=Accelerator(**value.pop("accelerator")),
        folder=Path(value.pop("folder")),
        corpus_dir=Path(value.pop("corpus_dir")),
        parent_checkpoint=Path(parent) if parent else None,
        gpus=tuple(value.pop("gpus")),
        **value,
    )
