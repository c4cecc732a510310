"""`evaluate.at`: the steps of a run at which its tasks are evaluated."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer


@dataclass(frozen=True)
class EvaluationPoints:
    """The last step of a run, and on the way there every so many steps or percent of its steps (0: none)."""

    every: int = 0
    percent: bool = False

    def __str__(self) -> str:
        if not self.every:
            return "final"
        return f"every {self.every}%" if self.percent else f"every {self.every} steps"

    def count(self, steps: int) -> int:
        """How many points a run of ``steps`` steps has at most, without making them."""
        if not self.every:
            return 1
        return 1 + ((100 if self.percent else steps) - 1) // self.every

    def of_run(self, steps: int) -> tuple[int, ...]:
        """The points of a run of ``steps`` steps, in order, the last always among them."""
        points = {steps}
        if self.every and self.percent:
            points |= {round(steps * percent / 100) for percent in range(self.every, 100, self.every)} - {0}
        elif self.every:
            points |= set(range(self.every, steps, self.every))
        return tuple(sorted(points))


def _parse(value: Any) -> EvaluationPoints:
    if value == "final":
        return EvaluationPoints()
    match = re.fullmatch(r"every ([0-9]{1,18})\s*(%|steps)", value) if isinstance(value, str) else None
    if match:
        every, percent = int(match[1]), match[2] == "%"
        if every > 0 and (every <= 100 or not percent):
            return EvaluationPoints(every, percent)
    raise ValueError("must be 'final', 'every 10%' (of a run's steps) or 'every 1000 steps'")


# A definition writes text, and so says the schema.
At = Annotated[EvaluationPoints, BeforeValidator(_parse, json_schema_input_type=str), PlainSerializer(str)]
