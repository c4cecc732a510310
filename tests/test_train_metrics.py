"""What a logged step says, and that it reaches TensorBoard and Weights & Biases."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from training import chain, constant, make_job, recipe, rows, superposition, train_here

import tst_titan.train.titan  # noqa: F401
from tst_titan.errors import UserError
from tst_titan.plan.costs import PEAK_FLOPS, flops_per_step
from tst_titan.train.job import write_job
from tst_titan.train.peaks import PEAK_BY_NAME
from tst_titan.train.titan.metrics import SegmentMetrics

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


@pytest.mark.parametrize(
    ("device", "bf16"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA B200", 2.25e15),
        ("NVIDIA GB200", 2.5e15),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("AMD Instinct MI300X", 1307e12),
        # Not looked up, a part of a GPU, no GPU: torchtitan would take an A100's peak, or an H100's.
        ("NVIDIA GeForce RTX 4090", None),
        ("NVIDIA RTX A6000 Laptop GPU", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA H20 Something", None),
        ("Some CPU @ 2.20GHz", None),
    ],
)
def test_utilization_is_of_the_devices_own_peak_and_an_unknown_device_has_none(
    monkeypatch: pytest.MonkeyPatch, device: str, bf16: float | None
) -> None:
    """An L40S had none, a MIG part that of the whole GPU, and an H20 an H100's: `lspci` calls it "GH100 [H20]"."""
    monkeypatch.setattr(SegmentMetrics, "__init__", lambda self: None)
    metrics = SegmentMetrics()  # type: ignore[call-arg]
    metrics.device_memory_monitor = SimpleNamespace(device_name=device)  # type: ignore[assignment]
    metrics.parallel_dims = SimpleNamespace(world_size=4)  # type: ignore[assignment]
    for metrics.has_quantization, factor in ((False, 1), (True, 2)):
        found = metrics.utilization(4 * 37e12)
        assert found == ({} if bf16 is None else {"utilization": pytest.approx(37e12 / bf16 / factor)})


def test_a_device_is_as_fast_for_the_utilization_as_for_the_plan() -> None:
    names = {
        "a100": "NVIDIA A100-SXM4-80GB",
        "h100": "NVIDIA H100 80GB HBM3",
        "h200": "NVIDIA H200",
        "b200": "NVIDIA B200",
    }
    assert {name: PEAK_BY_NAME[device] for name, device in names.items()} == {
        name: peak for name, peak in PEAK_FLOPS.items() if name != "cpu"
    }


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
