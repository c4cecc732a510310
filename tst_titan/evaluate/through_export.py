"""lm-eval's own Hugging Face backend on an export: the second opinion on a checkpoint's scores.

It needs the packages of `lm-eval[hf]` (accelerate, peft) and applies the head everywhere, so it is slower.
"""

import sys
from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM

from tst_titan.errors import UserError
from tst_titan.evaluate.checkpoint import Checkpoint, Dtype
from tst_titan.evaluate.export import check_own_code, read_export
from tst_titan.evaluate.export_seal import CARD, added_files, changed_files
from tst_titan.evaluate.export_tokenizer import has_tokenizer_of

_CPU_BATCH = 8


class ExportLM(HFLM):
    """The Hugging Face backend without progress bars."""

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, override_bs: Any = None) -> Any:
        longest = max((len(continuation) for _, _, continuation in requests), default=0)
        if longest > self.max_length:
            raise UserError(
                f"--through-export: lm-eval's own backend scores no continuation of {longest} tokens with a model of "
                f"sequences of {self.max_length}; evaluate the checkpoint itself"
            )
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        return super().generate_until(requests, disable_tqdm=True)


def load_export(folder: Path, checkpoint: Checkpoint, *, device: str, dtype: Dtype) -> ExportLM:
    """The export in `folder`, if it is one of this checkpoint; else a `UserError`."""
    exported = read_export(folder)
    if exported["checkpoint_digest"] != checkpoint.digest:
        raise UserError(
            f"the export of another checkpoint; run: tst-titan export {checkpoint.segment.id}", where=folder
        )
    check_own_code(folder)
    if not has_tokenizer_of(folder, checkpoint):
        raise UserError(
            f"its tokenizer is not the corpus's; run: tst-titan export {checkpoint.segment.id}", where=folder
        )
    if "files" not in exported:
        print(
            f"warning: {folder}: exported before exports were sealed, so whether it is damaged is not checked",
            file=sys.stderr,
        )
    if changed := [name for name in changed_files(folder, exported) if name != CARD]:
        raise UserError(f"{folder / changed[0]}: not as it was exported; run: tst-titan export {checkpoint.segment.id}")
    if added := added_files(folder, exported):
        raise UserError(f"{folder / added[0]}: is no part of the export, and might change it; move it away")
    return ExportLM(
        pretrained=str(folder),
        device=device,
        dtype=dtype,
        batch_size=_CPU_BATCH if device == "cpu" else "auto",
        # Only for the code that an export of ours brings along.
        trust_remote_code=exported["needs_own_code"],
    )
