"""`tst-titan train SEGMENT`: train one segment of any study, as the workflow does."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("train", help="train one segment of a study, or go on with it")
    parser.add_argument("segment", help="a segment's id, as `tst-titan plan` prints it")
    parser.add_argument("--studies", type=Path, default=Path("studies"), help="folder of the definitions")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of shared artifacts")
    parser.add_argument(
        "--hardware",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="fields of Hardware, such as processes=2 threads=1",
    )
    parser.add_argument(
        "--max-segment-steps",
        type=int,
        help="as the workflow's max_segment_steps: how segments are split into jobs",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from tst_titan.files import digest_file
    from tst_titan.plan import find_segment, load_plans
    from tst_titan.train.job import Job
    from tst_titan.train.launch import run_segment

    plans, _ = load_plans(args.studies, args.results, max_segment_steps=args.max_segment_steps)
    segment = find_segment(plans, args.segment)
    wanting = [plan for plan in plans.values() if segment.id in plan.segments]
    parent_checkpoint = None
    if segment.parent:
        parent_checkpoint = (
            args.results / "segments" / segment.parent / "checkpoint" / f"step-{segment.start_step}"
        )
    return run_segment(
        Job(
            segment=segment,
            hardware=parse_hardware(args.hardware),
            folder=args.results / "segments" / segment.id,
            corpus_dir=args.results / "data" / segment.recipe.corpus.id,
            parent_checkpoint=parent_checkpoint,
            # As finely as any study that shares the segment wants to see it.
            log_every=min(plan.log_every for plan in wanting),
            validate_every=min((plan.validate_every for plan in wanting if plan.validate_every), default=0),
            validation_tokens=max(plan.validation_tokens for plan in wanting),
            studies={plan.study: digest_file(plan.file) for plan in wanting},
        )
    )


def parse_hardware(settings: list[str]) -> Any:
    """`KEY=VALUE` words as a `Hardware`, each checked against the field's type."""
    from tst_titan.errors import UserError
    from tst_titan.train.hardware import Hardware

    types: dict[str, Any] = {name: type(default) for name, default in vars(Hardware()).items()}
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in types:
            raise UserError(f"--hardware {setting}: use KEY=VALUE with one of: {', '.join(types)}")
        try:
            values[key] = (
                {"true": True, "false": False}[text.lower()] if types[key] is bool else types[key](text)
            )
        except (KeyError, ValueError):
            raise UserError(
                f"--hardware {setting}: {key} takes a value of type {types[key].__name__}"
            ) from None
    return Hardware(**values)
