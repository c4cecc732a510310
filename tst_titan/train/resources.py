"""What a job asks of the machine that it is sent to, computed from the plan; and what a site says of itself.

Names are Snakemake's resources, as its executors read them: `nodes`, `mem_mb` (a node), `runtime` (minutes), `gpus` (all of
a job: what `--resources gpus=64` caps), and for Slurm `gres`, `tasks`, `slurm_partition` and the like, which
others ignore.
"""

import math
import re
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
from tst_titan.train.hardware_section import hardware_of
from tst_titan.train.memory import estimate_memory
from tst_titan.train.slurm import SRUN_OPTIONS
from tst_titan.train.time_bounds import planned_bounds

# Over the estimate: validation, checkpoints, a machine that reaches less than its site says.
RUNTIME_MARGIN = 1.5
# Python, torch and CUDA, collectives' set-up, reading the checkpoint.
START_MINUTES = 15
# Host memory of a process: Python, torch, a batch, what gloo and the page cache's maps take. On a GPU also CUDA's
# libraries and context, NCCL's buffers in host memory and pinned batches. How much that is was not measured here; it grows
# with the GPUs that a process talks to, and asking for too much costs little on nodes of 100 GB and more a GPU, while a job that
# asks for too little is killed.
PROCESS_MB = 4000
GPU_PROCESS_MB = 12000
# One of inductor's compile processes: a fork of Python with torch (165 MB of its own, measured on a CPU build), Triton, and
# the compiler that it runs. Each rank has as many as it has threads (`tst_titan.train.node.environment`).
COMPILE_WORKER_MB = 600
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Site:
    """What the workflow must know of a cluster: the section `site` of the configuration.

    `cpu_partition`: of jobs that need no GPU (corpora in jobs of their own, exports), with `cpu_account`, `cpu_qos` and
    `cpu_resources`; what is empty is as for the others. `gpus_per_node` 0: training on CPUs. `max_minutes`: the partition's
    time limit; what takes longer saves, and goes on in the next start of the same job. `accelerator` and `utilization`: for
    the runtime, as for `tst-titan plan`. `gpu_memory_gib`: of one GPU, where it is not the accelerator's usual (an A100 of 40). `memory_mb`: of a node of `partition`, where the computed amount is not to be asked
    for (0: compute it). `ask_memory` false: ask for none, where a site gives memory by CPUs or GPUs. `setup`: shell lines
    before each job's command (modules). `environment`: variables of each job (NCCL, Gloo). `srun_options`: further options of
    the srun that starts training on the nodes (`--container-image`). `resources`: further resources for the executor
    (constraint, slurm_extra).
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    cpu_partition: str = ""
    cpu_account: str = ""
    cpu_qos: str = ""
    gpus_per_node: int = 0
    gpu_type: str = ""
    accelerator: str = "cpu"
    utilization: float = 0.4
    gpu_memory_gib: float = 0
    max_minutes: int = 1440
    memory_mb: int = 0
    ask_memory: bool = True
    corpus_minutes: int = 0
    setup: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    srun_options: str = ""
    resources: dict[str, int | str] = field(default_factory=dict)
    cpu_resources: dict[str, int | str] = field(default_factory=dict)


def parse_site(settings: Any, *, source: str = "site") -> Site:
    """The section `site`, each key known and of its type."""
    if not isinstance(settings, dict):
        raise UserError(f"{source}: {settings!r}: must be a mapping of settings, such as partition: gpu")
    known = {item.name: type(getattr(Site(), item.name)) for item in fields(Site)}
    for key, value in settings.items():
        if key not in known:
            raise UserError(f"{source}.{key}: unknown key; {choices(key, known)}")
        wanted = known[key]
        right = isinstance(value, (int, float) if wanted is float else wanted)
        right &= wanted is bool or not isinstance(value, bool)
        if not right or (wanted in (int, float) and value < 0):
            raise UserError(f"{source}.{key} = {value!r}: must be {_NAMES[wanted]}")
    if settings.get("accelerator", "cpu") not in PEAK_FLOPS:
        raise UserError(f"{source}.accelerator: {choices(settings['accelerator'], PEAK_FLOPS)}")
    gpu_type = settings.get("gpu_type", "")
    if not re.fullmatch(r"[A-Za-z0-9_.]*", gpu_type):
        raise UserError(
            f"{source}.gpu_type = {gpu_type!r}: Snakemake's Slurm executor submits types of letters, digits, _ and . alone; leave "
            "it empty and choose the nodes by a feature of theirs (sinfo -o '%G %f'): resources: {constraint: FEATURE}"
        )
    for key in ("resources", "cpu_resources"):
        extra = str(settings.get(key, {}).get("slurm_extra", ""))
        if extra.startswith(("'", '"')):
            # One word to the shell: all options but the first would be swallowed.
            raise UserError(f"{source}.{key}.slurm_extra = {extra!r}: write it without the inner quotes")
    try:
        shlex.split(settings.get("srun_options", ""))
    except ValueError as error:
        raise UserError(
            f"{source}.srun_options = {settings['srun_options']!r}: {error}; close the quote"
        ) from error
    values = dict(settings)
    values["environment"] = {str(key): str(value) for key, value in settings.get("environment", {}).items()}
    return Site(**values)


_NAMES = {
    str: "a text",
    int: "a number from 0",
    float: "a number from 0",
    bool: "true or false",
    dict: "a mapping",
}


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
    """`UserError` where a node has fewer GPUs than a job starts processes there, or jobs have no time before they stop."""
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
        **_common(site),
        "nodes": hardware.nodes,
        "tasks": hardware.nodes,
        **({"mpi": "srun"} if hardware.nodes > 1 else {}),
        **_gpus(site, hardware.processes, hardware.nodes),
    }


def training_minutes(segment: Segment, hardware: Hardware, site: Site) -> int:
    """Minutes to ask for: the plan's estimate with a margin, starting and stopping, at most what the partition allows."""
    accelerator = Accelerator(site.accelerator, site.utilization)
    flops = (segment.end_step - segment.start_step) * flops_per_step(segment.recipe)
    devices = hardware.world_size * (hardware.threads if site.accelerator == "cpu" else 1)
    stop_seconds = hardware.stop_seconds or planned_bounds(segment.recipe, hardware, accelerator).stop_seconds
    minutes = (
        math.ceil(RUNTIME_MARGIN * 60 * accelerator.hours(flops) / devices + stop_seconds / 60)
        + START_MINUTES
    )
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
    return _memory_mb(site, hardware.processes * (process_mb + math.ceil(rank_bytes / MIB)))


def checkpoint_resources(site: Site, *, gpus: int, minutes: int) -> dict[str, int | str]:
    """Of a job that reads a whole checkpoint (export, evaluation: `gpus` 0 where it needs none), beside its memory."""
    runtime = min(minutes, site.max_minutes)
    return {**_common(site, on_cpus=not gpus), "nodes": 1, "runtime": runtime, **_gpus(site, gpus, 1)}


def checkpoint_memory_mb(segment: Segment, site: Site, *, gpus: int) -> int:
    """Memory in megabytes of a job that reads a whole checkpoint: of one process, or one for each of `gpus`."""
    process_mb = GPU_PROCESS_MB if gpus and site.gpus_per_node else 2 * PROCESS_MB
    # Each process holds the weights, a third of a checkpoint.
    checkpoint_mb = math.ceil(max(1.0, gpus / 3) * checkpoint_bytes(segment.recipe.model) / MIB)
    return _memory_mb(site, max(1, gpus) * process_mb + checkpoint_mb, on_cpus=not gpus)


def corpus_resources(site: Site) -> dict[str, int | str]:
    """Of a job that tokenizes a corpus."""
    memory = _memory_mb(site, 4 * PROCESS_MB, on_cpus=True)
    return {
        **_common(site, on_cpus=True),
        "nodes": 1,
        "mem_mb": memory,
        "runtime": site.corpus_minutes or 60,
    }


def _memory_mb(site: Site, computed: int, *, on_cpus: bool = False) -> int:
    """What to ask for; 0 has the executor leave `--mem` out. `memory_mb` says nothing of the nodes of another partition."""
    if not site.ask_memory:
        return 0
    named = 0 if on_cpus and site.cpu_partition else site.memory_mb
    return named or computed


def job_prologue(site: Site) -> str:
    """Shell lines before each job's command; each line of the site's own `setup` must succeed, or the job says which did not.

    Unset variables are no error there: `conda activate` and module files read some.
    """
    environment = site.environment | ({SRUN_OPTIONS: site.srun_options} if site.srun_options else {})
    exports = "".join(f"export {key}={shlex.quote(value)}; " for key, value in environment.items())
    if not site.setup.strip():
        return f"set -euo pipefail; {exports}"
    return (
        f"set -eo pipefail; {exports}trap {shlex.quote(_SETUP_FAILED)} EXIT\n"
        f"{site.setup.strip()}\n"
        # A trap of the setup's own (a folder to remove) stays.
        'case "$(trap -p EXIT)" in *site.setup:*) trap - EXIT;; esac; set -euo pipefail\n'
    )


# Wherever the shell ends before the setup has: in a function, in a file that was sourced, by an `exit`.
_SETUP_FAILED = 'echo "error: site.setup: ended with status $? at: $BASH_COMMAND" >&2'


def _common(site: Site, *, on_cpus: bool = False) -> dict[str, int | str]:
    named = {
        "slurm_partition": site.partition,
        "slurm_account": site.account,
        "qos": site.qos,
        **site.resources,
    }
    if on_cpus:
        own = {
            "slurm_partition": site.cpu_partition,
            "slurm_account": site.cpu_account,
            "qos": site.cpu_qos,
        }
        named |= {key: value for key, value in own.items() if value} | site.cpu_resources
    # `mpi`, even empty: no srun of the executor's around a command, which would look for SLURM_CONF in vain. Training starts
    # its own on all nodes; a job of one process is where it belongs already.
    return {"mpi": "", **{key: value for key, value in named.items() if value != ""}}


def _gpus(site: Site, per_node: int, nodes: int) -> dict[str, int | str]:
    if not site.gpus_per_node or not per_node:
        # No GPUs of a cluster's. On one machine with its own they are counted all the same.
        return {"gpus": nodes * per_node}
    gres = ":".join(["gpu", *([site.gpu_type] if site.gpu_type else []), str(per_node)])
    # tasks_per_gpu 0: the executor otherwise takes `tasks` for tasks of each GPU.
    return {"gres": gres, "gpus": nodes * per_node, "tasks_per_gpu": 0}
