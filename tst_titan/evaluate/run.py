"""Evaluate a checkpoint, task by task; what is finished is kept and never evaluated again.

Each finished task leaves `results/evaluations/SEGMENT_ID/tasks/TASK.json` with the key it was evaluated under:
checkpoint digest, task version (with a digest of what a user defines of it), lm-eval version, limit, dtype, backend.
GROUP.json is put together from these when all tasks of the group are there, so a killed evaluation resumes after the
last finished task. A trial (some samples, a chosen dtype, through the export) has a folder of its own, `trials`, so
that no study takes its scores for final ones.
"""

import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import lm_eval
import numpy as np
import torch

from tst_titan import __version__
from tst_titan.cluster.devices import promised_gpus
from tst_titan.cluster.driver import check_torch_sees
from tst_titan.data.tokenizers import load_tokenizer
from tst_titan.data.validation import check_held_out_text
from tst_titan.errors import UserError
from tst_titan.evaluate.checkpoint import Checkpoint, Dtype, find_checkpoint, load_model
from tst_titan.evaluate.lm import TitanLM
from tst_titan.evaluate.offline import OfflineTask, write_offline_tasks
from tst_titan.evaluate.ranks import Ranks, join_ranks, shard_model
from tst_titan.evaluate.scores import scores_of
from tst_titan.evaluate.suites import Tasks, num_fewshot, tasks_of
from tst_titan.files import read_json, write_json
from tst_titan.results import EvaluationFiles, Results
from tst_titan.seal import read_sealed, with_seal
from tst_titan.study.catalogue import OFFLINE_TASKS

# For the few metrics whose standard error lm-eval bootstraps; means have a closed form.
BOOTSTRAP_DRAWS = 1000
SEED = 1234


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What to evaluate and how.

    `limit` is the number of samples of each task (None: all). `dtype` "auto" is float32 on a CPU and for models trained
    in float32, else bfloat16. `trust_tasks` lets definitions in `user_tasks` bring code. `shard` divides the model
    between processes. `backend` "export" runs lm-eval's Hugging Face backend on `results/exports/SEGMENT_ID`.
    """

    results: Path
    segment: str
    groups: Sequence[str]
    limit: int | None = None
    device: str = "auto"
    dtype: Dtype | Literal["auto"] = "auto"
    backend: Literal["checkpoint", "export"] = "checkpoint"
    user_tasks: Path = Path("studies/tasks")
    trust_tasks: bool = False
    shard: bool = False

    @property
    def is_trial(self) -> bool:
        """Whether its scores are other than a study's: of some samples, in a chosen dtype, through the export."""
        return self.limit is not None or self.dtype != "auto" or self.backend != "checkpoint"

    @property
    def files(self) -> EvaluationFiles:
        """Where its scores go: those of a trial beside a study's, never in their place."""
        files = Results(self.results).evaluations(self.segment)
        return files.trials if self.is_trial else files


def evaluate(evaluation: Evaluation) -> list[Path]:
    """Write `results/evaluations/SEGMENT_ID/GROUP.json` (a trial: `.../trials/GROUP.json`) for each group; returns the
    paths.

    Raises `UserError` for a segment without a whole checkpoint, an unknown task, data that are not in the cache, or a
    file there that is of another segment.
    """
    results, segment_id = evaluation.results, evaluation.segment
    ranks = join_ranks()
    if ranks.size > 1 and evaluation.backend == "export":
        raise UserError("an export is evaluated by one process: leave --processes or --through-export away")
    checkpoint = find_checkpoint(results, segment_id, once=ranks.from_first)
    files = evaluation.files
    for group in evaluation.groups:
        _check_file(files.group(group), segment_id)
    names = list(dict.fromkeys(task for group in evaluation.groups for task in tasks_of(group)))
    if set(names) & set(OFFLINE_TASKS):
        ranks.from_first(lambda: check_held_out_text(checkpoint.corpus_dir))
    wants_offline = any(name in OFFLINE_TASKS for name in names)
    made = ranks.from_first(lambda: write_offline_tasks(checkpoint.corpus_dir)) if wants_offline else {}
    # Between ranks they come as lists.
    offline = {name: OfflineTask(*task) for name, task in made.items()}
    tasks = Tasks(
        names,
        corpus_tasks={name: task.in_memory() for name, task in offline.items()},
        user_tasks=evaluation.user_tasks,
        trusted=evaluation.trust_tasks,
    )
    runner = _Runner(evaluation, checkpoint, tasks, ranks)
    return [_write_group(runner, group, files.group(group)) for group in evaluation.groups]


def _check_file(path: Path, segment_id: str) -> None:
    if path.is_file():
        found = read_json(path, mend="delete it and evaluate again")
        owner = found.get("segment") if isinstance(found, dict) else None
        if owner != segment_id:
            raise UserError(f"is the evaluation of {owner}, not of {segment_id}; move or delete it", where=path)


class _Runner:
    """Evaluates one task at a time, with the model loaded at the first one that is not finished."""

    def __init__(self, evaluation: Evaluation, checkpoint: Checkpoint, tasks: Tasks, ranks: Ranks):
        self.evaluation, self.checkpoint, self.tasks = evaluation, checkpoint, tasks
        self.ranks = ranks
        self.device = _device(evaluation.device)
        trained_in_float32 = checkpoint.segment.recipe.precision == "float32"
        self.dtype: Dtype = (
            evaluation.dtype
            if evaluation.dtype != "auto"
            else ("float32" if self.device == "cpu" or trained_in_float32 else "bfloat16")
        )
        self.digest = checkpoint.digest
        self._lm: Any = None

    def key(self, task: str) -> dict[str, Any]:
        """What a finished task's scores depend on."""
        return {
            "checkpoint_digest": self.digest,
            "task": task,
            "version": self.tasks.version(task),
            "lm_eval_version": version("lm_eval"),
            "limit": self.evaluation.limit,
            "dtype": self.dtype,
            "backend": self.evaluation.backend,
        }

    def finished(self, task: str) -> dict[str, Any]:
        """The record of a task: the one that is there, or a new one."""
        path = self.evaluation.files.task(task)
        key = self.key(task)
        # All ranks must take the same way: the first one looks.
        record = self.ranks.from_first(lambda: self._kept(path, key))
        if record is not None:
            return record
        start = time.monotonic()
        scores = self._evaluate(task)
        record = with_seal(
            {
                "key": key,
                **scores,
                "device": self._device_name(),
                "seconds": round(time.monotonic() - start, 1),
            }
        )
        if self.ranks.first:
            write_json(path, record)
            self._say(record)
        return record

    def _kept(self, path: Path, key: dict[str, Any]) -> dict[str, Any] | None:
        """The finished record of a key, None where there is none, or one that was edited or is of another key."""
        if not path.is_file():
            return None
        try:
            record = read_sealed(path, mend="evaluating again")
        except UserError as error:  # damaged or edited
            print(error, file=sys.stderr)
            return None
        if record.get("key") == key:
            return record
        changed = [name for name in key if record.get("key", {}).get(name) != key[name]]
        print(f"{path}: of another {', '.join(changed)}; evaluating again", file=sys.stderr)
        return None

    def _evaluate(self, task: str) -> dict[str, Any]:
        loaded = self.tasks.load(task)
        for leaf in loaded["tasks"].values():
            shots = num_fewshot(task)
            if shots is not None or leaf.get_config("num_fewshot") is None:
                leaf.set_config(key="num_fewshot", value=shots or 0)
            leaf.set_fewshot_seed(seed=SEED)
        random.seed(SEED)
        np.random.seed(SEED)
        torch.manual_seed(SEED)
        scores = scores_of(
            lm_eval.evaluate(  # type: ignore[arg-type]
                self.lm, loaded, limit=self.evaluation.limit, bootstrap_iters=BOOTSTRAP_DRAWS
            )
        )
        if not scores["tasks"]:
            raise UserError(f"task {task}: lm-eval gives no score for it; leave it out")
        digests = self.tasks.digests(task)
        for name, score in [*scores["tasks"].items(), *scores["subtasks"].items()]:
            # What a group defines itself is named GROUP::NAME.
            if digest := digests.get(name, digests.get(task) if "::" in name else None):
                score["version"] += f"+{digest}"
        return scores

    @property
    def lm(self) -> Any:
        if self._lm is None:
            through_export = self.evaluation.backend == "export"
            self._lm = self._export_lm() if through_export else self._checkpoint_lm()
        return self._lm

    def _checkpoint_lm(self) -> TitanLM:
        sharded = self.evaluation.shard and self.ranks.size > 1
        model = load_model(
            self.checkpoint,
            device=self.device,
            dtype=self.dtype,
            shard=(lambda model: shard_model(model, self.device)) if sharded else None,
        )
        return TitanLM(
            model,
            load_tokenizer(self.checkpoint.tokenizer_dir),
            max_length=self.checkpoint.segment.recipe.seq_len,
            progress=self.ranks.first,
            ranks=self.ranks,
            sharded=sharded,
        )

    def _export_lm(self) -> Any:
        try:
            from tst_titan.evaluate.through_export import load_export
        except ModuleNotFoundError as error:
            raise UserError(
                f"--through-export: needs the package {error.name}; run: pip install 'lm-eval[hf]'"
            ) from error
        folder = Results(self.evaluation.results).export(self.evaluation.segment)
        return load_export(folder, self.checkpoint, device=self.device, dtype=self.dtype)

    def _device_name(self) -> str:
        return "cpu" if self.device == "cpu" else torch.cuda.get_device_name(self.device)

    def _say(self, record: dict[str, Any]) -> None:
        for name, task in record["tasks"].items():
            score = task[task["metric"]] if "metric" in task else None
            if score is None:
                text = "no finite score"
            else:
                stderr = "" if score["stderr"] is None else f" ± {score['stderr']:.4f}"
                text = f"{task['metric']} {score['value']:.4f}{stderr}"
            print(
                f"{self.evaluation.segment}: {name}: {text} ({task['num_samples']:,} samples, {record['seconds']:.0f} "
                "s)",
                file=sys.stderr,
                flush=True,
            )


def _write_group(runner: _Runner, group: str, path: Path) -> Path:
    records = [runner.finished(task) for task in tasks_of(group)]
    subtasks = {name: scores for record in records for name, scores in record["subtasks"].items()}
    record = {
        "segment": runner.evaluation.segment,
        "checkpoint": runner.checkpoint.name,
        "checkpoint_digest": runner.digest,
        "lm_eval_version": version("lm_eval"),
        "tst_titan_version": __version__,
        "limit": runner.evaluation.limit,
        "dtype": runner.dtype,
        "backend": runner.evaluation.backend,
        "trial": runner.evaluation.is_trial,
        "device": sorted({record["device"] for record in records}),
        "seconds": round(sum(record["seconds"] for record in records), 1),
        "tasks": {name: scores for record in records for name, scores in record["tasks"].items()},
        **({"subtasks": subtasks} if subtasks else {}),
    }
    if not runner.ranks.first:
        return path
    if not path.is_file() or read_json(path, mend="delete it and evaluate again") != with_seal(record):
        write_json(path, with_seal(record))
    return path


def _device(name: str) -> str:
    if name == "auto":
        if gpus := promised_gpus():
            check_torch_sees(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), gpus, "the evaluation")
        # Of several processes each has the GPU of its number.
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name}: cannot be used here ({reason}); use auto or cpu") from error
    return name
