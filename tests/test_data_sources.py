"""Documents of local files and of the standard library: every format, and every way a file can be bad."""

import gzip
import json
import lzma
import sys
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tst_titan.data import documents
from tst_titan.data.sources import list_source, read_documents
from tst_titan.errors import UserError
from tst_titan.plan.settings import SourceSettings


def source(path, **changes):
    return SourceSettings(**({"name": "local", "kind": "files", "path": str(path)} | changes))


def everything(settings):
    tally = Counter()
    listing = list_source(settings)
    found = [d for group in listing.groups for entry in group for d in read_documents(settings, entry, tally)]
    return sorted((d.id, d.text) for d in found), dict(tally)


def test_text_jsonl_and_parquet_plain_and_compressed(tmp_path):
    rows = b'{"text": "one"}\n\n{"text": "two", "x": 1}\n'
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("plain é")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"packed"))
    (tmp_path / "c.md.zst").write_bytes(zstandard.compress(b"first frame, ") + zstandard.compress(b"second frame"))
    (tmp_path / "deep/d.jsonl").write_bytes(rows)
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress(rows))
    (tmp_path / "f.jsonl.zst").write_bytes(zstandard.compress(rows))
    pq.write_table(pa.table({"id": [1, 2, 3], "text": ["row", None, "last"]}), tmp_path / "g.parquet")
    (tmp_path / "h.bin").write_bytes(b"not text")
    found, tally = everything(source(tmp_path))
    assert found == [
        ("a.txt", "plain é"), ("b.txt.gz", "packed"), ("c.md.zst", "first frame, second frame"),
        ("deep/d.jsonl:1", "one"), ("deep/d.jsonl:3", "two"),
        ("e.jsonl.gz:1", "one"), ("e.jsonl.gz:3", "two"), ("f.jsonl.zst:1", "one"), ("f.jsonl.zst:3", "two"),
        ("g.parquet:0", "row"), ("g.parquet:2", "last"),
    ]  # fmt: skip
    assert tally == {"empty documents skipped": 1}
    assert list_source(source(tmp_path)).notes == ("local: left out, of other kinds: h.bin",)


def test_a_file_a_folder_a_pattern(tmp_path):
    for name in ("x/a.txt", "x/b.log", "y/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [text for _, text in everything(source(tmp_path / "x/b.log"))[0]] == ["x/b.log"]
    assert [text for _, text in everything(source(tmp_path / "*/*.txt"))[0]] == ["x/a.txt", "y/c.txt"]
    assert [text for _, text in everything(source(tmp_path, file_pattern="x/*"))[0]] == ["x/a.txt", "x/b.log"]
    assert [identity for identity, _ in everything(source(tmp_path / "*/*.txt"))[0]] == ["x/a.txt", "y/c.txt"]


def test_zstandard_with_a_long_window_is_read_where_the_environment_allows_the_memory(tmp_path, monkeypatch):
    """Two gigabytes of every worker's, for a file of any size: asked for, as the zstd program has it."""
    long = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    stream = zstandard.ZstdCompressor(compression_params=long).compressobj()
    (tmp_path / "a.txt.zst").write_bytes(stream.compress(b"far back") + stream.flush())
    with pytest.raises(
        UserError,
        match=r"a\.txt\.zst: asks for a window of more than 134,217,728 bytes .* set the environment's TST_TITAN_MAX_WINDOW_BYTES",  # noqa: E501
    ):
        everything(source(tmp_path))
    monkeypatch.setenv("TST_TITAN_MAX_WINDOW_BYTES", str(2**31))
    assert everything(source(tmp_path))[0] == [("a.txt.zst", "far back")]


def test_xz_with_a_large_window_is_read_where_the_environment_allows_the_memory(tmp_path, monkeypatch):
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**28, "preset": 1}]
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(b"far back", filters=filters))
    with pytest.raises(UserError, match=r"a\.txt\.xz: asks for a window of more than 134,217,728 bytes"):
        everything(source(tmp_path))
    monkeypatch.setenv("TST_TITAN_MAX_WINDOW_BYTES", str(2**28))
    assert everything(source(tmp_path))[0] == [("a.txt.xz", "far back")]


def test_xz_streams_one_after_another_with_padding_are_one_text(tmp_path):
    parts = lzma.compress(b"first, ") + bytes(8) + lzma.compress(b"second") + bytes(4)
    (tmp_path / "a.txt.xz").write_bytes(parts)
    assert everything(source(tmp_path))[0] == [("a.txt.xz", "first, second")]


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
def test_a_compressed_file_without_a_byte_is_a_download_that_broke_off(tmp_path, suffix):
    (tmp_path / f"a.jsonl{suffix}").write_bytes(b"")
    with pytest.raises(
        UserError, match=rf"a\.jsonl\{suffix}: damaged compressed file \(it is empty, as after a download"
    ):
        everything(source(tmp_path))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet", "a.txt.gz", "a.txt.zst", "a.md.bz2", "a.txt.xz"])
def test_a_git_lfs_pointer_is_no_text(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")
    with pytest.raises(UserError, match=r"is a Git LFS pointer, not the file .* `git lfs pull`"):
        everything(source(tmp_path))


def test_invalid_utf8_is_replaced_and_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good \xff bad")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "caf\xe9"}\n{"text": "lone \\ud800 surrogate"}\n{"text": "fine"}\n')
    found, tally = everything(source(tmp_path))
    assert [text for _, text in found] == ["good � bad", "caf�", "lone � surrogate", "fine"]
    assert tally == {"documents with invalid UTF-8, replaced by U+FFFD": 3}


def test_invalid_utf8_in_parquet_is_replaced_and_counted(tmp_path):
    binary = pa.array([b"good", b"b\xffd"], pa.binary())
    bad = pa.StringArray.from_buffers(2, *binary.buffers()[1:])
    pq.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
    found, tally = everything(source(tmp_path))
    assert [text for _, text in found] == ["good", "b�d"]
    assert tally == {"documents with invalid UTF-8, replaced by U+FFFD": 1}


def test_an_enormous_document_is_cut_at_line_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LONGEST_DOCUMENT", 1000)
    text = "".join(f"line {number}\n" for number in range(500)) + "x" * 2500
    (tmp_path / "a.txt").write_text(text)
    (entry,) = list_source(source(tmp_path)).groups[0]
    tally = Counter()
    found = list(read_documents(source(tmp_path), entry, tally))
    assert "".join(document.text for document in found) == text
    assert all(len(document.text) <= 1000 for document in found)
    assert all(document.text.endswith("\n") for document in found[:-4])
    assert [document.continues for document in found] == [False] + [True] * (len(found) - 1)
    assert list(tally.values()) == [1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": ', r"a\.jsonl, line 2: not JSON"),
        (
            "a.jsonl",
            b'{"content": "x", "id": 1}\n',
            r"a\.jsonl, line 1: no column 'text' \(there: content, id\); set `text_column`",
        ),
        ("a.jsonl", b'["x"]\n', r"a\.jsonl, line 1: a JSON array; .*jq -c '\.\[\]' FILE"),
        ("a.json", b'[{"text": "x"}, {"text": "y"}]', r"a\.json, line 1: a JSON array; write each document"),
        (
            "a.json",
            b'[\n {"text": "x"}\n]\n',
            r"a\.json, line 1: JSON over several lines; write each document",
        ),
        ("a.json", b'{\n "text": "x"\n}\n', r"a\.json, line 1: JSON over several lines; write each document"),
        ("a.jsonl", b'"x"\n', r"a\.jsonl, line 1: a JSON str, not an object"),
        ("a.jsonl", b'{"text": 5}\n', r"a\.jsonl, line 1: column 'text' is int, not text"),
        ("a.jsonl", b'{"text": 0}\n', r"a\.jsonl, line 1: column 'text' is int, not text"),
        ("a.jsonl", b'{"text": false}\n', r"a\.jsonl, line 1: column 'text' is bool, not text"),
        ("a.jsonl", b'{"text": []}\n', r"a\.jsonl, line 1: column 'text' is list, not text"),
        ("a.jsonl", b'{"text": {}}\n', r"a\.jsonl, line 1: column 'text' is dict, not text"),
        (
            "a.jsonl",
            b'{"text": ' + b"9" * 5000 + b"}\n",
            r"a\.jsonl, line 1: column 'text' is int, not text",
        ),
        (
            "a.jsonl",
            b'{"text": "x", "y": ' + b"[" * 10**5 + b"]" * 10**5 + b"}\n",
            r"a\.jsonl, line 1: JSON nested too deeply",
        ),
        (
            "a.txt.gz",
            gzip.compress(b"some text" * 1000, mtime=0)[:40],
            r"a\.txt\.gz: damaged compressed file",
        ),
        ("a.txt.gz", b"no gzip", r"a\.txt\.gz: damaged compressed file"),
        (
            "a.txt.zst",
            zstandard.compress(bytes(range(256)) * 99)[:90],
            r"a\.txt\.zst: damaged compressed file",
        ),
        ("a.txt.zst", b"no zstandard", r"a\.txt\.zst: damaged compressed file"),
        ("a.parquet", b"PAR1 no parquet", r"a\.parquet: damaged Parquet file"),
    ],
)
def test_a_bad_file_is_named_with_its_line_and_column(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        everything(source(tmp_path))


def test_a_missing_or_wrong_parquet_column_is_named(tmp_path):
    pq.write_table(pa.table({"id": [1], "body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: no column 'text' \(there: id, body\)"):
        everything(source(tmp_path))
    with pytest.raises(UserError, match=r"a\.parquet: column 'id' is int64, not text"):
        everything(source(tmp_path, text_column="id"))
    assert everything(source(tmp_path, text_column="body"))[0] == [("a.parquet:0", "x")]


def test_a_number_of_any_length_beside_the_text_is_no_matter(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": ' + "9" * 5000 + ', "text": "x"}\n{"text": null}\n')
    assert everything(source(tmp_path)) == ([("a.jsonl:1", "x")], {"empty documents skipped": 1})


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["é", None, "last"]).dictionary_encode(),
        pa.array(["é", None, "last"], pa.string_view()),
        pa.array(["é", None, "last"], pa.large_string()),
        pa.array(["é".encode(), None, b"last"], pa.binary()),
        pa.array(["é".encode(), None, b"last"], pa.large_binary()),
        pa.array(["é".encode(), None, b"last"], pa.binary_view()),
    ],
    ids=lambda values: str(values.type),
)
def test_text_is_read_from_every_parquet_type_that_holds_it(tmp_path, values):
    pq.write_table(pa.table({"text": values, "id": [1, 2, 3]}), tmp_path / "a.parquet")
    found, tally = everything(source(tmp_path))
    assert found == [("a.parquet:0", "é"), ("a.parquet:2", "last")]
    assert tally == {"empty documents skipped": 1}


def test_a_parquet_column_without_a_value_is_empty_texts_and_one_of_pictures_no_text(tmp_path):
    pq.write_table(pa.table({"text": pa.nulls(3)}), tmp_path / "a.parquet")
    assert everything(source(tmp_path)) == ([], {"empty documents skipped": 3})
    pq.write_table(pa.table({"text": pa.array([b"\x89PNG" + bytes(range(256))])}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: is no UTF-8 text"):
        everything(source(tmp_path))


def test_two_parquet_columns_of_one_name_are_refused_where_they_are_the_text(tmp_path):
    columns = [pa.array(["x"]), pa.array(["y"]), pa.array([1]), pa.array([2])]
    pq.write_table(pa.Table.from_arrays(columns, ["text", "text", "id", "id"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: 2 columns are named 'text'"):
        everything(source(tmp_path))
    pq.write_table(pa.Table.from_arrays(columns[1:], ["text", "id", "id"]), tmp_path / "a.parquet")
    assert everything(source(tmp_path))[0] == [("a.parquet:0", "y")]


def test_a_missing_or_empty_source_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"source local: path '.*nowhere' matches no text file"):
        list_source(source(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="matches no text file"):
        list_source(source(tmp_path))
    with pytest.raises(UserError, match=r"file_pattern '\*\.txt' matches no"):
        list_source(source(tmp_path, file_pattern="*.txt"))


def test_groups_are_stable_when_a_file_is_removed(tmp_path):
    for number in range(64):
        (tmp_path / f"{number:02d}.txt").write_bytes(b"x" * 2**17)
    before = list_source(source(tmp_path)).groups
    (tmp_path / "17.txt").unlink()
    after = list_source(source(tmp_path)).groups
    assert len(before) == len(after) == 4
    assert sum(first != second for first, second in zip(before, after, strict=True)) == 1


def test_the_standard_library_is_sources_and_documentation_without_tests_and_foreign_code():
    listing = list_source(SourceSettings(name="python-stdlib", kind="python-stdlib"))
    names = [entry.name for group in listing.groups for entry in group]
    assert {"argparse.py", "pydoc_data/topics.py", "asyncio/base_events.py", "encodings/__init__.py"} <= set(names)
    assert len(names) == len(set(names))
    parts = [set(name.split("/")) for name in names]
    assert not any(p & {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"} for p in parts)
    assert all(name.split("/")[0].removesuffix(".py") in sys.stdlib_module_names for name in names)
    assert not [name for name in names if name.startswith("encodings/cp")]
    assert listing.num_bytes > 6_000_000
    assert any("tables and codecs left out" in note for note in listing.notes)
    assert listing.origin["python"] == ".".join(map(str, sys.version_info[:3])) or sys.version_info[3] != "final"
    assert listing == list_source(SourceSettings(name="python-stdlib", kind="python-stdlib"))


def test_the_language_reference_is_a_document_a_topic():
    settings = SourceSettings(name="python-stdlib", kind="python-stdlib")
    entries = [entry for group in list_source(settings).groups for entry in group]
    (topics,) = [entry for entry in entries if entry.name == "pydoc_data/topics.py"]
    found = {d.id.partition(":")[2]: d.text for d in read_documents(settings, topics, Counter())}
    assert found == __import__("pydoc_data.topics").topics.topics
    assert len(found) > 50


def test_ids_of_jsonl_rows_are_their_lines(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": str(n)}) for n in range(3)))
    assert [identity for identity, _ in everything(source(tmp_path / "a.jsonl"))[0]] == [
        "a.jsonl:1",
        "a.jsonl:2",
        "a.jsonl:3",
    ]
