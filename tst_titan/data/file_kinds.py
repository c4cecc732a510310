"""What a file is: by its suffix, by its first bytes, and by the share of its bytes that are no text."""

from dataclasses import dataclass
from pathlib import Path

from tst_titan.errors import UserError

FORMATS = {
    **dict.fromkeys((".txt", ".text", ".md", ".rst"), "text"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    ".parquet": "parquet",
}
COMPRESSED = {
    ".gz": "gzip",
    ".zst": "zstandard",
    ".zstd": "zstandard",
    ".bz2": "bzip2",
    ".xz": "xz",
    ".lzma": "xz",
}
KINDS = f"{' '.join(FORMATS)}, plain, {' '.join(COMPRESSED)}"
_ARCHIVES = frozenset(
    (
        *[
            ".tar",
            ".tgz",
            ".tbz",
            ".tbz2",
            ".txz",
            ".tzst",
            ".zip",
            ".7z",
            ".rar",
            ".jar",
            ".whl",
            ".cpio",
            ".iso",
            ".deb",
            ".rpm",
        ],
    )
)
_OTHER_COMPRESSION = frozenset([".z", ".lz", ".lz4", ".lzo", ".br", ".sz", ".snappy"])
# First bytes that no text has.
_MAGIC = {
    b"\x1f\x8b": "gzip data",
    b"\x28\xb5\x2f\xfd": "zstandard data",
    b"\xfd7zXZ\0": "xz data",
    b"PK\x03\x04": "a zip archive or an office document",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
    b"\x04\x22\x4d\x18": "lz4 data",
    b"%PDF-1.": "a PDF",
    b"PAR1\x15": "a Parquet file",
    b"ARROW1\0\0": "an Arrow file",
    b"SQLite format 3\0": "a SQLite database",
    b"\x7fELF": "a program",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}
# The longer marks first: the one of UTF-16 begins that of UTF-32.
_MARKS = {
    b"\xff\xfe\0\0": "UTF-32LE",
    b"\0\0\xfe\xff": "UTF-32BE",
    b"\xff\xfe": "UTF-16LE",
    b"\xfe\xff": "UTF-16BE",
}
# Which of four bytes are zero in ASCII characters, spaces and line ends of text in any script.
_ZERO_BYTES = {"UTF-32LE": (1, 2, 3), "UTF-32BE": (0, 1, 2), "UTF-16LE": (1, 3), "UTF-16BE": (0, 2)}
_COMMON_ZERO = 0.03
_PRINTABLE = 0.95
_POINTER = b"version https://git-lfs.github.com/spec/"
# Control characters that stand in no text; tab, line ends, backspace, form feed and escape do.
_CONTROLS = bytes({*range(32), 127} - set(b"\t\n\v\f\r\b\x1b"))
# Text in Latin-1, where an accent is one invalid byte, stays below; text in another script's encoding does not.
_MOST_INVALID = 1 / 3
_MOST_CONTROLS = 0.02
_FEW_BAD = 4
_FIRST_CHECK = 2**20


def format_of(path: Path) -> str:
    """ "text", "jsonl", "parquet", or "" for an unknown suffix; upper and lower case are one."""
    suffix = Path(path.stem).suffix if compression_of(path) else path.suffix
    return FORMATS.get(suffix.lower(), "")


def compression_of(path: Path) -> str:
    """ "gzip", "zstandard", "bzip2", "xz", or "" for a suffix of none of these."""
    return COMPRESSED.get(path.suffix.lower(), "")


def not_read(path: Path) -> str:
    """What a file is by its suffix, with the mend, if that is nothing that can hold text; else ""."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and (suffixes[-1] in _ARCHIVES or (suffixes[0] == ".tar" and compression_of(path))):
        return "archives: unpack them"
    if suffixes and suffixes[-1] in _OTHER_COMPRESSION:
        return f"of a compression that is not read: unpack them, or use {' '.join(COMPRESSED)}"
    if len(suffixes) == 2 and compression_of(path) and compression_of(Path(path.stem)):
        return "compressed twice: unpack them once"
    return ""


def check_beginning(path: Path, head: bytes) -> None:
    """Raise `UserError` where the first bytes of what should be text tell that it is something else."""
    if head.startswith(_POINTER) and b"\noid " in head:
        raise UserError(
            "is a Git LFS pointer, not the file that it stands for; fetch that with `git lfs pull`",
            where=path,
        )
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise UserError(f"is {what}, not text; unpack or convert it, or leave it out of `path`", where=path)
    if head[257:262] == b"ustar":
        raise UserError("is a tar archive, not text; unpack it", where=path)
    encoding = _wide_encoding(head)
    if encoding:
        raise UserError(f"is {encoding}, not UTF-8; convert it (iconv -f {encoding} -t UTF-8 FILE > NEW)", where=path)


def is_pointer(path: Path) -> bool:
    """Whether Git left a pointer in the place of a large file."""
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def _wide_encoding(head: bytes) -> str:
    """UTF-16 or UTF-32, with a mark or with the zero bytes that ASCII characters have there; else ""."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    head = head[: len(head) // 4 * 4]
    zeros = [head[offset::4].count(0) * 4 / max(1, len(head)) for offset in range(4)]
    for encoding, high in _ZERO_BYTES.items():
        few = sum(zeros[offset] for offset in range(4) if offset not in high)
        if all(zeros[offset] > max(_COMMON_ZERO, 10 * few) for offset in high):
            try:
                text = head.decode(encoding)
            except UnicodeDecodeError:
                # It may end within a character.
                text = head[:-4].decode(encoding, errors="ignore")
            if sum(c.isprintable() or c.isspace() for c in text) >= _PRINTABLE * len(text):
                return encoding
    return ""


@dataclass
class TextShare:
    """Counts a file's bytes and those that are no text, and refuses the file where these are too many."""

    path: Path
    num_bytes: int = 0
    num_invalid: int = 0
    num_controls: int = 0
    next_check: int = _FIRST_CHECK

    def add(self, data: bytes, num_invalid: int) -> None:
        """Count `data`, of which `num_invalid` places are not UTF-8. Raises `UserError`, see `check`."""
        self.num_bytes += len(data)
        self.num_invalid += num_invalid
        self.num_controls += len(data) - len(data.translate(None, _CONTROLS))
        if self.num_bytes >= self.next_check:
            self.check()
            self.next_check *= 2

    def check(self) -> None:
        """Raise `UserError` where more bytes than `_MOST_INVALID` are not UTF-8, or than `_MOST_CONTROLS` control
        it."""
        for number, most, what in (
            (self.num_invalid, _MOST_INVALID, "are not UTF-8"),
            (self.num_controls, _MOST_CONTROLS, "are control characters"),
        ):
            if number >= _FEW_BAD and number > most * self.num_bytes:
                raise UserError(
                    f"is no UTF-8 text: {number / self.num_bytes:.0%} of its bytes {what} (another encoding, such as "
                    "Windows-1251, Shift-JIS or UTF-16, or no text at all); convert it with iconv, or leave it out of "
                    "`path`",
                    where=self.path,
                )
