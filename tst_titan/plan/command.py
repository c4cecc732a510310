"""`tst-titan plan STUDY`: what a study costs, what its runs share, what is already there, before any job is queued."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tst_titan.plan.costs import DEFAULT_UTILIZATION, PUBLISHED_ACCELERATOR, Accelerator
from tst_titan.study.find import add_study, find_study


def add_parser(subparsers: Any) -> None:
    """Add `plan` to the command line."""
    parser = subparsers.add_parser("plan", help="show what a study costs, shares and reuses")
    add_study(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where finished segments lie")
    parser.add_argument(
        "--accelerator",
        default=PUBLISHED_ACCELERATOR,
        help="device that hours are stated for (default %(default)s)",
    )
    parser.add_argument(
        "--utilization",
        type=float,
        default=DEFAULT_UTILIZATION,
        help="share of its peak reached (default %(default)s)",
    )
    parser.add_argument("--segments", action="store_true", help="list every segment, too")
    parser.add_argument(
        "--published",
        action="store_true",
        help="add what utilization the published hours imply, with the arithmetic",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the plan of one study."""
    from tst_titan.plan.planner import load_plans
    from tst_titan.plan.report import plan_as_dict, print_plan

    accelerator = Accelerator(name=args.accelerator, utilization=args.utilization)
    file = find_study(args.study)
    plans, errors = load_plans(file.parent, args.results, accelerator=accelerator)
    if file.stem in errors:
        raise errors[file.stem]
    for name, error in errors.items():
        first, *more = str(error).splitlines()
        print(f"note: {name} is left out: {first}{f' (and {len(more)} more)' if more else ''}", file=sys.stderr)
    plan = plans[file.stem]
    if args.json:
        print(json.dumps({**plan_as_dict(plan, accelerator), "accelerator": asdict(accelerator)}, indent=2))
    else:
        print_plan(plan, accelerator, with_segments=args.segments, with_published=args.published)
    return 0
