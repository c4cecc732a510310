"""Prepare the data of tasks in the Hugging Face cache, so that evaluations need no network."""

import sys
from collections.abc import Sequence
from pathlib import Path

import datasets.config

from tst_titan.errors import UserError
from tst_titan.evaluate.suites import Tasks, tasks_of
from tst_titan.study.catalogue import OFFLINE_TASKS


def fetch(groups: Sequence[str], *, user_tasks: Path) -> None:
    """Load every task of `groups` once, which downloads and prepares its data.

    Offline tasks need nothing. Raises `UserError` at the first task whose data cannot be had; what was fetched
    before it stays.
    """
    names = [
        task
        for task in dict.fromkeys(t for group in groups for t in tasks_of(group))
        if task not in OFFLINE_TASKS
    ]
    if not names:
        print("the offline tasks are made of held-out text: nothing to download", file=sys.stderr)
        return
    tasks = Tasks(names, corpus_tasks=None, user_tasks=user_tasks)
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
