"""The initial value of a parameter depends on the study's seed and the parameter's name alone.

Each is drawn whole from a CPU generator of its own and then sharded. So the values are the same on every device, at
every number of ranks and in every layout. torchtitan's sharded draws are not: a CUDA generator's values depend on the
GPU model, and on CPU ranks every rank would draw the same numbers for different shards (DTensor's random state knows
accelerators only).
"""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate
from torchtitan.models.common.decoder import Decoder
from torchtitan.models.common.param_init import skip_param_init
from torchtitan.protocols.module import Module

from tst_titan.train.titan.upstream import initializers

Init = Callable[[torch.Tensor], Any]


def reinitialize_embeddings(model: nn.Module, seed: int) -> list[str]:
    """Draw the token embedding and the head anew in place (Table 2's ablation); returns their parameter names.

    Where they are tied, the one table is drawn once, as the head, which is how it was drawn at first.
    """
    names = ["lm_head.weight"] if model.enable_weight_tying else ["tok_embeddings.weight", "lm_head.weight"]
    for name in names:
        module = model.get_submodule(name.rsplit(".", 1)[0])
        with torch.no_grad():
            _SeededInit(initializers(module)["weight"].draw, seed, f"reinit:{name}")(module.weight)  # type: ignore[arg-type, union-attr]
    return names


class _SeededInit:
    """Draw a parameter whole from a generator that its name and the seed determine, then keep this rank's shard.

    Without a seed it becomes NaN: a weight that no checkpoint brought would stop the run at its first loss.
    """

    def __init__(self, draw: Init, seed: int | None, name: str):
        self.draw, self.name = draw, name
        self.seed = (
            None if seed is None else int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7], "big")
        )

    def __call__(self, param: torch.Tensor) -> None:
        whole = torch.empty(param.shape, dtype=param.dtype, device=param.device)
        if self.seed is None:
            whole.fill_(torch.nan)
        else:
            with torch.random.fork_rng(devices=[]):
                # The CPU's generator alone: `torch.manual_seed` would seed the device's, too.
                torch.default_generator.manual_seed(self.seed)
                self.draw(whole)
        if isinstance(param, DTensor):
            mesh = param.device_mesh
            whole = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
        param.copy_(whole)

    def __repr__(self) -> str:
        origin = "from a checkpoint" if self.seed is None else f"seeded by {self.name}"
        return f"{getattr(self.draw, 'func', self.draw).__name__} {origin}"


def seed_initialization(config: Decoder.Config, seed: int | None) -> None:
    for name, module, _, _ in config.traverse(Module.Config, recurse=True):
        if module.param_init:  # type: ignore[attr-defined]
            module.param_init = {  # type: ignore[attr-defined]
                key: init if init is skip_param_init else _SeededInit(init, seed, f"{name}.{key}")
                for key, init in module.param_init.items()  # type: ignore[attr-defined]
            }
