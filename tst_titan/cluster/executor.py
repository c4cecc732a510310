"""Where Snakemake's Slurm executor would wait for ever or refuse too late, mended in the Snakemake that runs; nothing
installed is changed.

`NAMES` are its internals that this takes: when one of them moves, this file is mended, and `VERSIONS` is what it was
tested with.
"""

import inspect
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

from tst_titan.cluster.slurm import ask
from tst_titan.errors import UserError

PLUGIN = "snakemake-executor-plugin-slurm"
# As pyproject.toml has it.
VERSIONS = ">=2.8,<2.9"
NAMES = {
    "snakemake_executor_plugin_slurm:query_job_status": "replaced: what its query of Slurm finds, by job",
    "snakemake_executor_plugin_slurm:validate_account": "replaced: whether slurmdbd knows a job's account",
    "snakemake_executor_plugin_slurm:validate_slurm_extra": "called: whether it would submit these further options",
    "snakemake_executor_plugin_slurm:set_gres_string": "called: whether it would submit these GPUs",
    "snakemake_executor_plugin_slurm:ExecutorSettings.status_command": "set: squeue where Slurm keeps no accounts",
}


def mend_executor(settings: Any) -> None:
    """Mend how the executor asks for its jobs; `settings` are the executor's own. Call it once, before the first job is
    submitted.

    What its version 2.8 (as 2.6 and 2.7) does, and what it does instead from then on:

    - `sacct` says "CANCELLED by 1000". The executor knows the end "CANCELLED" alone, and waits for ever for a job that
      somebody cancelled. It gets the first word of a state.
    - A query that fails (slurmdbd or the controller is away) lets it forget all jobs that are queued or run, and wait
      for ever for them. A failed query says nothing of any job, and such jobs it keeps, and asks again.
    - Before each submission it asks slurmdbd for the job's account, and takes the job for failed where there is no
      answer. `tst_titan.cluster.preflight` has asked for all accounts at the start, and sbatch refuses what is wrong.
    - Wherever there is a `sacct` it asks that, also where Slurm keeps no accounts and `sacct` never answers. It asks
      `squeue` there.

    Each is harmless beside a version that does it right by itself. Raises `UserError` for one that does not have these
    parts.
    """
    import snakemake_executor_plugin_slurm as plugin

    ask_slurm = getattr(plugin, "query_job_status", None)
    if not inspect.iscoroutinefunction(ask_slurm) or not hasattr(plugin, "validate_account"):
        raise UserError(
            f"{PLUGIN} {version(PLUGIN)}: not a version that this workflow knows how to mend; "
            f"pip install '{PLUGIN}{VERSIONS}'"
        )

    async def query_job_status(command: str, logger: Any) -> tuple[dict[str, str], float]:
        states, seconds = await ask_slurm(command, logger)
        if states is None:
            logger.warning(f"No answer from Slurm ({command.split()[0]}): its jobs go on, and it is asked again later.")
            return {}, 0.0
        return {job: state.partition(" ")[0] for job, state in states.items()}, seconds

    plugin.query_job_status = query_job_status
    plugin.validate_account = lambda account, logger: account
    if "storage is disabled" in ask(["sacct", "-X", "-n"]).error:
        settings.status_command = "squeue"


def check_resources(rule: str, resources: Any) -> None:
    """`UserError` where the executor itself would refuse jobs of `rule` as it submits them, each one anew.

    `resources` are a job's, by name and as attributes. Its rules for `gres`, `gpu_model` and `slurm_extra` are its own.
    """
    import snakemake_executor_plugin_slurm as plugin
    from snakemake_interface_common.exceptions import WorkflowError

    job = SimpleNamespace(resources=resources)
    try:
        plugin.validate_slurm_extra(job)
        plugin.set_gres_string(job)
    except WorkflowError as error:
        raise UserError(f"rule {rule}: the Slurm executor cannot submit it: {error}") from error
