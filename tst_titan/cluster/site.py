"""What a site says of itself: the section `site` of the configuration, checked, and what it puts before each job's
command."""

import re
import shlex
from dataclasses import dataclass, field, fields
from typing import Any

from tst_titan.cluster.own_job import SRUN_OPTIONS
from tst_titan.errors import UserError
from tst_titan.plan.costs import GPU_MEMORY_GIB, PEAK_FLOPS
from tst_titan.study.fields import choices


@dataclass(frozen=True, kw_only=True)
class Site:
    """What the workflow must know of a cluster: the section `site` of the configuration.

    `cpu_partition`: of jobs that need no GPU (corpora in jobs of their own, exports), with `cpu_account`, `cpu_qos` and
    `cpu_resources`; what is empty is as for the others. `gpus_per_node` 0: training on CPUs. `max_minutes`: the
    partition's time limit; what takes longer saves, and goes on in the next start of the same job. `accelerator` and
    `utilization`: for the runtime, as for `tst-titan plan`. `gpu_memory_gib`: of one GPU, where it is not the
    accelerator's usual (an A100 of 40). `memory_mb`: of a node of `partition`, where the computed amount is not to be
    asked for (0: compute it). `ask_memory` false: ask for none, where a site gives memory by CPUs or GPUs. `setup`:
    shell lines before each job's command (modules). `environment`: variables of each job (NCCL, Gloo). `srun_options`:
    further options of the srun that starts training on the nodes (`--container-image`). `resources`: further resources
    for the executor (constraint, slurm_extra).
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
        raise UserError(f"{settings!r}: must be a mapping of settings, such as partition: gpu", where=source)
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
            f"{source}.gpu_type = {gpu_type!r}: Snakemake's Slurm executor submits types of letters, digits, _ and . "
            "alone; leave "
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
        raise UserError(f"{source}.srun_options = {settings['srun_options']!r}: {error}; close the quote") from error
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


def gpu_memory_gib(site: Site) -> float | None:
    """Memory of one GPU of the site's; None where it has none or does not say which."""
    if not site.gpus_per_node:
        return None
    return site.gpu_memory_gib or GPU_MEMORY_GIB.get(site.accelerator)


def job_prologue(site: Site) -> str:
    """Shell lines before each job's command; each line of the site's own `setup` must succeed, or the job says which
    did not.

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
