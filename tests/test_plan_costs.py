"""Parameters, FLOPs and GPU-hours: against the real torchtitan models, and against what is published."""

import pytest

from tst_titan.errors import UserError
from tst_titan.plan.costs import (
    Accelerator,
    checkpoint_bytes,
    count_parameters,
    flops_per_position,
)
from tst_titan.plan.implied import implied_utilizations
from tst_titan.plan.settings import ModelShape
from tst_titan.plan.trajectory import model_shape
from tst_titan.study import catalogue
from tst_titan.study.recipe import Shape

PUBLISHED_VOCAB = {"270M": 128256, "600M": 128256, "3B": 128256, "10B-A1B": 151936}


def shape_of(name: str, **changes: object) -> ModelShape:
    fields = catalogue.MODELS[name]["shape"] | changes
    return model_shape(name, Shape.model_validate(fields), PUBLISHED_VOCAB.get(name, 4096))


def titan_config(shape: ModelShape):
    """The torchtitan 0.3.0 configuration of ``shape``, from torchtitan's own builders."""
    from torchtitan.models import llama3, qwen3
    from torchtitan.models.common import ComplexRoPE, CosSinRoPE, Embedding, Linear, RMSNorm

    ends = {
        "dim": shape.dim,
        "vocab_size": shape.vocab_size,
        "enable_weight_tying": shape.tied_embeddings,
        "tok_embeddings": Embedding.Config(num_embeddings=shape.vocab_size, embedding_dim=shape.dim),
        "norm": RMSNorm.Config(normalized_shape=shape.dim),
        "lm_head": Linear.Config(in_features=shape.dim, out_features=shape.vocab_size),
    }
    layers = {
        "n_layers": shape.num_layers,
        "dim": shape.dim,
        "n_heads": shape.num_heads,
        "n_kv_heads": shape.num_kv_heads,
        "attn_backend": "flex",
    }
    if shape.moe is None:
        rope = ComplexRoPE.Config(dim=shape.head_dim, max_seq_len=2048, theta=shape.rope_theta)
        blocks = llama3._build_llama3_layers(hidden_dim=shape.ffn_dim, rope=rope, **layers)
        return llama3.Llama3Model.Config(layers=blocks, **ends)
    blocks = qwen3._build_qwen3_moe_layers(
        head_dim=shape.head_dim,
        moe_hidden_dim=shape.moe.expert_ffn_dim,
        num_experts=shape.moe.num_experts,
        top_k=shape.moe.top_k,
        moe_comm_backend="standard",
        rope=CosSinRoPE.Config(dim=shape.head_dim, max_seq_len=2048, theta=shape.rope_theta),
        **layers,
    )
    return qwen3.Qwen3Model.Config(layers=blocks, **ends)


def titan_counts(shape: ModelShape) -> dict[str, int]:
    """Weights of the real model on the meta device, sorted by what they are."""
    import torch

    with torch.device("meta"):
        model = titan_config(shape).build()
    counts = {"total": 0, "embedding": 0, "head": 0, "norms": 0, "experts": 0}
    for name, weight in model.named_parameters():
        counts["total"] += weight.numel()
        kinds = {
            "embedding": "tok_embeddings",
            "head": "lm_head",
            "norms": "norm",
            "experts": "routed_experts",
        }
        for kind, word in kinds.items():
            if word in name:
                counts[kind] += weight.numel()
    return counts


@pytest.mark.parametrize("name", list(catalogue.MODELS))
def test_every_model_has_as_many_weights_as_torchtitan_builds(name: str) -> None:
    pytest.importorskip("torchtitan")
    shape = shape_of(name)
    real, ours = titan_counts(shape), count_parameters(shape)
    assert (ours.total, ours.embedding, ours.head, ours.norms) == (
        real["total"],
        real["embedding"],
        real["head"],
        real["norms"],
    )
    if shape.moe is not None:
        idle = real["experts"] * (shape.moe.num_experts - shape.moe.top_k) // shape.moe.num_experts
        assert ours.active == real["total"] - idle
    else:
        assert ours.active == ours.total


def test_a_tied_head_is_counted_once_and_still_multiplied() -> None:
    pytest.importorskip("torchtitan")
    tied, untied = shape_of("2M", tied_embeddings=True), shape_of("2M")
    assert count_parameters(tied).total == titan_counts(tied)["total"]
    assert count_parameters(untied).total - count_parameters(tied).total == 4096 * 128
    assert flops_per_position(tied, 128) == flops_per_position(untied, 128)


@pytest.mark.parametrize(
    ("name", "field", "published"),
    [
        ("270M", "without_embeddings", 106e6),
        ("270M", "total", 254e6),
        ("600M", "without_embeddings", 315e6),
        ("600M", "total", 561e6),
        ("3B", "total", 3.3e9),
        ("10B-A1B", "total", 10.5e9),
        ("10B-A1B", "active_without_embeddings", 0.96e9),
    ],
)
def test_parameter_counts_are_the_published_ones_as_far_as_printed(name: str, field: str, published: float) -> None:
    assert getattr(count_parameters(shape_of(name)), field) == pytest.approx(published, rel=0.015)


def test_the_ladder_is_named_after_its_totals() -> None:
    for name in ("0.5M", "1M", "2M", "4M", "8M", "15M", "30M"):
        assert count_parameters(shape_of(name)).total == pytest.approx(float(name[:-1]) * 1e6, rel=0.2)
    counts = count_parameters(shape_of("3M-A2M"))
    assert (counts.total / 1e6, counts.active / 1e6) == (pytest.approx(3, rel=0.1), pytest.approx(2, rel=0.2))


def test_flops_agree_with_a_sum_over_matmuls() -> None:
    """Written out for one layer kind by another road: 2 FLOPs a weight forward, 4 backward, scores and values by
    hand."""
    shape, seq_len = shape_of("3M-A2M"), 128
    width, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    assert shape.moe is not None
    matmuls = [(128, width), (128, kv), (128, kv), (width, 128), (128, shape.moe.num_experts)]
    matmuls += [(128, shape.moe.expert_ffn_dim)] * 3 * shape.moe.top_k
    weights = shape.num_layers * sum(rows * columns for rows, columns in matmuls) + 128 * 4096
    forward_of_a_sequence = sum(2 * 2 * width * (position + 1) for position in range(seq_len)) * shape.num_layers
    assert flops_per_position(shape, seq_len) * seq_len == 6 * weights * seq_len + 3 * forward_of_a_sequence


def test_torchtitans_own_flops_differ_by_the_causal_half_alone() -> None:
    """torchtitan counts attention to all L positions, and the norms' weights as if they were matmuls."""
    pytest.importorskip("torchtitan")
    import torch

    shape, seq_len = shape_of("270M"), 2048
    config = titan_config(shape)
    with torch.device("meta"):
        model = config.build()
    _, theirs = config.get_nparams_and_flops(model, seq_len)
    attention = 6 * shape.num_layers * shape.num_heads * shape.head_dim
    ours = flops_per_position(shape, seq_len) - attention * (seq_len + 1) + 2 * attention * seq_len
    assert theirs == ours + 6 * count_parameters(shape).norms


def test_published_hours_imply_a_fifth_of_the_peak_at_270m_and_two_fifths_at_3b() -> None:
    by_model: dict[str, list[float]] = {}
    for item in implied_utilizations():
        by_model.setdefault(item.row.model, []).append(item.utilization)
        assert eval(item.arithmetic) == pytest.approx(item.utilization, rel=1e-3)  # the sum as it is printed
    assert by_model["270M"] == pytest.approx([0.197] * 4, abs=0.002)
    assert by_model["600M"] == pytest.approx([0.255] * 2, abs=0.002)
    assert by_model["3B"] == pytest.approx([0.406] * 5, abs=0.004)
    assert by_model["10B-A1B"] == pytest.approx([0.088, 0.091], abs=0.001)


def test_a_checkpoint_holds_weights_and_two_moments_in_float32() -> None:
    assert checkpoint_bytes(shape_of("2M")) == 3 * 4 * count_parameters(shape_of("2M")).total


def test_hours_are_flops_over_what_the_device_reaches() -> None:
    assert Accelerator("h100", 0.5).hours(989e12 * 0.5 * 3600) == pytest.approx(1.0)
    with pytest.raises(UserError, match=r"'b300'.*b200"):
        Accelerator("b300")
    with pytest.raises(UserError, match=r"utilization 40: .*at most 1"):
        Accelerator("b200", 40)
