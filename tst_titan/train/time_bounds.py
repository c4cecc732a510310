"""How long each thing of a training job may take: the one owner of these seconds. Arithmetic on the plan, no torch.

What is stated below is slow on purpose: a bound that is too long costs minutes of a job once, one that is too short
kills it. A process group's timeout and the time to stop before a limit both follow from here; docs/training.md has the
table.
"""

from dataclasses import dataclass

from tst_titan.plan.costs import Accelerator, checkpoint_bytes, count_parameters, flops_per_step
from tst_titan.plan.settings import Recipe
from tst_titan.train.hardware import Hardware

# A node's share of a shared file system, writing or reading a checkpoint.
CHECKPOINT_BYTES_PER_SECOND = 0.5e9
# SHA-256 on one core without instructions for it; with them 1.5 GB/s and more (benchmarks/seal.py).
DIGESTED_BYTES_PER_SECOND = 0.4e9
# One process that deletes a checkpoint; a file system frees space faster than it fills it.
DISCARDED_BYTES_PER_SECOND = 2e9
# Drawn on one thread; a truncated normal measured at 67 million a second on a busy core.
DRAWN_PARAMETERS_PER_SECOND = 20e6
# torch.compile of a model's blocks, forward and backward, with nothing cached.
COMPILE_SECONDS = 900.0
# Python, torch and torchtitan from a file system that many nodes read at once; the first connections.
IMPORT_SECONDS = 300.0
# Process groups destroyed, processes ended, Slurm's answer to being asked to run the job again.
END_SECONDS = 30.0
# Ranks agree about this often (`tst_titan.train.titan.agreement`), and before every step that takes longer.
ASK_SECONDS = 1.0
# A shared file system or a network that is slower than usual.
SLACK = 2.0
# A plan that says more is wrong: a site that does not state its accelerator, say. The step is measured soon enough.
LONGEST_PLANNED_STEP = 600.0
# What short steps are waited for in: not a step, but a network or a file system that recovers. Also NCCL's own default.
LEAST_TIMEOUT = 600.0


@dataclass(frozen=True, kw_only=True)
class TimeBounds:
    """Seconds of one optimizer step, one validation, saving, loading or discarding one checkpoint, drawing the weights,
    compiling."""

    step: float
    validation: float
    save: float
    load: float
    discard: float
    draw: float
    compile: float

    @property
    def stop_seconds(self) -> float:
        """From a stop signal to a job that Slurm has queued again.

        The signal may find a timed save or a validation under way. A rank that heard it alone tells the others when
        they next agree, and they stop when they do so again. Then they save, and the oldest checkpoint is deleted.
        """
        worked = 2 * self.save + self.validation + 2 * max(self.step, ASK_SECONDS) + self.discard
        return SLACK * worked + END_SECONDS

    @property
    def longest_wait(self) -> float:
        """Timeout of a process group: how long a rank may wait in a collective for one that is still at work.

        All that the slowest rank may do between two collectives, after the first step. A hang costs this time of all
        devices once, so it grows with the plan and never falls below `LEAST_TIMEOUT`.
        """
        return max(LEAST_TIMEOUT, SLACK * (self.step + self.validation + self.save + self.discard))

    @property
    def longest_start(self) -> float:
        """The same up to the first step's end: imports, broken checkpoints deleted (at most three), weights,
        compilation."""
        return self.longest_wait + IMPORT_SECONDS + self.compile + SLACK * (3 * self.discard + self.draw + self.load)


def planned_bounds(
    recipe: Recipe, hardware: Hardware, accelerator: Accelerator, validation_tokens: int = 0
) -> TimeBounds:
    """Bounds from the plan alone; `validation_tokens` as in `bounds`."""
    devices = hardware.world_size * (hardware.threads if accelerator.name == "cpu" else 1)
    step = 3600 * accelerator.hours(flops_per_step(recipe)) / devices
    return bounds(recipe, hardware, validation_tokens, step=min(step, LONGEST_PLANNED_STEP))


def bounds(
    recipe: Recipe, hardware: Hardware, validation_tokens: int, *, step: float, save: float | None = None
) -> TimeBounds:
    """Bounds where a step takes `step` seconds, and a save `save` (None: as stated for the checkpoint's size).

    `validation_tokens`: of a validation; 0: all that are held out.
    """
    size = checkpoint_bytes(recipe.model)
    # The ranks of all replicas share in writing a checkpoint, but each replica reads a whole one.
    read_by_a_node = size if hardware.data_parallel_replicate > 1 else size / hardware.nodes
    # Each rank digests its part: while it writes it, and again, read once more, before the checkpoint is loaded.
    digest = size / (DIGESTED_BYTES_PER_SECOND * hardware.world_size)
    a_nodes_share = size / (CHECKPOINT_BYTES_PER_SECOND * hardware.nodes)
    held_out = validation_tokens or recipe.corpus.validation_tokens
    return TimeBounds(
        step=step,
        # Forward alone is a third of a step's work on as many tokens.
        validation=step * held_out / (3 * recipe.tokens_per_step),
        save=max(a_nodes_share, digest) if save is None else save,
        load=max(a_nodes_share, digest) + read_by_a_node / CHECKPOINT_BYTES_PER_SECOND,
        discard=size / DISCARDED_BYTES_PER_SECOND,
        draw=count_parameters(recipe.model).total / DRAWN_PARAMETERS_PER_SECOND,
        compile=COMPILE_SECONDS if hardware.compile else 0.0,
    )
