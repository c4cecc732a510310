"""The `tst-titan` command: one subcommand a stage, each defined where its stage lives."""

import argparse
import sys
from importlib import import_module

from tst_titan import __version__
from tst_titan.errors import UserError

# Each module has `add_parser(subparsers)`, which sets the default `run`: a function of the parsed arguments.
COMMANDS = (
    "tst_titan.build",
    "tst_titan.plan.command",
    "tst_titan.data.command",
    "tst_titan.train.command",
    "tst_titan.evaluate.command",
    "tst_titan.report.command",
    "tst_titan.cluster.command",
    "tst_titan.prune",
    "tst_titan.clean",
)


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; a user's mistake is one message on stderr and exit status 2."""
    parser = argparse.ArgumentParser(prog="tst-titan", description=sys.modules["tst_titan"].__doc__)
    parser.add_argument("--version", action="version", version=f"tst-titan {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(name).add_parser(subparsers)
    words = sys.argv[1:] if argv is None else argv
    # What follows `--` is another program's.
    own = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:own], argparse.Namespace(passed_on=None))
    if own < len(words) and args.passed_on is None:
        parser.error(f"nothing follows `--` here: {' '.join(words[own:])}")
    args.passed_on = words[own + 1 :]
    # For a command that starts itself anew, on other ranks.
    args.words = words
    try:
        return args.run(args) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
