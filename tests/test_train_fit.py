"""Hardware without a layout fits its GPUs: what `micro_batch: 0` chooses, what GPUs have as defaults, what is
refused."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_workflow import TINY
from training import chain, constant, published_recipe, superposition

from tst_titan.cli import main
from tst_titan.cluster.gpu_memory import gpu_memory_gib
from tst_titan.cluster.site import Site, parse_site
from tst_titan.data.build import build_corpus
from tst_titan.errors import UserError
from tst_titan.files import read_json
from tst_titan.plan import load_plan
from tst_titan.plan.settings import Segment
from tst_titan.train.fit import embedded_bag_size, hardware_for
from tst_titan.train.hardware import Hardware
from tst_titan.train.hardware_section import check_section, hardware_of
from tst_titan.train.memory import BAG_INDEX_LIMIT, GIB, bag_elements, estimate_memory
from tst_titan.train.resources import check_training

REPOSITORY = Path(__file__).parent.parent
LAB = Site(gpus_per_node=8, accelerator="h100")


def bytes_of(segment: Segment, hardware: Hardware) -> int:
    return estimate_memory(segment.recipe, hardware, embedded_bag_size(segment)).total


def plain(model: str = "270M", **changes: Any) -> Segment:
    return chain(constant(10), recipe=published_recipe(model, **changes))[0]


def bags(model: str, bag_size: int, **changes: Any) -> Segment:
    return chain(superposition(0, 10, bag_size), recipe=published_recipe(model, **changes))[0]


def hardware_examples() -> list[Any]:
    """Each `hardware:` mapping in a block of the docs, fenced or indented, and the site that stands with it."""
    found = []
    for path in sorted([*REPOSITORY.glob("docs/*.md"), REPOSITORY / "README.md"]):
        text = path.read_text(encoding="utf-8")
        fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        indented = re.findall(
            r"(?:^ {4}.*\n)+", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
        )
        for number, block in enumerate(fenced + indented):
            if re.search(r"^ *hardware:", block, re.MULTILINE):
                shown = yaml.safe_load(block)
                site = parse_site(shown.get("site", {}))
                found.append(pytest.param(shown["hardware"], site, id=f"{path.name}-{number}"))
    return found


@pytest.fixture(scope="module")
def scaling(tmp_path_factory: pytest.TempPathFactory) -> list[Segment]:
    """Segments of the published study, one of each model and size of bags."""
    plan = load_plan(REPOSITORY / "studies" / "scaling.yaml", tmp_path_factory.mktemp("results"))
    kinds = {(s.recipe.model.name, embedded_bag_size(s)): s for s in plan.segments.values()}
    assert len(kinds) == 8
    return list(kinds.values())


def test_the_docs_have_examples_of_hardware() -> None:
    assert len(hardware_examples()) >= 4


@pytest.mark.parametrize(("section", "site"), hardware_examples())
def test_every_example_of_the_docs_trains_the_published_study_on_cards_of_80_gb(  # type: ignore[no-untyped-def]
    section, site: Site, scaling: list[Segment]
) -> None:
    check_section(section)
    check_training(scaling, section, site)
    for segment in scaling:
        hardware = hardware_for(segment, section, 80)
        assert hardware.micro_batch
        assert bytes_of(segment, hardware) <= 72 * GIB
        assert bag_elements(segment.recipe, hardware, embedded_bag_size(segment)) < BAG_INDEX_LIMIT


def test_a_micro_batch_that_nobody_set_is_the_largest_that_fits() -> None:
    for segment in (plain("270M"), plain("3B"), bags("10B-A1B", 16)):
        section = {"nodes": 4, "processes": 8, "data_parallel_replicate": 4}
        chosen = hardware_for(segment, section, 80)
        share = segment.recipe.sequences_per_step // 32
        larger = [n for n in range(chosen.micro_batch + 1, share + 1) if share % n == 0]
        assert share % chosen.micro_batch == 0
        for micro_batch in larger:
            assert bytes_of(segment, replace(chosen, micro_batch=micro_batch)) > 72 * GIB
        assert hardware_for(segment, section, 40).micro_batch <= chosen.micro_batch


def test_the_table_in_the_docs_is_what_is_chosen() -> None:
    text = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    head, _, *lines = re.findall(r"^\| .*", text[text.index("| `hardware` on cards") :].split("\n\n")[0], re.MULTILINE)
    models = [cell.strip() for cell in head.split("|")[2:-1]]
    assert models == ["270M", "600M", "3B", "10B-A1B"]
    assert len(lines) == 3
    for line in lines:
        section, *cells = (cell.strip(" `") for cell in line.split("|")[1:-1])
        for model, cell in zip(models, cells, strict=True):
            if cell.startswith("refused"):
                with pytest.raises(UserError, match="needs about 169"):
                    hardware_for(plain(model), yaml.safe_load(section), 80)
            else:
                assert hardware_for(plain(model), yaml.safe_load(section), 80).micro_batch == int(cell)


def test_without_gpus_a_rank_takes_its_whole_share_as_ever() -> None:
    segment = plain("270M")
    assert hardware_for(segment, {"processes": 2}, None) == Hardware(processes=2)
    assert (Hardware().micro_batch, Hardware().compile, Hardware().deterministic) == (0, False, True)
    assert Hardware(processes=2).local_batch_size(segment.recipe.sequences_per_step) == 512


def test_gpus_compile_are_not_deterministic_and_make_logits_in_chunks() -> None:
    hardware = hardware_for(plain("600M"), {}, 80)
    assert (hardware.compile, hardware.deterministic, hardware.loss_chunks) == (True, False, 8)
    # 2044 positions can be cut into 4 equal chunks.
    assert hardware_for(plain("600M", seq_len=2044), {}, 80).loss_chunks == 4


def test_what_is_set_wins_over_what_gpus_have() -> None:
    section = {"compile": False, "deterministic": True, "loss_chunks": 2, "micro_batch": 4}
    assert hardware_for(plain(), section, 80) == Hardware(**section)  # type: ignore[arg-type]
    for layout in ("cpu", "one-gpu", "one-node"):
        assert hardware_for(plain(), {"layout": layout}, 80) == hardware_of({"layout": layout}, "270M")


def test_a_model_that_no_micro_batch_fits_is_refused_with_the_arithmetic() -> None:
    segments = [plain("10B-A1B")]
    with pytest.raises(UserError) as error:
        check_training(segments, {}, LAB)
    message = str(error.value)
    assert re.search(
        r"10B-A1B does not fit: with micro_batch 1 a rank needs about [\d.]+ GiB \(156\.\d weights", message
    )
    assert "72.0 GiB" in message
    assert "tensor_parallel" in message
    assert "\n" not in message
    # Eight cards of an A100's smaller kind hold it no more, of the usual one they do.
    eight = {"processes": 8, "activation_checkpoint": "selective"}
    check_training(segments, eight, Site(gpus_per_node=8, accelerator="a100"))
    with pytest.raises(UserError, match=r"of 22\.5 GiB"):
        check_training(segments, eight, Site(gpus_per_node=8, accelerator="a100", gpu_memory_gib=25))


def test_planning_says_which_micro_batch_each_model_gets() -> None:
    notes = check_training([plain("270M"), bags("270M", 6), plain("3B"), plain("3B")], {"processes": 8}, LAB)
    assert len(notes) == 3
    assert notes[0].startswith("270M: micro_batch 32 of the 128 sequences of each rank's step: about 5")
    assert notes[1].startswith("270M, bags of 6: micro_batch 32 of")
    assert "bags' embedding" in notes[1]
    assert notes[2].startswith("3B: micro_batch 4 of the 128")
    assert check_training([plain("270M")], {"layout": "one-node"}, LAB) == []
    assert check_training([plain("270M")], {}, Site()) == []


def test_bags_past_the_kernels_32_bits_are_refused_before_training() -> None:
    """CUDA's backward of the embedding numbers positions x tokens of a bag x dimensions of a micro-batch in 32 bits."""
    segment = bags("270M", 16)
    width = segment.recipe.model.dim
    past = next(n for n in (2**k for k in range(11)) if n * 2048 * 16 * width >= 2**31)
    section = {"layout": "one-gpu", "micro_batch": past}
    with pytest.raises(
        UserError,
        match=rf"micro_batch {past} of model 270M .* bags of 16 .* 32 bits .* micro_batch of at most \d+",
    ):
        check_training([segment], section, LAB)
    check_training([plain("270M")], section, LAB)
    check_training([segment], {**section, "micro_batch": past // 2}, LAB)
    # Nor is it chosen on a GPU that would hold it.
    assert hardware_for(segment, {}, 100_000).micro_batch == past // 2
    assert hardware_for(plain("270M"), {}, 100_000).micro_batch == 1024


def test_bags_and_busy_experts_take_memory() -> None:
    """A scratch of 4 bytes a token of a bag and dimension; twice the mean of positions where experts are split."""
    dense = published_recipe("3B")
    eight = Hardware(processes=8, micro_batch=8, loss_chunks=8)
    more = estimate_memory(dense, eight, 6).total - estimate_memory(dense, eight).total
    assert more == 4 * 8 * 2048 * 6 * dense.model.dim
    experts = published_recipe("10B-A1B")
    whole, split = (estimate_memory(experts, replace(eight, expert_parallel=degree)).activations for degree in (1, 8))
    assert experts.model.moe is not None
    routed = experts.model.moe.top_k * (4 * experts.model.moe.expert_ffn_dim + experts.model.dim)
    assert split - whole == 2 * 8 * 2048 * experts.model.num_layers * routed


def test_graphs_and_determinism_are_refused_together() -> None:
    both = {"cuda_graphs": True, "deterministic": True}
    with pytest.raises(
        UserError, match=r"cuda_graphs cannot be used with deterministic: true.*use deterministic: false"
    ):
        check_training([plain()], both, LAB)
    assert hardware_for(plain(), {"cuda_graphs": True}, 80).cuda_graphs


@pytest.mark.parametrize(
    ("visible", "prints", "gib"),
    [
        ("0,1", "echo 81559; echo 40960", 40.0),
        ("1", "test $3 = -i && test $4 = 1 && echo 81920", 80.0),
        ("MIG-1f0a", "echo 'No devices were found'; exit 6", None),
        ("0", "echo '[N/A]'", None),
        ("-1", "echo 81559", None),
    ],
)
def test_without_a_site_a_job_asks_the_gpus_that_it_sees(
    visible: str, prints: str, gib: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest of them counts; a GPU that does not say its memory is left to the worker, which sees it."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{prints}\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_memory_gib() == gib


def test_the_job_file_and_the_log_hold_what_was_chosen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By the command that the workflow runs; the estimate is of a GPU, the training of this machine."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(40):
        (texts / f"{number}.txt").write_text(Path(yaml.__file__).read_text() + f"# {number}\n")
    studies, results = tmp_path / "studies", tmp_path / "results"
    studies.mkdir()
    study = studies / "tiny.yaml"
    changes = {"steps: 20": "steps: 4", "warmup_steps: 3": "warmup_steps: 1", "40k": "2k"}
    text = TINY.format(texts=texts)
    for before, after in changes.items():
        text = text.replace(before, after)
    study.write_text(text)
    segment = next(s for s in load_plan(study, results).segments.values() if s.parent is None)
    build_corpus(segment.recipe.corpus, results / "data" / segment.recipe.corpus.id, num_workers=1)
    command = ["train", segment.id, "--studies", str(studies), "--results", str(results)]
    assert main([*command, "--gpu-memory-gib", "80", "--hardware", "{compile: false}"]) == 0
    recorded = read_json(results / "segments" / segment.id / "job.json")["hardware"]
    assert (recorded["micro_batch"], recorded["loss_chunks"]) == (4, 8)
    assert (recorded["compile"], recorded["deterministic"]) == (False, False)
    assert f"{segment.id}: micro_batch 4 of the 4 sequences of each rank's step" in capfd.readouterr().err
