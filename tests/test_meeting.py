"""Where ranks meet: on one machine nobody else can take part, and nothing listens beyond loopback."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from training import all_descendants, chain, constant, launch, make_job, recipe, start_launcher

from tst_titan.meeting import MEETING_FILE, private_meeting
from tst_titan.train.job import Job

NAMESPACES = shutil.which("unshare") and os.getuid() == 0


def listening_addresses(pids: list[int]) -> set[str]:
    """The addresses at which these processes listen, as `ss` shows them."""
    shown = subprocess.run(
        ["ss", "--listening", "--tcp", "--udp", "--processes", "--numeric", "--no-header"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    of_pids = {f"pid={pid}," for pid in pids}
    lines = [line for line in shown.splitlines() if any(pid in line for pid in of_pids)]
    return {line.split()[4].rpartition(":")[0] for line in lines}


def reach_first_row(job: Job, launcher: "subprocess.Popen[str]") -> None:
    while not (job.folder / "metrics.jsonl").exists() or not (job.folder / "metrics.jsonl").stat().st_size:
        assert launcher.poll() is None, launcher.communicate()
        time.sleep(0.1)


@pytest.mark.skipif(shutil.which("ss") is None, reason="ss is not installed (Debian: iproute2)")
def test_while_two_ranks_train_nothing_listens_beyond_loopback_and_no_other_user_can_join(
    tmp_path: Path, corpus_dir: Path
) -> None:
    (segment,) = chain(constant(100_000), recipe=recipe())
    job = make_job(segment, tmp_path, corpus_dir, processes=2)
    launcher = start_launcher(job)
    try:
        reach_first_row(job, launcher)
        pids = [launcher.pid, *all_descendants(launcher.pid)]
        addresses = listening_addresses(pids)
        # Gloo's sockets are there to be seen, so the look is not at nothing.
        assert addresses
        assert addresses <= {"127.0.0.1", "[::1]"}
        environments = [Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0") for pid in pids]
        meetings = {
            value.partition("=")[2]
            for values in environments
            for value in values
            if value.startswith(f"{MEETING_FILE}=")
        }
        (meeting,) = map(Path, meetings)
        assert meeting.is_file()
        assert meeting.parent.stat().st_mode & 0o777 == 0o700
        if os.getuid() == 0:
            stranger = subprocess.run(
                ["sh", "-c", f": >> '{meeting}'"],
                user=65534,
                cwd="/",
                capture_output=True,
                text=True,
                check=False,
            )
            assert "Permission denied" in stranger.stderr
    finally:
        launcher.terminate()
        launcher.communicate(timeout=120)
    assert not meeting.parent.exists()


@pytest.mark.skipif(not NAMESPACES, reason="network namespaces need root and unshare(1)")
def test_a_machine_without_any_network_trains_over_loopback_and_one_without_loopback_says_so(
    tmp_path: Path, corpus_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (segment,) = chain(constant(4), recipe=recipe())
    real, script = sys.executable, tmp_path / "python"
    for network, name in (("ip link set lo up", "loopback"), ("true", "nothing")):
        job = make_job(segment, tmp_path / name, corpus_dir, processes=2)
        script.write_text(f'#!/bin/sh\nexec unshare --net sh -c \'{network}; exec {real} "$@"\' sh "$@"\n')
        script.chmod(0o755)
        monkeypatch.setattr("training.sys.executable", str(script))
        run = launch(job)
        if name == "loopback":
            assert run.returncode == 0, run.stderr + (job.folder / "train.log").read_text()
            assert json.loads((job.folder / "done.json").read_text())["end_step"] == 4
        else:
            assert run.returncode == 1
            (line,) = [line for line in run.stderr.splitlines() if "error" in line]
            assert re.search(r"127\.0\.0\.1: .*loopback interface, and it is not up", line)


def test_what_a_meeting_leaves_behind_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with suppress(KeyError), private_meeting() as file:
        file.write_text("")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
