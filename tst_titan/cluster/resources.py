"""What jobs that do not train ask of the machine that they are sent to; and what all jobs have in common there.

Names are Snakemake's resources, as its executors read them: `nodes`, `mem_mb` (a node), `runtime` (minutes), `gpus`
(all of a job: what `--resources gpus=64` caps), and for Slurm `gres`, `tasks`, `slurm_partition` and the like, which
others ignore. Training jobs' are in `tst_titan.train.resources`.
"""

import math

from tst_titan.cluster.site import Site
from tst_titan.plan.costs import checkpoint_bytes
from tst_titan.plan.settings import Segment

# Host memory of a process: Python, torch, a batch, what gloo and the page cache's maps take. On a GPU also CUDA's
# libraries and context, NCCL's buffers in host memory and pinned batches. How much that is was not measured here; it
# grows with the GPUs that a process talks to, and asking for too much costs little on nodes of 100 GB and more a GPU,
# while a job that asks for too little is killed.
PROCESS_MB = 4000
GPU_PROCESS_MB = 12000
MIB = 2**20


def checkpoint_resources(site: Site, *, gpus: int, minutes: int) -> dict[str, int | str]:
    """Of a job that reads a whole checkpoint (export, evaluation: `gpus` 0 where it needs none), beside its memory."""
    runtime = min(minutes, site.max_minutes)
    return {
        **place_resources(site, on_cpus=not gpus),
        "nodes": 1,
        "runtime": runtime,
        **gpu_resources(site, gpus, 1),
    }


def checkpoint_memory_mb(segment: Segment, site: Site, *, gpus: int) -> int:
    """Memory in megabytes of a job that reads a whole checkpoint: of one process, or one for each of `gpus`."""
    process_mb = GPU_PROCESS_MB if gpus and site.gpus_per_node else 2 * PROCESS_MB
    # Each process holds the weights, a third of a checkpoint.
    checkpoint_mb = math.ceil(max(1.0, gpus / 3) * checkpoint_bytes(segment.recipe.model) / MIB)
    return asked_memory_mb(site, max(1, gpus) * process_mb + checkpoint_mb, on_cpus=not gpus)


def corpus_resources(site: Site) -> dict[str, int | str]:
    """Of a job that tokenizes a corpus."""
    memory = asked_memory_mb(site, 4 * PROCESS_MB, on_cpus=True)
    return {
        **place_resources(site, on_cpus=True),
        "nodes": 1,
        "mem_mb": memory,
        "runtime": site.corpus_minutes or 60,
    }


def place_resources(site: Site, *, on_cpus: bool = False) -> dict[str, int | str]:
    """Where a job runs and whom it is charged to; `on_cpus`: one that needs no GPU."""
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
    # `mpi`, even empty: no srun of the executor's around a command, which would look for SLURM_CONF in vain. Training
    # starts its own on all nodes; a job of one process is where it belongs already.
    return {"mpi": "", **{key: value for key, value in named.items() if value != ""}}


def gpu_resources(site: Site, per_node: int, nodes: int) -> dict[str, int | str]:
    """The GPUs of a job that takes `per_node` of them on each of `nodes`."""
    if not site.gpus_per_node or not per_node:
        # No GPUs of a cluster's. On one machine with its own they are counted all the same.
        return {"gpus": nodes * per_node}
    gres = ":".join(["gpu", *([site.gpu_type] if site.gpu_type else []), str(per_node)])
    # tasks_per_gpu 0: the executor otherwise takes `tasks` for tasks of each GPU.
    return {"gres": gres, "gpus": nodes * per_node, "tasks_per_gpu": 0}


def asked_memory_mb(site: Site, computed: int, *, on_cpus: bool = False) -> int:
    """What to ask for; 0 has the executor leave `--mem` out. `memory_mb` says nothing of the nodes of another
    partition."""
    if not site.ask_memory:
        return 0
    named = 0 if on_cpus and site.cpu_partition else site.memory_mb
    return named or computed
