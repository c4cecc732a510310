"""What can be known to go wrong before the first step: each is one `UserError` that says how to mend it."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torchtitan.tools import utils
from torchtitan.tools.logging import logger

from tst_titan.data.content import changes
from tst_titan.errors import UserError
from tst_titan.files import read_json
from tst_titan.plan.settings import Segment, segment_to_dict
from tst_titan.results import CorpusFiles, SegmentFiles, segment_of_checkpoint
from tst_titan.train.fit import check_bags, embedded_bag_size
from tst_titan.train.hardware import Hardware
from tst_titan.train.job import Job
from tst_titan.train.memory import GIB, estimate_memory
from tst_titan.train.titan.checkpoints import latest_whole_step
from tst_titan.train.titan.device import DEVICE_TYPE


def check_job(job: Job) -> None:
    """The layout, the device and the checkpoint that training starts from, against the segment."""
    recipe, hardware = job.segment.recipe, job.hardware
    hardware.check_recipe(recipe)
    check_device(hardware, recipe.precision, recipe.attention, experts=recipe.model.moe is not None)
    check_memory(job)
    check_continues(job)


def check_device(hardware: Hardware, precision: str, attention: str, *, experts: bool) -> None:
    """Whether this machine's device can compute what is asked of it; `experts`: of a model that has them."""
    if precision == "float8":
        if find_spec("torchao") is None:
            raise UserError("precision: float8 needs torchao, which is not installed: pip install 'tst-titan[float8]'")
        if not has_float8():
            raise UserError(
                "precision: float8 needs a GPU with float8 (NVIDIA of compute capability 8.9, AMD MI300, or later), "
                f"not {_device_name()}; use precision: bfloat16"
            )
        if experts and not has_float8_experts():
            raise UserError(
                "precision: float8 with experts needs grouped products in float8, which there are on NVIDIA GPUs of "
                f"compute capability 9 and 10 (Hopper, B200, B300) and AMD MI300 or later, not on {_device_name()}; "
                "use precision: bfloat16"
            )
    if DEVICE_TYPE == "cpu":
        if attention == "document":
            raise UserError(
                "attention: document cannot be trained on a CPU: flex attention has no backward there; use attention: "
                "causal"
            )
        if hardware.context_parallel > 1:
            raise UserError(
                "hardware: context_parallel cannot be used on a CPU: PyTorch has no context-parallel attention there; "
                "use context_parallel: 1"
            )
        if hardware.cuda_graphs:
            raise UserError("hardware: cuda_graphs needs a CUDA device; use cuda_graphs: false")


def has_float8() -> bool:
    """Whether matrix products in float8 run on this machine's device."""
    return utils.has_cuda_capability(8, 9) or utils.has_rocm_capability(9, 4)


def has_float8_experts() -> bool:
    """Whether grouped products in float8 do: `torch._scaled_grouped_mm` takes two architectures and neither an older
    nor a later one.

    torchtitan lets capability 8.9 (L40S) and 12 (RTX PRO 6000) begin, which then fail in the first step.
    """
    if torch.version.hip is not None:
        return bool(utils.has_rocm_capability(9, 4))
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] in (9, 10)


def _device_name() -> str:
    return str(utils.device_module.get_device_name())


def check_memory(job: Job) -> None:
    """Refuse a model whose state alone does not fit its ranks' devices; warn where activations may not."""
    estimate = estimate_memory(job.segment.recipe, job.hardware, embedded_bag_size(job.segment))
    memory = utils.device_module.get_device_properties(utils.get_local_device()).total_memory
    where = _device_name()
    if DEVICE_TYPE == "cpu":
        memory //= job.hardware.processes
        where = f"a process of this machine ({job.hardware.processes} share its memory)"
    if estimate.least > memory:
        raise UserError(
            f"model {job.segment.recipe.model.name} does not fit: a rank needs about {estimate}, of which "
            f"{estimate.least / GIB:.1f} GiB do not depend on the micro-batch; {where} has {memory / GIB:.1f} GiB. Use "
            "more ranks (hardware: nodes, processes) or a higher tensor_parallel"
        )
    if DEVICE_TYPE != "cpu":
        check_bags(job.segment, job.hardware)
    if estimate.total > memory:
        if DEVICE_TYPE != "cpu" and not job.hardware.micro_batch:
            raise UserError(
                f"hardware: micro_batch is 0, and a rank's whole share of a step needs about {estimate}; {where} has "
                f"{memory / GIB:.1f} GiB. Set micro_batch"
            )
        logger.warning(
            f"A rank needs about {estimate}, {where} has {memory / GIB:.1f} GiB: it may run out of memory. Lower "
            "micro_batch, raise loss_chunks, or use activation_checkpoint: selective"
        )


def check_continues(job: Job) -> None:
    """Whether the checkpoint that training starts from is of this run: its settings, its tokenizer and its text.

    The parent's folder says what it was trained with; a segment's own folder is named by its settings, but its
    corpus may have been built anew since its last checkpoint. That it has grown is no change.
    """
    if latest_whole_step(job.checkpoints) is not None:
        folder = job.folder
    elif job.parent_checkpoint is not None:
        folder = segment_of_checkpoint(job.parent_checkpoint).folder
        _check_settings(job.segment, folder)
    else:
        return
    provenance, manifest = _read(SegmentFiles(folder).provenance), _read(CorpusFiles(job.corpus_dir).manifest)
    before, now = provenance.get("tokenizer_digest"), manifest.get("tokenizer", {}).get("digest")
    if before and now and before != now:
        raise UserError(
            f"its checkpoint was trained on token ids of another tokenizer ({before[:12]}) than "
            f"{job.corpus_dir} has now ({now[:12]}); restore that corpus, or delete the folder and train it again",
            where=folder,
        )
    if "corpus" in provenance and (changed := changes(provenance["corpus"], manifest)):
        raise UserError(
            f"its checkpoint was trained on another corpus than {job.corpus_dir} is now ({'; '.join(changed)}); "
            "restore that corpus, or delete the folder and train it again",
            where=folder,
        )


def _check_settings(segment: Segment, parent: Path) -> None:
    found = _read(SegmentFiles(parent).settings)
    if not found:
        return
    wanted = segment_to_dict(segment)
    differences = _differences(found["recipe"], wanted["recipe"], "recipe")
    for number, (was, is_) in enumerate(zip(found["stages"], wanted["stages"], strict=False)):
        # The parent's last stage may end earlier: this segment goes on with it.
        last = number == len(found["stages"]) - 1
        skipped = {"end_step"} if last and number == len(wanted["stages"]) - 1 else set()
        differences += _differences(
            {key: value for key, value in was.items() if key not in skipped},
            {key: value for key, value in is_.items() if key not in skipped},
            f"stages[{number}]",
        )
    if len(found["stages"]) > len(wanted["stages"]):
        differences.append(f"{len(found['stages'])} stages there, {len(wanted['stages'])} here")
    if differences:
        raise UserError(
            f"its checkpoint cannot start {segment.id}, it was trained with other settings: "
            f"{'; '.join(differences[:5])}. Name the right parent, or delete that folder and train it again",
            where=parent,
        )


def _differences(there: Any, here: Any, path: str) -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        return [
            line
            for key in sorted({*there, *here})
            for line in _differences(there.get(key), here.get(key), f"{path}.{key}")
        ]
    if isinstance(here, tuple):
        here = list(here)
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        return [
            line
            for number, pair in enumerate(zip(there, here, strict=True))
            for line in _differences(*pair, f"{path}[{number}]")
        ]
    return [] if there == here else [f"{path} is {there!r} there, {here!r} here"]


def _read(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.exists() else {}
    return value if isinstance(value, dict) else {}
