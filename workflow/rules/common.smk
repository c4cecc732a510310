# What all rules share: the plans of all studies, and how the package's command is called.

import json
import re
import shlex
import subprocess
import sys
from difflib import get_close_matches
from pathlib import Path

from snakemake.exceptions import WorkflowError

from tst_titan.configuration import check_models, read_configuration, sources_of
from tst_titan.errors import UserError
from tst_titan.plan import load_plans
from tst_titan.published import published_files
from tst_titan.study.catalogue import MODELS, OFFLINE_TASKS
from tst_titan.train.hardware import Hardware
from tst_titan.train.hardware_section import hardware_of
from tst_titan.train.resources import (
    check_training,
    gpu_memory_gib,
    checkpoint_memory_mb,
    checkpoint_resources,
    corpus_resources,
    job_prologue,
    training_memory_mb,
    training_minutes,
    training_resources,
)

try:
    # Each by itself, to say where a mistake stands: `config` is what Snakemake has made of all.
    SOURCES = sources_of(SITE_FILE, workflow.config_settings.configfiles, workflow.config_settings.config)
    CONFIGURATION = read_configuration(SOURCES)
except UserError as error:
    sys.exit(f"error: {error}")
STUDIES = CONFIGURATION.studies
RESULTS = CONFIGURATION.results
SITE = CONFIGURATION.site
# Every value goes into a command quoted ({NAME:q}), but this, which is words of a command already.
TST_TITAN = f"{shlex.quote(sys.executable)} -m tst_titan.cli"
MAX_SEGMENT_STEPS = CONFIGURATION.max_segment_steps
PLANS, BROKEN = load_plans(STUDIES, RESULTS, max_segment_steps=MAX_SEGMENT_STEPS)
SEGMENTS = {name: segment for plan in PLANS.values() for name, segment in plan.segments.items()}
# Task definitions of the user's own, in lm-eval's format.
USER_TASKS = STUDIES / "tasks"
# The published study has no definition: its numbers are data of the package (rule published).
PUBLISHED = "published"
HARDWARE = CONFIGURATION.hardware
# Part of a command and never of `params`: another machine is no reason to train again.
HARDWARE_TEXT = json.dumps(HARDWARE)
if not BROKEN:  # a study that cannot be read may have a model of that name
    try:
        check_models(SOURCES, [*MODELS, *(s.recipe.model.name for s in SEGMENTS.values())])
    except UserError as error:
        sys.exit(f"error: {error}")
# What a GPU holds, where the site says; else each job asks the machine that it came to.
GPU_MEMORY = ["--gpu-memory-gib", f"{gpu_memory_gib(SITE):g}"] if gpu_memory_gib(SITE) else []
SPLIT = ["--max-segment-steps", str(MAX_SEGMENT_STEPS)] if MAX_SEGMENT_STEPS else []


# Before each job's command, wherever it runs.
shell.prefix(job_prologue(SITE).replace("{", "{{").replace("}", "}}"))


# Of small jobs that a user groups into one (docs/cluster.md): --resources in_turn=N lets N of a group run at a time.
resource_scopes:
    in_turn="local",


wildcard_constraints:
    study="|".join(map(re.escape, PLANS)) or "none",
    corpus=r"[^/]+",
    segment=r"[^/]+/[^/]+",
    group=r"[^/]+",
    part=r"\d+",
    parts=r"\d+",
    tokens=r"\d+",


def unusable_study(name):
    """What is wrong with the study that a target names: its own mistake, or that there is none of that name."""
    if name in BROKEN:
        return str(BROKEN[name])
    if (STUDIES / name).suffix in (".yaml", ".yml") and Path(name).stem in {*PLANS, *BROKEN}:
        return f"{STUDIES / name}: is the definition; the target that builds it is {STUDIES / Path(name).stem}"
    near = get_close_matches(name, [PUBLISHED, *PLANS, *BROKEN], n=1)
    hint = f" Did you mean {STUDIES / near[0]}?" if near else ""
    return f"{STUDIES / name}.yaml: no such study.{hint} There are: {', '.join(sorted([PUBLISHED, *PLANS]))}"


COMPARED = set()


def refuse_changed_inputs(segments):
    """End the run where the text or tokenizer of a corpus that is there has changed before these segments are trained on it."""
    corpora = {segment.recipe.corpus.id: segment.recipe.corpus for segment in segments}
    new = [corpus for identity, corpus in corpora.items() if identity not in COMPARED]
    COMPARED.update(corpora)
    if new:
        from tst_titan.data.inputs import changed_inputs

        if wrong := changed_inputs(new, RESULTS / "data"):
            sys.exit("\n".join(f"error: {one}" for one in wrong))


# Before there is a DAG: a study that is asked for and cannot be planned ends the run with one message. Snakemake
# tells a Snakefile its targets only later, so they are looked up where they came from.
asked_for = []
for before, target in zip(sys.argv, map(Path, sys.argv[1:])):
    if before in ("--report", "--configfile", "--configfiles"):
        continue  # a file of the user's own, wherever it lies
    if target.parent == STUDIES and target.name not in {PUBLISHED, *PLANS}:
        sys.exit(f"error: {unusable_study(target.name)}")
    if target.parent == STUDIES and target.name in PLANS:
        plan = PLANS[target.name]
        try:
            missing = [s for name, s in plan.segments.items() if name not in plan.finished]
            for note in check_training(missing, HARDWARE, SITE):
                print(f"hardware: {note}", file=sys.stderr)
        except UserError as error:
            sys.exit(f"error: {error}")
        asked_for += missing
refuse_changed_inputs(asked_for)
if PUBLISHED in {*PLANS, *BROKEN}:
    sys.exit(f"error: {STUDIES / PUBLISHED}.yaml: the target {STUDIES / PUBLISHED} is the paper's own numbers; rename the file")


onstart:
    # With the jobs and their resources known, and none started: what Slurm would refuse, or let wait for ever, and what
    # evaluations would not find when all training is done.
    jobs = list(workflow.dag.needrun_jobs())
    # Of targets that are no study, which were not looked up above.
    refuse_changed_inputs(segment_of(job.wildcards.segment) for job in jobs if job.rule.name == "train")
    if workflow.executor_plugin.name == "slurm":
        from tst_titan.cluster.executor import check_resources, mend_executor
        from tst_titan.cluster.preflight import check_cluster, request_of

        submitted = [job for job in jobs if not job.is_local]
        try:
            for job in submitted:
                check_resources(job.rule.name, job.resources)
            requests = [request_of(job.rule.name, job.resources, job.threads) for job in submitted]
            for warning in check_cluster(requests, [Path.cwd(), RESULTS]):
                print(f"warning: {warning}", file=sys.stderr)
            mend_executor(workflow.executor_settings)
        except UserError as error:
            sys.exit(f"error: {error}")
    groups = {}
    for job in jobs:
        if job.rule.name == "evaluate" and job.wildcards.group not in {"offline", *OFFLINE_TASKS}:
            groups.setdefault(segment_of(job.wildcards.segment).recipe.seq_len, set()).add(job.wildcards.group)
    if not any(job.rule.name == "fetch_eval_data" for job in jobs):
        for seq_len, names in groups.items():
            words = ["--check", "--tasks", *sorted(names), "--task-definitions", str(USER_TASKS), *TRUST, "--seq-len", str(seq_len)]
            check = f"{TST_TITAN} fetch-eval-data {shlex.join(words)}"
            # In a process of its own, below the site's setup like the jobs: HF_HOME may be set there.
            if subprocess.run(["bash", "-c", job_prologue(SITE) + check]).returncode:
                sys.exit(1)


def segment_of(name):
    if name not in SEGMENTS:
        raise WorkflowError(f"{name}: no study in {STUDIES} has this segment; `tst-titan plan STUDY` lists them")
    return SEGMENTS[name]

