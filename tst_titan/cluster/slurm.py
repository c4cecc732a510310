"""Questions to Slurm: one command, one answer as text, never longer than a minute."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """What a Slurm command said. `ok` is False where it failed, is not there or did not answer in time; `error` says why."""

    ok: bool
    text: str
    error: str = ""

    def rows(self, separator: str = "|") -> list[list[str]]:
        """The lines of a parsable answer, split."""
        return [line.split(separator) for line in self.text.splitlines() if line.strip()]


def ask(command: Sequence[str], timeout: float = TIMEOUT_SECONDS) -> Answer:
    """Run a Slurm command; never raises."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError:
        return Answer(False, "", f"{command[0]}: not found on PATH")
    except OSError as error:
        return Answer(False, "", f"{command[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Answer(False, "", f"{command[0]}: no answer within {timeout:g} s")
    said = " ".join(run.stderr.split()) or (
        f"{command[0]} ended with status {run.returncode}" if run.returncode else ""
    )
    return Answer(run.returncode == 0, run.stdout, said)
