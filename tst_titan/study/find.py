"""One grammar for studies on the command line: NAME, studies/NAME or any path, with or without `.yaml`."""

import argparse
from pathlib import Path

from tst_titan.errors import UserError

STUDIES = Path("studies")


def add_study(parser: argparse.ArgumentParser, *, what: str = "a study") -> None:
    """Add the argument `study`; a command's `run` passes it to `find_study`."""
    parser.add_argument("study", metavar="STUDY", help=f"{what}: NAME, studies/NAME or a path, with or without .yaml")


def find_study(name: str, studies: Path = STUDIES) -> Path:
    """The definition that `name` means, a bare one in the folder `studies`. `UserError` names the nearest one where
    there is none."""
    stem = name.rstrip("/").removesuffix(".yaml")
    # Not with_suffix: a name may hold a dot.
    places = [Path(f"{stem}.yaml"), *([] if "/" in stem else [studies / f"{stem}.yaml"])]
    for path in places:
        if path.is_file():
            return path
    for path in (Path(name), *(path.with_suffix(".yml") for path in places)):
        if path.suffix == ".yml" and path.is_file():
            raise UserError(f"a study file's name ends in .yaml: rename it to {path.stem}.yaml", where=path)
    from tst_titan.study.fields import nearest

    names = sorted(path.stem for path in places[-1].parent.glob("*.yaml"))
    near = nearest(Path(stem).name, names)
    hint = f"did you mean {near!r}?" if near else f"there are: {', '.join(names) or 'none'}"
    raise UserError(f"study {name!r}: no such file ({', '.join(map(str, places))}); {hint}")


def find_among(name: str, studies: Path) -> Path:
    """The definition that `name` means, which lies in the folder `studies` itself; `UserError` for one elsewhere."""
    file = find_study(name, studies)
    if file.resolve().parent != studies.resolve():
        raise UserError(
            f"studies are built where they lie together: move it to {studies}/, or set `studies: {file.parent}` in "
            "site.yaml",
            where=file,
        )
    return file
