"""Tables of runs for comparisons: made of a plan, with losses that a test chooses; nothing is trained."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from collect_support import make_plan

from tst_titan.collect.recipe import recipe_columns
from tst_titan.collect.tables import runs_table
from tst_titan.plan import Plan, Run

STUDY = """\
corpus: {{source: python-stdlib, tokenizer: bpe-4096, validation_tokens: 200k}}
models: 2M
steps: {steps}
seeds: [0, 1]
arms: {arms}
training: {training}
compare: [equal_flops, equal_loss, equal_data]
"""
RECIPE = "seq_len: 128, sequences_per_step: 8, warmup_steps: 60, learning_rate: 3e-3, precision: float32"


def table_of(plan: Plan, loss: Callable[[Run], float] | None = None) -> pd.DataFrame:
    """All runs of a plan, finished, with their recipes."""
    loss = loss or default_loss
    rows = []
    for run in plan.runs:
        recipe = plan.segments[run.final].recipe
        names = ("run", "arm", "model", "bag_size", "step_ratio", "steps", "seed", "learning_rate", "bag_weighting", "superpose",  # noqa: E501
                 "reinit_embeddings", "equivalent_tokens", "data_tokens", "flops")  # fmt: skip
        rows.append(
            {name: getattr(run, name) for name in names}
            | {"status": "finished", "validation_loss": loss(run), "final_train_loss": loss(run)}
            | {"corpus": recipe.corpus.id}
            | recipe_columns(run, recipe)
        )
    return runs_table(rows)


def default_loss(run: Run) -> float:
    """Falls with the steps; bags end a little below; each run has a noise of its own."""
    noise = sum(map(ord, run.run)) % 7 * 1e-3
    return 2.0 + 8.0 * run.steps**-0.25 - 0.05 * (run.bag_size > 1) + noise


def planned(
    folder: Path,
    arms: str,
    *,
    training: str = "",
    steps: str = "[1000, 2000]",
    change: Callable[[str], str] = str,
) -> Plan:
    """A plan of these arms, `training` beside or instead of the usual recipe."""
    names = {part.partition(":")[0].strip() for part in training.split(", ") if ":" in part}
    usual = ", ".join(part for part in RECIPE.split(", ") if part.partition(":")[0] not in names)
    recipe = "{" + ", ".join(filter(None, (usual, training))) + "}"
    return make_plan(folder, change(STUDY.format(steps=steps, arms=arms, training=recipe)))
