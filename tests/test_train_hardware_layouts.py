"""Hardware layouts of the published models: they build, they fit on paper, and what cannot work is refused at once."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training import (
    TINY_MODEL,
    chain,
    constant,
    make_job,
    published_recipe,
    recipe,
    recovery,
    saved_state,
    superposition,
    train_here,
)

from tst_titan.errors import UserError
from tst_titan.files import read_json, write_json
from tst_titan.plan.settings import MoEShape, Recipe
from tst_titan.study.catalogue import MODELS
from tst_titan.train.hardware import Hardware
from tst_titan.train.job import write_job
from tst_titan.train.layouts import layout, layouts
from tst_titan.train.memory import BAG_INDEX_LIMIT, GIB, STATE_BYTES, bag_elements, estimate_memory

ALL = [(model, name) for model in MODELS for name in layouts(model)]
# One rank of each parallel layout; the models below them differ in nothing that is split.
BUILT = [
    ("270M", "one-node"), ("600M", "several-nodes"), ("3B", "one-node"), ("3B", "several-nodes"),
    ("3B", "several-nodes-40gb"), ("10B-A1B", "one-node"), ("10B-A1B", "several-nodes"), ("10B-A1B", "several-nodes-40gb"),  # noqa: E501
]  # fmt: skip


def recipe_for(model: str, name: str, **changes: object) -> Recipe:
    on_cpu = {"precision": "float32"} if name == "cpu" else {}
    return published_recipe(model, **{**on_cpu, **changes})


def test_every_model_of_the_catalogue_has_layouts() -> None:
    for model in MODELS:
        assert {"cpu", "one-gpu"} <= layouts(model).keys() or model == "10B-A1B"
    for model in ("270M", "600M", "3B", "10B-A1B"):
        assert {"one-node", "several-nodes"} <= layouts(model).keys()
        assert layout(model, "several-nodes").hardware.world_size == 64


@pytest.mark.parametrize(("model", "name"), ALL)
def test_every_layout_fits_its_recipe_and_its_memory(model: str, name: str) -> None:
    chosen, settings = layout(model, name), recipe_for(model, name)
    chosen.hardware.check_recipe(settings)
    # With the larger of the published sizes of bags, which the gradient of their embedding needs memory for.
    estimate = estimate_memory(settings, chosen.hardware, 16)
    assert estimate.total <= chosen.memory_gib * GIB, str(estimate)
    assert bag_elements(settings, chosen.hardware, 16) < BAG_INDEX_LIMIT


def test_a_layout_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(UserError, match=r"10B-A1B has no hardware layout 'one-gpu'; it has: cpu, one-node"):
        layout("10B-A1B", "one-gpu")
    with pytest.raises(UserError, match="known: "):
        layouts("7B")


@pytest.fixture(scope="module")
def built() -> dict[str, dict]:
    script = Path(__file__).with_name("fake_layouts.py")
    arguments = [word for pair in BUILT for word in pair]
    result = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=900,
        cwd=script.parent.parent, env=environment(script),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return {line["layout"]: line for line in lines}


def environment(script: Path) -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": f"{script.parent.parent}:{script.parent}", "RANK": "0"}


@pytest.mark.parametrize(("model", "name"), BUILT)
def test_layouts_build_on_meta_and_hold_the_state_that_was_estimated(built, model: str, name: str) -> None:  # type: ignore[no-untyped-def]
    """One rank of 8 or 64 on torchtitan's fake backend; the estimate of its state is right within 1%."""
    line = built[f"{model} {name}"]
    hardware = layout(model, name).hardware
    assert line["ranks"] == hardware.world_size
    estimate = estimate_memory(published_recipe(model), hardware)
    assert STATE_BYTES * line["local"] == pytest.approx(estimate.state, rel=0.01)
    assert any("tp" in mesh for mesh in line["meshes"]) == (hardware.tensor_parallel > 1)
    assert any("ep" in mesh.replace("rep", "") for mesh in line["meshes"]) == (hardware.expert_parallel > 1)


MOE = replace(
    TINY_MODEL, architecture="qwen3_moe", num_kv_heads=2, ffn_dim=0, moe=MoEShape(num_experts=4, top_k=2, expert_ffn_dim=32, load_balance_coeff=1e-3)  # noqa: E501
)  # fmt: skip
FOUR = {"processes": 4}


@pytest.mark.parametrize(
    ("hardware", "changes", "message"),
    [
        ({**FOUR, "tensor_parallel": 3}, {}, "4 ranks cannot be divided by"),
        ({**FOUR, "data_parallel_shard": 3}, {}, "degrees multiply to 3, but 1 nodes x 4 processes are 4 ranks"),
        ({**FOUR, "data_parallel_replicate": 2, "data_parallel_shard": 4}, {}, "multiply to 8"),
        ({"tensor_parallel": 0}, {}, "at least 1"),
        ({**FOUR, "tensor_parallel": 2}, {}, "tensor_parallel 2 cannot split the 1 key-value heads of model tiny"),
        ({**FOUR, "tensor_parallel": 4}, {}, "tensor_parallel 4 cannot split the 2 attention heads"),
        (
            {**FOUR, "tensor_parallel": 2},
            {"model": replace(TINY_MODEL, num_kv_heads=2, vocab_size=511)},
            "cannot split the 511 vocabulary entries",
        ),
        (
            {**FOUR, "tensor_parallel": 2},
            {"model": replace(TINY_MODEL, num_kv_heads=2), "seq_len": 33},
            "does not divide seq_len 33",
        ),
        ({"loss_chunks": 5}, {}, "loss_chunks 5 does not divide the 32 positions"),
        ({**FOUR, "expert_parallel": 2}, {}, "model tiny has no experts"),
        (
            {**FOUR, "expert_parallel": 3},
            {"model": MOE},
            "cannot split the 4 experts",
        ),
        (
            {**FOUR, "data_parallel_replicate": 4, "data_parallel_shard": 1, "expert_parallel": 4},
            {"model": MOE},
            "does not divide the 1 ranks of one replica",
        ),
        (
            {**FOUR, "expert_parallel": 2, "cuda_graphs": True, "deterministic": False},
            {"model": MOE},
            "whose dispatch waits for counts",
        ),
        ({"cuda_graphs": True}, {}, "cuda_graphs cannot be used with deterministic: true"),
        ({"micro_batch": 3}, {}, "micro_batch 3 does not divide"),
        (
            {**FOUR, "context_parallel": 2},
            {"attention": "document"},
            "context_parallel cannot be used with attention: document",
        ),
    ],
)  # fmt: skip
def test_a_layout_that_cannot_split_the_recipe_is_refused(hardware, changes, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=message) as error:
        Hardware(**hardware).check_recipe(recipe(**changes))
    assert "\n" not in str(error.value)


def refusal(job) -> str:  # type: ignore[no-untyped-def]
    """What a worker says before it builds anything."""
    from tst_titan.train.titan.worker import train_segment

    write_job(job)
    with pytest.raises(UserError) as error:
        train_segment(job)
    assert not torch.distributed.is_initialized(), "refused only after the process group was made"
    assert not (job.folder / "metrics.jsonl").exists()
    return str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU refuses")
@pytest.mark.parametrize(
    ("hardware", "changes", "message"),
    [
        ({}, {"precision": "float8"}, "needs a GPU with float8"),
        ({}, {"attention": "document"}, "flex attention has no backward"),
        ({"cuda_graphs": True, "deterministic": False}, {}, "cuda_graphs needs a CUDA device"),
        ({"context_parallel": 2, "processes": 2}, {}, "context_parallel cannot be used on a CPU"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("process_group")
def test_what_the_device_cannot_do_is_refused_before_the_first_step(  # type: ignore[no-untyped-def]
    hardware, changes, message, tmp_path: Path, corpus_dir: Path
) -> None:
    if changes.get("precision"):
        pytest.importorskip("torchao")
    (segment,) = chain(constant(2), recipe=recipe(**changes))
    assert message in refusal(make_job(segment, tmp_path, corpus_dir, **hardware))


@pytest.mark.parametrize(
    ("capability", "dense", "experts"),
    [
        ((8, 0), False, False),  # A100
        ((8, 9), True, False),  # L40S
        ((9, 0), True, True),  # H100, H200
        ((10, 0), True, True),  # B200
        ((10, 3), True, True),  # B300
        ((12, 0), True, False),  # RTX PRO 6000
    ],
)
def test_float8_experts_are_refused_where_there_is_no_grouped_float8(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dense: bool, experts: bool
) -> None:
    """On capability 8.9 and 12 torchtitan's own check passed, and the first step failed."""
    pytest.importorskip("torchao")
    from tst_titan.train.titan.checks import check_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    for with_experts, allowed in ((False, dense), (True, experts)):
        if allowed:
            check_device(Hardware(), "float8", "causal", experts=with_experts)
        else:
            message = "float8 with experts needs grouped products" if dense else "needs a GPU with float8"
            with pytest.raises(UserError, match=f"{message}.*; use precision: bfloat16"):
                check_device(Hardware(), "float8", "causal", experts=with_experts)
    check_device(Hardware(), "bfloat16", "causal", experts=True)


@pytest.mark.usefixtures("process_group")
def test_a_model_that_does_not_fit_is_refused_with_what_it_needs(tmp_path: Path, corpus_dir: Path) -> None:
    huge = replace(published_recipe("10B-A1B").model, num_layers=3200)
    (segment,) = chain(constant(2), recipe=recipe(model=huge, sequences_per_step=4))
    message = refusal(make_job(segment, tmp_path, corpus_dir))
    assert "does not fit: a rank needs about" in message
    assert "GiB" in message
    assert "more ranks" in message


@pytest.fixture
def parent(tmp_path: Path, corpus_dir: Path, process_group: None):  # type: ignore[no-untyped-def]
    """A superposition that was trained, and the recovery after it."""
    first, second = chain(superposition(0, 2), recovery(2, 3), recipe=recipe())
    train_here(first, tmp_path, corpus_dir)
    return first, second


def test_a_checkpoint_of_another_model_is_refused(parent, tmp_path: Path, corpus_dir: Path) -> None:  # type: ignore[no-untyped-def]
    other = chain(superposition(0, 2), recovery(2, 3), recipe=recipe(model=replace(TINY_MODEL, dim=48)))[1]
    message = refusal(make_job(replace(other, parent=parent[0].id), tmp_path, corpus_dir))
    assert "recipe.model.dim is 32 there, 48 here" in message


def test_a_checkpoint_of_another_bag_size_is_refused(parent, tmp_path: Path, corpus_dir: Path) -> None:  # type: ignore[no-untyped-def]
    other = chain(superposition(0, 2, bag_size=4), recovery(2, 3), recipe=recipe())[1]
    message = refusal(make_job(replace(other, parent=parent[0].id), tmp_path, corpus_dir))
    assert "stages[0].bag_size is 3 there, 4 here" in message


def test_a_checkpoint_of_another_tokenizer_is_refused(parent, tmp_path: Path, corpus_dir: Path) -> None:  # type: ignore[no-untyped-def]
    first, second = parent
    path = tmp_path / first.id / "provenance.json"
    write_json(path, read_json(path) | {"tokenizer_digest": "0" * 64})
    assert "token ids of another tokenizer" in refusal(make_job(second, tmp_path, corpus_dir))


def test_a_checkpoint_with_other_shapes_is_refused_before_it_is_loaded(  # type: ignore[no-untyped-def]
    parent, tmp_path: Path, corpus_dir: Path
) -> None:
    """Its settings say it is the right one, its tensors do not: someone moved folders, of before checkpoints were
    sealed."""
    first, _ = parent
    wide = recipe(model=replace(TINY_MODEL, ffn_dim=96))
    start, end = chain(superposition(0, 2), recovery(2, 3), recipe=wide)
    moved = tmp_path / start.id
    (tmp_path / first.id).rename(moved)
    write_job(make_job(start, tmp_path, corpus_dir))
    for seal in (moved / "checkpoint" / "step-2").glob("seal-*.json"):
        seal.unlink()
    with pytest.raises(UserError, match=r"another model: .*feed_forward.*\[64, 32\] there, \[96, 32\] here"):
        train_here(end, tmp_path, corpus_dir)
    assert "layers.0.feed_forward.w1.weight" in saved_state(moved, 2)
