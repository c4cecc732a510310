"""`tst-titan train SEGMENT`: train one segment of any study, as the workflow does."""

import argparse
import sys
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("train", help="train one segment of a study, or go on with it")
    parser.add_argument("segment", help="a segment's id, as `tst-titan plan` prints it")
    parser.add_argument("--studies", type=Path, default=Path("studies"), help="folder of the definitions")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of shared artifacts")
    parser.add_argument(
        "--hardware",
        default="{}",
        metavar="MAPPING",
        help="the configuration's section `hardware`, such as '{processes: 2, threads: 1}'",
    )
    parser.add_argument(
        "--gpu-memory-gib",
        type=float,
        help=(
            "memory of one GPU, for what `hardware` leaves open (default: what nvidia-smi says; without GPUs, CPUs are "
            "meant)"
        ),
    )
    parser.add_argument(
        "--max-segment-steps",
        type=int,
        help="as the workflow's max_segment_steps: how segments are split into jobs",
    )
    parser.add_argument(
        "--accelerator", default="cpu", help="the devices that step times are planned for, as the site's"
    )
    parser.add_argument("--utilization", type=float, default=0.4, help="the share of their peak that training reaches")
    parser.add_argument(
        "--restore",
        action="store_true",
        help="train a finished segment again whose checkpoint `tst-titan prune` deleted",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from tst_titan.cluster.gpu_memory import gpu_memory_gib
    from tst_titan.plan import find_segment, load_plans
    from tst_titan.plan.costs import Accelerator
    from tst_titan.results import Results
    from tst_titan.train.fit import fit_note, hardware_for
    from tst_titan.train.hardware_section import read_section
    from tst_titan.train.job import Job
    from tst_titan.train.launch import run_segment
    from tst_titan.train.restore import restore_segment

    plans, errors = load_plans(args.studies, args.results, max_segment_steps=args.max_segment_steps)
    segment = find_segment(plans, args.segment, errors)
    wanting = [plan for plan in plans.values() if segment.id in plan.segments]
    results, parent_checkpoint = Results(args.results), None
    if segment.parent:
        parent_checkpoint = results.segment(segment.parent).checkpoint(segment.start_step)
    memory = args.gpu_memory_gib or gpu_memory_gib()
    hardware = hardware_for(segment, read_section(args.hardware), memory)
    if memory:
        print(f"{segment.id}: {fit_note(segment, hardware, memory)}", file=sys.stderr)
    train = restore_segment if args.restore else run_segment
    return train(
        Job(
            segment=segment,
            hardware=hardware,
            folder=results.segment(segment.id).folder,
            corpus_dir=results.corpus(segment.recipe.corpus.id).folder,
            parent_checkpoint=parent_checkpoint,
            # As finely as any study that shares the segment wants to see it.
            log_every=min(plan.log_every for plan in wanting),
            validate_every=min((plan.validate_every for plan in wanting if plan.validate_every), default=0),
            validation_tokens=max(plan.validation_tokens for plan in wanting),
            studies={plan.study: plan.digests for plan in wanting},
            accelerator=Accelerator(args.accelerator, args.utilization),
        )
    )
