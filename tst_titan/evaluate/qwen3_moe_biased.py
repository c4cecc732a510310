"""Qwen3-MoE whose router chooses experts by score plus a bias per expert, for transformers (>= 5).

An export of tst-titan brings this file along; `trust_remote_code=True` makes transformers use it. The bias comes from
load balancing without an auxiliary loss (arXiv 2408.15664): it decides which experts a token goes to, the weights of
their outputs come from the scores alone. It imports nothing but torch and transformers.
"""

import contextlib
from typing import Any

import torch
from torch import nn
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.models.qwen3_moe.configuration_qwen3_moe import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeForCausalLM


class Qwen3MoeBiasedConfig(Qwen3MoeConfig):
    """Qwen3-MoE's configuration under a name of its own, so that nothing loads it without the biases."""

    model_type = "qwen3_moe_biased"


def route(gate: Any, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Router logits, weights and indices of the chosen experts: softmax scores, choice by score plus bias."""
    hidden_states = hidden_states.reshape(-1, gate.hidden_dim)
    logits = nn.functional.linear(hidden_states.float(), gate.weight.float())
    scores = logits.softmax(-1)
    chosen = (scores + gate.e_score_correction_bias).topk(gate.top_k, dim=-1).indices
    weights = scores.gather(-1, chosen)
    weights = weights / weights.sum(-1, keepdim=True)
    return logits, weights.to(hidden_states.dtype), chosen


class Qwen3MoeBiasedForCausalLM(Qwen3MoeForCausalLM):
    """Qwen3-MoE with `mlp.gate.e_score_correction_bias` in every layer, kept in float32."""

    config_class = Qwen3MoeBiasedConfig
    _keep_in_fp32_modules_strict = ["e_score_correction_bias"]  # noqa: RUF012

    def __init__(self, config: Qwen3MoeBiasedConfig):
        super().__init__(config)
        for layer in self.model.layers:
            gate = layer.mlp.gate
            gate.register_buffer("e_score_correction_bias", torch.zeros(config.num_experts, dtype=torch.float32))
            gate.forward = route.__get__(gate)


# Already there where this file was imported from another folder before.
with contextlib.suppress(ValueError):
    register_checkpoint_conversion_mapping("qwen3_moe_biased", get_checkpoint_conversion_mapping("qwen3_moe"))
