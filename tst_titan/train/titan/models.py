"""A `ModelShape` as a torchtitan model: configuration, parallelization, initialization.

The initial value of a parameter depends on the study's seed and the parameter's name alone: each is drawn whole
from a CPU generator of its own and then sharded. So the values are the same on every device, at every number of ranks
and in every layout. torchtitan's sharded draws are not: a CUDA generator's values depend on the GPU model, and on CPU
ranks every rank would draw the same numbers for different shards (DTensor's random state knows accelerators only).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate
from torchtitan.components.quantization import Float8GroupedExpertsConverter, Float8LinearConverter
from torchtitan.distributed.pipeline_parallel import pipeline_llm
from torchtitan.models.common import Embedding, Linear, RMSNorm
from torchtitan.models.common.attention import FlexAttention, ScaledDotProductAttention
from torchtitan.models.common.config_utils import (
    make_ffn_config,
    make_gqa_config,
    make_moe_config,
    make_routed_experts_config,
    make_router_config,
)
from torchtitan.models.common.decoder import Decoder
from torchtitan.models.common.moe import GroupedExperts
from torchtitan.models.common.param_init import depth_scaled_std, skip_param_init
from torchtitan.models.common.rope import ComplexRoPE, CosSinRoPE
from torchtitan.models.llama3 import parallelize_llama
from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock
from torchtitan.models.llama3.state_dict_adapter import Llama3StateDictAdapter
from torchtitan.models.qwen3 import parallelize_qwen3
from torchtitan.models.qwen3.model import Qwen3Model, Qwen3TransformerBlock
from torchtitan.models.qwen3.state_dict_adapter import Qwen3StateDictAdapter
from torchtitan.protocols.model_spec import ModelSpec
from torchtitan.protocols.module import Module

from tst_titan.errors import UserError
from tst_titan.plan.settings import ModelShape
from tst_titan.train.titan.components import BagEmbedding
from tst_titan.train.titan.device import DEVICE_TYPE
from tst_titan.train.titan.draws import normal_, truncated_normal_
from tst_titan.train.titan.routing import register_routing_hooks

Init = Callable[[torch.Tensor], Any]

_ONES: dict[str, Init] = {"weight": nn.init.ones_}


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
    build = {"llama3": _llama3, "qwen3_moe": _qwen3_moe}[shape.architecture]
    inner_attention = {"causal": ScaledDotProductAttention.Config, "document": FlexAttention.Config}[
        attention
    ]
    config = build(shape, seq_len, inner_attention(), BagEmbedding.Config if bags else Embedding.Config)
    if float8 is not None:
        _quantize(config, float8)
    _seed_initialization(config, seed)
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
        _fill_buffers(model)
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
        gate_RF = self._grouped_mm(A=inputs_RD, B_t=self.w1_EFD.transpose(-2, -1), offs=offsets_E)
        up_RF = self._grouped_mm(A=inputs_RD, B_t=self.w3_EFD.transpose(-2, -1), offs=offsets_E)
        hidden_RF = nn.functional.silu(gate_RF) * up_RF
        return self._grouped_mm(A=hidden_RF, B_t=self.w2_EDF.transpose(-2, -1), offs=offsets_E).type_as(x_RD)


def hugging_face_tensors(shape: ModelShape, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Some of a checkpoint's weights under the names and in the layout of transformers' Llama or Qwen3-MoE.

    What the architecture has no place for is left out; a tied head is left out too.
    """
    spec = model_spec(shape, seq_len=1, seed=0)
    assert spec.state_dict_adapter is not None
    return spec.state_dict_adapter(spec.model, None).to_hf(tensors)


def reinitialize_embeddings(model: nn.Module, seed: int) -> list[str]:
    """Draw the token embedding and the head anew in place (Table 2's ablation); returns their parameter names.

    Where they are tied, the one table is drawn once, as the head, which is how it was drawn at first.
    """
    names = ["lm_head.weight"] if model.enable_weight_tying else ["tok_embeddings.weight", "lm_head.weight"]
    for name in names:
        module = model.get_submodule(name.rsplit(".", 1)[0])
        init = module._param_init["weight"]  # type: ignore[index, union-attr]
        with torch.no_grad():
            _SeededInit(init.draw, seed, f"reinit:{name}")(module.weight)  # type: ignore[arg-type, union-attr]
    return names


class _SeededInit:
    """Draw a parameter whole from a generator that its name and the seed determine, then keep this rank's shard.

    Without a seed it becomes NaN: a weight that no checkpoint brought would stop the run at its first loss.
    """

    def __init__(self, draw: Init, seed: int | None, name: str):
        self.draw, self.name = draw, name
        self.seed = (
            None
            if seed is None
            else int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7], "big")
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


def _seed_initialization(config: Decoder.Config, seed: int | None) -> None:
    for name, module, _, _ in config.traverse(Module.Config, recurse=True):
        if module.param_init:  # type: ignore[attr-defined]
            module.param_init = {  # type: ignore[attr-defined]
                key: init if init is skip_param_init else _SeededInit(init, seed, f"{name}.{key}")
                for key, init in module.param_init.items()  # type: ignore[attr-defined]
            }


def _fill_buffers(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Module):
            module._init_self_buffers(buffer_device=None)


def _parallelize(parallelize: Callable[..., nn.Module], model: nn.Module, **kwargs: Any) -> nn.Module:
    model = parallelize(model, **kwargs)
    if DEVICE_TYPE == "cpu":
        # Gloo has no pre-multiplied sum, which FSDP2 would use to average gradients.
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)
    return model


def _trunc_normal(std: float, bound: float = 2.0) -> dict[str, Init]:
    # Bounds as torchtitan's: absolute for linear layers (the default a=-2, b=2), 3 std for the head.
    return {"weight": partial(truncated_normal_, std=std, bound=bound), "bias": nn.init.zeros_}


def _norm(shape: ModelShape, size: int) -> RMSNorm.Config:
    return RMSNorm.Config(normalized_shape=size, eps=shape.norm_eps, param_init=_ONES)


def _embedding(shape: ModelShape, embedding: type[Embedding.Config], init: Init) -> Embedding.Config:
    return embedding(
        num_embeddings=shape.vocab_size,
        embedding_dim=shape.dim,
        param_init={"weight": skip_param_init if shape.tied_embeddings else init},
    )


def _llama3(
    shape: ModelShape, seq_len: int, inner_attention: Module.Config, embedding: type[Embedding.Config]
) -> Llama3Model.Config:
    """Llama-3 with torchtitan's initialization: depth-scaled residual outputs, unit-variance embedding.

    But for the head, which is drawn at half torchtitan's width: its logits of unit variance start the loss at
    ln V + 0.5, ours within 0.13 of ln V, so that the first logged loss shows that labels and loss are right.
    """
    head_std = 0.5 * shape.dim**-0.5
    layers = []
    for index in range(shape.num_layers):
        residual = _trunc_normal(depth_scaled_std(0.02, index))
        layers.append(
            Llama3TransformerBlock.Config(
                attention_norm=_norm(shape, shape.dim),
                ffn_norm=_norm(shape, shape.dim),
                attention=make_gqa_config(
                    dim=shape.dim,
                    n_heads=shape.num_heads,
                    n_kv_heads=shape.num_kv_heads,
                    head_dim=shape.head_dim,
                    wqkv_param_init=_trunc_normal(0.02),
                    wo_param_init=residual,
                    inner_attention=inner_attention,
                    fuse_qkv=True,
                    rope=ComplexRoPE.Config(dim=shape.head_dim, max_seq_len=seq_len, theta=shape.rope_theta),
                ),
                feed_forward=make_ffn_config(
                    dim=shape.dim,
                    hidden_dim=shape.ffn_dim,
                    w1_param_init=_trunc_normal(0.02),
                    w2w3_param_init=residual,
                ),
            )
        )
    return Llama3Model.Config(
        dim=shape.dim,
        vocab_size=shape.vocab_size,
        enable_weight_tying=shape.tied_embeddings,
        tok_embeddings=_embedding(shape, embedding, partial(normal_, std=1.0)),
        norm=_norm(shape, shape.dim),
        lm_head=Linear.Config(
            in_features=shape.dim,
            out_features=shape.vocab_size,
            param_init=_trunc_normal(head_std, bound=3 * head_std),
        ),
        layers=layers,
    )


def _qwen3_moe(
    shape: ModelShape, seq_len: int, inner_attention: Module.Config, embedding: type[Embedding.Config]
) -> Qwen3Model.Config:
    """Qwen3 MoE with torchtitan's initialization: normal 0.02, residual outputs scaled by depth."""
    if shape.moe is None:
        raise UserError(
            f"model {shape.name}: architecture qwen3_moe needs `moe` (num_experts, top_k, expert_ffn_dim)"
        )
    normal: dict[str, Init] = {"weight": partial(normal_, std=0.02), "bias": nn.init.zeros_}
    residual = partial(normal_, std=0.02 / (2 * shape.num_layers) ** 0.5)
    layers = [
        Qwen3TransformerBlock.Config(
            attention_norm=_norm(shape, shape.dim),
            ffn_norm=_norm(shape, shape.dim),
            attention=make_gqa_config(
                dim=shape.dim,
                n_heads=shape.num_heads,
                n_kv_heads=shape.num_kv_heads,
                head_dim=shape.head_dim,
                wqkv_param_init=normal,
                wo_param_init={"weight": residual, "bias": nn.init.zeros_},
                inner_attention=inner_attention,
                fuse_qkv=True,
                rope=CosSinRoPE.Config(dim=shape.head_dim, max_seq_len=seq_len, theta=shape.rope_theta),
                qk_norm=_norm(shape, shape.head_dim),
            ),
            moe=make_moe_config(
                num_experts=shape.moe.num_experts,
                # torchtitan switches balancing off by None.
                load_balance_coeff=shape.moe.load_balance_coeff or None,
                router=make_router_config(
                    dim=shape.dim,
                    num_experts=shape.moe.num_experts,
                    gate_param_init=normal,
                    top_k=shape.moe.top_k,
                    score_func="softmax",
                    route_norm=True,
                ),
                routed_experts=make_routed_experts_config(
                    dim=shape.dim,
                    hidden_dim=shape.moe.expert_ffn_dim,
                    num_experts=shape.moe.num_experts,
                    top_k=shape.moe.top_k,
                    param_init={"w1_EFD": normal["weight"], "w2_EDF": residual, "w3_EFD": normal["weight"]},
                    comm_backend="standard",
                ),
            ),
        )
        for _ in range(shape.num_layers)
    ]
    return Qwen3Model.Config(
        dim=shape.dim,
        vocab_size=shape.vocab_size,
        enable_weight_tying=shape.tied_embeddings,
        tok_embeddings=_embedding(shape, embedding, normal["weight"]),
        norm=_norm(shape, shape.dim),
        lm_head=Linear.Config(in_features=shape.dim, out_features=shape.vocab_size, param_init=normal),
        layers=layers,
    )
