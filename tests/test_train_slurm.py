"""A Slurm that is away for a while, as a failing `squeue` and `scontrol` first on PATH show it: nothing is lost by
it."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tst_titan.cluster import own_job
from tst_titan.errors import UserError
from tst_titan.train import launch
from tst_titan.train.job import EXIT_CONTINUE

AWAY = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"


@dataclass
class Controller:
    """Its commands fail `failures` times, then do as the test cluster's; `calls` holds each that was answered."""

    folder: Path

    def away(self, failures: int, says: str = AWAY) -> None:
        (self.folder / "failures").write_text(f"{failures}\n")
        (self.folder / "says").write_text(says)

    def calls(self) -> list[str]:
        log = self.folder / "calls"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Controller:
    """This process in job 7, which runs and has an hour left."""
    folder = tmp_path / "controller"
    folder.mkdir()
    for name in ("squeue", "scontrol"):
        command = folder / name
        command.write_text(
            f"#!/bin/sh\nread left < {folder}/failures\n"
            f'if [ "$left" -gt 0 ]; then echo $((left - 1)) > {folder}/failures; cat {folder}/says >&2; exit 1; fi\n'
            f'echo "{name} $*" >> {folder}/calls\n'
            'case "$*" in *RestartCnt*) echo "RUNNING 0";; *%L*) echo 1:00:00;; *%T*) echo RUNNING;; esac\n'
        )
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TST_TITAN_LAUNCHER", "srun")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for name in ("TST_TITAN_SLURM_RESTARTS", "SLURM_RESTART_COUNT", "TST_TITAN_SLURM_CONF"):
        monkeypatch.delenv(name, raising=False)
    for name, seconds in (
        ("PATIENCE_SECONDS", 30.0),
        ("FIRST_PAUSE_SECONDS", 0.01),
        ("LONGEST_PAUSE_SECONDS", 0.05),
    ):
        monkeypatch.setattr(own_job, name, seconds)
    found = Controller(folder)
    found.away(0)
    return found


def test_a_controller_that_comes_back_has_only_delayed_the_answers_and_the_log_says_so(
    controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    for question, answer in (
        (own_job.own_state, "RUNNING"),
        (own_job.seconds_left, 3600.0),
        (own_job.run_again, True),
    ):
        controller.away(4)
        assert question() == answer
        said = capsys.readouterr().err
        assert said.count("no answer from Slurm, asking again") == 1
        assert "Unable to contact slurm controller" in said
        assert said.endswith("Slurm answers again\n")
    assert controller.calls()[-1] == "scontrol requeue 7"


def test_without_the_controller_for_ever_training_begins_with_no_limit_known(
    controller: Controller, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(own_job, "PATIENCE_SECONDS", 0.3)
    controller.away(1_000_000)
    assert own_job.seconds_left() == float("inf")
    assert "time left is not known" in capsys.readouterr().err


def test_a_job_that_has_saved_does_not_fail_where_slurm_is_away_when_it_asks_to_be_run_again(
    controller: Controller,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    corpus_dir: Path,
) -> None:
    """It goes back into the queue when Slurm is back; if that never is, it says that it was saved and how to go on."""
    from training import chain, constant, make_job, recipe

    (segment,) = chain(constant(4), recipe=recipe())
    job = make_job(segment, tmp_path, corpus_dir)
    monkeypatch.setattr(launch, "_attempt", lambda job, lock: EXIT_CONTINUE)  # trained, told to stop, saved
    controller.away(5)
    assert launch.run_segment(job) == EXIT_CONTINUE
    assert controller.calls()[-1] == "scontrol requeue 7"
    assert "no answer from Slurm" in capsys.readouterr().err

    monkeypatch.setattr(own_job, "PATIENCE_SECONDS", 0.3)
    controller.away(1_000_000)
    assert launch.run_segment(job) == EXIT_CONTINUE
    assert (
        "could not be put back into Slurm's queue; start it again to go on: Slurm did not answer"
        in capsys.readouterr().err
    )


def test_an_end_without_a_word_is_not_the_jobs_own_failure_while_slurm_is_away(
    controller: Controller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, corpus_dir: Path
) -> None:
    from training import chain, constant, make_job, recipe

    (segment,) = chain(constant(4), recipe=recipe())
    job = make_job(segment, tmp_path, corpus_dir)
    monkeypatch.setattr(own_job, "PATIENCE_SECONDS", 0.3)
    controller.away(1_000_000)
    assert "Slurm did not answer" in launch._not_its_fault(job, None)


def test_what_slurm_refuses_is_not_asked_again(controller: Controller) -> None:
    controller.away(1, "slurm_load_jobs error: Access/permission denied")
    with pytest.raises(UserError, match="permission denied"):
        own_job.own_state()
    assert own_job.own_state() == "RUNNING"
