"""What ends a run before its first job, with one message: a study that is none, inputs that changed, what Slurm or an
evaluation would fail on hours later."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from tst_titan.errors import UserError
from tst_titan.plan import Plan
from tst_titan.plan.settings import Segment
from tst_titan.published import STUDY_NAME as PUBLISHED
from tst_titan.results import Results
from tst_titan.study.catalogue import OFFLINE_TASKS

# Snakemake's: `rule.name`, `wildcards`, `resources`, `threads`, `is_local`.
Job = Any
P = ParamSpec("P")
T = TypeVar("T")


def one_message(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, with a `UserError` as the run's end: SystemExit passes through Snakemake as it is, errors get a
    traceback."""

    @wraps(function)
    def ending(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            sys.exit(f"error: {error}")

    return ending


def planned(name: str, plans: Mapping[str, Plan], broken: Mapping[str, UserError], studies: Path) -> Plan:
    """The plan of a study that a target names; `UserError` with its own mistake, or that there is none of that name in
    `studies`."""
    if name in plans:
        return plans[name]
    if name in broken:
        raise broken[name]
    file = studies / name
    if file.suffix in (".yaml", ".yml") and file.stem in {*plans, *broken}:
        raise UserError(f"is the definition; the target that builds it is {studies / file.stem}", where=file)
    near = get_close_matches(name, [PUBLISHED, *plans, *broken], n=1)
    hint = f" Did you mean {studies / near[0]}?" if near else ""
    known = ", ".join(sorted([PUBLISHED, *plans]))
    raise UserError(f"{file}.yaml: no such study.{hint} There are: {known}")


def refuse_changed_inputs(segments: Iterable[Segment], compared: set[str], results: Results) -> None:
    """`UserError` where the text or tokenizer of a corpus that is there has changed before these segments are trained
    on it. `compared`: ids of corpora that this run has looked at, to which these are added."""
    corpora = {segment.recipe.corpus.id: segment.recipe.corpus for segment in segments}
    new = [corpus for identity, corpus in corpora.items() if identity not in compared]
    compared.update(corpora)
    if not new:
        return
    # What reads corpora takes a while to import: not in every job's Snakemake.
    from tst_titan.data.inputs import changed_inputs

    if wrong := changed_inputs(new, results):
        raise UserError("\nerror: ".join(wrong))


def check_slurm(jobs: Sequence[Job], folders: Sequence[Path], executor_settings: Any) -> None:
    """`UserError` for what Slurm would refuse of these jobs, or let wait for ever; `folders` are those that they
    need."""
    # The executor's plugin is imported only where it runs.
    from tst_titan.cluster.executor import check_resources, mend_executor
    from tst_titan.cluster.preflight import check_cluster, request_of

    for job in jobs:
        check_resources(job.rule.name, job.resources)
    requests = [request_of(job.rule.name, job.resources, job.threads) for job in jobs]
    for warning in check_cluster(requests, folders):
        print(f"warning: {warning}", file=sys.stderr)
    mend_executor(executor_settings)


def check_evaluation_data(evaluations: Iterable[tuple[str, int]], *, command: str, options: Sequence[str]) -> None:
    """End the run where the data of these task groups, each with its model's sequence length, are not prepared or not
    sound.

    `command`: the package's, in shell, after the site's own setup; `options`: of `fetch-eval-data`, where tasks are
    defined.
    """
    groups: dict[int, set[str]] = {}
    for group, seq_len in evaluations:
        if group not in {"offline", *OFFLINE_TASKS}:
            groups.setdefault(seq_len, set()).add(group)
    for seq_len, names in groups.items():
        # In a process of its own, below the site's setup like the jobs: HF_HOME may be set there.
        words = ["--check", "--tasks", *sorted(names), *options, "--seq-len", str(seq_len)]
        if subprocess.run(["bash", "-c", f"{command} fetch-eval-data {shlex.join(words)}"]).returncode:
            sys.exit(1)
