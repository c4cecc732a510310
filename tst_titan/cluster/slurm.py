"""Slurm's commands: the one place that runs them, in the environment in which they find their cluster."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from tst_titan.errors import UserError

TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """What a Slurm command said. `ok` is False where it failed, is not there or did not answer in time; `error` says
    why."""

    ok: bool
    text: str
    error: str = ""

    def rows(self) -> list[list[str]]:
        """The lines of a parsable answer, split."""
        return [line.split("|") for line in self.text.splitlines() if line.strip()]


def environment() -> dict[str, str]:
    """The environment in which Slurm's commands find their cluster, in a job of Snakemake's executor as well."""
    configuration = os.environ.get("TST_TITAN_SLURM_CONF")
    return os.environ | ({"SLURM_CONF": configuration} if configuration else {})


def complete(command: Sequence[str], timeout: float | None = TIMEOUT_SECONDS) -> "subprocess.CompletedProcess[str]":
    """Run a command of Slurm's to its end, for at most `timeout` seconds (None: as long as it takes).

    Raises what `subprocess.run` does: `ask` and `run` put it in words.
    """
    return subprocess.run(
        command,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def ask(command: Sequence[str], timeout: float = TIMEOUT_SECONDS) -> Answer:
    """A command's answer, whatever becomes of it; never raises."""
    try:
        done = complete(command, timeout)
    except FileNotFoundError:
        return Answer(False, "", f"{command[0]}: not found on PATH")
    except OSError as error:
        return Answer(False, "", f"{command[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Answer(False, "", f"{command[0]}: no answer within {timeout:g} s")
    error_text = " ".join(done.stderr.split()) or (
        f"{command[0]} ended with status {done.returncode}" if done.returncode else ""
    )
    return Answer(done.returncode == 0, done.stdout, error_text)


def run(*command: str) -> str:
    """What a command says; "" where it knows no such job. `UserError` where it fails or does not answer."""
    try:
        done = complete(command)
    except FileNotFoundError:
        raise UserError("not found; is Slurm on PATH on the compute nodes?", where=command[0]) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"no answer in {TIMEOUT_SECONDS:g} s", where=" ".join(command)) from None
    if done.returncode:
        if "Invalid job id" in done.stderr:
            return ""
        raise UserError(f"{done.stderr.strip() or f'status {done.returncode}'}", where=" ".join(command))
    return done.stdout
