"""What our CPU path adds to a plain PyTorch loop, and what a superposition step costs over a recovery step.

    python benchmarks/cpu_overhead.py [--rounds N] [--steps N]

Same model, batch and optimizer in all three; blocks of steps take turns in one process, and each ratio is the
median over rounds of the ratio within a round. Prints one line a ratio.
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tst_titan.data.build import build_corpus
from tst_titan.plan import load_plan
from tst_titan.plan.settings import Segment
from tst_titan.train.hardware import Hardware
from tst_titan.train.job import Job
from tst_titan.train.node import MALLOC_KEEPS_BUFFERS
from tst_titan.train.titan.config import trainer_config
from tst_titan.train.titan.models import model_spec
from tst_titan.train.titan.trainer import SegmentTrainer

REPOSITORY = Path(__file__).parent.parent


def trainer_steps(job: Job) -> Callable[[], None]:
    """One optimizer step of the real trainer, with its own agreement, logging and loader."""
    trainer: SegmentTrainer = trainer_config(job).build()
    batches = trainer.batch_generator(trainer.dataloader)

    def step() -> None:
        assert trainer.should_continue_training()
        trainer.step += 1
        trainer.gc_handler.run(trainer.step)
        trainer.train_step(batches)
        trainer.checkpointer.save(trainer.step, last_step=False)

    return step


def plain_steps(job: Job) -> Callable[[], None]:
    """The same step as a person would write it: no torchtitan trainer, no FSDP."""
    recipe = job.segment.recipe
    spec = model_spec(recipe.model, seq_len=recipe.seq_len, seed=recipe.seed)
    with torch.device("meta"):
        model = spec.model.build()
    model.to_empty(device="cpu")
    with torch.no_grad():
        model.init_weights(buffer_device=None)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    loader = trainer_config(job).dataloader.build(
        dp_world_size=1, dp_rank=0, seq_len=recipe.seq_len, local_batch_size=recipe.sequences_per_step
    )
    batches = iter(loader)

    def step() -> None:
        batch, labels = next(batches)
        optimizer.zero_grad()
        logits = model(batch["input"])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()

    return step


def timed(step: Callable[[], None], num_steps: int) -> float:
    start = time.perf_counter()
    for _ in range(num_steps):
        step()
    return (time.perf_counter() - start) / num_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=8, help="steps of each kind in a round")
    args = parser.parse_args()
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29571")
    # As the launcher sets it for the workers; glibc reads it once, at the start.
    if not MALLOC_KEEPS_BUFFERS.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], MALLOC_KEEPS_BUFFERS | dict(os.environ))
    logging.disable(logging.INFO)
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as folder:
        plan = load_plan(REPOSITORY / "studies" / "quickstart.yaml", Path(folder))
        corpus = next(iter(plan.corpora.values()))
        corpus_dir = Path(folder) / "data" / corpus.id
        build_corpus(corpus, corpus_dir, num_workers=2)
        segments = {stage: segment for segment in plan.segments.values() for stage in [segment.stage.name]}

        def job(name: str) -> Job:
            segment = segments[name]
            alone = Segment(recipe=segment.recipe, stages=segment.stages)
            return Job(
                segment=alone,
                hardware=Hardware(),
                folder=Path(folder) / name,
                corpus_dir=corpus_dir,
                parent_checkpoint=None,
                log_every=plan.log_every,
                validate_every=0,
                validation_tokens=0,
                studies={},
            )

        for name in ("superposition", "recovery"):
            (Path(folder) / name).mkdir()
        kinds = {
            "plain loop": plain_steps(job("recovery")),
            "recovery": trainer_steps(job("recovery")),
            "superposition": trainer_steps(job("superposition")),
        }
        for step in kinds.values():
            timed(step, 3)
        rounds = [{name: timed(step, args.steps) for name, step in kinds.items()} for _ in range(args.rounds)]

    for name in kinds:
        print(f"{name:14} {1000 * statistics.median(times[name] for times in rounds):7.1f} ms a step")
    for top, bottom, bound in (("recovery", "plain loop", 1.20), ("superposition", "recovery", 1.05)):
        ratio = statistics.median(times[top] / times[bottom] for times in rounds)
        print(f"{top} / {bottom}: {ratio:.3f} (bound {bound:.2f})")


if __name__ == "__main__":
    main()
