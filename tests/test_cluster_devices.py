"""GPUs held by jobs, with real processes: no GPU has two jobs, none is lost, whoever dies how."""

import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tst_titan.cluster.devices import hold_gpus, promised_gpus, visible_gpus
from tst_titan.cluster.driver import Driver, find_driver
from tst_titan.errors import UserError

# Holds N of the GPUs, notes which and when, keeps them for some seconds, in a worker that inherits the locks if told
# to.
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
"""  # noqa: E501


def holder(folder: Path, gpus: str, count: int, seconds: float = 0.0, worker: str = "") -> "subprocess.Popen[str]":
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


# What the tool of a driver says that runs CUDA up to 12.4, on a machine of two GPUs.
NVIDIA_SMI = """#!/bin/sh
case "$*" in
-L) echo 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0a)'; echo 'GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-1b)';;
"") echo '| NVIDIA-SMI 550.54.15              Driver Version: 550.54.15      CUDA Version: 12.4     |';;
*) exit 1;;
esac
"""


def test_the_driver_is_known_by_its_tool_or_by_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "version"
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert str(find_driver(module)) == "no NVIDIA driver found"
    module.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)\n"
        "GCC version:  gcc version 12.3.0\n"
    )
    assert find_driver(module) == Driver("580.65.06")
    module.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed Oct 27 21:21:55 UTC 2021\n")
    assert find_driver(module) == Driver("470.82.01")
    (tmp_path / "nvidia-smi").write_text(NVIDIA_SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert str(find_driver(module)) == "driver 550.54.15 (up to CUDA 12.4)"


def test_gpus_that_slurm_gave_are_promised_even_where_nothing_shows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert promised_gpus({"SLURM_GPUS_ON_NODE": "2"}) == ("0", "1")
    assert promised_gpus({"SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "3,4"}) == ("3", "4")
    assert promised_gpus({"SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": ""}) == ()
    assert promised_gpus({}) == ()


@pytest.mark.timeout(300)
def test_jobs_get_a_gpu_each_and_where_torch_sees_none_they_do_not_train_on_the_cpu(
    tmp_path: Path, corpus_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two GPUs of a driver that is older than torch's CUDA: torch finds no device and raises no error of its own."""
    from training import chain, constant, make_job, recipe, start_launcher

    (tmp_path / "nvidia-smi").write_text(NVIDIA_SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (one,) = chain(constant(4), recipe=recipe())
    (two,) = chain(constant(4), recipe=recipe(seed=1))
    jobs = [make_job(segment, tmp_path, corpus_dir) for segment in (one, two)]
    launchers = [start_launcher(job) for job in jobs]
    said = [launcher.communicate(timeout=200)[1] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [1, 1], said
    held = set()
    for job, errors in zip(jobs, said, strict=True):
        assert f"{job.segment.id}: holds 1 GPUs (" in errors
        assert f"torch sees 0: torch {torch.__version__} (built for " in errors
        assert "driver 550.54.15 (up to CUDA 12.4); install a torch that is built for" in errors
        assert "Traceback" not in errors
        assert not (job.folder / "provenance.json").exists()
        assert not (job.folder / "metrics.jsonl").exists()
        (attempt,) = json.loads((job.folder / "attempts.json").read_text())
        assert (attempt["outcome"], attempt["devices"], attempt["device_kind"]) == ("failed", 1, "GPU")
        held |= set(json.loads((job.folder / "job.json").read_text())["gpus"])
    assert held <= {"0", "1"}

    # Told to use no GPU, it trains on the CPU and says so.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    launcher = start_launcher(jobs[0])
    _, errors = launcher.communicate(timeout=200)
    assert launcher.returncode == 0, errors
    assert json.loads((jobs[0].folder / "job.json").read_text())["gpus"] == []
    attempt = json.loads((jobs[0].folder / "done.json").read_text())["attempts"][-1]
    assert (attempt["outcome"], attempt["device_kind"]) == ("finished", "CPU core")


def test_an_evaluation_whose_torch_does_not_see_its_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from tst_titan.evaluate.run import _device

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match=r"the evaluation: holds 2 GPUs \(0, 1\), torch sees 0"):
        _device("auto")
    assert _device("cpu") == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert _device("auto") == "cpu"


def test_where_tmp_carries_no_locks_no_gpu_is_held_twice_either(tmp_path: Path, without_flock: None) -> None:
    first = holder(tmp_path, "0", 1, worker="worker")
    assert first.stdout is not None
    assert json.loads(first.stdout.readline()) == ["0"]
    worker = int(first.stdout.readline())
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = holder(tmp_path, "0", 1)
    assert second.stderr is not None
    assert second.stderr.readline() == "waiting for 1 of the GPUs 0: other jobs hold them\n"
    os.kill(worker, signal.SIGKILL)
    out, errors = second.communicate(timeout=30)
    assert json.loads(out.splitlines()[0]) == ["0"], errors
