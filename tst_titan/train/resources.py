"""What a job asks of the machine that it is sent to, computed from the plan; and what a site says of itself.

Names are Snakemake's resources, as its executors read them: `nodes`, `mem_mb` (a node), `runtime` (minutes), `gpus` (all of
a job: what `--resources gpus=64` caps), and for Slurm `gres`, `tasks`, `slurm_partition` and the like, which
others ignore.
"""

import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from tst_titan.errors import UserError
from tst_titan.plan.costs import GPU_MEMORY_GIB, PEAK_FLOPS, Accelerator, checkpoint_bytes, flops_per_step
from tst_titan.plan.settings import Recipe, Segment
from tst_titan.study.fields import choices
from tst_titan.train.fit import embedded_bag_size, fit_note, hardware_for
from tst_titan.train.hardware import Hardware
from tst_titan.train.layouts import hardware_of
from tst_titan.train.memory import estimate_memory

# Over the estimate: validation, checkpoints, a machine that reaches less than its site says.
RUNTIME_MARGIN = 1.5
# Python, torch and CUDA, collectives' set-up, reading the checkpoint.
START_MINUTES = 15
PROCESS_MB = 4000
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Site:
    """What the workflow must know of a cluster: the section `site` of the configuration.

    `gpus_per_node` 0: training on CPUs. `max_minutes`: the partition's time limit; what takes longer saves, and goes on
    in the next start of the same job. `accelerator` and `utilization`: for the runtime, as for `tst-titan plan`.
    `gpu_memory_gib`: of one GPU, where it is not the accelerator's usual (an A100 of 40).
    `memory_mb`: of a node, where the computed amount is not to be asked for (0: compute it). `setup`: shell lines
    before each job's command (modules). `environment`: variables of each job (NCCL, Gloo). `resources`: further
    resources for the executor (constraint, slurm_extra).
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    gpus_per_node: int = 0
    gpu_type: str = ""
    accelerator: str = "cpu"
    utilization: float = 0.4
    gpu_memory_gib: float = 0
    max_minutes: int = 1440
    memory_mb: int = 0
    corpus_minutes: int = 0
    setup: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    resources: dict[str, int | str] = field(default_factory=dict)


def parse_site(settings: Any, *, source: str = "site") -> Site:
    """The section `site`, each key known and of its type."""
    if not isinstance(settings, dict):
        raise UserError(f"{source}: {settings!r}: must be a mapping of settings, such as partition: gpu")
    known = {item.name: type(getattr(Site(), item.name)) for item in fields(Site)}
    for key, value in settings.items():
        if key not in known:
            raise UserError(f"{source}.{key}: unknown key; {choices(key, known)}")
        wanted = known[key]
        right = isinstance(value, (int, float) if wanted is float else wanted) and not isinstance(value, bool)
        if not right or (wanted in (int, float) and value < 0):
            raise UserError(f"{source}.{key} = {value!r}: must be a {_NAMES[wanted]}")
    if settings.get("accelerator", "cpu") not in PEAK_FLOPS:
        raise UserError(f"{source}.accelerator: {choices(settings['accelerator'], PEAK_FLOPS)}")
    extra = str(settings.get("resources", {}).get("slurm_extra", ""))
    if extra.startswith(("'", '"')):
        # One word to the shell: all options but the first would be swallowed.
        raise UserError(f"{source}.resources.slurm_extra = {extra!r}: write it without the inner quotes")
    values = dict(settings)
    values["environment"] = {str(key): str(value) for key, value in settings.get("environment", {}).items()}
    return Site(**values)


_NAMES = {str: "text", int: "number from 0", float: "number from 0", dict: "mapping"}


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
                checked[recipe, bag_size] = (
                    f"{recipe.model.name}{bags}: {fit_note(segment, hardware, memory)}"
                )
    return [note for note in dict.fromkeys(checked.values()) if note]


def gpu_memory_gib(site: Site) -> float | None:
    """Memory of one GPU of the site's; None where it has none or does not say which."""
    if not site.gpus_per_node:
        return None
    return site.gpu_memory_gib or GPU_MEMORY_GIB.get(site.accelerator)


def check_hardware(hardware: Hardware, site: Site) -> None:
    """`UserError` where a node of the site has fewer GPUs than a training job starts processes there."""
    if site.gpus_per_node and hardware.processes > site.gpus_per_node:
        raise UserError(
            f"hardware: processes {hardware.processes} on a node, but site.gpus_per_node is {site.gpus_per_node}: each "
            f"process has a GPU of its own; use processes: {site.gpus_per_node} and more nodes"
        )


def training_resources(hardware: Hardware, site: Site) -> dict[str, int | str]:
    """Of every training job, beside its memory and minutes."""
    return {
        **_common(site),
        "nodes": hardware.nodes,
        "tasks": hardware.nodes,
        **({"mpi": "srun"} if hardware.nodes > 1 else {}),
        **_gpus(site, hardware.processes, hardware.nodes),
    }


def training_minutes(segment: Segment, hardware: Hardware, site: Site) -> int:
    """Minutes to ask for: the plan's estimate with a margin, at most what the partition allows."""
    accelerator = Accelerator(site.accelerator, site.utilization)
    flops = (segment.end_step - segment.start_step) * flops_per_step(segment.recipe)
    devices = hardware.world_size * (hardware.threads if site.accelerator == "cpu" else 1)
    minutes = math.ceil(RUNTIME_MARGIN * 60 * accelerator.hours(flops) / devices) + START_MINUTES
    return min(minutes, site.max_minutes)


def training_memory_mb(segment: Segment, hardware: Hardware, site: Site) -> int:
    """Memory of a node in megabytes: on CPUs all of training, with GPUs what a checkpoint passes through."""
    if site.memory_mb:
        return site.memory_mb
    if site.gpus_per_node:
        rank_bytes = 2 * checkpoint_bytes(segment.recipe.model) / hardware.world_size
    else:
        rank_bytes = 1.3 * estimate_memory(segment.recipe, hardware).total
    return hardware.processes * (PROCESS_MB + math.ceil(rank_bytes / MIB))


def checkpoint_resources(site: Site, *, gpus: int, minutes: int) -> dict[str, int | str]:
    """Of a job of one process that reads a whole checkpoint (export, evaluation), beside its memory."""
    runtime = min(minutes, site.max_minutes)
    return {**_common(site), "nodes": 1, "runtime": runtime, **_gpus(site, gpus, 1)}


def checkpoint_memory_mb(segment: Segment, site: Site) -> int:
    """Memory in megabytes of a process that reads a whole checkpoint."""
    return site.memory_mb or 2 * PROCESS_MB + math.ceil(checkpoint_bytes(segment.recipe.model) / MIB)


def corpus_resources(site: Site) -> dict[str, int | str]:
    """Of a job that tokenizes a corpus."""
    memory = site.memory_mb or 4 * PROCESS_MB
    return {**_common(site), "nodes": 1, "mem_mb": memory, "runtime": site.corpus_minutes or 60}


def job_prologue(site: Site) -> str:
    """Shell lines before each job's command."""
    exports = "".join(f"export {key}={shlex.quote(value)}; " for key, value in site.environment.items())
    return f"set -euo pipefail; {exports}" + (f"{site.setup.rstrip()}\n" if site.setup else "")


def _common(site: Site) -> dict[str, int | str]:
    named = {"slurm_partition": site.partition, "slurm_account": site.account, "qos": site.qos}
    # `mpi`, even empty: no srun of the executor's around a command, which would look for SLURM_CONF in vain. Training starts
    # its own on all nodes; a job of one process is where it belongs already.
    return {"mpi": "", **{key: value for key, value in named.items() if value}, **site.resources}


def _gpus(site: Site, per_node: int, nodes: int) -> dict[str, int | str]:
    if not site.gpus_per_node or not per_node:
        # No GPUs of a cluster's. On one machine with its own they are counted all the same.
        return {"gpus": nodes * per_node}
    gres = ":".join(["gpu", *([site.gpu_type] if site.gpu_type else []), str(per_node)])
    # tasks_per_gpu 0: the executor otherwise takes `tasks` for tasks of each GPU.
    return {"gres": gres, "gpus": nodes * per_node, "tasks_per_gpu": 0}
