"""Float8 experts (torchao's weight wrapper) are saved, resumed, handed on, evaluated and exported as plain weights.

The wrapper is the real one, as is all that saves and loads. What needs a GPU is not run: the capability check is
answered with yes, and the products that the wrapper computes in float8 are computed in bfloat16.
"""

import shutil
from pathlib import Path

import pytest
import torch
from evaluate_segments import MOE
from torchtitan.tools.logging import logger
from training import assert_same_state, chain, constant, make_job, recipe, saved_state, train_here

from tst_titan.evaluate.checkpoint import find_checkpoint, load_model
from tst_titan.evaluate.export import export
from tst_titan.files import write_json
from tst_titan.plan.settings import segment_to_dict
from tst_titan.train.titan import checks, models

WEIGHT = "layers.0.moe.routed_experts.inner_experts.w1_EFD"


@pytest.fixture
def float8_experts(monkeypatch: pytest.MonkeyPatch, process_group: None) -> None:
    import torchao.prototype.moe_training.tensor as wrapper
    import torchtitan.components.quantization.float8 as converter
    from torchtitan.tools import utils

    for module in (utils, converter):
        monkeypatch.setattr(module, "has_cuda_capability", lambda *capability: True)

    monkeypatch.setattr(checks, "has_float8_experts", lambda: True)

    def in_bfloat16(A: torch.Tensor, B: torch.Tensor, offs: torch.Tensor, config: object) -> torch.Tensor:
        return torch._grouped_mm(A.bfloat16(), B.bfloat16(), offs=offs)

    monkeypatch.setattr(wrapper, "_quantize_then_scaled_grouped_mm", in_bfloat16)
    # Padding groups for float8 is a Triton kernel.
    monkeypatch.setattr(converter, "swap_token_dispatcher", lambda *arguments: None)

    def experts_alone(config: object, float8: models.Float8) -> None:
        models.Float8GroupedExpertsConverter.Config(model_compile_enabled=False).build().convert(config)

    monkeypatch.setattr(models, "_quantize", experts_alone)


@pytest.mark.usefixtures("float8_experts")
def test_float8_experts_are_saved_resumed_and_handed_on_bit_equal(
    tmp_path: Path, corpus_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of these crashed: `Attempted to access the data pointer on an invalid python storage`."""
    caplog.set_level("INFO", logger=logger.name)
    float8 = recipe(model=MOE, precision="float8")
    (whole,) = chain(constant(4), recipe=float8)
    folder = train_here(whole, tmp_path / "whole", corpus_dir, checkpoint_steps=2)
    expected = saved_state(folder, 4)
    assert type(expected[WEIGHT]) is torch.Tensor

    shutil.rmtree(folder / "checkpoint" / "step-4")
    train_here(whole, tmp_path / "whole", corpus_dir, checkpoint_steps=2)
    assert "Training starts at step 3" in caplog.text
    assert_same_state(expected, saved_state(folder, 4))

    first, second = chain(constant(4), recipe=float8, jobs=(2,))
    train_here(first, tmp_path / "split", corpus_dir)
    assert_same_state(expected, saved_state(train_here(second, tmp_path / "split", corpus_dir), 4))


@pytest.mark.usefixtures("float8_experts")
def test_a_checkpoint_of_float8_experts_is_evaluated_and_exported(tmp_path: Path, corpus_dir: Path) -> None:
    from tst_titan.train.titan.config import trainer_config

    (segment,) = chain(constant(2), recipe=recipe(model=MOE, precision="float8"))
    wrapped = trainer_config(make_job(segment, tmp_path / "look", corpus_dir)).build()
    weight = dict(wrapped.model_parts[0].named_parameters())[WEIGHT]
    assert type(weight._local_tensor).__name__ == "Float8TrainingWeightWrapperTensor"  # type: ignore[attr-defined]
    wrapped.close()
    torch.distributed.destroy_process_group()

    folder = train_here(segment, tmp_path / "segments", corpus_dir)
    write_json(folder / "settings.json", segment_to_dict(segment))
    write_json(
        folder / "done.json", {"checkpoint": "checkpoint/step-2", "end_step": 2, "equivalent_tokens": 0, "data_tokens": 0,  # noqa: E501
                               "flops": 0.0, "validation_loss": 6.2},
    )  # fmt: skip
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / segment.recipe.corpus.id).symlink_to(corpus_dir)
    saved = saved_state(folder, 2)
    model = load_model(find_checkpoint(tmp_path, segment.id))
    assert torch.equal(model.state_dict()[WEIGHT], saved[WEIGHT])
    assert (export(tmp_path, segment.id) / "model.safetensors").exists()
