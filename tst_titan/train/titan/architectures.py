"""A `ModelShape` as torchtitan's configuration of its architecture, layer by layer."""

from functools import partial

from torch import nn
from torchtitan.models.common import Embedding, Linear, RMSNorm
from torchtitan.models.common.config_utils import (
    make_ffn_config,
    make_gqa_config,
    make_moe_config,
    make_routed_experts_config,
    make_router_config,
)
from torchtitan.models.common.decoder import Decoder
from torchtitan.models.common.moe import MoE
from torchtitan.models.common.param_init import depth_scaled_std, skip_param_init
from torchtitan.models.common.rope import ComplexRoPE, CosSinRoPE
from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock
from torchtitan.models.qwen3.model import Qwen3Model, Qwen3TransformerBlock
from torchtitan.protocols.module import Module

from tst_titan.errors import UserError
from tst_titan.plan.settings import ModelShape
from tst_titan.train.titan.draws import normal_, truncated_normal_
from tst_titan.train.titan.initial import Init

_ONES: dict[str, Init] = {"weight": nn.init.ones_}


def model_config(
    shape: ModelShape, seq_len: int, inner_attention: Module.Config, embedding: type[Embedding.Config]
) -> Decoder.Config:
    """The configuration of `shape` over `seq_len` latent positions, with torchtitan's own initialization."""
    build = {"llama3": _llama3, "qwen3_moe": _qwen3_moe}[shape.architecture]
    return build(shape, seq_len, inner_attention, embedding)  # type: ignore[operator]


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
        raise UserError(f"model {shape.name}: architecture qwen3_moe needs `moe` (num_experts, top_k, expert_ffn_dim)")
    normal: dict[str, Init] = {"weight": partial(normal_, std=0.02), "bias": nn.init.zeros_}
    layers = [_qwen3_moe_layer(shape, seq_len, inner_attention, normal) for _ in range(shape.num_layers)]
    return Qwen3Model.Config(
        dim=shape.dim,
        vocab_size=shape.vocab_size,
        enable_weight_tying=shape.tied_embeddings,
        tok_embeddings=_embedding(shape, embedding, normal["weight"]),
        norm=_norm(shape, shape.dim),
        lm_head=Linear.Config(in_features=shape.dim, out_features=shape.vocab_size, param_init=normal),
        layers=layers,
    )


def _qwen3_moe_layer(
    shape: ModelShape, seq_len: int, inner_attention: Module.Config, normal: dict[str, Init]
) -> Qwen3TransformerBlock.Config:
    residual = partial(normal_, std=0.02 / (2 * shape.num_layers) ** 0.5)
    return Qwen3TransformerBlock.Config(
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
        moe=_experts(shape, normal, residual),
    )


def _experts(shape: ModelShape, normal: dict[str, Init], residual: Init) -> MoE.Config:
    assert shape.moe is not None
    return make_moe_config(
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
    )
