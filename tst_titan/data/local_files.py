"""Local text, JSONL and Parquet files, plain or compressed with gzip, zstandard, bzip2 or xz.

A text file is one document, a JSONL line or a Parquet row one each. Inside a folder, files are taken by their suffix;
a file named directly or by a pattern is plain text unless its suffix says otherwise, and refused if its content is
none.
"""

import json
from collections import Counter
from collections.abc import Iterator
from glob import has_magic
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tst_titan.bounds import DOCUMENT_BYTES, bounded_lines, read_bounded, too_much
from tst_titan.data.documents import Input, decoded, valid_text
from tst_titan.data.file_kinds import (
    KINDS,
    TextShare,
    check_beginning,
    compression_of,
    format_of,
    is_pointer,
    not_read,
)
from tst_titan.data.file_search import EVERYTHING, Found, find_files, printable, split_pattern
from tst_titan.data.parquet_pages import largest_page
from tst_titan.data.unpacking import DAMAGE, open_unpacked
from tst_titan.errors import UserError
from tst_titan.plan.settings import SourceSettings

_ROWS_AT_ONCE = 1024
_HEAD = 4096
# Also behind a dictionary (pandas' categories). A column without a value has the type null: empty texts.
_TEXT_COLUMNS = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_null,
)
_NAMES_SHOWN = 20


def list_inputs(source: SourceSettings) -> tuple[list[Input], dict[str, Any], list[str]]:
    """The files of `source.path`, sorted by name. Raises `UserError` where there is none."""
    files: dict[Path, str] = {}
    notes: list[str] = []
    paths = source.path.split("\n")
    for path in map(Path, paths):
        for pattern in source.file_pattern.split("\n"):
            try:
                root, found = _found(path.expanduser(), pattern)
            except UserError as error:
                key = "file_pattern" if pattern else "path"
                raise UserError(f"corpus source {source.name}: {key} = {error}") from error
            if not pattern and path.expanduser().is_dir():
                _leave_other_kinds_out(found)
            if not found.files:
                raise UserError(_none(source, path, pattern, list(_notes(root, found.left_out))))
            # Of several paths each may have a file of that name.
            root = root if len(paths) == 1 else Path()
            files |= {file: _name(file, root) for file in found.files}
            notes += [note for note in _notes(root, found.left_out) if note not in notes]
    refused = {reason: file for file in sorted(files, reverse=True) if (reason := not_read(file))}
    if refused:
        each = "; ".join(
            f"{printable(str(file))} is one of the files that are {reason}" for reason, file in refused.items()
        )
        raise UserError(
            f"corpus source {source.name}: cannot be read as text: {each}; or leave them out of `path` and "
            "`file_pattern`"
        )
    inputs = []
    for file, name in sorted(files.items()):
        status = file.stat()
        inputs.append(Input(name, str(file), status.st_size, version=str(status.st_mtime_ns)))
    return (
        inputs,
        {"path": source.path, "num_files": len(files), "num_bytes": sum(e.size for e in inputs)},
        [f"{source.name}: {note}" for note in notes],
    )


def _leave_other_kinds_out(found: Found) -> None:
    for file in list(found.files):
        if not format_of(file):
            found.files.remove(file)
            found.left_out[not_read(file) or "of other kinds"].add(file)


def _none(source: SourceSettings, path: Path, pattern: str, notes: list[str]) -> str:
    with_pattern = f" with file_pattern {pattern!r}" if pattern else ""
    bracket = "; [ begins a set of characters, [[] is the character" if "[" in str(path) else ""
    return (
        f"corpus source {source.name}: path {str(path)!r}{with_pattern} matches no text file (known: "
        f"{KINDS}{bracket}); {''.join(f'{note}; ' for note in notes)}correct `path` in the study"
    )


def _found(path: Path, file_pattern: str) -> tuple[Path, Found]:
    """What `path` means, and the folder that names are relative to."""
    if path.is_dir():
        return path, find_files(path, file_pattern or EVERYTHING)
    if path.is_file():
        return path.parent, Found({path})
    fixed, pattern = split_pattern(path)
    if not pattern:
        return path, Found()
    found = find_files(fixed, pattern)
    # Without a fixed name behind a wildcard, names begin where the wildcards do. Names order the documents: keep this.
    behind = [part for part in Path(pattern).parent.parts if not has_magic(part)]
    root = fixed.joinpath(*behind)
    first = min(found.files, default=root)
    return (root if root.parts and first.is_relative_to(root) else Path()), found


def _name(path: Path, root: Path) -> str:
    """The path below `root`; bytes that are not UTF-8, which no record can hold, as escapes."""
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _notes(root: Path, left_out: dict[str, set[Path]]) -> Iterator[str]:
    """A line for each reason, with the first names that it holds for."""
    for reason, paths in sorted(left_out.items()):
        if paths:
            names = [printable(_name(path, root)) for path in sorted(paths)]
            more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
            yield f"left out, {reason}: {', '.join(names[:_NAMES_SHOWN])}{more}"


def read(source: SourceSettings, entry: Input, tally: Counter[str]) -> Iterator[tuple[str, str]]:
    """Iterate (id, text) of one file. Raises `UserError` where it is damaged, or text of no or another encoding."""
    path = Path(entry.path)
    kind = format_of(path)
    reader = {"jsonl": _read_jsonl, "parquet": _read_parquet}.get(kind, _read_text)
    share = TextShare(path)
    try:
        yield from reader(source, entry, path, tally, share)
        share.check()
    except (pa.ArrowException, OSError, *DAMAGE) as error:
        # Damaged pages and damaged bzip2 data are an OSError, too, one without a number of the system's.
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"cannot be read: {error.strerror}", where=path) from error
        if is_pointer(path):
            with path.open("rb") as file:
                check_beginning(path, file.read(_HEAD))
        what = "Parquet" if kind == "parquet" else "compressed"
        raise UserError(
            f"damaged {what} file ({_one_line(error)}); replace or remove it and run again", where=path
        ) from error


def _opened(path: Path) -> IO[bytes]:
    """The file's content, unpacked; its beginning is checked."""
    kind = compression_of(path)
    if kind and not path.stat().st_size:
        raise EOFError("it is empty, as after a download that broke off; compressed, even no text takes some bytes")
    file: Any = open_unpacked(path, kind)
    try:
        check_beginning(path, file.peek(_HEAD)[:_HEAD])
    except BaseException:
        file.close()
        raise
    return file


def _read_text(
    source: SourceSettings, entry: Input, path: Path, tally: Counter[str], share: TextShare
) -> Iterator[tuple[str, str]]:
    with _opened(path) as file:
        yield entry.name, decoded(read_bounded(file, path, DOCUMENT_BYTES), tally, share)


def _read_jsonl(
    source: SourceSettings, entry: Input, path: Path, tally: Counter[str], share: TextShare
) -> Iterator[tuple[str, str]]:
    column = source.text_column
    with _opened(path) as file:
        for number, line in bounded_lines(file, path, DOCUMENT_BYTES):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            row = _row(where, decoded(line, tally, share))
            if column not in row:
                raise UserError(f"no column {column!r} (there: {', '.join(row)}); set `text_column`", where=where)
            text = row[column]
            if not (text is None or isinstance(text, str)):
                raise UserError(f"column {column!r} is {type(text).__name__}, not text", where=where)
            yield f"{entry.name}:{number}", valid_text(text or "", tally)


def _row(where: str, line: str) -> dict[str, Any]:
    """The JSON object of a line. Raises `UserError` where it is none."""
    try:
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if line.strip() in ("{", "[", "[{"):
                raise UserError(
                    "JSON over several lines; write each document as an object on a line of its own "
                    "(jq -c . FILE > NEW.jsonl, or for an array jq -c '.[]' FILE > NEW.jsonl)",
                    where=where,
                ) from None
            raise UserError(f"not JSON ({error.msg}); mend or remove the line", where=where) from error
        except ValueError:
            # Python converts no integers of thousands of digits; no text is one.
            row = json.loads(line, parse_int=lambda _: 0)
    except RecursionError:
        raise UserError("JSON nested too deeply; mend or remove the line", where=where) from None
    if isinstance(row, list):
        raise UserError(
            "a JSON array; write each document as an object on a line of its own (jq -c '.[]' FILE > NEW.jsonl)",
            where=where,
        )
    if not isinstance(row, dict):
        raise UserError(f"a JSON {type(row).__name__}, not an object; mend or remove the line", where=where)
    return row


def _read_parquet(
    source: SourceSettings, entry: Input, path: Path, tally: Counter[str], share: TextShare
) -> Iterator[tuple[str, str]]:
    column = source.text_column
    if compression_of(path):
        raise UserError("Parquet compresses by itself; unpack this file", where=path)
    with pq.ParquetFile(path, memory_map=True) as file:
        schema = file.schema_arrow
        if column not in schema.names:
            raise UserError(f"no column {column!r} (there: {', '.join(schema.names)}); set `text_column`", where=path)
        if schema.names.count(column) > 1:
            raise UserError(
                f"{schema.names.count(column)} columns are named {column!r}; give each a name of its own",
                where=path,
            )
        kind = schema.field(column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(is_kind(kind) for is_kind in _TEXT_COLUMNS):
            raise UserError(f"column {column!r} is {kind}, not text; set `text_column`", where=path)
        # A batch has at most as many bytes as one document may have, or one row.
        longest = max(1, largest_page(path, file.metadata, column))
        most = DOCUMENT_BYTES.most()
        row = 0
        for batch in file.iter_batches(batch_size=max(1, min(_ROWS_AT_ONCE, most // longest)), columns=[column]):
            # As bytes: Arrow does not check UTF-8, and one bad row must not end the file.
            values = batch.column(0)
            if pa.types.is_dictionary(values.type):
                values = values.dictionary_decode()
            for value in values.cast(pa.large_binary()).to_pylist():
                if value and len(value) > most:
                    raise too_much(f"{path}, row {row}", DOCUMENT_BYTES)
                yield f"{entry.name}:{row}", decoded(value or b"", tally, share)
                row += 1


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
