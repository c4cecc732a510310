"""What a cluster's partitions and nodes are, as `sinfo` says."""

import math
import re
from dataclasses import dataclass

from tst_titan.cluster.slurm import parse_duration

# Exact groups of equal nodes (-e); one line a partition, kind of node and state.
SINFO = ["sinfo", "-e", "-h", "-o", "%P|%a|%l|%s|%D|%c|%m|%G|%T"]
# A node in one of these runs nothing until an administrator or its return says otherwise.
_AWAY = re.compile(r"down|drain|fail|maint|powered_down|unknown|inval", re.IGNORECASE)


@dataclass(frozen=True)
class Gpus:
    """GPUs of one type in a node; `type` is "" where the cluster names none."""

    type: str
    count: int


@dataclass(frozen=True)
class NodeGroup:
    """Equal nodes of a partition in one state."""

    count: int
    cpus: int
    memory_mb: int
    gpus: tuple[Gpus, ...]
    state: str

    @property
    def away(self) -> bool:
        return bool(_AWAY.search(self.state))

    def num_gpus(self, type: str = "") -> int:
        """GPUs that a request for GPUs of `type` ("": any) can have of one node."""
        return sum(gpus.count for gpus in self.gpus if type in ("", gpus.type))


@dataclass(frozen=True)
class Partition:
    """A partition; `max_minutes` and `max_nodes` are infinite where there is no limit."""

    name: str
    default: bool
    up: bool
    max_minutes: float
    max_nodes: float
    groups: tuple[NodeGroup, ...]


def read_partitions(text: str) -> dict[str, Partition]:
    """The partitions in the answer to `SINFO`, by name."""
    partitions: dict[str, Partition] = {}
    for line in text.splitlines():
        if line.count("|") != 8:
            continue
        name, up, limit, size, count, cpus, memory, gres, state = (word.strip() for word in line.split("|"))
        group = NodeGroup(int(count), _number(cpus), _number(memory), _gpus(gres), state)
        before = partitions.get(name.rstrip("*"))
        partitions[name.rstrip("*")] = Partition(
            name=name.rstrip("*"),
            default=name.endswith("*"),
            up=up == "up",
            max_minutes=parse_duration(limit) / 60,
            max_nodes=_most(size),
            groups=(*(before.groups if before else ()), group),
        )
    return partitions


def _number(text: str) -> int:
    """A count as sinfo prints it; "32+" is at least 32."""
    return int(text.rstrip("+") or 0)


def _most(size: str) -> float:
    """The largest job of "1-infinite", "1-8" or "4", in nodes."""
    last = size.rpartition("-")[2]
    return float(last) if last.isdigit() else math.inf


def _gpus(gres: str) -> tuple[Gpus, ...]:
    """GPUs in a node's generic resources, such as gpu:h100:8(S:0-1),shard:h100:32,nvme:1; "(null)": none.

    In parentheses are sockets or indices. Parts of a GPU (MIG) are GPUs of a type of their own, shards are none. Without
    a number there is one.
    """
    found = []
    for word in re.sub(r"\([^)]*\)", "", gres).split(","):
        kind, *rest = word.split(":")
        if kind == "gpu":
            count = int(rest.pop()) if rest and rest[-1].isdigit() else 1
            found.append(Gpus(":".join(part for part in rest if part != "no_consume"), count))
    return tuple(found)
