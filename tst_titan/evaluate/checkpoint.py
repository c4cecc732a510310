"""A finished segment's checkpoint: where it is, which one it is, and the whole model in it."""

import hashlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tst_titan.data.content import changes
from tst_titan.data.manifest import open_corpus
from tst_titan.data.tokenizers import load_tokenizer
from tst_titan.errors import UserError
from tst_titan.files import read_json
from tst_titan.names import is_segment_id
from tst_titan.plan.settings import Segment, segment_from_dict
from tst_titan.pruned import is_pruned, pruned_mend
from tst_titan.results import (
    PROVENANCE,
    SETTINGS,
    CorpusFiles,
    Results,
    SegmentFiles,
    checkpoint_index,
    checkpoint_name,
    segment_of_checkpoint,
)
from tst_titan.train.record import changed_files
from tst_titan.train.seals import Sharing, unsealed

Dtype = Literal["float32", "bfloat16"]
# Blocks read of each data file for the digest.
_BLOCKS, _BLOCK_BYTES = 16, 4096
# Names below these are not the model's.
_TRAINING_STATE = ("optimizer.", "lr_scheduler.", "dataloader.", "train_state.")


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint at the end of a finished segment."""

    segment: Segment
    folder: Path
    """The segment's folder, `results/segments/SEGMENT_ID`."""
    name: str
    """Path of the checkpoint inside of it, `checkpoint/step-N`."""
    done: dict[str, Any]
    """`done.json`."""
    corpus_dir: Path
    digest: str
    """Which training made these weights: 16 hex digits, the same for a copy, another for another training."""

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @property
    def tokenizer_dir(self) -> Path:
        return CorpusFiles(self.corpus_dir).tokenizer


def find_checkpoint(
    results: Path, segment_id: str, *, once: Callable[[Callable[[], str]], str] = lambda check: check()
) -> Checkpoint:
    """The last checkpoint of a finished segment, compared with its seals.

    `once`: of several processes that find the same one, has one of them compare, and gives the answer to all.

    Raises `UserError` where the segment is unknown, not finished, of other settings than its id says, or where its
    checkpoint or corpus is missing, the checkpoint is damaged or another segment's, or the corpus another one than it
    read.
    """
    if not is_segment_id(segment_id):
        raise UserError(
            f"segment {segment_id!r}: no id of a segment, FAMILY/SEGMENT as below {Results(results).segments}"
        )
    files = Results(results).segment(segment_id)
    segment = _settings_of(results, segment_id)
    name = checkpoint_name(segment.end_step)
    done = _done(files, segment_id, name)
    path, corpus = files.folder / name, Results(results).corpus(segment.recipe.corpus.id)
    if is_pruned(files, segment.end_step):
        raise UserError(f"the checkpoint {pruned_mend(segment_id)}", where=path)
    if not checkpoint_index(path).is_file():
        raise UserError(f"the checkpoint is missing; delete {files.done} and train the segment again", where=path)
    if not corpus.manifest.is_file():
        raise UserError(
            "the segment's corpus, whose tokenizer and held-out text are needed, is missing; "
            "build it: tst-titan data build STUDY",
            where=corpus.folder,
        )
    _check_corpus(files, corpus)
    digest = once(lambda: _checked(path, segment))
    return Checkpoint(segment, files.folder, name, done, corpus.folder, digest)


def _settings_of(results: Path, segment_id: str) -> Segment:
    """The segment that a folder's settings say; `UserError` where there is none, or another one than its name says."""
    files = Results(results).segment(segment_id)
    if not files.settings.is_file():
        raise UserError(f"no such segment{_nearest(results, segment_id)}", where=files.folder)
    try:
        segment = segment_from_dict(read_json(files.settings))
    except (KeyError, TypeError) as error:
        raise UserError(
            f"not the settings of a segment ({error!r}); train the segment again", where=files.settings
        ) from error
    if segment.id != segment_id:
        raise UserError(
            f"holds the settings of {segment.id}; put the folder back where it was trained, or train {segment_id}",
            where=files.settings,
        )
    return segment


def _done(files: SegmentFiles, segment_id: str, checkpoint: str) -> dict[str, Any]:
    """`done.json`; `UserError` where it is missing, of another checkpoint or segment, or the files that it seals have
    changed."""
    if not files.done.is_file():
        raise UserError(
            f"not finished (no done.json); train it first: tst-titan train {segment_id}", where=files.folder
        )
    done = read_json(files.done, mend=f"delete it and run again: tst-titan train {segment_id}")
    done = done if isinstance(done, dict) else {}
    owner = done.get("segment", segment_id)
    if (done.get("checkpoint"), owner) != (checkpoint, segment_id):
        raise UserError(
            f"checkpoint is {done.get('checkpoint')!r} of {owner}, where {segment_id} has {checkpoint}; delete that "
            f"file and run again: tst-titan train {segment_id}",
            where=files.done,
        )
    # The rows of metrics.jsonl say nothing of the weights, and no export has them.
    if changed := changed_files(done, files.folder, (SETTINGS, PROVENANCE)):
        raise UserError(
            f"{files.folder / changed[0]}: not as it was when the segment was finished; bring it back, or delete "
            f"{files.done} and run again: tst-titan train {segment_id}"
        )
    return done


def _check_corpus(segment: SegmentFiles, corpus: CorpusFiles) -> None:
    """Raise `UserError` where the corpus no longer holds what the segment read of it, or has another tokenizer."""
    manifest = open_corpus(corpus.folder).manifest
    eos_id = load_tokenizer(corpus.tokenizer).eos_id
    if eos_id != manifest["tokenizer"]["eos_id"]:
        raise UserError(
            f"{corpus.tokenizer / 'tokenizer_config.json'}: its end of text is token {eos_id}, that of the corpus "
            f"{manifest['tokenizer']['eos_id']}; bring the file back, or delete the corpus folder and build it again"
        )
    file = segment.provenance
    provenance = read_json(file, mend="bring it back, or delete it") if file.is_file() else {}
    before = provenance.get("tokenizer_digest")
    changed = changes(provenance["corpus"], manifest) if "corpus" in provenance else []
    if before and before != manifest["tokenizer"]["digest"] and not changed:
        changed = ["another tokenizer"]
    if changed:
        raise UserError(
            f"another corpus than the one that {segment.folder} was trained on ({'; '.join(changed)}); restore it, or "
            "delete that folder and train the segment again",
            where=corpus.folder,
        )


def _checked(path: Path, segment: Segment) -> str:
    """The digest of a checkpoint that is what its seals say; one without seals is warned of."""
    import torch

    from tst_titan.train.checkpoint_reader import check_checkpoint

    sharing = Sharing(threads=torch.get_num_threads())
    try:
        seals = check_checkpoint(path, segment.id, segment.end_step, sharing)
    except UserError:
        raise
    except Exception as error:  # a damaged index can fail in any way
        raise _damaged(path, repr(error)) from error
    if seals is not None:
        return seals.digest
    print(f"warning: {unsealed(path)}", file=sys.stderr)
    return _sampled_digest(path)


def _sampled_digest(checkpoint: Path) -> str:
    """What stands for a checkpoint without seals: of the index and of each data file's name, size and 16 blocks spread
    over it."""
    digest = hashlib.sha256()
    for path in sorted(checkpoint.iterdir()):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}\n".encode())
        with path.open("rb") as file:
            for block in range(_BLOCKS):
                file.seek(max(0, size - _BLOCK_BYTES) * block // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()[:16]


def _nearest(results: Path, segment_id: str) -> str:
    import difflib

    root = Results(results).segments
    known = [str(path.parent.relative_to(root)) for path in root.glob(f"*/*/{SETTINGS}")]
    near = difflib.get_close_matches(segment_id, known, n=1, cutoff=0.5)
    return f"; the nearest there is {near[0]}" if near else f"; {root} holds {len(known)} segments"


def load_model(
    checkpoint: Checkpoint,
    *,
    device: str = "cpu",
    dtype: Dtype = "float32",
    shard: Callable[[Any], object] | None = None,
) -> Any:
    """The whole model (torchtitan's `Decoder`) of a checkpoint, however it was sharded, in evaluation mode.

    Expert biases are loaded too. `shard` divides the model between ranks (`ranks.shard_model`); each then reads its
    part alone. Raises `UserError` where the checkpoint is damaged or is of another shape than the
    segment's settings say.
    """
    import torch

    from tst_titan.train.titan.models import build_whole_model

    recipe = checkpoint.segment.recipe
    model = build_whole_model(
        recipe.model, seq_len=recipe.seq_len, device=device, dtype=getattr(torch, dtype), shard=shard
    )
    state = model.state_dict()
    extra = sorted(model_shapes(checkpoint).keys() - state.keys())
    if extra:
        raise damaged(checkpoint, f"it has {extra[0]}, which the model of the settings has not")
    read_tensors(checkpoint, state)
    model.load_state_dict(state)
    return model


def model_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Name and shape of the model's tensors in the checkpoint, in its order; the training state is left out."""
    return {name: shape for name, shape in _saved_shapes(checkpoint).items() if not name.startswith(_TRAINING_STATE)}


def read_tensors(checkpoint: Checkpoint, tensors: dict[str, Any]) -> None:
    """Fill `tensors` (name to an allocated tensor) from the checkpoint in place, converting to their dtypes."""
    from tst_titan.train.checkpoint_reader import load_into

    saved = _saved_shapes(checkpoint)
    missing = [name for name in tensors if name not in saved]
    if missing:
        raise damaged(checkpoint, f"it has no {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else ""))
    for name, tensor in tensors.items():
        if saved[name] != tuple(tensor.shape):
            raise damaged(checkpoint, f"{name} has shape {list(saved[name])}, the settings need {list(tensor.shape)}")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load_into(tensors, checkpoint.path, no_dist=True)
    except UserError:
        raise
    except Exception as error:  # damaged data can fail in any way
        raise damaged(checkpoint, repr(error)) from error


def _saved_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    from tst_titan.train.checkpoint_reader import read_index

    try:
        saved = read_index(checkpoint.path).state_dict_metadata
    except UserError:
        raise
    except Exception as error:  # a damaged index can fail in any way
        raise damaged(checkpoint, repr(error)) from error
    return {name: tuple(entry.size) for name, entry in saved.items() if isinstance(entry, TensorStorageMetadata)}


def damaged(checkpoint: Checkpoint, reason: str) -> UserError:
    """The error for a checkpoint whose content is not what its segment needs."""
    return _damaged(checkpoint.path, reason)


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"damaged, or not of this segment ({reason[:300]}); delete "
        f"{segment_of_checkpoint(path).done} and that checkpoint, and train the segment again",
        where=path,
    )
