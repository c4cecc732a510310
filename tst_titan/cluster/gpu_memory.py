"""How much memory the GPUs of this machine have, without torch."""

import subprocess

from tst_titan.cluster.devices import visible_gpus


def gpu_memory_gib() -> float | None:
    """GiB of the smallest GPU that a job started here sees; None without any, or where nvidia-smi does not say
    (MIG)."""
    gpus = visible_gpus()
    if not gpus:
        return None
    command = [
        "nvidia-smi",
        "--query-gpu=memory.total",
        "--format=csv,noheader,nounits",
        "-i",
        ",".join(gpus),
    ]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        return min(int(line) for line in shown.split()) / 1024
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
