"""`tst-titan collect`, `tst-titan status`, `tst-titan recommend` and `tst-titan published`."""

import argparse
from pathlib import Path

from tst_titan.study.find import add_study, find_study


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommands of the collect stage."""
    collect = subparsers.add_parser("collect", help="tables, curves and the report of a study")
    add_study(collect)
    collect.add_argument("--results", type=Path, default=Path("results"), help="shared artifacts (default: results)")
    collect.add_argument("--out", type=Path, help="folder to write (default: studies/NAME)")
    collect.set_defaults(run=run_collect)
    status = subparsers.add_parser("status", help="each segment's state, from files alone")
    add_study(status)
    status.add_argument("--results", type=Path, default=Path("results"), help="shared artifacts (default: results)")
    status.add_argument("--watch", type=float, metavar="SECONDS", help="show it anew every SECONDS, until Ctrl-C")
    status.set_defaults(run=run_status)
    recommend = subparsers.add_parser("recommend", help="bag size and step ratio for a size that a study did not run")
    add_study(recommend)
    recommend.add_argument("model", help="a model of the catalogue, or a number of parameters such as 1.2B")
    recommend.add_argument("--results", type=Path, default=Path("results"), help="shared artifacts (default: results)")
    recommend.set_defaults(run=run_recommend)
    published = subparsers.add_parser("published", help="rebuild the published study's tables, grids and read-offs")
    published.add_argument("--out", type=Path, default=Path("studies/published"), help="folder to write")
    published.set_defaults(run=run_published)


def run_collect(args: argparse.Namespace) -> None:
    """Collect a study and print one summary table with the path of the report."""
    from tst_titan.built import built_folder
    from tst_titan.plan import load_plan
    from tst_titan.report.study import collect_study
    from tst_titan.report.summary import print_summary

    file = find_study(args.study)
    plan = load_plan(file, args.results)
    out = args.out or file.with_suffix("")
    with built_folder(out):
        found, findings = collect_study(plan, file, args.results, out)
    print_summary(found, findings, out)


def run_status(args: argparse.Namespace) -> None:
    """Show each segment's state, once or again and again."""
    from tst_titan.collect.status import show_status, watch_status

    study_file = find_study(args.study)
    if args.watch:
        watch_status(study_file, args.results, args.watch)
    else:
        show_status(study_file, args.results)


def run_recommend(args: argparse.Namespace) -> None:
    """Print the setting that a study's grids predict for a size, or why they cannot."""
    from tst_titan.collect.study import gather
    from tst_titan.compare.findings import compared_column
    from tst_titan.compare.scaling_law import CannotFitError
    from tst_titan.compare.settings import setting_trend
    from tst_titan.errors import UserError
    from tst_titan.plan import load_plan
    from tst_titan.report.recommended import known_sizes, recommendation_words
    from tst_titan.report.scaling import model_sizes
    from tst_titan.units import parse_count

    file = find_study(args.study)
    plan = load_plan(file, args.results)
    sizes = {**known_sizes(), **model_sizes(plan)}
    params = sizes.get(args.model)
    if params is None:
        try:
            params = parse_count(args.model)
        except ValueError:
            raise UserError(
                f"no such model; write one of {', '.join(sizes)}, or a number of parameters such as 1.2B",
                where=args.model,
            ) from None
    found = gather(plan, args.results)
    finished = found.table[found.table["status"] == "finished"]
    try:
        trend = setting_trend(finished, compared_column(finished, plan.compare), sizes)
    except CannotFitError as error:
        raise UserError(f"nothing can be recommended: {error}", where=file) from error
    print(recommendation_words(args.model, trend.at(float(params)), trend))


def run_published(args: argparse.Namespace) -> None:
    """Write the published study as the collector sees it."""
    from tst_titan.built import built_folder
    from tst_titan.report.published_study import collect_published
    from tst_titan.report.words import read_off_words

    with built_folder(args.out):
        found = collect_published(args.out)
    for read_off in found.loss:
        print(read_off_words(read_off))
    for grid in found.grids:
        ratio, size = grid.best_cell
        print(f"best {grid.column} of {grid.name}: {grid.best_value:.4f} at s = {size}, r = {ratio:g}")
    print(f"report: {args.out / 'report.html'}")
