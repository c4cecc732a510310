"""Questions to Slurm: one command, one answer as text, never longer than a minute; and how Slurm writes a time."""

import math
import re
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


def parse_duration(text: str) -> float:
    """Seconds of a time as Slurm writes it: minutes, minutes:seconds, hours:minutes:seconds, days-hours,
    days-hours:minutes or days-hours:minutes:seconds (sbatch(1), --time).

    Infinite for the words of no limit (UNLIMITED, NOT_SET, infinite, n/a); 0 for INVALID, Slurm's word for a time below
    zero, such as what is left of a job that runs past its limit.
    """
    word = text.strip()
    if word.upper() == "INVALID":
        return 0.0
    days, _, clock = word.rpartition("-")
    if not re.fullmatch(r"\d*", days) or not re.fullmatch(r"\d+(:\d+){0,2}", clock):
        return math.inf
    numbers = [int(number) for number in clock.split(":")]
    # With days the first number is hours; without, one number or the first of two is minutes.
    if not days and len(numbers) < 3:
        numbers.insert(0, 0)
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    return 86400.0 * int(days or 0) + 3600 * hours + 60 * minutes + seconds
