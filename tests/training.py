"""Tiny segments of real runs, and ways to train them: in this process, or as the workflow does."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys

from tst_titan.plan.settings import (
    CorpusSettings,
    Recipe,
    Segment,
    SourceSettings,
    Stage,
    TokenizerSettings,
)
from tst_titan.plan.trajectory import STAGES_OWN, model_shape
from tst_titan.study.defaults import TRAINING_DEFAULTS
from tst_titan.study.recipe import Shape
from tst_titan.train.hardware import Hardware
from tst_titan.train.job import Job, write_job

# What a run that was disturbed has in common with one that was not, row by row of its metrics.
EXACT = ("step", "loss", "grad_norm", "learning_rate", "data_tokens")
TINY_MODEL = model_shape(
    "tiny", Shape(dim=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16, ffn_dim=64), vocab_size=512
)
PUBLISHED = {name: value for name, value in TRAINING_DEFAULTS.items() if name not in STAGES_OWN}


def TINY_CORPUS(texts: str = "texts") -> CorpusSettings:
    return CorpusSettings(
        sources=(SourceSettings(name="texts", kind="files", path=texts),),
        tokenizer=TokenizerSettings(kind="bpe", vocab_size=512),
        validation_tokens=2_000,
    )


def recipe(**changes: Any) -> Recipe:
    settings: dict[str, Any] = {
        "model": TINY_MODEL, "corpus": TINY_CORPUS(), "seq_len": 32, "sequences_per_step": 4, "learning_rate": 1e-2,
        "warmup_steps": 3, "precision": "float32", "block_tokens": 256, "seed": 0,
    }  # fmt: skip
    return Recipe(**PUBLISHED | settings | changes)


def chain(*stages: Stage, recipe: Recipe, jobs: tuple[int, ...] = ()) -> list[Segment]:
    """The segments of one run: a job for each stage, and a further one from each step of `jobs`."""
    segments: list[Segment] = []
    for number, stage in enumerate(stages):
        ends = [step for step in jobs if stage.start_step < step < stage.end_step] + [stage.end_step]
        for end in ends:
            parent = segments[-1] if segments else None
            segments.append(
                Segment(
                    recipe=recipe,
                    stages=(*stages[:number], replace(stage, end_step=end)),
                    parent=parent.id if parent else None,
                    start_step=parent.end_step if parent else 0,
                )
            )
    return segments


def superposition(start: int, end: int, bag_size: int = 3, **changes: Any) -> Stage:
    return Stage(name="superposition", start_step=start, end_step=end, bag_size=bag_size, **changes)


def constant(end: int) -> Stage:
    return Stage(name="constant", start_step=0, end_step=end)


def recovery(start: int, end: int, **changes: Any) -> Stage:
    return Stage(name="recovery", start_step=start, end_step=end, **changes)


def decay(start: int, end: int, total: int | None = None) -> Stage:
    return Stage(name="decay", start_step=start, end_step=end, decay_end_step=total or end)


def make_job(segment: Segment, results: Path, corpus_dir: Path, **hardware: Any) -> Job:
    parent = None
    if segment.parent:
        parent = results / segment.parent / "checkpoint" / f"step-{segment.start_step}"
    return Job(
        segment=segment,
        hardware=Hardware(**hardware),
        folder=results / segment.id,
        corpus_dir=corpus_dir,
        parent_checkpoint=parent,
        log_every=1,
        validate_every=0,
        validation_tokens=512,
        studies={},
    )


def train_here(segment: Segment, results: Path, corpus_dir: Path, **hardware: Any) -> Path:
    """Train one segment with the real trainer inside this process; returns its folder."""
    from tst_titan.train.titan.worker import train_segment

    job = make_job(segment, results, corpus_dir, **hardware)
    write_job(job)
    try:
        train_segment(job)
    finally:  # a rank that fails leaves this to the end of its process
        if dist.is_initialized():
            dist.destroy_process_group()
    return job.folder


def start_launcher(job: Job, *, worker: str | None = None) -> "subprocess.Popen[str]":
    """Start a job as the workflow does: the launcher in a process of its own, the ranks below it (by another module:
    `worker`)."""
    path = write_job(job)
    code = (
        "import sys; from pathlib import Path; from tst_titan.train.job import read_job;"
        "from tst_titan.train.launch import run_segment;"
        f"from tst_titan.errors import UserError; from tst_titan.train import node; node.WORKER = {worker!r} or "
        "node.WORKER\n"
        "try: sys.exit(run_segment(read_job(Path(sys.argv[1]))))\n"
        "except UserError as error: sys.exit(f'error: {error}')"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def launch(job: Job) -> "subprocess.CompletedProcess[str]":
    """Run a job as the workflow does, to its end."""
    process = start_launcher(job)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def saved_state(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint by name: weights and optimizer moments."""
    path = folder / "checkpoint" / f"step-{step}"
    keys = set(FileSystemReader(path).read_metadata().state_dict_metadata)
    flat: dict[str, torch.Tensor] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, torch.Tensor):
            flat[name] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{name}.{key}" if name else str(key))

    walk(_load_state_dict_from_keys(keys, checkpoint_id=path), "")
    return flat


def assert_same_state(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    """Bit-equal weights and moments."""
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different
    assert any(name.endswith("exp_avg_sq") or "exp_avg_sq" in name for name in left)


def rows(folder: Path, *fields: str) -> list[tuple[Any, ...]]:
    """The given fields of the training rows of a segment, step by step."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [tuple(row[field] for field in fields) for row in map(json.loads, lines) if "loss" in row]


def all_descendants(pid: int) -> list[int]:
    """Every process below `pid`."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *all_descendants(child)]
    return found


def published_recipe(name: str, **changes: Any) -> Recipe:
    """The published recipe of a model of the catalogue, at its published vocabulary and batch (method, section 3)."""
    from tst_titan.study.catalogue import MODELS

    shape = Shape.model_validate(MODELS[name]["shape"])
    small = name not in ("270M", "600M", "3B", "10B-A1B")
    model = model_shape(name, shape, vocab_size=4096 if small else 151936 if shape.moe else 128256)
    settings = {
        "model": model, "seq_len": 2048, "sequences_per_step": 4096 if name == "10B-A1B" else 1024,
        "learning_rate": MODELS[name]["learning_rate"], "warmup_steps": 2000, "precision": "bfloat16",
    }  # fmt: skip
    return recipe(**settings | changes)
