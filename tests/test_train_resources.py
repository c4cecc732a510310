"""What jobs ask of a cluster: computed from the plan, the hardware and what a site says of itself."""

import pytest
from training import chain, constant, published_recipe

from tst_titan.errors import UserError
from tst_titan.plan.costs import Accelerator
from tst_titan.train.hardware import Hardware
from tst_titan.train.recipes import layout
from tst_titan.train.resources import (
    START_MINUTES,
    Site,
    check_hardware,
    checkpoint_resources,
    job_prologue,
    parse_site,
    training_memory_mb,
    training_minutes,
    training_resources,
)
from tst_titan.train.time_bounds import planned_bounds

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
    assert eight - 15 == pytest.approx((one - 15) / 8, rel=0.1)
    limited = Site(**vars(GPUS) | {"max_minutes": 40})
    assert training_minutes(segment, Hardware(), limited) == 40


def test_the_runtime_has_room_for_the_stop_and_a_stop_that_takes_all_of_it_is_refused() -> None:
    (segment,) = chain(constant(1), recipe=published_recipe("10B-A1B"))
    hardware = layout("10B-A1B", "one-node").hardware
    stop = planned_bounds(segment.recipe, hardware, Accelerator("h100", 0.4)).stop_seconds
    assert stop > 180
    assert 60 * (training_minutes(segment, hardware, GPUS) - START_MINUTES) > stop
    with pytest.raises(
        UserError, match=r"stop_seconds 3600 leaves no time .* site\.max_minutes 60; use stop_seconds: 0"
    ):
        check_hardware(Hardware(stop_seconds=3600), Site(max_minutes=60))
    with pytest.raises(UserError, match="stop_seconds -1 leaves no time"):
        check_hardware(Hardware(stop_seconds=-1), Site())


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
        ({"accelerator": "h1000"}, r"site\.accelerator: .*did you mean 'h100'"),
        ({"environment": ["NCCL_DEBUG"]}, r"site\.environment"),
        # The executor refused it at every submission.
        (
            {"gpu_type": "a100-sxm4-80gb"},
            r"site\.gpu_type = 'a100-sxm4-80gb': .* resources: \{constraint: FEATURE\}",
        ),
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
