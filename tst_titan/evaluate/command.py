"""`tst-titan evaluate`, `tst-titan export` and `tst-titan fetch-eval-data`."""

import argparse
import os
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the three commands of this stage."""
    _add_evaluate(subparsers)
    _add_export(subparsers)
    _add_fetch(subparsers)


def _add_evaluate(subparsers: Any) -> None:
    evaluate = subparsers.add_parser("evaluate", help="score a segment's checkpoint on lm-eval tasks")
    evaluate.add_argument("segment", help="a finished segment's id, as below results/segments")
    _add_tasks(evaluate)
    _add_results(evaluate)
    evaluate.add_argument("--limit", type=_positive, help="samples of each task (default: all)")
    evaluate.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    evaluate.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of weights and activations (default: float32 on a CPU, the training precision on a GPU)",
    )
    evaluate.add_argument(
        "--through-export",
        action="store_true",
        help="run transformers on results/exports/SEGMENT_ID instead of torchtitan on the checkpoint",
    )
    evaluate.add_argument("--network", action="store_true", help="let tasks download data that the cache lacks")
    evaluate.add_argument("--verbose", action="store_true", help="show lm-eval's own messages and progress bars")
    evaluate.add_argument(
        "--processes",
        type=_positive,
        default=1,
        help="processes that share the work, each with a GPU of its own where there are GPUs (default: 1)",
    )
    evaluate.add_argument(
        "--shard",
        action="store_true",
        help="divide the model between the processes, where it does not fit one GPU: slower",
    )
    evaluate.set_defaults(run=_evaluate)


def _add_export(subparsers: Any) -> None:
    export = subparsers.add_parser("export", help="write a segment's checkpoint as a Hugging Face model directory")
    export.add_argument("segment", help="a finished segment's id, as below results/segments")
    _add_results(export)
    export.add_argument("--out", type=Path, help="the directory to make (default: results/exports/SEGMENT_ID)")
    export.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the weights (default: float32, exact)",
    )
    export.set_defaults(run=_export)


def _add_fetch(subparsers: Any) -> None:
    fetch = subparsers.add_parser(
        "fetch-eval-data", help="download the data of tasks into the cache, for nodes without network"
    )
    _add_tasks(fetch)
    fetch.add_argument(
        "--check",
        action="store_true",
        help="download nothing: say which tasks' data are not in the cache, and what is wrong with a task",
    )
    fetch.add_argument(
        "--seq-len",
        type=_positive,
        help="with --check: sequence length of the models, in which what they generate must have room",
    )
    fetch.set_defaults(run=_fetch)


def _add_tasks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=["offline"],
        metavar="NAME",
        help="suites (offline, paper), tasks or groups of lm-eval, or your own in studies/tasks (default: offline)",
    )
    parser.add_argument(
        "--task-definitions",
        type=Path,
        default=Path("studies/tasks"),
        help="folder of your own task definitions",
    )
    parser.add_argument(
        "--trust-tasks",
        action="store_true",
        help="let those definitions bring code (!function and the like), which runs as you",
    )


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of shared artifacts")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: write a whole number, at least 1")
    return int(text)


def _evaluate(args: argparse.Namespace) -> int:
    from tst_titan.cluster.devices import gpus_for_job
    from tst_titan.evaluate.environment import prepare_environment

    prepare_environment(network=args.network, verbose=args.verbose)
    from tst_titan.evaluate.ranks import among_ranks, join_ranks, leave, run_on

    # Before torch looks for a GPU: those that no training job on this machine holds. The processes of an evaluation use
    # what the one that starts them holds.
    wanted = args.processes if args.device == "auto" and not among_ranks() else 0
    with gpus_for_job(wanted) as held:
        os.environ |= held.environment
        if args.processes > 1 and not among_ranks():
            return run_on(args.processes, args.words, held.locks)
        from tst_titan.evaluate.run import Evaluation, evaluate

        try:
            paths = evaluate(
                Evaluation(
                    results=args.results,
                    segment=args.segment,
                    groups=args.tasks,
                    limit=args.limit,
                    device=args.device,
                    dtype=args.dtype,
                    backend="export" if args.through_export else "checkpoint",
                    user_tasks=args.task_definitions,
                    trust_tasks=args.trust_tasks,
                    shard=args.shard,
                )
            )
        except Exception as error:
            if among_ranks():
                leave(error)
            raise
    if join_ranks().first:
        for path in paths:
            print(path)
    return 0


def _export(args: argparse.Namespace) -> int:
    from tst_titan.evaluate.environment import prepare_environment

    prepare_environment()
    from tst_titan.evaluate.export import export

    print(export(args.results, args.segment, out=args.out, dtype=args.dtype))
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from tst_titan.evaluate.environment import prepare_environment

    prepare_environment(network=not args.check)
    from tst_titan.evaluate.fetch import check, fetch

    definitions: dict[str, Any] = {"user_tasks": args.task_definitions, "trusted": args.trust_tasks}
    if args.check:
        check(args.tasks, **definitions, seq_len=args.seq_len)
    else:
        fetch(args.tasks, **definitions)
    return 0
