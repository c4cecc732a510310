"""Runs on CPU are exact: split, shared, killed or told to stop, a run ends bit-equal to one left alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training import (
    EXACT,
    TINY_MODEL,
    assert_same_state,
    chain,
    constant,
    decay,
    make_job,
    recipe,
    recovery,
    rows,
    saved_state,
    superposition,
    train_here,
)

pytestmark = pytest.mark.usefixtures("process_group")


def train_all(segments: list, results: Path, corpus_dir: Path) -> list[Path]:
    return [train_here(segment, results, corpus_dir) for segment in segments]


def all_rows(folders: list[Path]) -> list[tuple]:
    return [row for folder in folders for row in rows(folder, *EXACT)]


def test_two_step_ratios_share_one_superposition_chain_exactly(tmp_path: Path, corpus_dir: Path) -> None:
    short = (superposition(0, 4), recovery(4, 8), decay(8, 10))
    long = (superposition(0, 6), recovery(6, 8), decay(8, 10))
    alone = train_all(chain(*long, recipe=recipe()), tmp_path / "alone", corpus_dir)
    shared = chain(*long, recipe=recipe(), jobs=(4,))
    assert shared[0].id == chain(*short, recipe=recipe())[0].id
    together = train_all(shared, tmp_path / "shared", corpus_dir)
    train_all(chain(*short, recipe=recipe())[1:], tmp_path / "shared", corpus_dir)
    assert together[-1].name == alone[-1].name
    assert_same_state(saved_state(alone[-1], 10), saved_state(together[-1], 10))
    assert all_rows(alone) == all_rows(together)


def test_three_budgets_share_one_constant_chain_exactly(tmp_path: Path, corpus_dir: Path) -> None:
    budgets = {5: (constant(4), decay(4, 5)), 8: (constant(6), decay(6, 8)), 10: (constant(9), decay(9, 10))}
    train_all(chain(constant(9), recipe=recipe(), jobs=(4, 6)), tmp_path / "shared", corpus_dir)
    for steps, stages in budgets.items():
        tail = chain(*stages, recipe=recipe())[-1]
        shared = train_here(tail, tmp_path / "shared", corpus_dir)
        alone = train_all(chain(*stages, recipe=recipe()), tmp_path / f"alone-{steps}", corpus_dir)[-1]
        assert shared.name == alone.name
        assert_same_state(saved_state(alone, steps), saved_state(shared, steps))


def test_switch_continues_position_schedule_step_and_moments(tmp_path: Path, corpus_dir: Path) -> None:
    from tst_titan.data.stream import TokenStream
    from tst_titan.train.titan.config import trainer_config

    first, second = chain(superposition(0, 5), recovery(5, 9), recipe=recipe())
    before = saved_state(train_here(first, tmp_path, corpus_dir), 5)
    trainer = trainer_config(make_job(second, tmp_path, corpus_dir)).build()
    try:
        trainer.checkpointer.load()
        read = 5 * 4 * 32 * 3
        assert (trainer.step, trainer.dataloader.data_tokens) == (5, read)
        batch, labels = next(iter(trainer.dataloader))
        stream = TokenStream(corpus_dir, seed=0, num_lanes=4, block_tokens=256)
        unread = torch.from_numpy(stream.windows(read, 33))
        assert torch.equal(batch["input"], unread[:, :-1])
        assert torch.equal(labels, unread[:, 1:])
        # Each lane goes on with the token after its last bag.
        last_bags = stream.windows(read - 4 * 3, 6)
        assert (last_bags[:, 3:] == unread[:, :3].numpy()).all()

        optimizer = trainer.optimizers.state_dict()
        moments = {name: value for name, value in before.items() if "exp_avg" in name}
        assert moments
        loaded = {name.removeprefix("optimizer."): value for name, value in moments.items()}
        assert all(torch.equal(optimizer[name].full_tensor(), value) for name, value in loaded.items())
        assert trainer.lr_schedulers.schedulers[0].get_last_lr() == [1e-2]
    finally:
        trainer.close()
        torch.distributed.destroy_process_group()


def test_learning_rate_is_warmup_stable_decay_across_segments(tmp_path: Path, corpus_dir: Path) -> None:
    run = chain(superposition(0, 4), recovery(4, 8), decay(8, 12), recipe=recipe(), jobs=(6,))
    folders = train_all(run, tmp_path, corpus_dir)
    rates = [rate for folder in folders for (rate,) in rows(folder, "learning_rate")]
    # torchtitan keeps one step at the peak after `decay_start`, so that the last step is not at zero.
    expected = [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 3 / 4, 2 / 4, 1 / 4]
    assert rates == pytest.approx([1e-2 * factor for factor in expected])


def test_first_superposition_loss_is_ln_vocabulary(tmp_path: Path, corpus_dir: Path) -> None:
    for weighting in ("uniform", "power_law"):
        (segment,) = chain(superposition(0, 1, bag_size=6, bag_weighting=weighting), recipe=recipe())
        ((loss,),) = rows(train_here(segment, tmp_path, corpus_dir), "loss")
        assert loss == pytest.approx(torch.tensor(512.0).log().item(), rel=0.03)


@pytest.mark.parametrize("tied", [False, True])
def test_reinitialized_embeddings_are_new_and_the_rest_is_kept(tmp_path: Path, corpus_dir: Path, tied: bool) -> None:
    """Tied to the head, the one table is drawn anew: that died at the switch, after superposition was paid for."""
    tiny = recipe(learning_rate=1e-9, model=replace(TINY_MODEL, tied_embeddings=tied))
    first, second = chain(superposition(0, 3), recovery(3, 4, reinit_embeddings=True), recipe=tiny)
    before = saved_state(train_here(first, tmp_path, corpus_dir), 3)
    after = saved_state(train_here(second, tmp_path, corpus_dir), 4)
    weights = [name for name in before if name.endswith("weight") and "exp_avg" not in name and "optim" not in name]
    changed = {name for name in weights if not torch.allclose(before[name], after[name], atol=1e-6)}
    assert changed == {"tok_embeddings.weight", "lm_head.weight"}
