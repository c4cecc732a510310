"""A checkpoint as a Hugging Face model directory, written shard by shard in bounded memory.

Llama-3 shapes become `LlamaForCausalLM`, Qwen3-MoE shapes `Qwen3MoeForCausalLM`. A router trained with load balancing
has a bias per expert that shifts which experts are chosen; no architecture of transformers holds it together with
softmax scores and normalized queries and keys. Where a bias is not zero, the export therefore brings its own model code
(`qwen3_moe_biased.py`), which transformers runs with `trust_remote_code=True` only and refuses to guess at without.
"""

import json
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tst_titan.data.manifest import read_manifest
from tst_titan.data.tokenizers import load_tokenizer
from tst_titan.errors import UserError
from tst_titan.evaluate.checkpoint import (
    Checkpoint,
    Dtype,
    damaged,
    find_checkpoint,
    model_shapes,
    read_tensors,
)
from tst_titan.evaluate.export_config import AUTO_MAP, OWN_CODE, model_config
from tst_titan.evaluate.export_seal import CARD, RECORD, changed_files, file_digests
from tst_titan.evaluate.export_tokenizer import has_tokenizer_of, tokenizer_files
from tst_titan.evaluate.model_card import model_card
from tst_titan.files import read_json, whole_file, write_json, write_text
from tst_titan.plan.settings import segment_to_dict
from tst_titan.results import CorpusFiles, Results, SegmentFiles
from tst_titan.seal import read_sealed, with_seal
from tst_titan.shown import publishable
from tst_titan.train.titan.models import build_whole_model, hugging_face_tensors

SHARD_BYTES = 5 * 10**9
_BIAS = "moe.expert_bias_E"

Shapes = dict[str, tuple[int, ...]]
"""Tensor names of torchtitan's state dict to their shapes."""


def export(
    results: Path,
    segment_id: str,
    *,
    out: Path | None = None,
    dtype: Dtype = "float32",
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write the last checkpoint of a segment to `out` (default `results/exports/SEGMENT_ID`) and return that path.

    The directory appears whole or not at all. One that holds the same checkpoint already is left alone; an older
    export is replaced, and one whose files were changed, anything else there is a `UserError`. So is a tensor other
    than zero that transformers' model has no place for.
    """
    checkpoint = find_checkpoint(results, segment_id)
    folder = out or Results(results).export(segment_id)
    digest = checkpoint.digest
    if folder.exists() and any(folder.iterdir()):
        there = read_export(folder)
        same = (there["checkpoint_digest"], there["dtype"]) == (digest, dtype)
        if same and _is_whole(folder, there) and has_tokenizer_of(folder, checkpoint):
            return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=folder) from error
    try:
        _write(checkpoint, part, dtype, shard_bytes, digest)
        _put_in_place(part, folder)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", where=folder) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def read_export(folder: Path) -> dict[str, Any]:
    """The record of an export (`tst_titan.json`): segment, checkpoint digest, dtype, whether it needs its own code."""
    if not folder.is_dir():
        raise UserError(f"no such export; make it first: tst-titan export {'/'.join(folder.parts[-2:])}", where=folder)
    if not (folder / RECORD).is_file():
        raise UserError(
            f"not an export of tst-titan ({RECORD} is missing); delete the folder and export again, or choose another "
            "--out",
            where=folder,
        )
    return read_sealed(folder / RECORD, mend="delete the folder and export again")


def _is_whole(folder: Path, record: dict[str, Any]) -> bool:
    """Whether an export's files are what was exported; says what is not. A card that its user edited is left to him."""
    changed = changed_files(folder, record)
    if changed == [CARD] and (folder / CARD).is_file():
        print(
            f"warning: {folder / CARD}: was edited; left as it is, delete it and export again to have it made anew",
            file=sys.stderr,
        )
        return True
    if changed:
        print(
            f"{folder / changed[0]}: not as it was exported; exporting again",
            file=sys.stderr,
        )
    return not changed


def check_own_code(folder: Path) -> None:
    """Raise `UserError` where an export, which a colleague may have written, would run other code than ours."""
    ours = Path(__file__).with_name(f"{OWN_CODE}.py").read_bytes()
    other = [path for path in folder.rglob("*.py") if path.stat().st_size != len(ours) or path.read_bytes() != ours]
    other += [
        path
        for path in folder.glob("*.json")
        if read_json(path, mend="export again").get("auto_map", AUTO_MAP) != AUTO_MAP
    ]
    if other:
        raise UserError(
            f"brings code that is not tst-titan's, which is not run; delete {folder} and export again",
            where=other[0],
        )


def _put_in_place(part: Path, folder: Path) -> None:
    """Rename `part` to `folder`; an export that is there moves aside first and is deleted last."""
    # mkdtemp's folders are private.
    umask = os.umask(0)
    os.umask(umask)
    part.chmod(0o777 & ~umask)
    if not folder.exists():
        part.replace(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent))
    folder.replace(old)
    part.replace(folder)
    shutil.rmtree(old)


def _write(checkpoint: Checkpoint, folder: Path, dtype: Dtype, shard_bytes: int, digest: str) -> None:
    recipe = checkpoint.segment.recipe
    shapes = _shapes(checkpoint)
    biased = _has_biases(checkpoint, shapes)
    shards = _plan(shapes, getattr(torch, dtype), shard_bytes)
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {
            key: tensor.contiguous() for key, tensor in _converted(checkpoint, shard, getattr(torch, dtype)).items()
        }
        with whole_file(folder / name) as part:
            save_file(tensors, part, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / "model.safetensors.index.json", index)
    tokenizer = load_tokenizer(checkpoint.tokenizer_dir)
    for name, content in tokenizer_files(checkpoint.tokenizer_dir, recipe.seq_len).items():
        write_text(folder / name, json.dumps(content, ensure_ascii=False))
    write_json(folder / "config.json", model_config(recipe, tokenizer.eos_id, dtype, biased))
    write_json(folder / "generation_config.json", {"eos_token_id": tokenizer.eos_id, "do_sample": False})
    if biased:
        shutil.copyfile(Path(__file__).with_name(f"{OWN_CODE}.py"), folder / f"{OWN_CODE}.py")
    known = {
        "segment": checkpoint.segment.id,
        "checkpoint": checkpoint.name,
        "checkpoint_digest": digest,
        "dtype": dtype,
        "needs_own_code": biased,
        "settings": segment_to_dict(checkpoint.segment),
        "done": checkpoint.done,
        "provenance": _provenance(checkpoint),
    }
    record = publishable(known)
    write_text(folder / CARD, _card(checkpoint, record))
    write_json(folder / RECORD, with_seal(record | {"files": file_digests(folder)}))


def _card(checkpoint: Checkpoint, record: dict[str, Any]) -> str:
    corpus = read_manifest(CorpusFiles(checkpoint.corpus_dir).manifest)
    try:
        return model_card(record, corpus)
    except (KeyError, TypeError, ValueError) as error:  # a file that was edited, or of another version
        raise UserError(
            f"not whole, or its provenance.json or the corpus's corpus.json is not ({error!r}); bring it "
            f"back, or delete done.json and run again: tst-titan train {checkpoint.segment.id}",
            where=SegmentFiles(checkpoint.folder).done,
        ) from error


def _provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    path = SegmentFiles(checkpoint.folder).provenance
    return read_json(path, mend="delete it") if path.is_file() else {}


def _plan(shapes: Shapes, dtype: torch.dtype, shard_bytes: int) -> list[Shapes]:
    """The tensors in shards of at most `shard_bytes` each, or of one tensor that is larger."""
    shards: list[Shapes] = []
    room = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * dtype.itemsize
        if not shards or size > room:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = shape
        room -= size
    return shards


def _shapes(checkpoint: Checkpoint) -> Shapes:
    """The model's tensors in the checkpoint; all that the model needs are among them."""
    recipe = checkpoint.segment.recipe
    shapes = model_shapes(checkpoint)
    for name in build_whole_model(recipe.model, seq_len=recipe.seq_len, device="meta").state_dict():
        if name not in shapes:
            raise damaged(checkpoint, f"it has no {name}")
    return shapes


def _has_biases(checkpoint: Checkpoint, shapes: Shapes) -> bool:
    biases = {name: torch.empty(shape) for name, shape in shapes.items() if name.endswith(_BIAS)}
    if biases:
        read_tensors(checkpoint, biases)
    return any(bool(bias.any()) for bias in biases.values())


def _converted(checkpoint: Checkpoint, shard: Shapes, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A shard's tensors by transformers' names; every tensor that finds no place must be zero."""
    model = checkpoint.segment.recipe.model
    tensors = {
        # Biases decide between experts whose scores may differ by less than bfloat16 resolves.
        name: torch.empty(shape, dtype=torch.float32 if name.endswith(_BIAS) else dtype)
        for name, shape in shard.items()
    }
    read_tensors(checkpoint, tensors)
    converted: dict[str, torch.Tensor] = {}
    for name in list(tensors):
        tensor = tensors.pop(name)
        if name.endswith(_BIAS):
            if tensor.any():
                converted[f"model.{name.removesuffix(_BIAS)}mlp.gate.e_score_correction_bias"] = tensor
            continue
        if model.tied_embeddings and name == "lm_head.weight":
            continue
        try:
            found = hugging_face_tensors(model, {name: tensor})
        except KeyError:
            found = {}
        if not found and tensor.any():
            raise UserError(
                f"{name} is not zero and transformers' model for {model.architecture} has no place for "
                "it; evaluate the checkpoint directly instead of through an export",
                where=checkpoint.path,
            )
        converted |= found
    return converted
