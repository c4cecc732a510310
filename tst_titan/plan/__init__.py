"""The plan: a study's runs, the segments they share, and what all of it costs."""

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
