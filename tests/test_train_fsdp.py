"""What FSDP holds between steps: no gathered weights after a validation, one all-reduce of gradients a step."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import errors, train_on_ranks, train_recorded
from torch.distributed.fsdp import FSDPModule
from torch.utils._python_dispatch import TorchDispatchMode
from training import chain, constant, make_job, recipe, rows, train_here

from tst_titan.train.job import Job, write_job


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
    """A replayed step runs no hooks of FSDP: here the shards of norm and head are moved as the optimizer does it
    then."""
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


REPLICAS = {"processes": 4, "data_parallel_replicate": 2, "data_parallel_shard": 2, "micro_batch": 1}
STEPS = 2
MICRO_BATCHES = 3


class AllReduces(TorchDispatchMode):
    """Counts FSDP's own. (CommDebugMode follows modules, and cannot where the loss calls the head outside of the
    model.)"""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func._overloadpacket is torch.ops.c10d.allreduce_
        return func(*args, **kwargs or {})


def train_counting_all_reduces(job: Job) -> None:
    """Train with the real trainer; `all_reduces-RANK.json` has how many each micro-batch made, forward and backward."""
    from tst_titan.train.titan.trainer import SegmentTrainer

    counts = []
    plain = SegmentTrainer.forward_backward_step

    def counting(trainer: SegmentTrainer, **micro_batch: object) -> torch.Tensor:
        with AllReduces() as mode:
            loss = plain(trainer, **micro_batch)
        counts.append(mode.count)
        return loss

    SegmentTrainer.forward_backward_step = counting  # type: ignore[method-assign]
    try:
        train_recorded(job)
    finally:
        SegmentTrainer.forward_backward_step = plain  # type: ignore[method-assign]
    (job.folder / f"all_reduces-{dist.get_rank()}.json").write_text(json.dumps(counts))


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory, corpus_dir: Path, process_group: None) -> dict[str, Path]:
    """Two replicas of two shards each, three micro-batches a step: four gloo ranks, and one rank that takes a step
    whole."""
    (segment,) = chain(constant(STEPS), recipe=recipe(sequences_per_step=4 * MICRO_BATCHES))
    results = tmp_path_factory.mktemp("replicas")
    jobs = {
        name: make_job(segment, results / name, corpus_dir, loss_chunks=chunks, **REPLICAS)
        for name, chunks in (("whole", 1), ("chunked", 4))
    }
    train_on_ranks(jobs, 4, dict.fromkeys(jobs, train_counting_all_reduces))
    one = train_here(segment, results / "one", corpus_dir)
    return {"one": one, **{name: job.folder for name, job in jobs.items()}}


@pytest.mark.parametrize(("name", "each_time"), [("whole", 0), ("chunked", 2)])
def test_gradients_cross_the_replicas_in_the_last_micro_batch_alone(  # type: ignore[no-untyped-def]
    replicas, name: str, each_time: int
) -> None:
    """But for the head and the norm before a chunked loss, which reduces one after the other as one group."""
    assert not errors(replicas[name])
    for rank in range(4):
        counts = json.loads((replicas[name] / f"all_reduces-{rank}.json").read_text())
        assert len(counts) == STEPS * MICRO_BATCHES
        # Embedding, two layers, norm and head.
        assert counts == STEPS * ((MICRO_BATCHES - 1) * [each_time] + [max(4, 3 + each_time)])


@pytest.mark.parametrize("name", ["whole", "chunked"])
def test_replicas_train_as_one_rank(replicas, name: str) -> None:  # type: ignore[no-untyped-def]
    """Losses within 1e-5 and norms of gradients within 1e-4 of one rank's, whose sum has another order."""
    found, expected = (rows(replicas[key], "loss", "grad_norm") for key in (name, "one"))
    assert len(found) == STEPS
    for (loss, norm), (expected_loss, expected_norm) in zip(found, expected, strict=True):
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert norm == pytest.approx(expected_norm, rel=1e-4)
