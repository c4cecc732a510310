"""What jobs ask of a cluster: computed from the plan, the hardware and what a site says of itself."""

import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from training import chain, constant, make_job, published_recipe

from tst_titan.cluster import own_job
from tst_titan.cluster.resources import checkpoint_memory_mb, checkpoint_resources, corpus_resources
from tst_titan.cluster.site import Site, job_prologue, parse_site
from tst_titan.errors import UserError
from tst_titan.plan.costs import Accelerator, checkpoint_bytes
from tst_titan.train import node
from tst_titan.train.hardware import Hardware
from tst_titan.train.layouts import layout
from tst_titan.train.resources import (
    START_MINUTES,
    check_hardware,
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
        ({"max_minutes": True}, r"site\.max_minutes = True: must be a number"),
        ({"ask_memory": "no"}, r"site\.ask_memory = 'no': must be true or false"),
        ({"srun_options": "--container-image='x"}, r"site\.srun_options .* close the quote"),
        (
            {"cpu_resources": {"slurm_extra": "'--x'"}},
            r"site\.cpu_resources\.slurm_extra .*without the inner",
        ),
        ({"gpu_memory_gib": "40"}, r"site\.gpu_memory_gib = '40': must be a number"),
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


def run_after_setup(setup: str, command: str = "echo trained") -> "subprocess.CompletedProcess[str]":
    """A job's command as Snakemake runs it, below the site's setup."""
    lines = job_prologue(Site(setup=setup, environment={"NCCL_SOCKET_IFNAME": "ib0 ib1"})) + command
    return subprocess.run(["bash", "-c", lines], capture_output=True, text=True, check=False)


# What `conda activate` sources of a package (binutils): each variable's backup, set or not.
CONDA_ACTIVATE = """\
_tc_activation() {
  local thing=$1
  eval "oldval=\"\\$CONDA_BACKUP_${thing}\""
  if [ -n "${oldval}" ]; then eval export "${thing}='${oldval}'"; fi
  export ADDR2LINE="$CONDA_PREFIX/bin/addr2line"
}
conda() { export CONDA_PREFIX=/env/$2; \\. "$ACTIVATED"; }
_tc_activation LD
"""


def test_a_setup_may_read_variables_that_are_not_set(tmp_path: Path) -> None:
    """`set -u` before the site's lines ended every job at `conda activate` and at many a `module load`."""
    (tmp_path / "activate.sh").write_text(CONDA_ACTIVATE)
    for setup in (
        "export LD_LIBRARY_PATH=/opt/lib:$LD_LIBRARY_PATH_THAT_NOBODY_SET\n",
        f"ACTIVATED={tmp_path}/activate.sh\nsource {tmp_path}/activate.sh\nconda activate tst\n",
        # Shells that turn everything off, and a comment as the last line.
        "set +euo pipefail; false\n# modules come with the image",
    ):
        done = run_after_setup(setup, 'echo "$NCCL_SOCKET_IFNAME"')
        assert (done.returncode, done.stdout, done.stderr) == (0, "ib0 ib1\n", "")
        # The command itself is held to what it always was.
        for command in ("echo $NOT_SET_ANYWHERE; echo trained", "false | cat; echo trained"):
            strict = run_after_setup(setup, command)
            assert strict.returncode != 0
            assert "trained" not in strict.stdout
            assert "site.setup" not in strict.stderr


@pytest.mark.parametrize(
    ("setup", "where"),
    [
        ("module load cuda/99", "status 127 at: module load cuda/99"),
        ("load() { false; echo loaded; }\nload", "status 1 at: false"),
        ("echo 'exit 3' > {folder}/rc; . {folder}/rc", "status 3 at: . "),
        ("cat /nowhere/at/all | sort > {folder}/list", "status 1 at: "),
    ],
)
def test_a_line_of_the_setup_that_fails_is_one_message_and_nothing_is_run(
    tmp_path: Path, setup: str, where: str
) -> None:
    done = run_after_setup(setup.replace("{folder}", str(tmp_path)))
    assert done.returncode != 0
    assert done.stdout == ""
    assert f"error: site.setup: ended with {where}" in done.stderr
    assert done.stderr.count("site.setup") == 1


def test_what_a_setup_does_at_the_end_of_the_job_is_done(tmp_path: Path) -> None:
    done = run_after_setup(f"trap 'rm {tmp_path}/scratch' EXIT; touch {tmp_path}/scratch", f"ls {tmp_path}")
    assert (done.returncode, done.stdout) == (0, "scratch\n")
    assert list(tmp_path.iterdir()) == []


def test_jobs_without_gpus_go_where_the_site_says() -> None:
    """Corpora and exports waited for, and were billed to, the GPU partition."""
    resources = {"constraint": "a100_80g", "slurm_extra": "--licenses=scratch"}
    site = replace(GPUS, qos="long", memory_mb=480_000, resources=resources)
    own = replace(site, cpu_partition="batch", cpu_account="cpus", cpu_qos="normal", cpu_resources={"constraint": ""})
    (segment,) = chain(constant(10), recipe=published_recipe("3B"))

    def places(site: Site) -> set[tuple[object, ...]]:
        jobs = (corpus_resources(site), checkpoint_resources(site, gpus=0, minutes=60))
        names = ("slurm_partition", "slurm_account", "qos", "constraint", "slurm_extra")
        return {tuple(job.get(name) for name in names) for job in jobs}

    assert places(own) == {("batch", "cpus", "normal", None, "--licenses=scratch")}
    assert places(site) == {("gpu", "lab", "long", "a100_80g", "--licenses=scratch")}
    # What the GPU jobs ask for is not touched, and the memory of a GPU node is not asked of another.
    assert training_resources(Hardware(), own) == training_resources(Hardware(), site)
    assert checkpoint_resources(own, gpus=1, minutes=60) == checkpoint_resources(site, gpus=1, minutes=60)
    assert corpus_resources(site)["mem_mb"] == checkpoint_memory_mb(segment, site, gpus=0) == 480_000
    assert corpus_resources(own)["mem_mb"] < checkpoint_memory_mb(segment, own, gpus=0) < 480_000
    assert checkpoint_memory_mb(segment, own, gpus=1) == 480_000


def test_a_site_that_takes_no_memory_request_is_sent_none() -> None:
    """Snakemake's executor leaves --mem out where a job's `mem_mb` is 0."""
    from snakemake.iocontainers import ResourceList
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command

    def submitted(site: Site) -> str:
        resources = corpus_resources(site) | {"mpi": "", "slurm_extra": "--open-mode=append"}
        job = SimpleNamespace(resources=ResourceList(fromdict=resources), threads=2)
        names = ("run_uuid", "slurm_logfile", "comment_str", "account", "partition", "workdir")
        return str(get_submit_command(job, dict.fromkeys(names, "x")))

    assert " --mem 16000 " in submitted(GPUS)
    assert "--mem" not in submitted(replace(GPUS, ask_memory=False))
    (segment,) = chain(constant(10), recipe=published_recipe("3B"))
    for site in (replace(GPUS, ask_memory=False), replace(GPUS, ask_memory=False, memory_mb=64_000)):
        assert training_memory_mb(segment, Hardware(), site) == 0
        assert checkpoint_memory_mb(segment, site, gpus=1) == 0


def test_a_gpu_rank_is_given_memory_for_its_context_and_for_the_processes_that_compile(
    tmp_path: Path,
) -> None:
    """4,000 MB a rank left no room for CUDA, NCCL and 32 compile processes."""
    (segment,) = chain(constant(10), recipe=published_recipe("270M"))
    one, more = (training_memory_mb(segment, Hardware(threads=threads), GPUS) for threads in (1, 9))
    assert one - 2 * checkpoint_bytes(segment.recipe.model) / 2**20 >= 12_000
    assert more - one >= 8 * 500
    assert training_memory_mb(segment, Hardware(processes=8), GPUS) >= 8 * 12_000
    job = make_job(segment, tmp_path, tmp_path, threads=9)
    assert node.environment(job)["TORCHINDUCTOR_COMPILE_THREADS"] == "9"


def test_training_can_be_put_into_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    options = "--container-image='/images/py torch.sqsh' --container-mounts=/scratch"
    exported = run_after_setup("", "true")  # no setup: nothing is said
    assert (exported.returncode, exported.stderr) == (0, "")
    prologue = job_prologue(Site(srun_options=options))
    found = subprocess.run(
        ["bash", "-c", f'{prologue} printf %s "$TST_TITAN_SRUN_OPTIONS"'],
        capture_output=True,
        text=True,
        check=True,
    )
    monkeypatch.setenv("TST_TITAN_SRUN_OPTIONS", found.stdout)
    assert own_job.srun(2, 8)[-2:] == [
        "--container-image=/images/py torch.sqsh",
        "--container-mounts=/scratch",
    ]
    monkeypatch.delenv("TST_TITAN_SRUN_OPTIONS")
    assert "container" not in " ".join(own_job.srun(2, 8))
