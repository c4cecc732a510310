"""What share of a B200's peak the published hours imply, row by row, with the arithmetic.

utilization = FLOPs a position * positions a step * steps / (hours * 3600 s * 2.25e15 FLOP/s)
"""

from dataclasses import dataclass
from typing import Any

from tst_titan.plan.costs import PEAK_FLOPS, PUBLISHED_ACCELERATOR, flops_per_position
from tst_titan.plan.trajectory import model_shape
from tst_titan.published import PublishedRun, published_table1
from tst_titan.study import catalogue
from tst_titan.study.defaults import TRAINING_DEFAULTS
from tst_titan.study.recipe import Shape

# 8.389M positions a step for the MoE, 2.097M for the dense models.
POSITIONS_PER_STEP = {"10B-A1B": 2**23}
DENSE_POSITIONS_PER_STEP = 2**21


@dataclass(frozen=True)
class ImpliedUtilization:
    """A published row and the share of the dense bf16 peak that its hours mean."""

    row: PublishedRun
    flops_per_position: int
    positions_per_step: int

    @property
    def flops(self) -> int:
        return self.flops_per_position * self.positions_per_step * self.row.total_steps

    @property
    def utilization(self) -> float:
        return self.flops / (self.row.b200_hours * 3600 * PEAK_FLOPS[PUBLISHED_ACCELERATOR])

    @property
    def arithmetic(self) -> str:
        """The sum, written out."""
        return (
            f"{self.flops_per_position:.4g} * {self.positions_per_step} * {self.row.total_steps} / "
            f"({self.row.b200_hours:g} * 3600 * {PEAK_FLOPS[PUBLISHED_ACCELERATOR]:g})"
        )


def implied_utilizations() -> tuple[ImpliedUtilization, ...]:
    """One for each row of Table 1."""
    implied = []
    for row in published_table1():
        tokenizer = catalogue.TOKENIZERS["qwen3" if row.model == "10B-A1B" else "llama3"]
        shape = Shape.model_validate(catalogue.MODELS[row.model]["shape"])
        model = model_shape(row.model, shape, tokenizer.model_vocab_size)
        implied.append(
            ImpliedUtilization(
                row=row,
                flops_per_position=flops_per_position(model, TRAINING_DEFAULTS["seq_len"]),
                positions_per_step=POSITIONS_PER_STEP.get(row.model, DENSE_POSITIONS_PER_STEP),
            )
        )
    return tuple(implied)


def print_implied(console: Any) -> None:
    """Print the table with its arithmetic."""
    from rich.table import Table

    table = Table(title="Utilization that the published B200-hours imply", title_justify="left")
    for column in (
        "model",
        "method",
        "steps",
        "hours",
        "utilization",
        "FLOPs a position * positions * steps / (hours * s * peak)",
    ):
        table.add_column(column, no_wrap=True)
    for item in implied_utilizations():
        row = item.row
        cells = (
            row.model,
            row.method,
            f"{row.total_steps:,}",
            f"{row.b200_hours:g}",
            f"{item.utilization:.1%}",
        )
        table.add_row(*cells, item.arithmetic)
    console.print(table)
