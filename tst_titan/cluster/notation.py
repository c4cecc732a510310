"""How Slurm writes times, counts and GPUs: the one place that reads them."""

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpus:
    """GPUs of one type in a node; `type` is "" where none is named."""

    type: str
    count: int


def parse_duration(text: str) -> float:
    """Seconds of a time as Slurm writes it: minutes, minutes:seconds, hours:minutes:seconds, days-hours,
    days-hours:minutes or days-hours:minutes:seconds (sbatch(1), --time).

    Infinite for the words of no limit (UNLIMITED, NOT_SET, infinite, n/a); 0 for INVALID, Slurm's word for a time below
    zero, such as what is left of a job that runs past its limit.
    """
    word = text.strip()
    if word.upper() == "INVALID":
        return 0.0
    days, _, clock = word.rpartition("-")
    if not re.fullmatch(r"\d*", days) or not re.fullmatch(r"\d+(:\d+){0,2}", clock):
        return math.inf
    numbers = [int(number) for number in clock.split(":")]
    # With days the first number is hours; without, one number or the first of two is minutes.
    if not days and len(numbers) < 3:
        numbers.insert(0, 0)
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    return 86400.0 * int(days or 0) + 3600 * hours + 60 * minutes + seconds


def parse_count(text: str) -> int:
    """A count as sinfo prints it; "32+" is at least 32."""
    return int(text.rstrip("+") or 0)


def parse_most(text: str) -> float:
    """The largest of "1-infinite", "1-8" or "4"."""
    last = text.rpartition("-")[2]
    return float(last) if last.isdigit() else math.inf


def parse_gres(text: str) -> tuple[Gpus, ...]:
    """GPUs in a node's generic resources, such as gpu:h100:8(S:0-1),shard:h100:32,nvme:1; "(null)": none.

    In parentheses are sockets or indices. Parts of a GPU (MIG) are GPUs of a type of their own, shards are none.
    Without a number there is one.
    """
    found = []
    for word in re.sub(r"\([^)]*\)", "", text).split(","):
        kind, *rest = word.split(":")
        if kind == "gpu":
            count = int(rest.pop()) if rest and rest[-1].isdigit() else 1
            found.append(Gpus(":".join(name for name in rest if name != "no_consume"), count))
    return tuple(found)


def parse_tres(text: str) -> dict[str, int]:
    """CPUs and GPUs of an allocation (billing=8,cpu=32,gres/gpu=8,gres/gpu:h100=8,mem=64G,node=1): `cpu` and `gpu`,
    each where it is accounted.

    `gpu` is gres/gpu, or the sum of its types where only those are accounted.
    """
    counts = dict(item.split("=", 1) for item in text.split(",") if "=" in item)
    typed = [int(count) for name, count in counts.items() if name.startswith("gres/gpu:")]
    found = {"cpu": int(counts["cpu"])} if "cpu" in counts else {}
    if "gres/gpu" in counts:
        found["gpu"] = int(counts["gres/gpu"])
    elif typed:
        found["gpu"] = sum(typed)
    return found
