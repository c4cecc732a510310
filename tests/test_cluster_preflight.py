"""What is refused before the first job is queued: one clear message each, from answers that a Slurm 22.05 gave."""

import math
import os
import subprocess
from pathlib import Path

import pytest

from tst_titan.cluster.executor import check_resources
from tst_titan.cluster.notation import Gpus
from tst_titan.cluster.own_job import seconds_left
from tst_titan.cluster.partitions import read_partitions
from tst_titan.cluster.preflight import (
    Request,
    check_account,
    check_cluster,
    check_commands,
    check_folders,
    check_request,
    distinct,
    request_of,
    waiting,
)
from tst_titan.errors import UserError

RECORDED = Path(__file__).parent / "data" / "slurm"
PARTITIONS = read_partitions((RECORDED / "sinfo.txt").read_text())
# What the executor is given for a training job of two nodes with eight GPUs each.
TRAINING = {"slurm_partition": "gpu", "slurm_account": "lab", "nodes": 2, "tasks": 2, "tasks_per_gpu": 0, "cpus_per_task": 16,  # noqa: E501
            "gres": "gpu:h100:8", "mem_mb": 16000, "runtime": 600}  # fmt: skip


def asks(**changes: object) -> Request:
    return request_of("train", TRAINING | changes, threads=16)


def test_partitions_are_read_with_their_limits_and_kinds_of_nodes() -> None:
    assert set(PARTITIONS) == {"cpu", "gpu", "short", "closed"}
    assert [PARTITIONS[name].default for name in ("cpu", "gpu")] == [True, False]
    assert PARTITIONS["gpu"].max_minutes == 1440
    assert (PARTITIONS["short"].max_minutes, PARTITIONS["short"].max_nodes) == (30, 1)
    assert PARTITIONS["cpu"].max_minutes == PARTITIONS["cpu"].max_nodes == math.inf
    assert not PARTITIONS["closed"].up
    assert [group.gpus for group in PARTITIONS["cpu"].groups] == [(Gpus("h100", 8),), ()]


def test_gpus_of_several_kinds_and_none_are_read() -> None:
    line = "mixed|up|2-12:30:00|2-8|3|128+|1031000+|gpu:a100:4(S:0-1),gpu:v100:2(S:1),nvme:no_consume:1|mixed"
    (partition,) = read_partitions(line).values()
    (group,) = partition.groups
    assert (group.num_gpus("a100"), group.num_gpus("v100"), group.num_gpus(), group.num_gpus("h100")) == (
        4,
        2,
        6,
        0,
    )
    assert (group.cpus, group.memory_mb, partition.max_nodes) == (128, 1031000, 8)
    assert partition.max_minutes == 2 * 1440 + 12 * 60 + 30


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("(null)", ()),
        ("gpu:8", (Gpus("", 8),)),
        ("gpu:8(S:0-3)", (Gpus("", 8),)),
        ("gpu:a100:4(S:0,1)", (Gpus("a100", 4),)),
        ("gpu:nvidia_h100_80gb_hbm3:4(S:0-1)", (Gpus("nvidia_h100_80gb_hbm3", 4),)),
        ("gpu:a100-sxm4-80gb:8(S:0-7)", (Gpus("a100-sxm4-80gb", 8),)),
        ("gpu:tesla:2(S:0),gpu:kepler:2(S:1),craynetwork:4", (Gpus("tesla", 2), Gpus("kepler", 2))),
        # Shards are shares of the same GPUs; they alone are none.
        ("gpu:a100:4(S:0-1),shard:a100:16(S:0-1)", (Gpus("a100", 4),)),
        ("shard:16", ()),
        # Parts of GPUs (MIG), alone and beside whole ones.
        ("gpu:1g.5gb:7(S:0)", (Gpus("1g.5gb", 7),)),
        (
            "gpu:nvidia_h100_80gb_hbm3:2,gpu:nvidia_h100_80gb_hbm3_4g.40gb:2",
            (Gpus("nvidia_h100_80gb_hbm3", 2), Gpus("nvidia_h100_80gb_hbm3_4g.40gb", 2)),
        ),
        ("gpu:no_consume:4,nvme:no_consume:1,bandwidth:lustre:no_consume:4G", (Gpus("", 4),)),
        ("gpu:a30:no_consume:4", (Gpus("a30", 4),)),
        ("gpu", (Gpus("", 1),)),
        ("gpu:a100(S:0)", (Gpus("a100", 1),)),
    ],
)
def test_gpus_are_read_as_slurm_prints_them(gres: str, gpus: tuple[Gpus, ...]) -> None:
    """What sinfo prints as %G: as configured, since 20.11 with the sockets. GPUs without a number were none."""
    (partition,) = read_partitions(f"gpu*|up|infinite|1-infinite|2|64|512000+|{gres}|mixed").values()
    assert [group.gpus for group in partition.groups] == [gpus]


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        # sbatch(1): "Acceptable time formats include ..."
        ("30", 30),
        ("30:30", 30.5),
        ("1:30:00", 90),
        ("1-12", 2160),
        ("1-12:15", 2175),
        ("1-02:03:30", 1563.5),
        # As sinfo and squeue print: no limit, no limit yet, past the limit.
        ("0:59", 59 / 60),
        ("UNLIMITED", math.inf),
        ("NOT_SET", math.inf),
        ("infinite", math.inf),
        ("n/a", math.inf),
        ("", math.inf),
        ("INVALID", 0),
    ],
)
def test_a_time_of_slurm_means_the_same_to_the_preflight_and_to_a_job_that_asks_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, minutes: float
) -> None:
    """`1-12` was 1440.2 minutes to the one and 2160 to the other."""
    (partition,) = read_partitions(f"gpu|up|{text}|1-infinite|1|8|8000|(null)|idle").values()
    assert partition.max_minutes == minutes
    commands(tmp_path, monkeypatch, squeue=f"echo '{text}'")
    assert seconds_left() == 60 * minutes


def test_a_request_is_what_the_executor_makes_of_resources() -> None:
    assert asks() == Request(
        "train", "gpu", "lab", nodes=2, gpus=8, gpu_type="h100", cpus=16, memory_mb=16000, minutes=600
    )
    # `gpu` is job-wide, what is not known yet is no number, threads are the CPUs where nothing else is said.
    other = request_of("evaluate", {"gpu": 4, "nodes": 2, "mem_mb": "<TBD>", "mem_mb_per_cpu": 100}, threads=3)
    assert other == Request("evaluate", nodes=2, gpus=2, cpus=3, memory_mb=300)
    assert [request.count for request in distinct([asks(), other, asks()])] == [2, 1]


def test_what_the_cluster_can_run_passes() -> None:
    assert check_request(asks(), PARTITIONS) is None
    assert check_request(asks(gres="gpu:8"), PARTITIONS) is None
    assert check_request(Request("evaluate"), PARTITIONS) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slurm_partition": "gpuu"}, "partition 'gpuu': the cluster has none of that name; did you mean gpu? there are: closed, cpu, gpu, short"),  # noqa: E501
        ({"runtime": 3000}, "asks for 3000 minutes, its time limit is 1440"),
        ({"slurm_partition": "short", "runtime": 20}, "asks for 2 nodes, a job there may have 1"),
        ({"gres": "gpu:a100:8"}, "has no GPUs of type 'a100'; there are: h100"),
        ({"gres": "gpu:h100:16"}, "16 h100 GPUs, 16000 MB of memory; 0 of its nodes have that"),
        ({"mem_mb": 20001}, "20001 MB of memory; 0 of its nodes have that (its nodes: 32 CPUs, 8 h100 GPUs, 20000 MB)"),
        ({"cpus_per_task": 33}, "33 CPUs"),
        ({"nodes": 3, "tasks": 3}, "2 of its nodes have that"),
        # Enough nodes in all, not with GPUs.
        ({"slurm_partition": "cpu", "nodes": 4, "tasks": 4}, "2 of its nodes have that"),
    ],
)  # fmt: skip
def test_what_it_can_never_run_is_named(changes: dict[str, object], message: str) -> None:
    found = check_request(asks(**changes), PARTITIONS)
    assert found is not None
    assert message in found


def test_a_job_may_name_several_partitions_of_which_one_is_enough() -> None:
    """`partition: "gpu,gpu2"` is legal in Slurm and was an unknown partition here."""
    assert check_request(asks(slurm_partition="short,gpu"), PARTITIONS) is None
    assert waiting(Request("evaluate", partition="closed,cpu"), PARTITIONS) == []
    assert waiting(Request("evaluate", partition="closed"), PARTITIONS) != []
    neither = check_request(asks(slurm_partition="short,gpu", runtime=3000), PARTITIONS)
    assert neither is not None
    assert "partition short: rule train asks for 3000 minutes, its time limit is 30" in neither
    assert "partition gpu: rule train asks for 3000 minutes, its time limit is 1440" in neither
    unknown = check_request(asks(slurm_partition="gpu,gpuu"), PARTITIONS)
    assert unknown is not None
    assert "partition 'gpuu': the cluster has none of that name; did you mean gpu?" in unknown


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"gres": "gpu:a100-sxm4-80gb:4"}, "rule train: .* Invalid GRES format: gpu:a100-sxm4-80gb:4"),
        ({"slurm_extra": "--exclusive --mem=0"}, "rule train: .*--memory option is not allowed"),
    ],
)
def test_what_the_executor_would_refuse_at_every_submission_is_said_before_the_first(
    resources: dict[str, str], message: str
) -> None:
    from snakemake.iocontainers import ResourceList

    with pytest.raises(UserError, match=message):
        check_resources("train", ResourceList(fromdict=resources))
    check_resources(
        "train",
        ResourceList(fromdict={"gres": "gpu:a100_sxm4.80gb:4", "slurm_extra": "--open-mode=append --exclusive"}),
    )


def test_a_cluster_without_default_partition_wants_one_named() -> None:
    without = {name: partition for name, partition in PARTITIONS.items() if not partition.default}
    found = check_request(asks(slurm_partition=""), without)
    assert found is not None
    assert "set one in site.yaml: closed, gpu, short" in found


def test_what_would_only_wait_is_a_warning() -> None:
    closed = Request("evaluate", partition="closed")
    assert check_request(closed, PARTITIONS) is None
    assert waiting(closed, PARTITIONS) == ["partition closed is not up: jobs of rule evaluate wait until it is"]
    drained = read_partitions(
        "gpu*|up|infinite|1-infinite|1|32|20000|gpu:8|idle\ngpu*|up|infinite|1-infinite|7|32|20000|gpu:8|drained*"
    )
    two = Request("train", nodes=2, gpus=8)
    assert check_request(two, drained) is None
    assert waiting(two, drained) == ["partition gpu: only 1 of the 2 nodes that rule train needs are up now"]
    assert waiting(asks(), PARTITIONS) == []


def test_accounts_and_qos_are_the_users_own() -> None:
    accounts = {"lab": {"normal", "long"}, "other": {"normal"}}
    assert check_account(asks(), accounts) is None
    assert check_account(asks(slurm_account="nobody"), None) is None  # no accounts are kept
    assert (
        check_account(asks(slurm_account="nobody"), accounts)
        == "account 'nobody': not yours on this cluster; yours are: lab, other"
    )
    assert (
        check_account(asks(slurm_account="other", qos="long"), accounts)
        == "qos 'long': not allowed for you; allowed: normal"
    )
    assert check_account(asks(slurm_account="", qos="long"), accounts) is None


def test_folders_in_memory_or_in_a_container_are_not_shared(tmp_path: Path) -> None:
    mounts = (
        "overlay / overlay rw 0 0\nhome:/export /home nfs4 rw 0 0\ntmpfs /home/me/ram\\040disk tmpfs rw 0 0\n/dev/md0 "
        "/data ext4 rw 0 0\n"
    )
    folders = [Path("/home/me/study"), Path("/home/me/ram disk/results"), Path("/data/x"), Path("/opt/venv")]
    found = check_folders(folders, mounts)
    assert [problem.split(":")[0] for problem in found] == ["/home/me/ram disk/results", "/opt/venv"]
    assert "is on tmpfs (mounted at /home/me/ram disk), which compute nodes do not see" in found[0]


def commands(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """PATH holds these commands and the shell's alone."""
    folder.mkdir(exist_ok=True)
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_no_slurm_on_path_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands(tmp_path / "bin", monkeypatch, squeue="exit 0")
    with pytest.raises(
        UserError, match=r"sbatch, srun, scancel, scontrol, sinfo not found on PATH; run this on a login node"
    ):
        check_cluster([asks()], [tmp_path])


def test_an_old_slurm_is_named_with_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = dict.fromkeys(("squeue", "scancel", "scontrol", "sinfo"), "exit 0")
    old = '[ "$1" = --version ] && echo slurm 2.2.7 || echo "  -t, --time=minutes   time limit"'
    commands(tmp_path / "bin", monkeypatch, sbatch=old, srun="echo --overlap", **rest)
    with pytest.raises(
        UserError, match=r"slurm 2.2.7: sbatch has no --signal, --requeue; Slurm 20.11 or later is needed"
    ):
        check_commands()
    new = "echo '--signal=[[R][B]:]num[@time] --requeue --overlap'"
    commands(tmp_path / "bin", monkeypatch, sbatch=new, srun=new)
    check_commands()


def test_a_controller_that_is_down_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = "echo '--signal --requeue --overlap'"
    down = "echo 'slurm_load_partitions: Unable to contact slurm controller (connect failure)' >&2; exit 1"
    commands(tmp_path / "bin", monkeypatch, sbatch=new, srun=new, squeue="", scancel="", scontrol="", sinfo=down)
    with pytest.raises(UserError, match=r"Slurm does not answer: .*Unable to contact slurm controller"):
        check_cluster([asks()], [tmp_path])


def test_a_node_says_what_it_does_not_see(tmp_path: Path) -> None:
    """The script that runs on a node, as on one that sees one folder of two and has no virtual environment."""
    from tst_titan.cluster.probe import _NODE_SCRIPT

    (tmp_path / ".probe-0a").touch()
    command = ["sh", "-c", _NODE_SCRIPT, "sh", "0a", "/nowhere/bin/python", str(tmp_path), "/nowhere/results"]
    run = subprocess.run(
        command, env=os.environ | {"SLURMD_NODENAME": "n7"}, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines() == [
        "n7: does not see /nowhere/results (or not what this machine writes there)",
        "n7: has no /nowhere/bin/python: put the virtual environment on the shared file system",
        "n7: asked",
    ]
    assert (tmp_path / ".probe-0a-n7").exists()
