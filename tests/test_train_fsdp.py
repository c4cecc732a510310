"""What FSDP holds between steps: no gathered weights after a validation, one all-reduce of gradients a step."""

import json
from pathlib import Path

import pytest
import torch
from torch.distributed.fsdp import FSDPModule
from training import chain, constant, make_job, recipe

from tst_titan.train.job import write_job


@pytest.fixture
def trainer(tmp_path: Path, corpus_dir: Path, process_group: None):  # type: ignore[no-untyped-def]
    """A trainer on one rank (torchtitan shards there, too), after a step. Its validations write rows of metrics."""
    from tst_titan.train.titan.config import trainer_config

    job = make_job(chain(constant(1), recipe=recipe())[0], tmp_path, corpus_dir)
    write_job(job)
    trainer = trainer_config(job).build()
    assert trainer is not None
    trainer.train()
    yield trainer
    trainer.close()


def validation_loss(trainer) -> float:  # type: ignore[no-untyped-def]
    trainer.validator.validate(trainer.model_parts, trainer.step)
    lines = (Path(trainer.config.dump_folder) / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["validation_loss"]


def fsdp_modules(trainer) -> dict[str, FSDPModule]:  # type: ignore[no-untyped-def]
    modules = trainer.model_parts[0].named_modules()
    return {name: module for name, module in modules if isinstance(module, FSDPModule)}


def gathered(trainer) -> list[str]:  # type: ignore[no-untyped-def]
    return [
        name
        for name, module in fsdp_modules(trainer).items()
        for group in module._get_fsdp_state()._fsdp_param_groups
        if not group.is_sharded
    ]


def test_no_group_of_weights_stays_gathered_after_a_validation(trainer) -> None:  # type: ignore[no-untyped-def]
    assert len(fsdp_modules(trainer)) > 3
    validation_loss(trainer)
    assert gathered(trainer) == []


def test_a_validation_sees_weights_that_a_cuda_graphs_replay_moved(trainer) -> None:  # type: ignore[no-untyped-def]
    """A replayed step runs no hooks of FSDP: here the shards of norm and head are moved as the optimizer does it then."""
    before = validation_loss(trainer)
    model = trainer.model_parts[0]
    with torch.no_grad():
        for parameter in (model.norm.weight, model.lm_head.weight):
            parameter.to_local().mul_(3)
    moved = validation_loss(trainer)
    # What a model gathered anew computes.
    for module in fsdp_modules(trainer).values():
        module.reshard()
    assert moved == validation_loss(trainer)
    assert moved != before
