"""GPUs held by jobs, with real processes: no GPU has two jobs, none is lost, whoever dies how."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tst_titan.cluster.devices import hold_gpus, visible_gpus
from tst_titan.errors import UserError

# Holds N of the GPUs, notes which and when, keeps them for some seconds, in a worker that inherits the locks if told to.
HOLDER = """
import json, os, subprocess, sys, time
from pathlib import Path
from tst_titan.cluster.devices import hold_gpus
folder, gpus, count, seconds, worker = Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5]
with hold_gpus(count, tuple(gpus), folder) as held:
    start = time.monotonic()
    print(json.dumps(held.gpus), flush=True)
    if worker:
        child = subprocess.Popen(["sleep", "60"], pass_fds=held.locks)
        print(child.pid, flush=True)
        child.wait()
    time.sleep(seconds)
    print(json.dumps([start, time.monotonic()]), flush=True)
"""


def holder(
    folder: Path, gpus: str, count: int, seconds: float = 0.0, worker: str = ""
) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLDER, str(folder), gpus, str(count), str(seconds), worker]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_no_gpu_is_ever_held_twice_and_all_jobs_get_theirs(tmp_path: Path) -> None:
    jobs = [holder(tmp_path, "0,1,2", count, 0.2) for count in (2, 1, 3, 1, 2, 2)]
    spans: dict[str, list[tuple[float, float]]] = {}
    for job, count in zip(jobs, (2, 1, 3, 1, 2, 2), strict=True):
        out, err = job.communicate(timeout=60)
        assert job.returncode == 0, err
        gpus, span = (json.loads(line) for line in out.splitlines())
        assert len(set(gpus)) == count
        for gpu in gpus:
            spans.setdefault(gpu, []).append(tuple(span))
    assert set(spans) == {"0", "1", "2"}
    for times in spans.values():
        times.sort()
        assert all(end <= start for (_, end), (start, _) in pairwise(times))


def test_a_gpu_is_free_again_when_its_last_worker_is_dead_not_before(tmp_path: Path) -> None:
    launcher = holder(tmp_path, "0", 1, worker="worker")
    assert launcher.stdout is not None
    assert json.loads(launcher.stdout.readline()) == ["0"]
    worker = int(launcher.stdout.readline())
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    second = holder(tmp_path, "0", 1)
    assert second.stderr is not None
    assert second.stderr.readline() == "waiting for 1 of the GPUs 0: other jobs hold them\n"
    assert second.poll() is None
    os.kill(worker, signal.SIGKILL)
    out, _ = second.communicate(timeout=30)
    assert json.loads(out.splitlines()[0]) == ["0"]


def test_one_that_needs_all_is_not_overtaken_by_those_that_need_one(tmp_path: Path) -> None:
    first = holder(tmp_path, "0,1", 1, 1.5)
    assert first.stdout is not None
    first.stdout.readline()
    both = holder(tmp_path, "0,1", 2)
    assert both.stderr is not None
    both.stderr.readline()  # it waits
    late = holder(tmp_path, "0,1", 1)
    spans = [json.loads(job.communicate(timeout=30)[0].splitlines()[-1]) for job in (both, late)]
    assert spans[0][0] < spans[1][0]
    first.communicate(timeout=30)


def test_more_processes_than_gpus_is_one_error(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"3 processes need 3 GPUs, this machine shows 2 \(0, 1\)"),
        hold_gpus(3, ("0", "1"), tmp_path),
    ):
        pass


def test_visible_gpus_are_those_that_cuda_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2, 0,GPU-5a"}) == ("2", "0", "GPU-5a")
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == ()
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "1,-1,2"}) == ("1",)
    # What the driver's tool prints on a machine of two.
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-0a)'\necho 'GPU 1: NVIDIA H200 (UUID: GPU-1b)'\n"
        "echo '  MIG 1g.18gb Device 0: (UUID: MIG-2c)'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert visible_gpus({}) == ("0", "1")
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    assert visible_gpus({}) == ()
    tool.unlink()
    assert visible_gpus({}) == ()


@pytest.mark.timeout(300)
def test_training_jobs_on_one_machine_get_a_gpu_each(
    tmp_path: Path, corpus_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole jobs, told of two GPUs: torch finds none and trains on the CPU, but each job has its own and says so."""
    from training import chain, constant, make_job, recipe, start_launcher

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    (one,) = chain(constant(4), recipe=recipe())
    (two,) = chain(constant(4), recipe=recipe(seed=1))
    jobs = [make_job(segment, tmp_path, corpus_dir) for segment in (one, two)]
    launchers = [start_launcher(job) for job in jobs]
    try:
        seen: set[str] = set()
        deadline = time.monotonic() + 120
        while (
            len(seen) < 2 and time.monotonic() < deadline and all(each.poll() is None for each in launchers)
        ):
            for launcher in launchers:
                for child in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
                    values = Path(f"/proc/{child}/environ").read_bytes().decode().split("\0")
                    seen |= {value for value in values if value.startswith("CUDA_VISIBLE_DEVICES=")} - {
                        "CUDA_VISIBLE_DEVICES=0,1"
                    }
            time.sleep(0.02)
        assert seen == {"CUDA_VISIBLE_DEVICES=0", "CUDA_VISIBLE_DEVICES=1"}
    finally:
        said = [launcher.communicate(timeout=200)[1] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], said
    for job in jobs:
        done = json.loads((job.folder / "done.json").read_text())
        (attempt,) = done["attempts"]
        assert (attempt["devices"], attempt["device_kind"], attempt["outcome"]) == (1, "GPU", "finished")
        provenance = json.loads((job.folder / "provenance.json").read_text())
        assert provenance["device_hours"] == pytest.approx((attempt["end"] - attempt["start"]) / 3600)
        assert provenance["device_kind"] == "GPU"
