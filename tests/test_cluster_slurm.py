"""What a real Slurm says to requests that it cannot serve, and nodes to what they cannot see."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from slurm_cluster import SlurmCluster, cluster_or_skip

from tst_titan.cluster.accounting import job_usage
from tst_titan.cluster.preflight import Request, check_cluster
from tst_titan.cluster.probe import probe_nodes
from tst_titan.errors import UserError

REPOSITORY = Path(__file__).parent.parent
pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with cluster_or_skip(tmp_path_factory.mktemp("slurm"), nodes=2) as running:
        yield running


@pytest.fixture(autouse=True)
def its_user(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])


def test_what_the_cluster_can_run_passes(cluster: SlurmCluster, tmp_path: Path) -> None:
    request = Request("train", partition="main", nodes=2, gpus=8, cpus=16, memory_mb=64000, minutes=600)
    assert check_cluster([request, Request("evaluate")], [tmp_path]) == []
    assert cluster.jobs() == []


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            Request("train", partition="man"),
            "partition 'man': the cluster has none of that name; did you mean main?",
        ),
        (Request("train", nodes=3), "2 of its nodes have that"),
        (Request("train", gpus=9), "9 GPUs, 0 MB of memory; 0 of its nodes have that"),
        (Request("train", gpus=8, gpu_type="h100"), "has no GPUs of type 'h100'; there are: no named types"),
        (
            Request("train", memory_mb=64001),
            "0 of its nodes have that (its nodes: 16 CPUs, 8 GPUs, 64000 MB)",
        ),
        (Request("train", constraint="ib"), "Slurm says: Invalid feature specification"),
    ],
)
def test_what_it_cannot_run_is_refused_before_the_queue(
    cluster: SlurmCluster, tmp_path: Path, request_: Request, message: str
) -> None:
    with pytest.raises(UserError) as refused:
        check_cluster([request_], [tmp_path])
    assert message in str(refused.value)
    assert cluster.jobs() == []


def test_a_partition_that_wants_a_reservation_is_asked_with_it(cluster: SlurmCluster, tmp_path: Path) -> None:
    """The test submission left `slurm_extra` out: sites that need --reservation or --licenses stopped there."""
    cluster.run("scontrol", "create", "reservation", "ReservationName=course", "StartTime=now", "Duration=60",
                "Nodes=n1", "Users=root")  # fmt: skip
    cluster.run("scontrol", "update", "PartitionName=spare", "ReqResv=YES")
    try:
        ours = Request("train", partition="spare", minutes=5, extra="--open-mode=append --reservation=course")
        assert check_cluster([ours], [tmp_path]) == []
        with pytest.raises(UserError, match="Slurm says: Access/permission denied"):
            check_cluster([replace(ours, extra="")], [tmp_path])
        with pytest.raises(UserError, match=r"Slurm says: .*[Rr]eservation.* invalid"):
            check_cluster([replace(ours, extra="--reservation=curse")], [tmp_path])
    finally:
        cluster.run("scontrol", "update", "PartitionName=spare", "ReqResv=NO")
        cluster.run("scontrol", "delete", "ReservationName=course")
    # As two partitions of which Slurm takes one.
    assert check_cluster([Request("train", partition="spare,main", nodes=2, gpus=8)], [tmp_path]) == []
    assert cluster.jobs() == []


def test_snakemake_says_it_in_one_message_and_submits_nothing(cluster: SlurmCluster, tmp_path: Path) -> None:
    for name in ("Snakefile", "workflow", "slurm"):
        source = REPOSITORY / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (tmp_path / "studies").mkdir()
    shutil.copy(REPOSITORY / "studies" / "quickstart.yaml", tmp_path / "studies")
    (tmp_path / "site.yaml").write_text("site: {partition: man, account: nobody}\n")
    command = [sys.executable, "-m", "snakemake", "--profile", "slurm", "studies/quickstart"]
    environment = cluster.environment | {"PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode != 0
    said = run.stdout + run.stderr
    assert (
        "error: partition 'man': the cluster has none of that name; did you mean main? there are: main, spare" in said
    )
    assert said.count("none of that name") == 1
    assert "Traceback" not in said
    assert cluster.jobs() == []
    assert not (tmp_path / "results").exists()
    # A dry run asks nothing of the cluster.
    dry = subprocess.run(
        [*command, "-n"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert dry.returncode == 0, dry.stderr


def test_a_study_whose_evaluation_data_are_not_there_is_not_queued(cluster: SlurmCluster, tmp_path: Path) -> None:
    for name in ("Snakefile", "workflow", "slurm"):
        source = REPOSITORY / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "mine.yaml").write_text("extends: quickstart.yaml\nevaluate: {tasks: [offline, piqa]}\n")
    shutil.copy(REPOSITORY / "studies" / "quickstart.yaml", tmp_path / "studies")
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "slurm", "studies/mine"], cwd=tmp_path, text=True,
        env=cluster.environment | {"PYTHONPATH": str(REPOSITORY), "HF_HOME": str(tmp_path / "cache")},
        capture_output=True, check=False,
    )  # fmt: skip
    assert run.returncode != 0
    said = run.stdout + run.stderr
    assert "error: the data of piqa are not in the prepared cache" in said
    assert "tst-titan fetch-eval-data --tasks piqa" in said
    assert "Traceback" not in said
    assert cluster.jobs() == []
    assert not (tmp_path / "results").exists()


def test_nodes_say_that_they_are_ready_or_what_they_do_not_see(
    cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    options = ["--partition=main", "--nodes=2", "--time=5"]
    nodes, problems = probe_nodes(options, [tmp_path])
    assert (list(nodes), problems) == (["n1", "n2"], [])
    assert all(has.startswith(f"no GPU; torch {torch.__version__} (built for ") for has in nodes.values())
    assert list(tmp_path.iterdir()) == []
    # The second node with something else mounted where the folder is.
    cluster.kill("n2")
    command = f"mount -t tmpfs none {tmp_path} && exec slurmd -D -N n2"
    cluster._daemon("n2", ["unshare", "--mount", "sh", "-c", command])
    cluster.wait_until_idle()
    nodes, problems = probe_nodes(options, [tmp_path], python="/no/venv/bin/python")
    assert list(nodes) == ["n1", "n2"]
    assert problems == [
        ("n1", "has no /no/venv/bin/python: put the virtual environment on the shared file system"),
        ("n2", f"does not see {tmp_path} (or not what this machine writes there)"),
        ("n2", "has no /no/venv/bin/python: put the virtual environment on the shared file system"),
    ]
    with pytest.raises(UserError, match="invalid partition specified: man"):
        probe_nodes(["--partition=man"], [tmp_path])


def test_a_node_whose_torch_does_not_see_its_gpus_is_named(
    cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where torch is for a newer CUDA than the driver: here GPUs that Slurm gives, and no driver at all."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    nodes, ((named, problem),) = probe_nodes(["--partition=main", "--nodes=1", "--gres=gpu:2", "--time=5"], [tmp_path])
    assert [named] == list(nodes)
    assert problem.startswith(f"holds 2 GPUs (0, 1), torch sees 0: torch {torch.__version__} (built for ")
    assert "no NVIDIA driver found; install a torch that is built for" in problem


def test_a_cluster_without_accounting_is_no_error(cluster: SlurmCluster) -> None:
    job = cluster.run("sbatch", "--parsable", "--output=/dev/null", "--wrap=true")
    assert job_usage([job], since=time.time()) == {}


def test_a_controller_that_is_gone_is_one_message(cluster: SlurmCluster, tmp_path: Path) -> None:
    """The last test: the controller stays away."""
    cluster.kill("slurmctld")
    with pytest.raises(UserError, match=r"Slurm does not answer: .*Unable to contact slurm controller"):
        check_cluster([Request("train")], [tmp_path])
