"""What jobs ask of a cluster: computed from the plan, the hardware and what a site says of itself."""

import pytest
from training import chain, constant, published_recipe

from tst_titan.errors import UserError
from tst_titan.train.hardware import Hardware
from tst_titan.train.resources import (
    Site,
    check_hardware,
    checkpoint_resources,
    job_prologue,
    parse_site,
    training_memory_mb,
    training_minutes,
    training_resources,
)
from tst_titan.train.slurm import parse_duration

GPUS = Site(partition="gpu", account="lab", gpus_per_node=8, gpu_type="h100", accelerator="h100")


def test_eight_gpus_a_node_are_asked_for_on_each_node_and_counted_for_all() -> None:
    asked = training_resources(Hardware(nodes=4, processes=8, threads=8), GPUS)
    assert asked["gres"] == "gpu:h100:8"
    assert (asked["nodes"], asked["tasks"], asked["gpus"]) == (4, 4, 32)
    # The executor would take `tasks` for tasks of each GPU.
    assert asked["tasks_per_gpu"] == 0
    assert (asked["slurm_partition"], asked["slurm_account"]) == ("gpu", "lab")


def test_one_gpu_and_none() -> None:
    assert training_resources(Hardware(), Site(gpus_per_node=4))["gres"] == "gpu:1"
    on_cpus = training_resources(Hardware(nodes=2, processes=2), Site())
    assert "gres" not in on_cpus
    assert on_cpus["nodes"] == on_cpus["tasks"] == 2
    assert "gres" not in checkpoint_resources(GPUS, gpus=0, minutes=60)


def test_the_runtime_is_the_plans_with_a_margin_and_at_most_the_partitions_limit() -> None:
    (segment,) = chain(constant(1000), recipe=published_recipe("270M"))
    one, eight = (training_minutes(segment, Hardware(processes=n), GPUS) for n in (1, 8))
    assert one > 60
    assert eight - 15 == pytest.approx((one - 15) / 8, rel=0.05)
    limited = Site(**vars(GPUS) | {"max_minutes": 40})
    assert training_minutes(segment, Hardware(), limited) == 40


def test_memory_grows_with_the_processes_of_a_node_and_a_site_may_name_it() -> None:
    (segment,) = chain(constant(10), recipe=published_recipe("3B"))
    one, eight = (training_memory_mb(segment, Hardware(processes=n, micro_batch=1), GPUS) for n in (1, 8))
    assert eight > one
    assert training_memory_mb(segment, Hardware(micro_batch=1), Site(memory_mb=500_000)) == 500_000


def test_more_processes_than_gpus_on_a_node_are_refused() -> None:
    with pytest.raises(UserError, match=r"gpus_per_node is 8.*more nodes"):
        check_hardware(Hardware(processes=16), GPUS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"partiton": "gpu"}, r"site\.partiton: unknown key; .*did you mean 'partition'"),
        ({"gpus_per_node": "8"}, r"site\.gpus_per_node = '8': must be a number"),
        ({"max_minutes": -1}, r"site\.max_minutes"),
        ({"gpu_memory_gib": "40"}, r"site\.gpu_memory_gib = '40': must be a number"),
        ({"accelerator": "h1000"}, r"site\.accelerator: .*did you mean 'h100'"),
        ({"environment": ["NCCL_DEBUG"]}, r"site\.environment"),
        (
            {"resources": {"slurm_extra": "'--exclusive'"}},
            r"site\.resources\.slurm_extra .*without the inner quotes",
        ),
        ("gpu", "must be a mapping"),
    ],
)
def test_a_wrong_site_is_one_error_that_names_the_key(settings: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_site(settings)


def test_setup_and_environment_come_before_each_command() -> None:
    lines = job_prologue(Site(setup="module load cuda\n", environment={"NCCL_SOCKET_IFNAME": "ib0 ib1"}))
    assert lines == "set -euo pipefail; export NCCL_SOCKET_IFNAME='ib0 ib1'; module load cuda\n"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("59", 59),
        ("1:30", 90),
        ("2:00:00", 7200),
        ("1-02:03:04", 93784),
        ("UNLIMITED", float("inf")),
        ("", float("inf")),
    ],
)
def test_slurms_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
