"""A whole superposition step against a baseline step of the same latent shape: what bags cost at equal FLOPs.

    python benchmarks/step.py [--model 270M] [--positions 128] [--rounds N]      on a CPU, float32
    python benchmarks/step.py [--model 600M] [--precision float8] [--compile]    on a GPU

Both steps are the real trainer's, with the same model, micro-batch and optimizer, fed with random token ids of the
whole vocabulary (benchmarks/loader.py measures the loader). Blocks of steps take turns in one process; the ratio is the
median over rounds of the ratio within a round. Times on a CPU are CPU seconds. On a GPU also tokens/s, utilization of
the dense peak (of float8's where asked) and peak memory of each.
"""

import argparse
import gc
import logging
import os
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# As the launcher sets it for training processes; glibc reads it when a process starts.
from tst_titan.train.node import MALLOC_KEEPS_BUFFERS

if not MALLOC_KEEPS_BUFFERS.keys() <= os.environ.keys():
    os.execve(
        sys.executable,
        [sys.executable, *sys.argv],
        MALLOC_KEEPS_BUFFERS | {"OMP_NUM_THREADS": "1"} | dict(os.environ),
    )

import torch

from tst_titan.data.build import build_corpus
from tst_titan.plan.costs import flops_per_step
from tst_titan.plan.settings import (
    CorpusSettings,
    Recipe,
    Segment,
    SourceSettings,
    Stage,
    TokenizerSettings,
)
from tst_titan.plan.trajectory import STAGES_OWN, model_shape
from tst_titan.study.catalogue import MODELS
from tst_titan.study.defaults import TRAINING_DEFAULTS
from tst_titan.study.recipe import Shape
from tst_titan.train.hardware import Hardware
from tst_titan.train.job import Job
from tst_titan.train.peaks import peak_flops
from tst_titan.train.titan.config import trainer_config
from tst_titan.train.titan.trainer import SegmentTrainer

ON_GPU = torch.cuda.is_available()
STEPS = 100_000  # of the segment: more than any round asks for


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="270M", choices=[name for name in MODELS if "A" not in name])
    parser.add_argument("--bag-size", type=int, default=6)
    parser.add_argument("--sequences", type=int, default=16 if ON_GPU else 1, help="of a step")
    parser.add_argument("--positions", type=int, default=2048 if ON_GPU else 128, help="of a sequence")
    parser.add_argument(
        "--precision", default="bfloat16" if ON_GPU else "float32", choices=["float32", "bfloat16", "float8"]
    )
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--cuda-graphs", action="store_true")
    parser.add_argument("--loss-chunks", type=int, default=8 if ON_GPU else 1)
    parser.add_argument("--rounds", type=int, default=15 if ON_GPU else 9)
    parser.add_argument("--steps", type=int, default=8 if ON_GPU else 1, help="steps of each kind in a round")
    return parser.parse_args()


def make_recipe(args: argparse.Namespace, texts: Path) -> Recipe:
    corpus = CorpusSettings(
        sources=(SourceSettings(name="texts", kind="files", path=str(texts)),),
        tokenizer=TokenizerSettings(kind="bpe", vocab_size=512),
        validation_tokens=1_000,
    )
    settings = {name: value for name, value in TRAINING_DEFAULTS.items() if name not in STAGES_OWN}
    settings |= {
        "model": model_shape(args.model, Shape.model_validate(MODELS[args.model]["shape"]), vocab_size=128256),
        "corpus": corpus,
        "seq_len": args.positions,
        "sequences_per_step": args.sequences,
        "learning_rate": MODELS[args.model]["learning_rate"],
        "warmup_steps": 2000,
        "precision": args.precision,
        "block_tokens": 256,
        "seed": 0,
    }
    return Recipe(**settings)


def random_batches(recipe: Recipe, bag_size: int) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Ids drawn from the whole vocabulary: `[B, L]` and `[B, L]`, or bags `[B, L, S]` and `[B, L, S]`."""
    generator = torch.Generator().manual_seed(0)
    shape = (recipe.sequences_per_step, recipe.seq_len) + ((bag_size,) if bag_size > 1 else ())
    while True:
        inputs, labels = (torch.randint(recipe.model.vocab_size, shape, generator=generator) for _ in range(2))
        yield {"input": inputs}, labels


def trainer_steps(job: Job) -> Callable[[], None]:
    """One step of the real trainer, without logging."""
    trainer: SegmentTrainer = trainer_config(job).build()
    batches = random_batches(job.segment.recipe, job.segment.stage.bag_size)

    def step() -> None:
        trainer.step += 1
        trainer.train_step(batches)

    trainer.step = 1  # torchtitan logs step 1 always
    return step


def timed(step: Callable[[], None], num_steps: int) -> float:
    """Seconds a step: on a CPU those that the process computed, which other processes do not lengthen by waiting."""
    clock = time.perf_counter if ON_GPU else time.process_time
    synchronize()
    start = clock()
    for _ in range(num_steps):
        step()
    synchronize()
    return (clock() - start) / num_steps


def synchronize() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def main() -> None:
    args = parse()
    logging.disable(logging.INFO)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    hardware = Hardware(
        compile=args.compile,
        cuda_graphs=args.cuda_graphs,
        loss_chunks=args.loss_chunks,
        deterministic=not ON_GPU,
    )
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "texts"
        texts.mkdir()
        for module in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
            if module.stat().st_size < 40_000:
                (texts / f"{module.stem}.txt").write_bytes(module.read_bytes())
        recipe = make_recipe(args, texts)
        build_corpus(recipe.corpus, Path(folder) / "corpus", num_workers=1)
        stages = {
            "baseline": Stage(name="constant", start_step=0, end_step=STEPS),
            "superposition": Stage(name="superposition", start_step=0, end_step=STEPS, bag_size=args.bag_size),
        }
        kinds, state = {}, {}
        for name, stage in stages.items():
            job = Job(
                segment=Segment(recipe=recipe, stages=(stage,)),
                hardware=hardware,
                folder=Path(folder) / name,
                corpus_dir=Path(folder) / "corpus",
                parent_checkpoint=None,
                log_every=STEPS,
                validate_every=0,
                validation_tokens=0,
                studies={},
            )
            job.folder.mkdir()
            before = torch.cuda.memory_allocated() if ON_GPU else 0
            kinds[name] = trainer_steps(job)
            timed(kinds[name], 3)
            gc.collect()
            state[name] = torch.cuda.memory_allocated() - before if ON_GPU else 0
        rounds, peaks = [], dict.fromkeys(kinds, 0)
        for number in range(args.rounds):
            # Each goes first in every second round.
            order = list(kinds) if number % 2 else list(reversed(kinds))
            times = {}
            for name in order:
                if ON_GPU:
                    torch.cuda.reset_peak_memory_stats()
                times[name] = timed(kinds[name], args.steps)
                if ON_GPU:
                    others = sum(size for other, size in state.items() if other != name)
                    peaks[name] = max(peaks[name], torch.cuda.max_memory_allocated() - others)
            rounds.append(times)
        report(args, recipe, rounds, peaks)


def report(args: argparse.Namespace, recipe: Recipe, rounds: list[dict[str, float]], peaks: dict[str, int]) -> None:
    device = torch.cuda.get_device_name() if ON_GPU else "CPU, one thread"
    print(
        f"{args.model}, s = {args.bag_size}, {args.sequences} x {args.positions} positions, {args.precision}, "
        f"{'compiled' if args.compile else 'eager'}, {device}, torch {torch.__version__}"
    )
    for name in rounds[0]:
        seconds = statistics.median(times[name] for times in rounds)
        line = f"{name:14} {1000 * seconds:8.1f} ms a step  {recipe.tokens_per_step / seconds:12,.0f} tokens/s"
        if ON_GPU:
            peak = peak_flops(device, float8=args.precision == "float8")
            if peak:
                line += f"  {flops_per_step(recipe) / seconds / peak:6.1%} utilization"
            line += f"  {peaks[name] / 2**30:6.1f} GiB"
        print(line)
    ratios = sorted(times["superposition"] / times["baseline"] for times in rounds)
    quarter = len(ratios) // 4
    print(
        f"superposition / baseline: {statistics.median(ratios):.3f} (middle half {ratios[quarter]:.3f} to "
        f"{ratios[-1 - quarter]:.3f}, {len(ratios)} rounds; bound {1.02 if ON_GPU else 1.03})"
    )


if __name__ == "__main__":
    main()
