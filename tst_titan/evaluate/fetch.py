"""Prepare the data of tasks in the Hugging Face cache, so that evaluations need no network; or see whether they are
there."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import datasets.config

from tst_titan.errors import UserError
from tst_titan.evaluate.lm import greedy_kwargs
from tst_titan.evaluate.suites import MissingData, Tasks, tasks_of
from tst_titan.study.catalogue import OFFLINE_TASKS


def fetch(groups: Sequence[str], *, user_tasks: Path, trusted: bool = False) -> None:
    """Load every task of `groups` once, which downloads and prepares its data.

    Offline tasks need nothing. Raises `UserError` at the first task whose data cannot be had; what was fetched
    before it stays.
    """
    names = _with_data(groups)
    if not names:
        print("the offline tasks are made of held-out text: nothing to download", file=sys.stderr)
        return
    tasks = Tasks(names, corpus_tasks=None, user_tasks=user_tasks, trusted=trusted)
    for name in names:
        data = ", ".join(tasks.datasets(name)) or "its own data"
        try:
            loaded = tasks.load(name)
        except UserError:
            raise
        except Exception as error:  # the hub's client raises errors of several libraries
            raise UserError(
                f"task {name}: {data} cannot be downloaded: {' '.join(str(error).split())[:300]}"
            ) from error
        samples = sum(len(task.eval_docs) for task in loaded["tasks"].values())
        print(f"{name}: {samples:,} samples from {data}", file=sys.stderr, flush=True)
    print(f"prepared in {datasets.config.HF_DATASETS_CACHE}", file=sys.stderr)


def check(groups: Sequence[str], *, user_tasks: Path, trusted: bool = False, seq_len: int | None = None) -> None:
    """One `UserError` that names every task of `groups` whose data an evaluation, which downloads nothing, would not
    find.

    Loads the tasks as an evaluation does; so a task that nobody defines, mistakes in a definition, and texts that
    models of sequences of `seq_len` tokens have no room to generate are said as well.
    """
    names = _with_data(groups)
    tasks = Tasks(names, corpus_tasks=None, user_tasks=user_tasks, trusted=trusted)
    missing = []
    for name in names:
        try:
            loaded = tasks.load(name)["tasks"].values()
        except MissingData:
            missing.append(name)
            continue
        for task in loaded:
            if seq_len is not None and task.OUTPUT_TYPE == "generate_until":
                greedy_kwargs(task.task_name, task.get_config("generation_kwargs"), seq_len)
    if missing:
        command = ["tst-titan", "fetch-eval-data", "--tasks", *missing]
        command += ["--task-definitions", str(user_tasks)] if user_tasks.is_dir() else []
        raise UserError(
            f"the data of {', '.join(missing)} are not in the prepared cache {datasets.config.HF_DATASETS_CACHE}, and "
            f"an evaluation downloads nothing; on a machine with network run `{shlex.join(command)}` with the same "
            "HF_HOME, or copy that folder here"
        )


def _with_data(groups: Sequence[str]) -> list[str]:
    """The tasks of `groups` but for the offline ones, whose data are held-out text."""
    tasks = dict.fromkeys(task for group in groups for task in tasks_of(group))
    return [task for task in tasks if task not in OFFLINE_TASKS]
