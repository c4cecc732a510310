"""Hardware that fits GPUs: what is left open in the section `hardware` is chosen by the memory of each.

    compile, deterministic   on GPUs compiled and not deterministic; on CPUs the other way round
    loss_chunks              on GPUs 8, or what of it divides a rank's positions; on CPUs 1
    micro_batch: 0           on GPUs the largest that divides a rank's share of a step and fits by the estimate of
                             tst_titan.train.memory; on CPUs the whole share

What the section or its layout sets stays as it is.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tst_titan.errors import UserError
from tst_titan.plan.settings import Segment
from tst_titan.train.hardware import Hardware
from tst_titan.train.hardware_section import hardware_of
from tst_titan.train.memory import BAG_INDEX_LIMIT, GIB, bag_elements, estimate_memory

# The CUDA context, NCCL, and fragments take the rest: 72 GiB of a card of 80 GB are PyTorch's.
USABLE = 0.9
GPU_LOSS_CHUNKS = 8


def hardware_for(segment: Segment, section: Mapping[str, Any], gpu_memory_gib: float | None) -> Hardware:
    """The hardware of a segment's job on GPUs of `gpu_memory_gib` each (None: on CPUs).

    Raises `UserError`, with the arithmetic, where no micro-batch fits.
    """
    recipe = segment.recipe
    hardware = hardware_of(section, recipe.model.name)
    if gpu_memory_gib is None:
        return hardware
    positions = recipe.seq_len // max(1, hardware.context_parallel)
    defaults = {
        "compile": True,
        "deterministic": False,
        "loss_chunks": math.gcd(GPU_LOSS_CHUNKS, positions),
    }
    hardware = hardware_of(section, recipe.model.name, defaults)
    hardware.check_recipe(recipe)
    if not hardware.micro_batch:
        hardware = _with_micro_batch(segment, hardware, gpu_memory_gib)
    check_bags(segment, hardware)
    return hardware


def embedded_bag_size(segment: Segment) -> int:
    """Tokens that the segment's last stage embeds at a position."""
    return segment.stage.data_tokens_per_position


def check_bags(segment: Segment, hardware: Hardware) -> None:
    """`UserError` where a GPU could not number the elements that the gradient of the bags' embedding is summed in."""
    bag_size = embedded_bag_size(segment)
    elements = bag_elements(segment.recipe, hardware, bag_size)
    if bag_size > 1 and elements >= BAG_INDEX_LIMIT:
        sequences = hardware.local_batch_size(segment.recipe.sequences_per_step)
        most = sequences * (BAG_INDEX_LIMIT - 1) // elements
        raise UserError(
            f"hardware: micro_batch {sequences} of model {segment.recipe.model.name} embeds bags of {bag_size} tokens "
            f"by {elements} "
            f"elements, more than CUDA's kernel numbers in 32 bits (2^31); use a micro_batch of at most {most}"
        )


def fit_note(segment: Segment, hardware: Hardware, gpu_memory_gib: float) -> str:
    """One line that says what a rank takes at once, and what of its GPU."""
    recipe = segment.recipe
    estimate = estimate_memory(recipe, hardware, embedded_bag_size(segment))
    return (
        f"micro_batch {hardware.micro_batch} of the {_share(segment, hardware)} sequences of each rank's step: about "
        f"{estimate} of {USABLE * gpu_memory_gib:.1f} GiB"
    )


def _share(segment: Segment, hardware: Hardware) -> int:
    return replace(hardware, micro_batch=0).local_batch_size(segment.recipe.sequences_per_step)


def _with_micro_batch(segment: Segment, hardware: Hardware, gpu_memory_gib: float) -> Hardware:
    recipe, bag_size = segment.recipe, embedded_bag_size(segment)
    share = _share(segment, hardware)
    for micro_batch in (number for number in range(share, 0, -1) if share % number == 0):
        chosen = replace(hardware, micro_batch=micro_batch)
        fits = estimate_memory(recipe, chosen, bag_size).total <= USABLE * gpu_memory_gib * GIB
        if fits and (bag_size == 1 or bag_elements(recipe, chosen, bag_size) < BAG_INDEX_LIMIT):
            return chosen
    estimate = estimate_memory(recipe, replace(hardware, micro_batch=1), bag_size)
    raise UserError(
        f"hardware: model {recipe.model.name} does not fit: with micro_batch 1 a rank needs about {estimate}, of "
        f"{USABLE * gpu_memory_gib:.1f} GiB that PyTorch has of a GPU of {gpu_memory_gib:.0f} GiB. Use "
        "activation_checkpoint: selective or "
        "full, a higher tensor_parallel, more ranks (nodes, processes; not data_parallel_replicate), or a named layout"
    )
