"""What would make every job of a submission fail or wait for ever, found before the first one is queued.

Only what can be known on the machine that submits: `tst_titan.cluster.probe` asks the nodes themselves.
"""

import getpass
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tst_titan.cluster.notation import parse_gres
from tst_titan.cluster.partitions import SINFO, NodeGroup, Partition, read_partitions
from tst_titan.cluster.slurm import ask
from tst_titan.errors import UserError

COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
# Options that the workflow passes, and the command that must know them.
OPTIONS = {"sbatch": ("--signal", "--requeue"), "srun": ("--overlap",)}
OLDEST = "20.11"
# In memory, or a container's own: no other node ever sees what lies there.
LOCAL_FILE_SYSTEMS = {"tmpfs", "ramfs", "devtmpfs", "overlay", "squashfs"}


@dataclass(frozen=True)
class Request:
    """What jobs of one kind ask Slurm for, a node at a time; `rule` and `count` say which and how many jobs.

    `partition` may name several ("gpu,gpu2"), of which Slurm takes one. `extra`: further options, as the shell reads
    them.
    """

    rule: str
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    nodes: int = 1
    gpus: int = 0
    gpu_type: str = ""
    cpus: int = 1
    memory_mb: int = 0
    minutes: float = 0.0
    extra: str = ""
    count: int = 1

    def __str__(self) -> str:
        gpus = f", {self.gpus} {self.gpu_type + ' ' if self.gpu_type else ''}GPUs" if self.gpus else ""
        return (
            f"rule {self.rule} ({self.count} jobs) asks for {self.nodes} nodes, on each {self.cpus} CPUs{gpus}, "
            f"{self.memory_mb} MB of memory"
        )


def request_of(rule: str, resources: Mapping[str, Any], threads: int) -> Request:
    """The request that Snakemake's Slurm executor makes of a job's resources.

    `gpu` is a number for the whole job, `gres` ("gpu:h100:8") for each node, `mem_mb` for each node.
    """

    def number(name: str, default: int) -> int:
        # What is only known once a job's inputs are there is not a number yet.
        value = resources.get(name)
        return value if isinstance(value, int) and value > 0 else default

    nodes = number("nodes", 1)
    cpus = number("cpus_per_task", threads) * -(-number("tasks", 1) // nodes)
    gpu_type, gpus = str(resources.get("gpu_model") or ""), -(-number("gpu", 0) // nodes)
    for named in parse_gres(str(resources.get("gres") or "")):
        gpu_type, gpus = named.type, named.count
    return Request(
        rule=rule,
        partition=str(resources.get("slurm_partition") or ""),
        account=str(resources.get("slurm_account") or ""),
        qos=str(resources.get("qos") or ""),
        constraint=str(resources.get("constraint") or ""),
        nodes=nodes,
        gpus=gpus,
        gpu_type=gpu_type,
        cpus=cpus,
        memory_mb=number("mem_mb_per_cpu", 0) * cpus or number("mem_mb", 0),
        minutes=number("runtime", 0),
        extra=str(resources.get("slurm_extra") or ""),
    )


def distinct(requests: Iterable[Request]) -> list[Request]:
    """Equal requests as one, with the number of their jobs."""
    counts: dict[Request, int] = {}
    for request in requests:
        counts[request] = counts.get(request, 0) + request.count
    return [replace(request, count=count) for request, count in counts.items()]


def check_cluster(requests: Sequence[Request], folders: Sequence[Path]) -> list[str]:
    """Raise one `UserError` that names everything that no job can pass; returns warnings.

    `folders`: what the nodes must see besides this Python: the working directory and the results.
    """
    check_commands()
    answer = ask(SINFO)
    if not answer.ok:
        raise UserError(f"Slurm does not answer: {answer.error}; is the controller up (scontrol ping)?")
    partitions = read_partitions(answer.text)
    accounts = _associations()
    problems: list[str] = []
    warnings: list[str] = []
    for request in distinct(requests):
        found = check_request(request, partitions) or check_account(request, accounts)
        if found is None and (refused := _refused(request)):
            found = f"{request}: Slurm says: {refused}"
        if found is None:
            warnings += waiting(request, partitions)
        elif found not in problems:
            problems.append(found)
    if not nodes_are_here():
        problems += check_folders([*folders, Path(sys.prefix)], mounts=Path("/proc/mounts").read_text(encoding="utf-8"))
    if problems:
        raise UserError("\n".join(problems))
    return warnings


def check_commands() -> None:
    """Slurm's commands are on PATH, and new enough for the options that the workflow uses."""
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        raise UserError(
            f"--profile slurm: {', '.join(missing)} not found on PATH; run this on a login node of the cluster (module "
            "load slurm?), or on one machine with --profile local"
        )
    for command, options in OPTIONS.items():
        known = ask([command, "--help"]).text
        lacking = [option for option in options if option not in known]
        if lacking:
            version = ask([command, "--version"]).text.strip() or "this Slurm"
            raise UserError(f"{command} has no {', '.join(lacking)}; Slurm {OLDEST} or later is needed", where=version)


def check_request(request: Request, partitions: Mapping[str, Partition]) -> str | None:
    """Why no node of any of the request's partitions can ever run it; None where some can."""
    names = ", ".join(sorted(partitions))
    unknown = [name for name in _names(request) if name not in partitions]
    if unknown:
        near = get_close_matches(unknown[0], partitions, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"partition {unknown[0]!r}: the cluster has none of that name; {hint}there are: {names}"
    asked = _partitions(request, partitions)
    if not asked:
        return (
            f"rule {request.rule}: no partition is given and the cluster has no default; set one in site.yaml: {names}"
        )
    problems = [_why_never(request, partition) for partition in asked]
    return None if None in problems else "; ".join(filter(None, problems))


def _names(request: Request) -> list[str]:
    return [name.strip() for name in request.partition.split(",") if name.strip()]


def _partitions(request: Request, partitions: Mapping[str, Partition]) -> list[Partition]:
    """The partitions that a job of the request may run in: those it names, else the cluster's default."""
    if names := _names(request):
        return [partitions[name] for name in names]
    return [each for each in partitions.values() if each.default][:1]


def _why_never(request: Request, partition: Partition) -> str | None:
    where = f"partition {partition.name}"
    if request.minutes > partition.max_minutes:
        return (
            f"{where}: rule {request.rule} asks for {request.minutes:.0f} minutes, its time limit is "
            f"{partition.max_minutes:.0f}; lower the job's runtime (training goes on in the next job) or take another "
            "partition"
        )
    if request.nodes > partition.max_nodes:
        return (
            f"{where}: rule {request.rule} asks for {request.nodes} nodes, a job there may have "
            f"{partition.max_nodes:.0f}"
        )
    if request.gpus and request.gpu_type:
        types = sorted({gpus.type for group in partition.groups for gpus in group.gpus if gpus.type})
        if request.gpu_type not in types:
            return (
                f"{where}: has no GPUs of type {request.gpu_type!r}; there are: {', '.join(types) or 'no named types'}"
            )
    able = sum(group.count for group in partition.groups if _fits(request, group))
    if able < request.nodes:
        kinds = sorted({_words(group) for group in partition.groups})
        return f"{where}: {request}; {able} of its nodes have that (its nodes: {'; '.join(kinds)})"
    return None


def _fits(request: Request, group: NodeGroup) -> bool:
    return (
        group.cpus >= request.cpus
        and group.memory_mb >= request.memory_mb
        and group.num_gpus(request.gpu_type) >= request.gpus
    )


def _words(group: NodeGroup) -> str:
    gpus = " + ".join(f"{gpus.count} {gpus.type} GPUs".replace("  ", " ") for gpus in group.gpus) or "no GPU"
    return f"{group.cpus} CPUs, {gpus}, {group.memory_mb} MB"


def waiting(request: Request, partitions: Mapping[str, Partition]) -> list[str]:
    """Why the request would wait in each of its partitions, although it could run: they are closed, or nodes are
    away."""
    reasons = []
    for partition in _partitions(request, partitions):
        able = sum(group.count for group in partition.groups if _fits(request, group) and not group.away)
        if not partition.up:
            reasons.append(f"partition {partition.name} is not up: jobs of rule {request.rule} wait until it is")
        elif able < request.nodes:
            reasons.append(
                f"partition {partition.name}: only {able} of the {request.nodes} nodes that rule {request.rule} needs "
                "are up now"
            )
        else:
            return []
    return reasons


def _associations() -> dict[str, set[str]] | None:
    """The user's accounts with the QOS that each may use; None where the cluster keeps no accounts."""
    if shutil.which("sacctmgr") is None:
        return None
    answer = ask(["sacctmgr", "-n", "-P", "show", "assoc", f"user={getpass.getuser()}", "format=Account,QOS"])
    accounts: dict[str, set[str]] = {}
    for row in answer.rows():
        if answer.ok and len(row) == 2:
            accounts.setdefault(row[0], set()).update(row[1].split(","))
    return accounts or None


def check_account(request: Request, accounts: Mapping[str, set[str]] | None) -> str | None:
    """Why the user cannot charge the request's account or use its QOS; None where Slurm does not say."""
    if accounts is None:
        return None
    if request.account and request.account.lower() not in accounts:
        return f"account {request.account!r}: not yours on this cluster; yours are: {', '.join(sorted(accounts))}"
    allowed = accounts[request.account.lower()] if request.account else set().union(*accounts.values())
    if request.qos and request.qos not in allowed:
        return f"qos {request.qos!r}: not allowed for you; allowed: {', '.join(sorted(filter(None, allowed)))}"
    return None


def _refused(request: Request) -> str:
    """What Slurm itself has against the request, in its words; "" where it would take it."""
    options = {
        "partition": request.partition, "account": request.account, "qos": request.qos, "constraint": request.constraint,  # noqa: E501
        "nodes": request.nodes, "ntasks-per-node": 1, "cpus-per-task": request.cpus, "mem": request.memory_mb,
        "time": int(request.minutes),
        "gres": ":".join(["gpu", *filter(None, [request.gpu_type]), str(request.gpus)]) if request.gpus else "",
    }  # fmt: skip
    command = [
        "sbatch",
        "--test-only",
        *(f"--{name}={value}" for name, value in options.items() if value),
        "--wrap=true",
    ]
    # Further options come as one text, which the executor leaves to the shell.
    answer = ask(["sh", "-c", f"{shlex.join(command)} {request.extra}"])
    return "" if answer.ok else answer.error.removeprefix("sbatch: error: ").removeprefix("allocation failure: ")


def nodes_are_here() -> bool:
    """Whether every node of the cluster is this very machine."""
    hosts = set(ask(["sinfo", "-N", "-h", "-o", "%n"]).text.split())
    return bool(hosts) and hosts <= {socket.gethostname(), socket.gethostname().split(".")[0]}


def check_folders(folders: Iterable[Path], mounts: str) -> list[str]:
    """Folders that no other node can see, by the kind of file system that they are on (`mounts`: /proc/mounts)."""
    kinds = {
        Path(line.split()[1].replace("\\040", " ")): line.split()[2] for line in mounts.splitlines() if line.strip()
    }
    problems = []
    for folder in dict.fromkeys(Path(os.path.realpath(folder)) for folder in folders):
        mount = next(parent for parent in (folder, *folder.parents) if parent in kinds or parent == Path("/"))
        if kinds.get(mount) in LOCAL_FILE_SYSTEMS:
            problems.append(
                f"{folder}: is on {kinds[mount]} (mounted at {mount}), which compute nodes do not see; use a folder on "
                "the cluster's shared file system"
            )
    return problems
