"""Small files of one enormous line, document or cell are refused in one line, in memory that does not grow with them.

Before, readers held a line whole: a .zst of 96 kB with one line of 3 GB ended the build, and what else ran on the
machine.
"""

import bz2
import gzip
import json
import lzma
import os
import re
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from data_fixtures import jsonl, settings, texts
from test_data_sources import everything, source

from tst_titan.collect.metrics import read_metrics
from tst_titan.data.build import build_corpus
from tst_titan.data.parquet_pages import pages_of
from tst_titan.data.tokenizers import load_tokenizer
from tst_titan.data.validation import check_held_out_text
from tst_titan.errors import UserError
from tst_titan.evaluate.offline import write_offline_tasks
from tst_titan.files import read_json, write_json
from tst_titan.study.yaml_file import read_yaml

BOUND = 8 * 2**20
LINE = 2**30
# Reads each file as a builder's worker does, and says what was said and by how much its memory has grown until then.
READ = """\
import json, sys
from collections import Counter
from tst_titan.data.sources import list_source, read_documents
from tst_titan.errors import UserError
from tst_titan.plan.settings import SourceSettings

def most():
    # Not getrusage's, which begins with that of the process that started this one.
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024

before, said, grown = most(), [], []
for path in sys.argv[1:]:
    chosen = SourceSettings(name="local", kind="files", path=path)
    try:
        for _ in read_documents(chosen, list_source(chosen).groups[0][0], Counter()):
            pass
        said.append("")
    except UserError as error:
        said.append(str(error))
    grown.append(most() - before)
print(json.dumps([said, grown]))
"""


def write_bombs(folder):
    """Files of one line of 1 GiB each, but for their beginnings."""
    piece, begin = b"a" * 2**20, b'{"text": "short"}\n{"text": "'
    packed = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    for suffix, compress in packed.items():
        # Members of one stream: what is unpacked is the same.
        with (folder / f"a.jsonl.{suffix}").open("wb") as file:
            file.write(compress(begin))
            member = compress(piece)
            file.writelines(member for _ in range(LINE // len(piece)))
    for name in ("a.jsonl.zst", "a.txt.zst"):
        # One frame, of 33 kB.
        compressor = zstandard.ZstdCompressor().compressobj()
        with (folder / name).open("wb") as file:
            file.write(compressor.compress(begin))
            file.writelines(compressor.compress(piece) for _ in range(LINE // len(piece)))
            file.write(compressor.flush())
    with (folder / "a.jsonl").open("wb") as file:
        file.write(begin)
        file.truncate(LINE)
    # In Parquet a cell has at most 2 GB: one alone; one of several, which lie in one page; and rows that repeat one
    # cell.
    cell = "a" * (LINE // 8)
    pq.write_table(pa.table({"text": [cell]}), folder / "cell.parquet", compression="zstd")
    pq.write_table(pa.table({"text": ["short", cell]}), folder / "page.parquet", compression="zstd")
    pq.write_table(
        pa.table({"text": [*["short"] * 1000, *[cell[: 4 * BOUND]] * 2]}),
        folder / "row.parquet", compression="zstd", use_dictionary=False,
    )  # fmt: skip
    pq.write_table(
        pa.table({"text": pa.DictionaryArray.from_arrays([0] * 300, [cell[: BOUND // 2]])}).cast(
            pa.schema([("text", pa.dictionary(pa.int32(), pa.string()))])
        ),
        folder / "repeated.parquet", compression="zstd", store_schema=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """What reading each of the files says, and the growth of the memory until then, in bytes."""
    folder = tmp_path_factory.mktemp("bombs")
    write_bombs(folder)
    paths = sorted(folder.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", READ, *map(str, paths)],
        env=os.environ | {"TST_TITAN_MAX_DOCUMENT_BYTES": str(BOUND)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    said, grown = json.loads(done.stdout)
    names = [path.name for path in paths]
    return dict(zip(names, said, strict=True)), dict(zip(names, grown, strict=True))


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_a_line_without_end_is_one_message_with_its_place_and_the_setting(read, suffix):
    assert re.fullmatch(
        rf".*/a\.jsonl{suffix}, line 2: more than 8,388,608 bytes, the most that one line or document may have, unpacked; make it smaller or "  # noqa: E501
        "leave it out, or, to read it, set the environment's TST_TITAN_MAX_DOCUMENT_BYTES",
        read[0][f"a.jsonl{suffix}"],
    )


def test_a_text_file_is_one_document_and_bounded_like_one(read):
    assert re.search(r"a\.txt\.zst: more than 8,388,608 bytes", read[0]["a.txt.zst"])


def test_a_cell_of_a_parquet_file_is_bounded_before_it_is_unpacked(read):
    assert re.search(r"/cell\.parquet, column 'text': more than 8,388,608 bytes", read[0]["cell.parquet"])
    assert re.search(
        r"/page\.parquet: column 'text' has a page of 134,\d+,\d+ bytes, unpacked, more than 16 times the 8,388,608 that one "  # noqa: E501
        r"document may have; .* set the environment's TST_TITAN_MAX_DOCUMENT_BYTES$",
        read[0]["page.parquet"],
    )
    assert re.search(r"/row\.parquet, row 1000: more than 8,388,608 bytes", read[0]["row.parquet"])


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"use_dictionary": False, "data_page_version": "2.0"},
        {"row_group_size": 300, "write_page_checksum": True, "write_page_index": True, "compression": "none"},
        {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}, "compression": "gzip"},
    ],
)  # fmt: skip
def test_pages_of_every_kind_are_found_and_read_alike(tmp_path, written):
    column = [None if n % 7 == 0 else f"document {n % 900} " * 300 for n in range(2000)]
    pq.write_table(
        pa.table({"text": column, "deep": [{"n": [n]} for n in range(2000)]}),
        tmp_path / "a.parquet",
        **written,
    )
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    chunks = [metadata.row_group(group).column(0) for group in range(metadata.num_row_groups)]
    pages = list(pages_of(tmp_path / "a.parquet", metadata, "text"))
    assert sum(page.num_values for page in pages if not page.is_dictionary) == len(column)
    in_pages, in_chunks = sum(page.unpacked for page in pages), sum(c.total_uncompressed_size for c in chunks)
    # The headers of the pages, with their statistics, are what is left.
    assert 0.98 * in_chunks < in_pages < in_chunks
    found, _ = everything(source(tmp_path / "a.parquet"))
    assert dict(found) == {f"a.parquet:{n}": text for n, text in enumerate(column) if text}


def test_rows_that_repeat_one_cell_are_read_a_few_at_a_time(read):
    """300 rows of 4 MiB, 1.2 GB, are a file of some kilobytes: its rows are within the bound, and are read."""
    assert read[0]["repeated.parquet"] == ""


def test_memory_does_not_grow_with_what_is_unpacked(read):
    """Of files of a gigabyte each, unpacked, with a bound of 8 MiB; a Parquet page may have sixteen times that, and one
    has eight."""
    assert read[1]["a.txt.zst"] < 64 * 2**20
    assert max(read[1].values()) < 384 * 2**20


def test_a_corpus_with_a_bomb_among_its_files_names_it_and_one_that_raises_the_bound_is_the_same_corpus(
    tmp_path, monkeypatch
):
    folder = tmp_path / "in"
    jsonl(folder / "a.jsonl", texts(150))
    jsonl(folder / "b.jsonl", [*texts(5, seed=1), " ".join(texts(40, seed=2))])
    chosen = settings(folder)
    expected = build_corpus(chosen, tmp_path / "free", num_workers=1)
    monkeypatch.setenv("TST_TITAN_MAX_DOCUMENT_BYTES", "10000")
    with pytest.raises(UserError, match=r"b\.jsonl, line 6: more than 10,000 bytes") as caught:
        build_corpus(chosen, tmp_path / "bounded", num_workers=1)
    assert str(caught.value).count("\n") == 0
    monkeypatch.setenv("TST_TITAN_MAX_DOCUMENT_BYTES", "20000")
    assert build_corpus(chosen, tmp_path / "bounded", num_workers=1) == expected


def test_a_bound_that_is_no_number_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("text")
    monkeypatch.setenv("TST_TITAN_MAX_DOCUMENT_BYTES", "64M")
    with pytest.raises(UserError, match="TST_TITAN_MAX_DOCUMENT_BYTES = '64M': must be a whole number from 1"):
        everything(source(tmp_path))


# Files of settings and results, which whoever shares a folder may have written.


@pytest.fixture
def large(tmp_path):
    """Makes a file of a gigabyte that takes no room on the disk."""

    def make(name, begin="{"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(begin)
        os.truncate(path, LINE)
        return path

    return make


def test_no_file_of_settings_or_results_is_read_whole_without_a_bound(large, monkeypatch):
    with pytest.raises(
        UserError,
        match=r"^\S*/done\.json: more than 134,217,728 bytes, the most that a file of settings or results may have; make it "  # noqa: E501
        "smaller or leave it out, or, to read it, set the environment's TST_TITAN_MAX_RECORD_BYTES$",
    ):
        read_json(large("done.json"))
    with pytest.raises(UserError, match=r"^\S*/study\.yaml: more than 16,777,216 bytes, .*TST_TITAN_MAX_YAML_BYTES$"):
        read_yaml(large("study.yaml", "steps: "))
    with pytest.raises(UserError, match=r"/tokenizer\.json: more than 134,217,728 bytes"):
        load_tokenizer(large("tokenizer.json").parent)
    monkeypatch.setenv("TST_TITAN_MAX_METRICS_BYTES", "1000000")
    path = large("metrics.jsonl", '{"step": 1, "loss": 2.0}\n')
    found = read_metrics(path, first_step=0, last_step=1, finished=True)
    assert len(found.training["step"]) == 0
    (notice,) = found.notices
    assert "more than 1,000,000 bytes, the most that a segment's metrics may have" in str(notice)


def test_one_enormous_line_among_held_out_texts_is_named(large, corpus_dir, monkeypatch):
    monkeypatch.setenv("TST_TITAN_MAX_RECORD_BYTES", "1000000")
    folder = large("corpus/validation.jsonl", '{"id": "a", "text": "short"}\n').parent
    message = r"validation\.jsonl, line 2: more than 1,000,000 bytes"
    with pytest.raises(UserError, match=message):
        write_offline_tasks(folder)
    # A corpus of an earlier version, without a digest of the text.
    manifest = read_json(corpus_dir / "corpus.json")
    manifest.pop("seal")
    manifest["validation"].pop("text_digest", None)
    shutil.copytree(corpus_dir, folder, dirs_exist_ok=True, ignore=lambda *_: ["validation.jsonl", "corpus.json"])
    write_json(folder / "corpus.json", manifest)
    with pytest.raises(UserError, match=message):
        check_held_out_text(folder)
