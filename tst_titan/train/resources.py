"""What training jobs ask of the machine that they are sent to, computed from the plan, the hardware and the site.

What their names mean: `tst_titan.cluster.resources`.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from tst_titan.cluster.resources import (
    GPU_PROCESS_MB,
    MIB,
    PROCESS_MB,
    asked_memory_mb,
    gpu_resources,
    place_resources,
)
from tst_titan.cluster.site import Site, gpu_memory_gib
from tst_titan.errors import UserError
from tst_titan.plan.costs import Accelerator, checkpoint_bytes, flops_per_step
from tst_titan.plan.settings import Recipe, Segment
from tst_titan.train.fit import embedded_bag_size, fit_note, hardware_for
from tst_titan.train.hardware import Hardware
from tst_titan.train.hardware_section import hardware_of
from tst_titan.train.memory import estimate_memory
from tst_titan.train.time_bounds import planned_bounds

# Over the estimate: validation, checkpoints, a machine that reaches less than its site says.
RUNTIME_MARGIN = 1.5
# Python, torch and CUDA, collectives' set-up, reading the checkpoint.
START_MINUTES = 15
# One of inductor's compile processes: a fork of Python with torch (165 MB of its own, measured on a CPU build), Triton,
# and the compiler that it runs. Each rank has as many as it has threads (`tst_titan.train.node.environment`).
COMPILE_WORKER_MB = 600


def check_training(segments: Iterable[Segment], section: Mapping[str, Any], site: Site) -> list[str]:
    """`UserError` for the first segment that its model's hardware cannot train, or no node of the site holds.

    Returns a line for each micro-batch that was chosen.
    """
    checked: dict[tuple[Recipe, int], str] = {}
    memory = gpu_memory_gib(site)
    for segment in segments:
        recipe, bag_size = segment.recipe, embedded_bag_size(segment)
        if (recipe, bag_size) not in checked:
            asked = hardware_of(section, recipe.model.name)
            check_hardware(asked, site)
            asked.check_recipe(recipe)
            hardware = hardware_for(segment, section, memory)
            checked[recipe, bag_size] = ""
            if memory and not asked.micro_batch:
                bags = f", bags of {bag_size}" if bag_size > 1 else ""
                checked[recipe, bag_size] = f"{recipe.model.name}{bags}: {fit_note(segment, hardware, memory)}"
    return [note for note in dict.fromkeys(checked.values()) if note]


def check_hardware(hardware: Hardware, site: Site) -> None:
    """`UserError` where a node has fewer GPUs than a job starts processes there, or jobs have no time before they
    stop."""
    if not 0 <= hardware.stop_seconds < 60 * site.max_minutes:
        raise UserError(
            f"hardware: stop_seconds {hardware.stop_seconds:g} leaves no time to train within site.max_minutes "
            f"{site.max_minutes}; use stop_seconds: 0, which computes it"
        )
    if site.gpus_per_node and hardware.processes > site.gpus_per_node:
        raise UserError(
            f"hardware: processes {hardware.processes} on a node, but site.gpus_per_node is {site.gpus_per_node}: each "
            f"process has a GPU of its own; use processes: {site.gpus_per_node} and more nodes"
        )


def training_resources(hardware: Hardware, site: Site) -> dict[str, int | str]:
    """Of every training job, beside its memory and minutes."""
    return {
        **place_resources(site),
        "nodes": hardware.nodes,
        "tasks": hardware.nodes,
        **({"mpi": "srun"} if hardware.nodes > 1 else {}),
        **gpu_resources(site, hardware.processes, hardware.nodes),
    }


def training_minutes(segment: Segment, hardware: Hardware, site: Site) -> int:
    """Minutes to ask for: the plan's estimate with a margin, starting and stopping, at most what the partition
    allows."""
    accelerator = Accelerator(site.accelerator, site.utilization)
    flops = (segment.end_step - segment.start_step) * flops_per_step(segment.recipe)
    devices = hardware.world_size * (hardware.threads if site.accelerator == "cpu" else 1)
    stop_seconds = hardware.stop_seconds or planned_bounds(segment.recipe, hardware, accelerator).stop_seconds
    minutes = math.ceil(RUNTIME_MARGIN * 60 * accelerator.hours(flops) / devices + stop_seconds / 60) + START_MINUTES
    return min(minutes, site.max_minutes)


def training_memory_mb(segment: Segment, hardware: Hardware, site: Site) -> int:
    """Memory of a node in megabytes: on CPUs all of training, with GPUs what a checkpoint passes through.

    Beside them each rank may have as many processes that compile as it has threads.
    """
    if site.gpus_per_node:
        process_mb = GPU_PROCESS_MB
        rank_bytes = 2 * checkpoint_bytes(segment.recipe.model) / hardware.world_size
    else:
        process_mb = PROCESS_MB
        rank_bytes = 1.3 * estimate_memory(segment.recipe, hardware).total
    if site.gpus_per_node or hardware.compile:
        process_mb += hardware.threads * COMPILE_WORKER_MB
    return asked_memory_mb(site, hardware.processes * (process_mb + math.ceil(rank_bytes / MIB)))
