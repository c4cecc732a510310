"""The plan: a study's runs, the segments they share, and what all of it costs.

A name's module is imported when the name is first asked for: the data stage's workers need `tst_titan.plan.settings`
alone, not the schema of studies that the planner brings along.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tst_titan.plan.costs import Accelerator
    from tst_titan.plan.planner import Plan, Run, find_segment, load_plan, load_plans
    from tst_titan.plan.settings import Recipe, Segment, Stage, segment_from_dict, segment_to_dict

__all__ = [
    "Accelerator",
    "Plan",
    "Recipe",
    "Run",
    "Segment",
    "Stage",
    "find_segment",
    "load_plan",
    "load_plans",
    "segment_from_dict",
    "segment_to_dict",
]

_MODULES = ("settings", "costs", "planner")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in map(import_module, (f"{__name__}.{part}" for part in _MODULES)):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
