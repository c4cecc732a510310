"""`tst-titan collect`, `tst-titan status` and `tst-titan published`."""

import argparse
from pathlib import Path


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommands of the collect stage."""
    collect = subparsers.add_parser("collect", help="tables, curves and the report of a study")
    collect.add_argument("study_file", type=Path, help="the study's definition, studies/NAME.yaml")
    collect.add_argument("--results", type=Path, default=Path("results"), help="shared artifacts (default: results)")
    collect.add_argument("--out", type=Path, help="folder to write (default: studies/NAME)")
    collect.set_defaults(run=run_collect)


def run_collect(args: argparse.Namespace) -> None:
    """Collect a study and print one summary table with the path of the report."""
    from tst_titan.collect.collect import collect_study
    from tst_titan.collect.summary import print_summary
    from tst_titan.plan import load_plan

    plan = load_plan(args.study_file, args.results)
    out = args.out or args.study_file.with_suffix("")
    found, findings = collect_study(plan, args.study_file, args.results, out)
    print_summary(found, findings, out)
