"""`tst-titan clean`: delete what builds made in this checkout, and nothing else.

Deleted are the shared artifacts and logs by the names that the workflow gives them, Snakemake's own folder, and in each
study's folder the files that its mark names (`tst_titan.built`). No symbolic link is followed, nothing outside of the
checkout is touched, and what stays is named.
"""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

from tst_titan.built import MARK, built_files
from tst_titan.cluster.snakemake_internals import DIRECTORY_STAMP
from tst_titan.configuration import Configuration, checkout_configuration
from tst_titan.errors import UserError
from tst_titan.results import Logs, Results


@dataclass(frozen=True)
class Clean:
    """What is deleted, folders that go with it if nothing else is in them, and a line for each thing that stays."""

    made: tuple[Path, ...]
    then_empty: tuple[Path, ...]
    left: tuple[str, ...]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `clean`."""
    parser = subparsers.add_parser(
        "clean", help="delete what studies built in this checkout: results, logs, studies/NAME/"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    parser.set_defaults(run=run_clean)


def run_clean(args: argparse.Namespace) -> None:
    """List what a build made, then delete it."""
    found = find_built(checkout_configuration())
    for line in found.left:
        print(f"left: {line}")
    for path in found.made:
        print(f"{'would delete' if args.dry_run else 'deleting'} {path}", flush=True)
    if not args.dry_run:
        delete(found)


def find_built(configuration: Configuration) -> Clean:
    """What builds made below the working directory, a checkout."""
    made: list[Path] = []
    empty: list[Path] = []
    left: list[str] = []
    standard = Configuration()
    folders = {
        configuration.results: Results(configuration.results).parts,
        # Of a time before the site file named another.
        standard.results: Results(standard.results).parts,
        Logs().root: Logs().parts,
    }
    for folder, parts in folders.items():
        if why := _not_ours(folder):
            left.append(why)
            continue
        found = [part for part in parts if part.is_dir()]
        left += [f"{path}: is a symbolic link" for path in found if path.is_symlink()]
        made += [path for path in found if not path.is_symlink()]
        empty.append(folder)
    snakemake = Path(".snakemake")
    if snakemake.is_dir() and not snakemake.is_symlink():
        made.append(snakemake)
    if why := _not_ours(configuration.studies):
        left.append(why)
    elif configuration.studies.is_dir():
        for folder in sorted(configuration.studies.iterdir()):
            if folder.is_dir() and not folder.is_symlink():
                files = built_files(folder)
                stamp = folder / DIRECTORY_STAMP
                # One with the stamp alone has been emptied, and Snakemake takes it for built.
                if files or set(folder.iterdir()) == {stamp}:
                    made += [path for path in (*files, folder / MARK, stamp) if path in files or path.exists()]
                    empty.append(folder)
                if why := _stays(folder, files):
                    left.append(why)
    return Clean(tuple(made), tuple(empty), tuple(left))


def delete(found: Clean) -> None:
    """Delete it; `UserError` names what cannot be."""
    try:
        for path in found.made:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for folder in found.then_empty:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    except OSError as error:
        raise UserError(f"cannot be deleted: {error.strerror}", where=error.filename) from error


def _not_ours(folder: Path) -> str:
    """Why nothing in a folder of the configuration is deleted: it is not of this checkout alone."""
    if folder.is_symlink():
        return f"{folder}: is a symbolic link to {folder.resolve()}: delete there what is yours alone"
    here = Path.cwd().resolve()
    if not folder.resolve().is_relative_to(here):
        return f"{folder}: outside of this checkout, where others may use it: delete there what is yours alone"
    if folder.resolve() == here:
        return f"{folder}: is the checkout itself"
    return ""


def _stays(folder: Path, files: list[Path]) -> str:
    """What to say of a folder below the studies that stays; nothing of one that no build has to do with."""
    others = sorted({path.name for path in folder.iterdir()} - {path.name for path in files} - {MARK, DIRECTORY_STAMP})
    if files and others:
        return f"{folder}: {', '.join(others)} (made by no build)"
    if not files and {"report.html", "table.csv"} <= set(others):
        return (
            f"{folder}: a report without the mark of a build (an earlier version's): delete it, or build it again first"
        )
    return ""
