"""What is text and what is not: by suffix, by the first bytes, and by how much of a file is none."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile

import pytest
import zstandard
from data_fixtures import texts
from test_data_sources import everything, source

from tst_titan.data.sources import list_source
from tst_titan.errors import UserError

ROWS = b'{"text": "one"}\n{"text": "two"}\n'
PACKED = {
    "a.jsonl.gz": gzip.compress(ROWS, mtime=0),
    "b.jsonl.GZ": gzip.compress(ROWS, mtime=0),
    "c.JSONL.Zst": zstandard.compress(ROWS),
    "d.jsonl.zstd": zstandard.compress(ROWS),
    "e.jsonl.bz2": bz2.compress(ROWS[:16]) + bz2.compress(ROWS[16:]),
    "f.jsonl.xz": lzma.compress(ROWS),
    "g.jsonl.lzma": lzma.compress(ROWS, format=lzma.FORMAT_ALONE),
    "h.JSONL": ROWS,
}
RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 20
CHINESE = "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。" * 20
JAPANESE = "すべての人間は、生れながらにして自由であり、かつ、尊厳と権利とについて平等である。" * 20


def tarred() -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        member = tarfile.TarInfo("a.jsonl")
        member.size = len(ROWS)
        archive.addfile(member, io.BytesIO(ROWS))
    return memory.getvalue()


def zipped() -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.jsonl"), ROWS)
    return memory.getvalue()


@pytest.mark.parametrize("pattern", ["", "*"])
def test_every_spelling_of_a_compressed_file_is_unpacked_in_a_folder_and_by_a_pattern(tmp_path, pattern):
    for name, content in PACKED.items():
        (tmp_path / name).write_bytes(content)
    found, _ = everything(source(tmp_path, file_pattern=pattern))
    assert found == [(f"{name}:{line}", text) for name in PACKED for line, text in ((1, "one"), (2, "two"))]


@pytest.mark.parametrize(
    ("name", "content", "mend"),
    [
        ("a.tar", tarred(), "archives: unpack them"),
        ("a.tar.gz", gzip.compress(tarred(), mtime=0), "archives: unpack them"),
        ("a.TAR.BZ2", bz2.compress(tarred()), "archives: unpack them"),
        ("a.tgz", gzip.compress(tarred(), mtime=0), "archives: unpack them"),
        ("a.zip", zipped(), "archives: unpack them"),
        ("a.jsonl.lz4", b"\x04\x22\x4d\x18", "of a compression that is not read: unpack them, or use .gz"),
        (
            "a.jsonl.gz.gz",
            gzip.compress(gzip.compress(ROWS, mtime=0), mtime=0),
            "compressed twice: unpack them once",
        ),
    ],
)
def test_archives_and_unknown_compression_are_refused_by_name_and_left_out_of_folders_by_name(
    tmp_path, name, content, mend
):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.txt").write_text("good")
    for chosen in (source(tmp_path / name), source(tmp_path / "*"), source(tmp_path, file_pattern="*")):
        with pytest.raises(UserError, match=rf"{name} is one of the files that are {mend}"):
            list_source(chosen)
    (note,) = list_source(source(tmp_path)).notes
    assert note.startswith(f"local: left out, {mend}")
    assert note.endswith(f": {name}")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (gzip.compress(ROWS, mtime=0), "is gzip data, not text"),
        (zstandard.compress(ROWS), "is zstandard data, not text"),
        (lzma.compress(ROWS), "is xz data, not text"),
        (zipped(), "is a zip archive or an office document, not text"),
        (tarred(), "is a tar archive, not text; unpack it"),
        (bytes(range(256)) * 9, "is no UTF-8 text: 50% of its bytes are not UTF-8"),
        (b"\0" * 5000, "is no UTF-8 text: 100% of its bytes are control characters"),
        (RUSSIAN.encode("utf-16"), "is UTF-16LE, not UTF-8; convert it .iconv -f UTF-16LE -t UTF-8"),
        (RUSSIAN.encode("utf-16-le"), "is UTF-16LE, not UTF-8"),
        (b"\xfe\xff" + RUSSIAN.encode("utf-16-be"), "is UTF-16BE, not UTF-8"),
        (ROWS.decode().encode("utf-16-be"), "is UTF-16BE, not UTF-8"),
        (ROWS.decode().encode("utf-32"), "is UTF-32LE, not UTF-8"),
        (ROWS.decode().encode("utf-32-be"), "is UTF-32BE, not UTF-8"),
        (CHINESE.encode("utf-16-le"), "is no UTF-8 text: .*% of its bytes"),
        (CHINESE.encode("gb18030"), "is no UTF-8 text: .*% of its bytes"),
        (JAPANESE.encode("shift-jis"), "is no UTF-8 text: .*% of its bytes"),
        (JAPANESE.encode("euc-jp"), "is no UTF-8 text: .*% of its bytes"),
        (RUSSIAN.encode("cp1251"), "is no UTF-8 text: .*Windows-1251.* convert it with iconv"),
        (RUSSIAN.encode("koi8-r"), "is no UTF-8 text: .*% of its bytes"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a", "a.bin", "a.jsonl", "a.txt.gz"])
def test_what_is_no_text_is_an_error_that_names_it_whatever_its_suffix(tmp_path, name, content, what):
    if name == "a.jsonl" and b"\0" not in content and "UTF-8 text" in what:
        text = content  # a line that is JSON but for its encoding
        content = b'{"text": "' + text + b'"}\n'
    (tmp_path / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    with pytest.raises(UserError, match=rf"{name}: {what}|a\.jsonl, line \d+: not JSON"):
        everything(source(tmp_path / name))


def test_text_of_any_script_passes_and_some_bad_bytes_are_replaced_and_counted(tmp_path):
    for number, text in enumerate((RUSSIAN, CHINESE, JAPANESE, "\x1b[1mbold\x1b[0m\b\f\n", "a\0b", "")):
        (tmp_path / f"{number}.txt").write_text(text)
    (tmp_path / "latin.txt").write_bytes(("Voilà déjà l'été. " * 50).encode("latin-1"))
    found, tally = everything(source(tmp_path))
    assert [text for _, text in found[:5]] == [RUSSIAN, CHINESE, JAPANESE, "\x1b[1mbold\x1b[0m\b\f\n", "a\0b"]
    assert tally == {
        "documents with invalid UTF-8, replaced by U+FFFD": 1,
        "empty documents skipped": 1,
    }


def test_one_row_of_garbage_among_many_is_replaced_a_file_of_it_is_refused(tmp_path):
    garbage = b'{"text": "' + RUSSIAN.encode("koi8-r") + b'"}\n'
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts(200)).encode()
    (tmp_path / "a.jsonl").write_bytes(garbage + rows)
    found, tally = everything(source(tmp_path))
    assert len(found) == 201
    assert tally == {"documents with invalid UTF-8, replaced by U+FFFD": 1}
    (tmp_path / "a.jsonl").write_bytes(garbage * 2000)
    chosen = source(tmp_path)
    with pytest.raises(UserError, match="is no UTF-8 text"):
        everything(chosen)


def test_every_file_of_the_standard_library_is_text():
    assert everything(source("", name="python-stdlib", kind="python-stdlib"))[0]
