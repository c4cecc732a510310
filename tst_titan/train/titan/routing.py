"""How a mixture of experts routes: load balancing on positions, and what of it a logged step shows.

Balancing is torchtitan's: before each optimizer step every layer's `expert_bias_E` moves by `load_balance_coeff`
towards the experts that got fewer than the mean. The unit that is counted is what the model routes, a latent position:
one bag in superposition, one token in recovery; never the data tokens of a bag.

Shapes: E experts, N layers with experts.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torchtitan.components.optimizer import OptimizersContainer, register_moe_load_balancing_hook
from torchtitan.distributed import ParallelDims


def register_routing_hooks(
    optimizers: OptimizersContainer, model_parts: list[nn.Module], parallel_dims: ParallelDims
) -> None:
    """Keep each step's counts before torchtitan's own hook balances by them and clears them."""
    for model in model_parts:
        optimizers.register_step_pre_hook(lambda *args, model=model, **kwargs: _remember_counts(model))
    register_moe_load_balancing_hook(optimizers, model_parts, parallel_dims)


def expert_layers(model: nn.Module) -> list[nn.Module]:
    """The MoE modules of a model, layer by layer."""
    layers = model.get_submodule("layers").children()
    return [layer.moe for layer in layers if getattr(layer, "moe_enabled", False)]  # type: ignore[misc]


@torch.no_grad()
def _remember_counts(model: nn.Module) -> None:
    counts = [_local(moe.tokens_per_expert_E) for moe in expert_layers(model)]
    model.last_counts_NE = torch.stack(counts)  # type: ignore[assignment]
    for moe in expert_layers(model):
        if moe.expert_bias_E is None:  # no balancing, whose hook would clear them
            moe.tokens_per_expert_E.zero_()  # type: ignore[operator, union-attr]


def routing_statistics(model: nn.Module, parallel_dims: ParallelDims) -> dict[str, Any]:
    """Of the last step, over all ranks; empty for a model without experts. Every rank must call it.

    expert_load_max: load of the busiest expert over the mean load, for each layer (1: balanced).
    expert_entropy: entropy of the loads over that of equal loads, for each layer (1: balanced, 0: one expert).
    expert_bias_range: largest minus smallest bias, for each layer.
    routed_positions: positions routed in a step, in the mean over layers. Activation checkpointing counts each twice.
    """
    counts_NE = getattr(model, "last_counts_NE", None)
    if counts_NE is None:
        return {}
    layers = expert_layers(model)
    counts_NE = counts_NE.double()
    groups = [parallel_dims.get_optional_mesh("loss")]
    if parallel_dims.ep_enabled:
        groups.append(parallel_dims.get_optional_mesh("tp"))
    for mesh in groups:
        if mesh is not None:
            dist.all_reduce(counts_NE, group=mesh.get_group())
    shares_NE = counts_NE / counts_NE.sum(-1, keepdim=True)
    num_experts = counts_NE.shape[-1]
    entropy_N = torch.special.entr(shares_NE).sum(-1) / math.log(num_experts)
    biases = [_local(moe.expert_bias_E) for moe in layers if moe.expert_bias_E is not None]
    top_k = layers[0].router.top_k  # type: ignore[union-attr]
    return {
        "expert_load_max": (num_experts * shares_NE.amax(-1)).tolist(),
        "expert_entropy": entropy_N.tolist(),
        "expert_bias_range": [float(bias_E.max() - bias_E.min()) for bias_E in biases],
        "routed_positions": float(counts_NE.sum(-1).mean()) / top_k,  # type: ignore[operator]
    }


def _local(tensor: Any) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
