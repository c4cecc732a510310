"""The layout changes nothing but rounding: initial weights bit for bit, losses within stated bounds.

Two gloo ranks on CPU against one rank; chunked, compiled and float8 computation against plain float32. Three steps of
tiny models, in both phases.
"""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ranks import errors, initial_weights, train_on_ranks, train_recorded
from training import TINY_MODEL, chain, constant, make_job, recipe, rows, superposition

from tst_titan.plan.settings import MoEShape, Segment
from tst_titan.train.job import Job, write_job

STEPS = 3
MODELS = {
    "dense": replace(TINY_MODEL, num_kv_heads=2),
    "moe": replace(
        TINY_MODEL, name="tiny-moe", architecture="qwen3_moe", num_kv_heads=2, ffn_dim=0, norm_eps=1e-6,
        moe=MoEShape(num_experts=4, top_k=2, expert_ffn_dim=32, load_balance_coeff=1e-3),
    ),
}  # fmt: skip
LAYOUTS = {
    "fsdp": {"data_parallel_shard": 2},
    "hsdp": {"data_parallel_replicate": 2, "data_parallel_shard": 1},
    "tensor": {"tensor_parallel": 2},
    "tensor-chunked": {"tensor_parallel": 2, "loss_chunks": 4},
    "expert": {"expert_parallel": 2},
    "expert-tensor": {"tensor_parallel": 2, "expert_parallel": 2},
}
# On two ranks: every layout, every model and both phases, not every product of them.
ON_TWO_RANKS = (
    "dense superposition fsdp", "dense superposition hsdp", "dense superposition tensor", "dense plain fsdp",
    "dense plain tensor", "dense superposition tensor-chunked", "dense plain tensor-chunked",
    "moe superposition fsdp", "moe superposition tensor", "moe superposition expert", "moe plain expert-tensor",
)  # fmt: skip


def segment(case: str, **changes: object) -> Segment:
    model, phase = case.split()[:2]
    stage = superposition(0, STEPS) if phase == "superposition" else constant(STEPS)
    return chain(stage, recipe=recipe(**{"model": MODELS[model], **changes}))[0]


def here(job: Job) -> Path:
    """Train in this process, on one rank."""
    write_job(job)
    try:
        train_recorded(job)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return job.folder


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory, corpus_dir: Path, process_group: None):  # type: ignore[no-untyped-def]
    """The folder of a case trained plainly on one rank, made when first asked for."""
    results = tmp_path_factory.mktemp("one-rank")
    folders: dict[str, Path] = {}

    def folder(case: str) -> Path:
        name = " ".join(case.split()[:2])
        if name not in folders:
            folders[name] = here(make_job(segment(name), results, corpus_dir))
        return folders[name]

    return folder


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory, corpus_dir: Path) -> dict[str, Path]:
    results = tmp_path_factory.mktemp("two-ranks")
    jobs = {
        case: make_job(
            segment(case),
            results / case.replace(" ", "-"),
            corpus_dir,
            processes=2,
            **LAYOUTS[case.split()[2]],
        )
        for case in ON_TWO_RANKS
    }
    train_on_ranks(jobs, 2)
    return {case: job.folder for case, job in jobs.items()}


@pytest.mark.parametrize("case", ON_TWO_RANKS)
def test_initial_weights_are_bit_equal_in_every_layout(one_rank, two_ranks, case: str) -> None:  # type: ignore[no-untyped-def]
    assert not errors(two_ranks[case])
    expected, found = initial_weights(one_rank(case)), initial_weights(two_ranks[case])
    assert expected.keys() == found.keys()
    assert not [name for name in expected if not torch.equal(expected[name], found[name])]


def test_no_two_shards_and_no_two_experts_start_equal(one_rank) -> None:  # type: ignore[no-untyped-def]
    """What DTensor's own draws do on CPU ranks: every rank the same numbers."""
    weights = initial_weights(one_rank("moe plain"))
    first, second = weights["tok_embeddings.weight"].chunk(2)
    assert not torch.equal(first, second)
    for name, weight in weights.items():
        if name.endswith(("w1_EFD", "w2_EDF", "w3_EFD")):
            assert len({tuple(expert.flatten().tolist()) for expert in weight}) == 4, name


@pytest.mark.parametrize("case", ON_TWO_RANKS)
def test_two_ranks_train_as_one(one_rank, two_ranks, case: str) -> None:  # type: ignore[no-untyped-def]
    """First loss within 1e-6 of one rank's; later 1e-5, with experts (in bfloat16 always) 1e-4."""
    assert not errors(two_ranks[case])
    expected, found = rows(one_rank(case), "loss", "grad_norm"), rows(two_ranks[case], "loss", "grad_norm")
    bound = 1e-4 if "moe" in case else 1e-5
    assert len(found) == STEPS
    assert found[0][0] == pytest.approx(expected[0][0], rel=1e-6)
    for (loss, norm), (expected_loss, expected_norm) in zip(found, expected, strict=True):
        assert loss == pytest.approx(expected_loss, rel=bound)
        assert norm == pytest.approx(expected_norm, rel=20 * bound)


def test_routing_counts_positions_in_every_layout(two_ranks) -> None:  # type: ignore[no-untyped-def]
    """A step routes 4 x 32 positions whether a position is a token or a bag of three, on any number of ranks."""
    for case in ON_TWO_RANKS:
        if "moe" in case:
            assert rows(two_ranks[case], "routed_positions") == [(4 * 32,)] * STEPS


@pytest.mark.parametrize("case", ["dense superposition", "dense plain"])
def test_chunked_loss_is_the_loss(one_rank, case: str, tmp_path: Path, corpus_dir: Path) -> None:  # type: ignore[no-untyped-def]
    chunked = here(make_job(segment(case), tmp_path, corpus_dir, loss_chunks=4))
    for found, expected in zip(
        rows(chunked, "loss", "grad_norm"), rows(one_rank(case), "loss", "grad_norm"), strict=True
    ):
        assert found == pytest.approx(expected, rel=1e-5)


def test_compiled_training_is_eager_training(one_rank, tmp_path: Path, corpus_dir: Path) -> None:  # type: ignore[no-untyped-def]
    """Blocks and multi-hot loss through inductor, within 1e-5."""
    compiled = here(make_job(segment("dense superposition"), tmp_path, corpus_dir, compile=True))
    for found, expected in zip(
        rows(compiled, "loss", "grad_norm"),
        rows(one_rank("dense superposition"), "loss", "grad_norm"),
        strict=True,
    ):
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("checkpointing", ["selective", "full"])
def test_recomputed_activations_are_the_activations(  # type: ignore[no-untyped-def]
    one_rank, checkpointing: str, tmp_path: Path, corpus_dir: Path
) -> None:
    job = make_job(segment("dense superposition"), tmp_path, corpus_dir, activation_checkpoint=checkpointing)
    assert rows(here(job), "loss", "grad_norm") == rows(one_rank("dense superposition"), "loss", "grad_norm")


@pytest.fixture
def emulated_float8(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device takes float8, which torchao then rounds to; of experts it has no emulation: they stay in bfloat16."""
    pytest.importorskip("torchao")
    from tst_titan.train.titan import checks, models

    linear = partial(models.Float8LinearConverter.Config, emulate=True)
    monkeypatch.setattr(models, "Float8LinearConverter", SimpleNamespace(Config=linear))
    monkeypatch.setattr(models, "GroupedExperts", SimpleNamespace(Config=()))  # no configuration is of it
    monkeypatch.setattr(checks, "has_float8", lambda: True)
    monkeypatch.setattr(checks, "has_float8_experts", lambda: True)


@pytest.mark.usefixtures("emulated_float8")
@pytest.mark.parametrize("case", ["dense superposition", "dense plain", "moe superposition"])
def test_emulated_float8_stays_near_float32(one_rank, case: str, tmp_path: Path, corpus_dir: Path) -> None:  # type: ignore[no-untyped-def]
    """Within 1% of the loss over three steps (a float8 number has 3 bits after the leading one), and not equal."""
    expected = rows(one_rank(case), "loss")
    job = make_job(segment(case, precision="float8"), tmp_path, corpus_dir)
    found = rows(here(job), "loss")
    assert all(math.isfinite(loss) for (loss,) in found)
    for (loss,), (expected_loss,) in zip(found, expected, strict=True):
        assert loss == pytest.approx(expected_loss, rel=1e-2)
    assert found != expected
    first, float32_first = initial_weights(job.folder), initial_weights(one_rank(case))
    assert all(torch.equal(first[name], float32_first[name]) for name in float32_first)
