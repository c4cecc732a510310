"""Named hardware layouts of every published model: where the recipe of a study is trained, never what it computes.

`layouts(model)` are the layouts of a model by name:

    cpu            one process; for the models that a CPU can train, and to look at the others
    one-gpu        one GPU of 80 GB
    one-node       8 GPUs of 80 GB: FSDP, for the MoE with expert parallelism inside the node
    several-nodes  8 nodes of 8 such GPUs: HSDP, sharded inside a node and replicated over nodes
    several-nodes-40gb  the same with GPUs of 40 GB: tensor parallelism as well

A micro-batch is chosen such that `tst_titan.train.memory` finds room for it, logits are made in chunks (128256 of them
a position are the largest tensor of the small models), activations are recomputed where they would not fit. CUDA graphs
are for the dense models that launch many small kernels; the dispatch of experts waits for counts on the host, which no
graph allows.
"""

from dataclasses import dataclass, replace

from tst_titan.errors import UserError
from tst_titan.train.hardware import Hardware


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A layout and the memory of each of its devices that it was chosen for."""

    memory_gib: float
    hardware: Hardware


_GPU = Hardware(threads=8, compile=True, loss_chunks=8, deterministic=False)
_NODE = replace(_GPU, processes=8)
_NODES = replace(_NODE, nodes=8, data_parallel_replicate=8, data_parallel_shard=8)

_CPU = Layout(memory_gib=8, hardware=Hardware(micro_batch=4))
# What is left of 80 and 40 GB for PyTorch: 80 GB cards show 79 GiB, and the CUDA context, NCCL and fragments take some.
_GIB_80, _GIB_40 = 72, 36


def _gpu(hardware: Hardware, **changes: object) -> Layout:
    return Layout(memory_gib=_GIB_80, hardware=replace(hardware, **changes))  # type: ignore[arg-type]


def _small(micro_batch: int) -> dict[str, Layout]:
    """The ladder below 270M: a core or a card."""
    return {
        "cpu": _CPU,
        "one-gpu": _gpu(_GPU, micro_batch=micro_batch, cuda_graphs=True),
    }


_LAYOUTS: dict[str, dict[str, Layout]] = {
    **{name: _small(64) for name in ("0.5M", "1M", "2M", "4M", "8M", "15M", "30M")},
    "3M-A2M": {"cpu": _CPU, "one-gpu": _gpu(_GPU, micro_batch=64)},
    "270M": {
        "cpu": Layout(memory_gib=32, hardware=Hardware(micro_batch=1, loss_chunks=8)),
        "one-gpu": _gpu(_GPU, micro_batch=16, cuda_graphs=True),
        "one-node": _gpu(_NODE, micro_batch=16, cuda_graphs=True),
        "several-nodes": _gpu(_NODES, micro_batch=16, cuda_graphs=True),
    },
    "600M": {
        "cpu": Layout(memory_gib=32, hardware=Hardware(micro_batch=1, loss_chunks=8)),
        "one-gpu": _gpu(_GPU, micro_batch=16, cuda_graphs=True, activation_checkpoint="selective"),
        "one-node": _gpu(_NODE, micro_batch=16, cuda_graphs=True),
        "several-nodes": _gpu(_NODES, micro_batch=16, cuda_graphs=True),
    },
    "3B": {
        "cpu": Layout(memory_gib=96, hardware=Hardware(micro_batch=1, loss_chunks=8, activation_checkpoint="full")),
        "one-gpu": _gpu(_GPU, micro_batch=2, activation_checkpoint="full"),
        "one-node": _gpu(_NODE, micro_batch=8, activation_checkpoint="selective"),
        "several-nodes": _gpu(_NODES, micro_batch=8, activation_checkpoint="selective"),
        "several-nodes-40gb": Layout(
            memory_gib=_GIB_40,
            hardware=replace(
                _NODE,
                nodes=8,
                tensor_parallel=4,
                data_parallel_replicate=4,
                data_parallel_shard=4,
                micro_batch=8,
                activation_checkpoint="selective",
            ),
        ),
    },
    "10B-A1B": {
        "cpu": Layout(memory_gib=256, hardware=Hardware(micro_batch=1, loss_chunks=8, activation_checkpoint="full")),
        "one-node": _gpu(_NODE, micro_batch=4, expert_parallel=8, activation_checkpoint="selective"),
        "several-nodes": _gpu(_NODES, micro_batch=4, expert_parallel=8, activation_checkpoint="selective"),
        "several-nodes-40gb": Layout(
            memory_gib=_GIB_40,
            hardware=replace(
                _NODE,
                nodes=8,
                tensor_parallel=4,
                data_parallel_replicate=2,
                data_parallel_shard=8,
                expert_parallel=8,
                micro_batch=8,
                activation_checkpoint="selective",
            ),
        ),
    },
}


def layouts(model: str) -> dict[str, Layout]:
    """The layouts of a published model (`ModelShape.name`), by name."""
    if model not in _LAYOUTS:
        raise UserError(f"model {model!r} has no hardware layouts of its own; known: {', '.join(_LAYOUTS)}")
    return _LAYOUTS[model]


def layout(model: str, name: str) -> Layout:
    """One layout; says which there are where there is none of that name (10B-A1B does not fit one GPU)."""
    known = layouts(model)
    if name not in known:
        raise UserError(f"model {model} has no hardware layout {name!r}; it has: {', '.join(known)}")
    return known[name]
