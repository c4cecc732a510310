"""Results folders in exactly the documented format, with numbers that a test chooses."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tst_titan.files import write_json
from tst_titan.plan import Plan, Segment, load_plan, segment_to_dict

STUDY = """\
corpus: {source: python-stdlib, tokenizer: bpe-4096, validation_tokens: 200k, max_document_tokens: 2048}
models: 2M
steps: 1200
arms:
  baseline: {}
  tst: {bag_size: 4, step_ratio: 0.3}
training: {seq_len: 128, sequences_per_step: 8, warmup_steps: 60, learning_rate: 3e-3, precision: float32}
validation: {every: 100, tokens: 32k}
log_every: 10
"""

Loss = Callable[[Segment, np.ndarray], np.ndarray]


def smooth_loss(segment: Segment, step: np.ndarray) -> np.ndarray:
    """A falling loss that jumps when bags end, without noise: a run's numbers can be worked out by hand."""
    stage = segment.stage
    loss = 2.5 + 6.0 * (1 + step / 20.0) ** -0.5
    if stage.name == "superposition":
        loss = loss + 0.8
    elif segment.stages[0].name == "superposition":
        loss = loss - 0.1 + 1.2 * np.exp(-(step - segment.stages[0].end_step) / 40.0)
    if stage.name == "decay":
        loss = loss - 0.25 * (step - stage.start_step) / (stage.decay_end_step - stage.start_step)
    return loss


def make_plan(folder: Path, text: str = STUDY, name: str = "tiny") -> Plan:
    """Write `studies/NAME.yaml` below `folder` and plan it against `folder/results`."""
    file = folder / "studies" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return load_plan(file, folder / "results")


def fill_results(
    plan: Plan,
    results: Path,
    *,
    loss: Loss = smooth_loss,
    log_every: int = 10,
    validate_every: int = 100,
    unfinished: tuple[str, ...] = (),
) -> None:
    """Write a corpus manifest and every segment of the plan (those in `unfinished` without `done.json`)."""
    for corpus_id in plan.corpora:
        write_corpus(results, corpus_id)
    for segment in plan.segments.values():
        write_segment(
            segment,
            results,
            loss=loss,
            log_every=log_every,
            validate_every=validate_every,
            finished=segment.id not in unfinished,
        )


def write_corpus(results: Path, corpus_id: str, num_tokens: int = 3_600_000) -> None:
    write_json(
        results / "data" / corpus_id / "corpus.json",
        {
            "corpus_id": corpus_id,
            "settings": {},
            "tokenizer": {"vocab_size": 4096, "digest": "0a1b2c3d", "eos_id": 0},
            "sources": [
                {
                    "name": "python-stdlib",
                    "weight": 1.0,
                    "num_tokens": num_tokens,
                    "num_documents": 700,
                    "num_bytes": 12_000_000,
                    "shards": [],
                }
            ],
            "validation": {"num_tokens": 210_000, "num_documents": 40, "num_bytes": 700_000, "shards": []},
            "unigram_entropy": 6.5123,
            "bytes_per_token": 3.33,
            "notes": ["tables of the codecs are left out"],
        },
    )


def write_segment(
    segment: Segment,
    results: Path,
    *,
    loss: Loss = smooth_loss,
    log_every: int = 10,
    validate_every: int = 100,
    finished: bool = True,
) -> Path:
    folder = results / "segments" / segment.id
    write_json(folder / "settings.json", segment_to_dict(segment))
    steps = np.arange(segment.start_step + 1, segment.end_step + 1)
    logged = steps[(steps % log_every == 0) | (steps == segment.end_step)]
    losses = loss(segment, logged)
    validated = steps[(steps % validate_every == 0) | (steps == segment.end_step)]
    validation = dict(zip(validated.tolist(), loss(segment, validated).tolist(), strict=True))
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step, value in zip(logged.tolist(), losses.tolist(), strict=True):
            file.write(json.dumps(training_row(segment, step, value)) + "\n")
            if step in validation:
                # Plain next-token loss: a tenth above the training loss, to tell the two apart.
                row = {"step": step, "validation_loss": validation[step] + 0.1, "validation_tokens": 32768}
                file.write(json.dumps(row) + "\n")
    write_json(
        folder / "provenance.json",
        {
            "segment": segment.id,
            "git_commit": "abc1234",
            "git_dirty": False,
            "device": "one CPU",
            "world_size": 2,
        },
    )
    if finished:
        seconds = 0.1 * (segment.end_step - segment.start_step)
        write_json(
            folder / "done.json",
            {
                "segment": segment.id,
                "start_step": segment.start_step,
                "end_step": segment.end_step,
                "checkpoint": f"checkpoint/step-{segment.end_step}",
                "equivalent_tokens": segment.equivalent_tokens,
                "data_tokens": segment.data_tokens,
                "flops": 1000 * segment.equivalent_tokens,
                "wall_clock_s": seconds,
                "attempts": [{"start": 5.0, "end": 5.0 + seconds, "step": segment.end_step, "world_size": 2}],
                "train_loss": float(losses[-1]),
                "validation_loss": validation[segment.end_step] + 0.1,
                "corpus_digest": "00",
            },
        )
    return folder


def training_row(segment: Segment, step: int, loss: float) -> dict[str, object]:
    return {
        "step": step,
        "loss": loss,
        "grad_norm": 1.0,
        "learning_rate": segment.recipe.learning_rate,
        "equivalent_tokens": step * segment.recipe.tokens_per_step,
        "data_tokens": segment.data_tokens_at(step),
        "flops": 1000 * step * segment.recipe.tokens_per_step,
        "step_time_s": 0.1,
        "tokens_per_s": 10240.0,
        "data_tokens_per_s": 10240.0 * segment.stage.data_tokens_per_position,
        "phase": segment.stage.name,
        "bag_size": segment.stage.bag_size,
    }


def write_evaluation(results: Path, segment: Segment, scores: dict[str, tuple[float, float | None]]) -> Path:
    """One group, `offline`: a task's metric is `acc`."""
    path = results / "evaluations" / segment.id / "offline.json"
    write_json(
        path,
        {
            "segment": segment.id,
            "checkpoint": f"checkpoint/step-{segment.end_step}",
            "lm_eval_version": "0.4.13",
            "tasks": {
                task: {
                    "acc": {"value": value, "stderr": stderr, "higher_is_better": True},
                    "version": 1,
                    "num_samples": 400,
                    "metric": "acc",
                }
                for task, (value, stderr) in scores.items()
            },
        },
    )
    return path
