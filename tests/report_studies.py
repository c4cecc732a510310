"""A study with a grid, two budgets and scores, collected; and what its figure files show."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
from collect_support import STUDY, fill_results, make_plan, smooth_loss, write_evaluation

from tst_titan.report.study import collect_study

GRID = STUDY.replace("{bag_size: 4, step_ratio: 0.3}", "{bag_size: [2, 4, 8], step_ratio: [0.2, 0.4]}").replace(
    "steps: 1200", "steps: [1200, 2400]\nseeds: [0, 1]\ncompare: [equal_flops, equal_loss, equal_data]"
)


def noisy_loss(segment, step):
    random = np.random.default_rng([segment.recipe.seed, segment.end_step, segment.stages[0].bag_size])
    return smooth_loss(segment, step) + 0.02 * random.normal(size=len(step))


def write_grid_report(folder: Path) -> Path:
    plan = make_plan(folder, GRID, name="grid")
    fill_results(plan, folder / "results", loss=noisy_loss)
    for run in plan.runs:
        score = {"cloze": (0.3 + 0.01 * run.bag_size, 0.02)}
        write_evaluation(folder / "results", plan.segments[run.final], score)
    collect_study(plan, plan.file, folder / "results", folder / "out")
    return folder / "out" / "report.html"


def drawn_marks(file: Path, layer: str) -> list[ElementTree.Element]:
    """The marks of all layers of that name in a figure file."""
    root = ElementTree.fromstring(file.read_text(encoding="utf-8"))
    groups = [group for group in root.iter() if re.search(rf"\b{layer}\d+_marks", group.get("class", ""))]
    return [mark for group in groups for mark in group.iter() if mark.tag.endswith(("}path", "}line", "}text"))]
