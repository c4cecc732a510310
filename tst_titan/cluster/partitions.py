"""What a cluster's partitions and nodes are, as `sinfo` says."""

import re
from dataclasses import dataclass

from tst_titan.cluster.notation import Gpus, parse_count, parse_duration, parse_gres, parse_most

# Exact groups of equal nodes (-e); one line a partition, kind of node and state.
SINFO = ["sinfo", "-e", "-h", "-o", "%P|%a|%l|%s|%D|%c|%m|%G|%T"]
# A node in one of these runs nothing until an administrator or its return says otherwise.
_AWAY = re.compile(r"down|drain|fail|maint|powered_down|unknown|inval", re.IGNORECASE)


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
        group = NodeGroup(int(count), parse_count(cpus), parse_count(memory), parse_gres(gres), state)
        before = partitions.get(name.rstrip("*"))
        partitions[name.rstrip("*")] = Partition(
            name=name.rstrip("*"),
            default=name.endswith("*"),
            up=up == "up",
            max_minutes=parse_duration(limit) / 60,
            max_nodes=parse_most(size),
            groups=(*(before.groups if before else ()), group),
        )
    return partitions
