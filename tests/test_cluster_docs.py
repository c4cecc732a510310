"""docs/cluster.md tells what is there: its site files are taken, its keys are all keys."""

import re
from dataclasses import fields
from pathlib import Path

import yaml

from tst_titan.cluster.site import Site, parse_site
from tst_titan.study.catalogue import MODELS
from tst_titan.train.hardware_section import check_section, hardware_of
from tst_titan.train.resources import check_hardware

TEXT = (Path(__file__).parent.parent / "docs" / "cluster.md").read_text(encoding="utf-8")


def test_every_site_file_shown_is_taken() -> None:
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]
    assert len(blocks) == 3
    for block in blocks:
        assert set(block) <= {"results", "site", "hardware"}
        site = parse_site(block["site"])
        check_section(block["hardware"], MODELS)
        for model in ("270M", "600M", "3B", "10B-A1B"):
            hardware = hardware_of(block["hardware"], model)
            check_hardware(hardware, site)
            hardware.batch_degree()


def test_every_key_of_a_site_is_explained() -> None:
    table = TEXT.split("## What the site file says")[1].split("\n\n")[2]
    explained = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert explained == {field.name for field in fields(Site)}
