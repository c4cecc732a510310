"""What the Snakefile reads of Snakemake (9.20 to 9.27) that Snakemake documents for nobody: when it moves, this file is
mended.

`workflow` is the object of that name in a Snakefile. `tests/test_upstream.py` looks all of it up.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAMES = {
    "snakemake.workflow:Workflow.config_settings": "the files of --configfile and the values of --config, to say where a mistake stands",  # noqa: E501
    "snakemake.workflow:Workflow.dag": "the jobs, looked over before the first is started",
    "snakemake.dag:DAG.needrun_jobs": "called: those that are to run",
    "snakemake.workflow:Workflow.executor_plugin": "whether jobs go to Slurm",
    "snakemake.workflow:Workflow.executor_settings": "the executor's own settings, of which one is mended",
    "snakemake.workflow:Workflow.resource_settings": "the cores of --cores; `workflow.cores` is an error where jobs go to a cluster",  # noqa: E501
}

# What Snakemake leaves in a folder that is an output; a folder with it counts as made, whatever else is missing there.
DIRECTORY_STAMP = ".snakemake_timestamp"


def configuration_sources(workflow: Any) -> tuple[Sequence[Path], Mapping[str, Any]]:
    """The files of --configfile, in their order, and what --config says."""
    settings = workflow.config_settings
    return settings.configfiles, settings.config


def jobs_to_run(workflow: Any) -> list[Any]:
    """All jobs that this run will start, with their rules, wildcards and resources."""
    return list(workflow.dag.needrun_jobs())


def runs_on_slurm(workflow: Any) -> bool:
    """Whether jobs are submitted to Slurm."""
    return bool(workflow.executor_plugin.name == "slurm")


def executor_settings(workflow: Any) -> Any:
    """The settings of the executor that submits the jobs."""
    return workflow.executor_settings


def granted_cores(workflow: Any) -> int | None:
    """The cores of this machine that jobs may use; None where nothing limits them."""
    cores: int | None = workflow.resource_settings.cores
    return cores
