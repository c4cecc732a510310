"""Initial weights are the seed's and the parameter's name's alone: no device, block or thread count moves a bit of
them."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_parallel import MODELS
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from training import chain, make_job, recipe, recovery, saved_state, superposition, train_here

import tst_titan.train.titan  # noqa: F401
from tst_titan.plan.settings import ModelShape
from tst_titan.train.titan import draws
from tst_titan.train.titan.draws import BLOCK, normal_, truncated_normal_

pytestmark = pytest.mark.usefixtures("process_group")
# SHA-256 of all weights of seed 0, on CPUs with AVX2; elsewhere torch's logarithm differs in its last bits.
DIGESTS = {"dense": "3cb9fcfdaa5f70fb", "moe": "1ff717c8fdd7581e"}
# The first value of each parameter.
FIRST = {
    "dense": [
        -0.386381, -0.0130916, -0.00485251, -0.0264215, 0.0153675, -0.0168784, 1.0, 1.0, 0.0236528, 0.0039682, 0.0176851,  # noqa: E501
        -0.00394552, -0.00366472, 1.0, 1.0, 1.0, -0.0210455,
    ],
    "moe": [
        -0.00772761, -0.0130916, -0.00343125, 1.0, 1.0, -0.0402104, 0.00808529, 0.0222325, -0.0129308, 1.0, 1.0, 0.0236528,  # noqa: E501
        0.0039682, 1.0, 1.0, -0.00969037, -0.00293411, -0.0140894, -0.00312304, 1.0, 1.0, 1.0, -0.00476206,
    ],
}  # fmt: skip


def built(shape: ModelShape, device: str) -> nn.Module:
    """A model of seed 0 without values."""
    from tst_titan.train.titan.models import model_spec

    with torch.device("meta"):
        model = model_spec(shape, seq_len=32, seed=0).model.build()
    return model.to_empty(device=device)


def initialized(model: nn.Module) -> dict[str, torch.Tensor]:
    """Its parameters by name, initialized."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            with torch.no_grad():
                module._init_param(name, parameter)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


class Watch(TorchDispatchMode):
    """Records on which device random numbers are drawn, how many at once, and what is sent to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[tuple[str, int]] = []
        self.sent: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.drawn.append((out.device.type, out.numel()))
        if func is torch.ops.aten._to_copy.default and args[0].device.type == "cpu" != out.device.type:
            self.sent.append(args[0].clone())
        return out


@pytest.mark.parametrize("kind", DIGESTS)
def test_the_seed_gives_the_weights_that_it_always_gave(kind: str) -> None:
    digest, first = hashlib.sha256(), []
    for name, value in initialized(built(MODELS[kind], "cpu")).items():
        digest.update(name.encode() + value.numpy().tobytes())
        first.append(float(value.flatten()[0]))
    assert first == pytest.approx(FIRST[kind], rel=1e-4)
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert digest.hexdigest()[:16] == DIGESTS[kind]


@pytest.mark.parametrize("kind", MODELS)
def test_weights_of_any_device_are_drawn_on_the_cpu(kind: str) -> None:
    """Drawn on a GPU, the same seed gave other weights on another GPU model."""
    before = torch.get_rng_state()
    on_cpu = initialized(built(MODELS[kind], "cpu"))
    elsewhere = built(MODELS[kind], "meta")
    with Watch() as watch, torch.device("meta"):
        initialized(elsewhere)
    random = [name for name, value in on_cpu.items() if len(value.unique()) > 1]
    assert len(watch.drawn) >= len(random) > len(on_cpu) / 2
    assert {device for device, _ in watch.drawn} == {"cpu"}
    # What a device gets is bit for bit what a CPU rank starts from.
    sent = set(torch.cat(watch.sent).tolist())
    assert not [name for name in random if not set(on_cpu[name].flatten().tolist()) <= sent]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [1, 15, 64, 64 + 15, 128 + 16, 1000, 1029])
def test_values_do_not_depend_on_the_block_in_which_they_are_drawn(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host holds a block at a time; the values are those of one draw of the whole tensor, by torch's own
    functions."""
    monkeypatch.setattr(draws, "BLOCK", 64)
    whole, blocks = torch.empty(size), torch.empty(size)
    for ours, theirs in (
        (lambda x: normal_(x, std=0.02), lambda x: nn.init.normal_(x, std=0.02)),
        (lambda x: truncated_normal_(x, std=0.02, bound=2.0), lambda x: nn.init.trunc_normal_(x, std=0.02)),
        (lambda x: truncated_normal_(x, std=0.3, bound=0.2), lambda x: redrawn_(x, std=0.3, bound=0.2)),
    ):
        for draw, values in ((ours, blocks), (theirs, whole)):
            torch.manual_seed(1)
            draw(values)
        assert torch.equal(blocks, whole)


def redrawn_(values: torch.Tensor, *, std: float, bound: float) -> None:
    """A truncated normal as `nn.init.trunc_normal_` of torch 2.13 draws it: rounds over the whole tensor."""
    limit = torch.tensor(bound).item()
    values.normal_(0, std)
    while (outside := values.abs() > limit).any():
        values.copy_(torch.where(outside, torch.empty_like(values).normal_(0, std), values))


def test_the_host_holds_one_block_of_a_large_parameter_at_a_time() -> None:
    """Eight ranks a node that drew a vocabulary's head whole would need 50 GB of host memory at once."""
    with Watch() as watch:
        truncated_normal_(torch.empty(BLOCK, 5, device="meta"), std=1.0, bound=3.0)
    assert len(watch.drawn) >= 10
    assert {count for _, count in watch.drawn} == {BLOCK}
    assert sum(values.numel() for values in watch.sent) < 5 * BLOCK * 1.01


def test_a_segment_with_a_parent_draws_no_weights_and_starts_from_its_parents(tmp_path: Path, corpus_dir: Path) -> None:
    from tst_titan.train.titan.config import trainer_config

    first, second = chain(superposition(0, 2), recovery(2, 3), recipe=recipe())
    saved = saved_state(train_here(first, tmp_path, corpus_dir), 2)
    with Watch() as watch:
        trainer = trainer_config(make_job(second, tmp_path, corpus_dir)).build()
    try:
        # Building a model on the meta device draws nothing real.
        assert {device for device, _ in watch.drawn} <= {"meta"}
        assert all(bool(local(weight).isnan().all()) for weight in trainer.model_parts[0].parameters())
        trainer.checkpointer.load()
        weights = trainer.checkpointer.states["model"].state_dict()
        assert weights
        assert not [name for name, weight in weights.items() if not torch.equal(local(weight), saved[name])]
    finally:
        trainer.close()
        torch.distributed.destroy_process_group()


def local(weight: torch.Tensor) -> torch.Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight
