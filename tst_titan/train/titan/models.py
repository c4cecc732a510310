"""A `ModelShape` as a torchtitan model: configuration (`architectures.py`), initialization (`initial.py`),
parallelization."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torchtitan.components.quantization import Float8GroupedExpertsConverter, Float8LinearConverter
from torchtitan.distributed.pipeline_parallel import pipeline_llm
from torchtitan.models.common import Embedding
from torchtitan.models.common.attention import FlexAttention, ScaledDotProductAttention
from torchtitan.models.common.decoder import Decoder
from torchtitan.models.common.moe import GroupedExperts
from torchtitan.models.llama3 import parallelize_llama
from torchtitan.models.llama3.state_dict_adapter import Llama3StateDictAdapter
from torchtitan.models.qwen3 import parallelize_qwen3
from torchtitan.models.qwen3.state_dict_adapter import Qwen3StateDictAdapter
from torchtitan.protocols.model_spec import ModelSpec

from tst_titan.plan.settings import ModelShape
from tst_titan.train.titan.architectures import model_config
from tst_titan.train.titan.components import BagEmbedding
from tst_titan.train.titan.device import DEVICE_TYPE
from tst_titan.train.titan.initial import seed_initialization
from tst_titan.train.titan.routing import register_routing_hooks
from tst_titan.train.titan.upstream import fill_buffers, grouped_product


def model_spec(
    shape: ModelShape,
    *,
    seq_len: int,
    seed: int | None,
    attention: str = "causal",
    bags: bool = False,
    float8: "Float8 | None" = None,
) -> ModelSpec:
    """torchtitan's record of a model: its configuration and the functions that parallelize it.

    Args:
        shape: the decoder's shape.
        seq_len: latent positions L; sizes the rotary cache.
        seed: of the initial values; None where a checkpoint is loaded before the first step: nothing is drawn, and
            the weights are not numbers until then.
        attention: "causal" (SDPA over the whole sequence) or "document" (flex attention within documents).
        bags: whether the embedding takes bags `[B, L, S]` beside tokens `[B, L]`.
        float8: how to compute the blocks' matrix products in float8 (None: in the precision of the rest).
    """
    inner_attention = {"causal": ScaledDotProductAttention.Config, "document": FlexAttention.Config}[attention]
    config = model_config(shape, seq_len, inner_attention(), BagEmbedding.Config if bags else Embedding.Config)
    if float8 is not None:
        _quantize(config, float8)
    seed_initialization(config, seed)
    moe = shape.moe is not None
    return ModelSpec(
        name=shape.architecture,
        flavor=shape.name,
        model=config,
        parallelize_fn=partial(_parallelize, parallelize_qwen3 if moe else parallelize_llama),
        pipelining_fn=pipeline_llm,
        post_optimizer_build_fn=register_routing_hooks if moe else None,
        state_dict_adapter=Qwen3StateDictAdapter if moe else Llama3StateDictAdapter,
    )


def build_whole_model(
    shape: ModelShape,
    *,
    seq_len: int,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    shard: Callable[[Decoder], object] | None = None,
) -> Decoder:
    """An uninitialized model on `device`, in evaluation mode: a frame to load a checkpoint into.

    It is whole, unless `shard` divides it between ranks while it takes no memory yet.

    Parameters are of `dtype`; buffers (rotary cache, expert biases) stay in float32. Routed experts compute in the
    dtype of their weights (see `ExpertsInTheirDtype`).
    """
    config = model_spec(shape, seq_len=seq_len, seed=0).model
    for layer in config.layers:  # type: ignore[attr-defined]
        if layer.moe is not None:
            experts = layer.moe.routed_experts.inner_experts
            layer.moe.routed_experts.inner_experts = ExpertsInTheirDtype.Config(
                dim=experts.dim, hidden_dim=experts.hidden_dim, num_experts=experts.num_experts
            )
    with torch.device("meta"):
        model = config.build()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    if shard:
        shard(model)
    if torch.device(device).type != "meta":
        model.to_empty(device=device)
        if model.enable_weight_tying:
            # Leaving the meta device makes two parameters of the shared one.
            model.tok_embeddings.weight = model.lm_head.weight
        fill_buffers(model)
    return model.eval()


@dataclass(frozen=True)
class Float8:
    """Float8 training (torchao): rowwise scales, on a GPU that has it."""

    compile: bool = False


# The head decides the loss and the router the experts: both stay in the precision of the rest.
FLOAT8_KEEPS = ["lm_head", "router"]


def _quantize(config: Decoder.Config, float8: Float8) -> None:
    """Blocks' linear layers and experts in float8."""
    Float8LinearConverter.Config(
        recipe_name="rowwise",
        filter_fqns=FLOAT8_KEEPS,
        model_compile_enabled=float8.compile,
    ).build().convert(config)
    if any(config.traverse(GroupedExperts.Config)):
        Float8GroupedExpertsConverter.Config(model_compile_enabled=float8.compile).build().convert(config)


class ExpertsInTheirDtype(GroupedExperts):
    """torchtitan's routed experts, computed in the dtype of their weights.

    torchtitan's own always compute in bfloat16, also where all else is float32: right for training, but then no
    other implementation of the same weights can be compared with it to better than 1e-2.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(GroupedExperts.Config):
        pass

    def forward(self, x_RD: torch.Tensor, num_tokens_per_expert_E: torch.Tensor) -> torch.Tensor:
        offsets_E = torch.cumsum(num_tokens_per_expert_E, dim=0, dtype=torch.int32)
        inputs_RD = x_RD.to(self.w1_EFD.dtype)
        gate_RF = grouped_product(self, inputs_RD, self.w1_EFD.transpose(-2, -1), offsets_E)
        up_RF = grouped_product(self, inputs_RD, self.w3_EFD.transpose(-2, -1), offsets_E)
        hidden_RF = nn.functional.silu(gate_RF) * up_RF
        return grouped_product(self, hidden_RF, self.w2_EDF.transpose(-2, -1), offsets_E).type_as(x_RD)


def hugging_face_tensors(shape: ModelShape, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Some of a checkpoint's weights under the names and in the layout of transformers' Llama or Qwen3-MoE.

    What the architecture has no place for is left out; a tied head is left out too.
    """
    spec = model_spec(shape, seq_len=1, seed=0)
    assert spec.state_dict_adapter is not None
    return spec.state_dict_adapter(spec.model, None).to_hf(tensors)


def _parallelize(parallelize: Callable[..., nn.Module], model: nn.Module, **kwargs: Any) -> nn.Module:
    model = parallelize(model, **kwargs)
    if DEVICE_TYPE == "cpu":
        # Gloo has no pre-multiplied sum, which FSDP2 would use to average gradients.
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)
    return model
