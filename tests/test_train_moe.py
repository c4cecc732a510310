"""A mixture of experts trains in both phases, balances on positions, and computes what a loop over experts would."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training import (
    TINY_MODEL,
    chain,
    constant,
    make_job,
    recipe,
    recovery,
    rows,
    saved_state,
    superposition,
    train_here,
)

import tst_titan.train.titan  # noqa: F401
from tst_titan.plan.settings import MoEShape
from tst_titan.train.job import write_job

pytestmark = pytest.mark.usefixtures("process_group")

EXPERTS = MoEShape(num_experts=4, top_k=2, expert_ffn_dim=32, load_balance_coeff=1e-3)
MOE = replace(TINY_MODEL, architecture="qwen3_moe", num_kv_heads=2, ffn_dim=0, norm_eps=1e-6, moe=EXPERTS)
POSITIONS = 4 * 32  # of a step


def test_it_trains_in_both_phases_and_the_bias_goes_on(tmp_path: Path, corpus_dir: Path) -> None:
    first, second = chain(superposition(0, 12, bag_size=3), recovery(12, 20), recipe=recipe(model=MOE, warmup_steps=2))
    folders = [train_here(segment, tmp_path, corpus_dir) for segment in (first, second)]
    bags, tokens = ([loss for (loss,) in rows(folder, "loss")] for folder in folders)
    assert bags[-1] < bags[0] - 0.5
    assert max(tokens) < math.log(512)  # what bags taught serves single tokens
    # Bags of three tokens, then tokens: the model routes positions in both, four sequences of 32 a step.
    assert {count for folder in folders for (count,) in rows(folder, "routed_positions")} == {POSITIONS}
    for loads, entropies, ranges in rows(folders[1], "expert_load_max", "expert_entropy", "expert_bias_range"):
        assert len(loads) == len(entropies) == len(ranges) == 2
        # Four experts, of which a position takes two different ones: at most twice the mean.
        assert all(1 <= load <= 2 for load in loads)
        assert all(0.5 <= entropy <= 1 for entropy in entropies)
    before = saved_state(folders[0], 12)["layers.0.moe.expert_bias_E"]
    after = saved_state(folders[1], 20)["layers.0.moe.expert_bias_E"]
    assert before.abs().max() > 0
    # Every step moves a bias by at most twice the coefficient: recovery went on from superposition's bias.
    assert 0 < (after - before).abs().max() <= 8 * 2 * EXPERTS.load_balance_coeff + 1e-6
    assert rows(folders[1], "expert_bias_range")[-1][0][0] == pytest.approx(float(after.max() - after.min()))


def test_balancing_moves_the_bias_within_its_bound_and_can_be_off(tmp_path: Path, corpus_dir: Path) -> None:
    """No order of two loads: with 128 positions a step, chance and the processor move them by more than the bias
    does."""
    steps, coefficient = 20, 0.003
    for balance in (coefficient, 0.0):
        model = replace(MOE, moe=replace(EXPERTS, load_balance_coeff=balance))
        (segment,) = chain(constant(steps), recipe=recipe(model=model))
        folder = train_here(segment, tmp_path, corpus_dir)
        assert rows(folder, "routed_positions") == [(POSITIONS,)] * steps
        biases = [bias for name, bias in saved_state(folder, steps).items() if "expert_bias" in name]
        assert bool(biases) == (balance > 0)
        for bias_E in biases:
            # A step moves each by one coefficient, up or down, and takes their mean off: what the busy lose the idle
            # gain.
            assert 0 < bias_E.abs().max() <= steps * 2 * balance + 1e-6
            assert abs(float(bias_E.sum())) < 1e-5


def test_balancing_takes_an_expert_that_all_positions_choose_back_to_the_others(
    tmp_path: Path, corpus_dir: Path
) -> None:
    """The skew is far beyond chance: a bias of a half, over scores of about a quarter, puts the first expert into every
    position."""
    from tst_titan.train.titan.config import trainer_config
    from tst_titan.train.titan.routing import expert_layers

    coefficient = 0.02
    model = replace(MOE, moe=replace(EXPERTS, load_balance_coeff=coefficient))
    # A step closes the gap by twice the coefficient, 0.5 in 13; almost no learning, so that nothing else moves the
    # loads.
    (segment,) = chain(constant(20), recipe=recipe(model=model, learning_rate=1e-7, warmup_steps=0))
    job = make_job(segment, tmp_path, corpus_dir)
    write_job(job)
    trainer = trainer_config(job).build()
    for moe in expert_layers(trainer.model_parts[0]):
        moe.expert_bias_E.copy_(torch.tensor([0.5, 0.0, 0.0, 0.0]))  # type: ignore[operator, union-attr]
    trainer.train()
    trainer.close()
    loads = [load for (load,) in rows(job.folder, "expert_load_max")]
    # In every position of two out of four experts: twice the mean.
    assert loads[0] == loads[9] == [2.0, 2.0]
    assert all(load < 1.8 for load in loads[-1])


def loop_over_experts(module: torch.nn.Module, x_RD: torch.Tensor, counts_E: torch.Tensor) -> torch.Tensor:
    """Each expert on its own rows, as a person would write it, in the dtype of `x_RD`."""
    outputs = []
    for expert, rows_RD in enumerate(x_RD.split(counts_E.tolist())):
        w1_FD, w2_DF, w3_FD = (
            weight[expert].to(x_RD.dtype) for weight in (module.w1_EFD, module.w2_EDF, module.w3_EFD)
        )  # type: ignore[index]
        outputs.append((torch.nn.functional.silu(rows_RD @ w1_FD.T) * (rows_RD @ w3_FD.T)) @ w2_DF.T)
    return torch.cat(outputs)


@pytest.mark.parametrize(
    ("kind", "bound"),
    # torchtitan's experts compute in bfloat16, of 8 bits; those that evaluation uses in the dtype of their weights.
    [("GroupedExperts", 2**-6), ("ExpertsInTheirDtype", 1e-5)],
)
def test_grouped_experts_are_a_loop_over_experts(kind: str, bound: float) -> None:
    from torchtitan.models.common.moe import GroupedExperts

    from tst_titan.train.titan.models import ExpertsInTheirDtype

    cls = {"GroupedExperts": GroupedExperts, "ExpertsInTheirDtype": ExpertsInTheirDtype}[kind]
    experts = cls(cls.Config(dim=32, hidden_dim=48, num_experts=4))
    generator = torch.Generator().manual_seed(0)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    counts_E = torch.tensor([5, 0, 17, 10])  # one expert has no position at all
    x_RD = torch.randn(32, 32, generator=generator)
    weights_RD = torch.randn(32, 32, generator=generator)

    results = {}
    for name, forward in (("grouped", experts), ("loop", lambda x, c: loop_over_experts(experts, x, c))):
        experts.zero_grad()
        inputs_RD = x_RD.clone().requires_grad_()
        output_RD = forward(inputs_RD, counts_E)
        (output_RD * weights_RD).sum().backward()
        gradients = {key: parameter.grad.clone() for key, parameter in experts.named_parameters()}  # type: ignore[union-attr]
        results[name] = {"output": output_RD.detach(), "input": inputs_RD.grad, **gradients}
    for key, expected in results["loop"].items():
        error = (results["grouped"][key] - expected).norm() / expected.norm()  # type: ignore[union-attr]
        assert error <= bound, key
    assert not results["grouped"]["w1_EFD"][1].any()
