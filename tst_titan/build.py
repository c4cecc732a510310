"""`tst-titan build STUDY…`: check studies, then have Snakemake build them. The same as
`snakemake --profile PROFILE studies/NAME…`."""

import argparse
import os
import sys
from pathlib import Path

from tst_titan.configuration import checkout_configuration
from tst_titan.errors import UserError
from tst_titan.study.find import find_among


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `build`."""
    parser = subparsers.add_parser(
        "build",
        help="build studies: data, training, evaluation, report; options of Snakemake follow --",
        epilog="Example: tst-titan build scaling --profile slurm -- -n --resources gpus=64",
    )
    parser.add_argument(
        "studies", nargs="+", metavar="STUDY", help="NAME, studies/NAME or a path, with or without .yaml"
    )
    parser.add_argument(
        "--profile", default="local", help="folder of Snakemake's settings: local (default), slurm, your own"
    )
    parser.set_defaults(run=run, passed_on=[])


def run(args: argparse.Namespace) -> None:
    """Check every study that is named, then become Snakemake. `UserError` before any work where one is wrong."""
    from tst_titan.plan import load_plans
    from tst_titan.published import STUDY_NAME

    configuration = checkout_configuration()
    studies = configuration.studies
    targets = []
    files = []
    for word in args.studies:
        if Path(word).name == STUDY_NAME:
            targets.append(studies / STUDY_NAME)
            continue
        file = find_among(word, studies)
        files.append(file)
        targets.append(studies / file.stem)
    _, broken = load_plans(studies, configuration.results, max_segment_steps=configuration.max_segment_steps)
    if wrong := [str(broken[file.stem]) for file in files if file.stem in broken]:
        raise UserError("\n".join(wrong))
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--profile",
        args.profile,
        *map(str, targets),
        *args.passed_on,
    ]
    # In this process's place: Ctrl-C and Slurm's signals are Snakemake's own.
    sys.stdout.flush()
    os.execv(sys.executable, command)
