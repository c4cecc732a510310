"""What a logged step says, and that it reaches TensorBoard and Weights & Biases."""

import subprocess
import sys
from pathlib import Path

import pytest
from training import chain, constant, make_job, recipe, rows, superposition, train_here

import tst_titan.train.titan  # noqa: F401
from tst_titan.errors import UserError
from tst_titan.plan.costs import flops_per_step
from tst_titan.train.job import write_job

pytestmark = pytest.mark.usefixtures("process_group")


def test_tokens_are_counted_twice_by_name(tmp_path: Path, corpus_dir: Path) -> None:
    (segment,) = chain(superposition(0, 3, bag_size=4), recipe=recipe())
    folder = train_here(segment, tmp_path, corpus_dir)
    fields = ("equivalent_tokens", "data_tokens", "flops")
    flops = flops_per_step(segment.recipe)
    assert rows(folder, *fields) == [(128 * n, 4 * 128 * n, flops * n) for n in (1, 2, 3)]
    for seconds, wait, memory, rate, data_rate in rows(
        folder, "step_time_s", "loader_wait_s", "max_memory_gib", "tokens_per_s", "data_tokens_per_s"
    ):
        assert 0 <= wait < seconds
        assert memory > 0.05
        assert rate == pytest.approx(128 / seconds)
        assert data_rate == pytest.approx(4 * rate)


def test_utilization_is_of_the_right_peak() -> None:
    from torchtitan.tools.utils import get_peak_flops

    from tst_titan.train.titan.metrics import peak_flops

    h200 = "NVIDIA H200"
    assert peak_flops(h200, get_peak_flops(h200), float8=False) == 989e12
    assert peak_flops(h200, get_peak_flops(h200), float8=True) == 2 * 989e12
    assert peak_flops("NVIDIA B200", get_peak_flops("NVIDIA B200"), float8=False) == 2.25e15
    # torchtitan would take an A100's peak for these.
    for unknown in ("Some CPU @ 2.20GHz", "NVIDIA GeForce RTX 4090"):
        assert peak_flops(unknown, get_peak_flops(unknown), float8=False) is None


def test_tensorboard_gets_every_logged_number(tmp_path: Path, corpus_dir: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (segment,) = chain(constant(3), recipe=recipe())
    folder = train_here(segment, tmp_path, corpus_dir, tensorboard=True)
    (run,) = (folder / "tb").iterdir()
    events = EventAccumulator(str(run))
    events.Reload()
    assert {"loss", "grad_norm", "learning_rate", "data_tokens", "loader_wait_s", "validation_loss"} <= set(
        events.Tags()["scalars"]
    )
    written = [(event.step, event.value) for event in events.Scalars("loss")]
    assert written == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in rows(folder, "step", "loss")]


def test_wandb_works_offline(tmp_path: Path, corpus_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    (segment,) = chain(constant(2), recipe=recipe())
    folder = train_here(segment, tmp_path, corpus_dir, wandb=True)
    (run,) = folder.glob("tb/*/wandb/offline-run-*/*.wandb")
    assert run.stat().st_size > 0


WITHOUT_WANDB = """
import sys
from pathlib import Path
sys.modules["wandb"] = None  # as where it is not installed
from tst_titan.train.job import read_job
from tst_titan.train.titan.worker import train_segment
from tst_titan.errors import UserError
try:
    train_segment(read_job(Path(sys.argv[1])))
except UserError as error:
    sys.exit(f"error: {error}")
"""


def test_wandb_that_does_not_start_is_one_error(tmp_path: Path, corpus_dir: Path) -> None:
    (segment,) = chain(constant(2), recipe=recipe())
    path = write_job(make_job(segment, tmp_path, corpus_dir, wandb=True))
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_WANDB, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1
    assert "error: hardware: wandb is on, but Weights & Biases did not start" in result.stderr
    assert "pip install wandb" in result.stderr
    assert not (path.parent / "metrics.jsonl").exists()
    assert UserError.__name__ not in result.stderr
