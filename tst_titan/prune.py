"""`tst-titan prune STUDY…`: delete the checkpoints of finished segments that no study in the folder needs; all else
stays.

A pruned segment is finished as before: its numbers are shown, nothing trains it again. Where a later study starts from
it, `tst-titan plan` says what is trained again, and the workflow trains it (`tst_titan.train.restore`).
"""

import argparse

from tst_titan.configuration import checkout_configuration
from tst_titan.errors import UserError
from tst_titan.results import Results
from tst_titan.study.find import find_among
from tst_titan.units import short_bytes


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `prune`."""
    parser = subparsers.add_parser(
        "prune", help="list, with --yes delete, checkpoints of studies that no study in the folder needs"
    )
    parser.add_argument(
        "studies", nargs="+", metavar="STUDY", help="NAME, studies/NAME or a path, with or without .yaml"
    )
    parser.add_argument("--yes", action="store_true", help="delete them (default: only say which)")
    parser.add_argument(
        "--decay-starts",
        action="store_true",
        help="also those where a decay starts, from which a larger budget would go on",
    )
    parser.add_argument(
        "--finals", action="store_true", help="also the ends of runs that are evaluated as their studies ask"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """List what no study needs; with `--yes` delete it. `UserError`, before any is deleted, where a study is broken or
    a job runs."""
    from tst_titan.needless import DECAY_START, FINAL, delete, find_needless, in_words, total_bytes
    from tst_titan.plan import load_plans

    configuration = checkout_configuration()
    names = {find_among(word, configuration.studies).stem for word in args.studies}
    plans, broken = load_plans(
        configuration.studies, configuration.results, max_segment_steps=configuration.max_segment_steps
    )
    if broken:
        wrong = "\n".join(map(str, broken.values()))
        raise UserError(f"{wrong}\nnothing is deleted: a study that cannot be planned may need any checkpoint")
    given_up = {DECAY_START: args.decay_starts, FINAL: args.finals}
    found = find_needless(
        plans,
        names,
        Results(configuration.results),
        {reason for reason, is_set in given_up.items() if is_set},
    )
    for line in found.left:
        print(f"left: {line}")
    for reason, kept in found.kept.items():
        print(f"kept: {len(kept)} {reason}: {short_bytes(total_bytes(kept))}")
    if args.yes:
        delete(found.needless)
    else:
        for checkpoint in found.needless:
            print(f"would delete {in_words(checkpoint)}")
        print(f"{len(found.needless)} checkpoints, {short_bytes(total_bytes(found.needless))}; --yes deletes them")
