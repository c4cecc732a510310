"""The section `hardware`: what every training job has, and what those of one model have instead."""

import pytest
from training import chain, constant, published_recipe

from tst_titan.cluster.site import Site
from tst_titan.errors import UserError
from tst_titan.train.hardware import Hardware
from tst_titan.train.hardware_section import check_section, hardware_of, read_section
from tst_titan.train.layouts import layout
from tst_titan.train.resources import check_training

MODELS = ["270M", "3B", "10B-A1B"]


def test_nothing_is_said_and_a_job_is_one_process() -> None:
    assert hardware_of({}, "270M") == Hardware()


def test_a_named_layout_is_each_models_own() -> None:
    section = {"layout": "one-node"}
    for model in MODELS:
        assert hardware_of(section, model) == layout(model, "one-node").hardware
    assert hardware_of(section, "10B-A1B").expert_parallel == 8


def test_what_is_more_particular_wins() -> None:
    section = {
        "layout": "one-node", "micro_batch": 4, "checkpoint_minutes": 20,
        "models": {"10B-A1B": {"layout": "several-nodes", "stop_seconds": 300}, "3B": {"micro_batch": 2, "threads": 4}},
    }  # fmt: skip
    check_section(section, MODELS)
    small, dense, experts = (hardware_of(section, model) for model in MODELS)
    assert (small.nodes, small.micro_batch, small.threads) == (1, 4, 8)
    assert (dense.nodes, dense.micro_batch, dense.threads) == (1, 2, 4)
    # Its own layout is over the common fields, but a layout says nothing of checkpoints.
    assert (experts.nodes, experts.micro_batch) == (
        8,
        layout("10B-A1B", "several-nodes").hardware.micro_batch,
    )
    assert {small.checkpoint_minutes, dense.checkpoint_minutes, experts.checkpoint_minutes} == {20.0}
    assert (small.stop_seconds, experts.stop_seconds) == (0.0, 300.0)


def test_text_is_taken_as_snakemake_passes_it_on() -> None:
    section = read_section('{"processes": "2", "compile": "True", "models": {"3B": {"checkpoint_minutes": "2.5"}}}')
    assert hardware_of(section, "3B") == Hardware(processes=2, compile=True, checkpoint_minutes=2.5)
    assert hardware_of(section, "270M") == Hardware(processes=2, compile=True)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"proceses": 2}, r"hardware\.proceses: unknown key; .*did you mean 'processes'"),
        ({"processes": "two"}, r"hardware\.processes = 'two': must be a whole number"),
        ({"processes": 1.5}, r"hardware\.processes = 1\.5: must be a whole number"),
        ({"nodes": True}, r"hardware\.nodes = True: must be a whole number"),
        ({"compile": 1}, r"hardware\.compile = 1: must be true or false"),
        ({"models": {"3b": {"nodes": 2}}}, r"hardware\.models\.3b: no study has .*did you mean '3B'"),
        ({"models": {"3B": {"node": 2}}}, r"hardware\.models\.3B\.node: unknown key; .*did you mean 'nodes'"),
        ({"models": {"3B": {"models": {}}}}, r"hardware\.models\.3B\.models: unknown key"),
        ({"models": {"3B": 2}}, r"hardware\.models\.3B = 2: must be a mapping"),
        ({"models": ["3B"]}, r"hardware\.models = \['3B'\]: must be a mapping"),
        ("one-node", "hardware = 'one-node': must be a mapping"),
    ],
)  # fmt: skip
def test_a_wrong_section_is_one_error_that_names_the_key(section: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_section(section, MODELS)


def test_a_layout_that_a_model_has_not_is_named_with_those_that_it_has() -> None:
    with pytest.raises(UserError, match=r"hardware\.layout: model 10B-A1B has no .* 'one-gpu'; it has: cpu, one-node"):
        hardware_of({"layout": "one-gpu"}, "10B-A1B")
    with pytest.raises(UserError, match=r"hardware\.models\.270M\.layout: model 270M has no .* 'tpu'"):
        hardware_of({"models": {"270M": {"layout": "tpu"}}}, "270M")


def test_what_cannot_be_trained_is_known_before_any_job() -> None:
    segments = [s for model in MODELS for s in chain(constant(10), recipe=published_recipe(model))]
    site = Site(gpus_per_node=8, accelerator="h100")
    check_training(segments, {"layout": "several-nodes"}, site)
    with pytest.raises(UserError, match="1024 sequences a step cannot be split over 3 data-parallel ranks"):
        check_training(segments, {"processes": 3}, site)
    with pytest.raises(UserError, match="model 270M has no experts"):
        check_training(segments, {"processes": 8, "expert_parallel": 8}, site)
    with pytest.raises(UserError, match=r"processes 8 on a node, but site\.gpus_per_node is 4"):
        check_training(segments, {"layout": "one-node"}, Site(gpus_per_node=4, accelerator="h100"))
