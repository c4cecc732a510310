# What all rules share: the plans of all studies, and words of the commands. tst_titan/workflow.py says what each is.

from tst_titan.cluster.snakemake_internals import (
    configuration_sources,
    executor_settings,
    granted_cores,
    jobs_to_run,
    runs_on_slurm,
)
from tst_titan.published import published_files
from tst_titan.workflow import PUBLISHED, read_workflow

# Each source of settings by itself, to say where a mistake stands: `config` is what Snakemake has made of all.
TITAN = read_workflow(SITE_FILE, *configuration_sources(workflow))
STUDIES, RESULTS, LOGS = TITAN.studies, TITAN.results, TITAN.logs
# Every value goes into a command quoted ({NAME:q}), but this, which is words of a command already.
TST_TITAN = TITAN.command


# Before each job's command, wherever it runs.
shell.prefix(TITAN.prologue)


# Of small jobs that a user groups into one (docs/cluster.md): --resources in_turn=N lets N of a group run at a time.
resource_scopes:
    in_turn="local",


wildcard_constraints:
    # Also of no study: the one that is asked for is then told what is wrong with it (rule study).
    study=rf"(?!{PUBLISHED}$)[^/]+",
    corpus=r"[^/]+",
    segment=r"[^/]+/[^/]+",
    group=r"[^/]+",
    part=r"\d+",
    parts=r"\d+",
    tokens=r"\d+",


onstart:
    TITAN.check_jobs(
        jobs_to_run(workflow),
        slurm=runs_on_slurm(workflow),
        executor_settings=executor_settings(workflow),
    )
