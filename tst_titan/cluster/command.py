"""`tst-titan nodes`: asks a cluster's nodes, by one small job, whether they see what jobs need, GPUs among it."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "nodes",
        help=(
            "ask Slurm's nodes whether they see the shared folders and this Python, and whether its torch sees their "
            "GPUs"
        ),
        epilog=(
            "Example: tst-titan nodes --folder /scratch/me/results -- --partition=gpu --account=me --nodes=2 "
            "--gres=gpu:8 --time=5"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--folder",
        action="append",
        type=Path,
        default=[],
        help="a folder besides the working directory; may be repeated",
    )
    parser.set_defaults(run=run, passed_on=[])


def run(args: argparse.Namespace) -> int:
    """Print one line a node; status 1 where a node lacks something."""
    from tst_titan.cluster.probe import probe_nodes

    nodes, problems = probe_nodes(args.passed_on, [Path.cwd(), *args.folder])
    for node, problem in problems:
        print(f"{node}: {problem}")
    wrong = {node for node, _ in problems}
    for node, has in nodes.items():
        if node not in wrong:
            print(f"{node}: ready: {has}")
    return 1 if problems else 0
