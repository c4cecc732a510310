"""config.json of an export: which model of transformers it is, and its shape."""

from typing import Any

from tst_titan.evaluate.checkpoint import Dtype
from tst_titan.plan.settings import MoEShape, Recipe

# Of the model code that an export with biases brings.
OWN_CODE = "qwen3_moe_biased"
AUTO_MAP = {
    "AutoConfig": f"{OWN_CODE}.Qwen3MoeBiasedConfig",
    "AutoModelForCausalLM": f"{OWN_CODE}.Qwen3MoeBiasedForCausalLM",
}


def model_config(recipe: Recipe, eos_id: int, dtype: Dtype, biased: bool) -> dict[str, Any]:
    """The configuration of a recipe's model; `biased`: its router has biases, which transformers' own model has not."""
    model, common = recipe.model, _common(recipe, eos_id, dtype)
    if model.moe is None:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "intermediate_size": model.ffn_dim,
            "mlp_bias": False,
            **common,
        }
    moe = _moe(model.moe)
    if not biased:
        return {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", **moe, **common}
    return {
        "architectures": ["Qwen3MoeBiasedForCausalLM"],
        "model_type": "qwen3_moe_biased",
        "auto_map": AUTO_MAP,
        **moe,
        **common,
    }


def _common(recipe: Recipe, eos_id: int, dtype: Dtype) -> dict[str, Any]:
    model = recipe.model
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.dim,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": recipe.seq_len,
        "rms_norm_eps": model.norm_eps,
        # Both spellings: of transformers 5 and of the versions before.
        "rope_theta": model.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "tie_word_embeddings": model.tied_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": eos_id,
        "pad_token_id": None,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def _moe(moe: MoEShape) -> dict[str, Any]:
    return {
        "num_experts": moe.num_experts,
        "num_experts_per_tok": moe.top_k,
        "moe_intermediate_size": moe.expert_ffn_dim,
        # Of layers without experts, of which there are none.
        "intermediate_size": moe.expert_ffn_dim,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "router_aux_loss_coef": 0.0,
    }
