"""A shard is read in place, and one that was cut short, changed or made for something else is refused by name."""

import json

import numpy as np
import pyarrow as pa
import pytest
from data_fixtures import numbered_corpus

from tst_titan.data.manifest import open_corpus, verify_corpus
from tst_titan.data.shards import Columns, id_dtype, open_shard, select_documents, verify_shard, write_shard
from tst_titan.data.stream import TokenStream
from tst_titan.data.tokenizers import train_bpe
from tst_titan.errors import UserError

ABOUT = {"corpus_id": "c", "source": "s", "split": "train", "tokenizer_digest": "d", "vocab_size": 5000}


def small_columns() -> Columns:
    return Columns(
        np.arange(4000, dtype=np.uint16),
        np.array([0, 1000, 1001, 4000]),
        np.array([5, 6, 2**64 - 1], dtype=np.uint64),
        np.array([3000, 3, 9000]),
    )


def test_a_shard_reads_back_in_place_from_one_record_batch(tmp_path):
    path = tmp_path / "a.arrow"
    header = write_shard(path, small_columns(), **ABOUT)
    shard = open_shard(path)
    assert shard.header == header
    assert (header.num_tokens, header.num_documents, header.num_bytes) == (4000, 3, 12_003)
    for read, written in zip(
        (shard.ids, shard.document_offsets, shard.document_hashes, shard.document_bytes),
        small_columns().as_tuple(),
        strict=True,
    ):
        assert np.array_equal(read, written)
        assert read.dtype == written.dtype
    assert not shard.ids.flags.owndata
    assert not shard.ids.flags.writeable
    with pa.memory_map(str(path)) as file:
        assert pa.ipc.open_file(file).num_record_batches == 1
    assert verify_shard(path) == header


def test_equal_content_gives_equal_bytes(tmp_path):
    for name in "ab":
        write_shard(tmp_path / name, small_columns(), **ABOUT)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_ids_are_two_bytes_where_the_vocabulary_allows():
    assert [id_dtype(size).itemsize for size in (300, 2**16, 2**16 + 1, 151_936)] == [2, 2, 4, 4]


@pytest.mark.parametrize("kept_bytes", [0, 7, 500, 6000, -1])
def test_a_shard_cut_short_is_refused_when_opened(tmp_path, kept_bytes):
    path = tmp_path / "a.arrow"
    write_shard(path, small_columns(), **ABOUT)
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(UserError, match=r"a\.arrow: not a whole shard, cut short or damaged .* build it again"):
        open_shard(path)


def test_a_changed_byte_is_found_by_the_checksum(tmp_path):
    path = tmp_path / "a.arrow"
    write_shard(path, small_columns(), **ABOUT)
    data = bytearray(path.read_bytes())
    data[data.index(np.arange(100, 200, dtype=np.uint16).tobytes())] ^= 1
    path.write_bytes(data)
    open_shard(path)
    with pytest.raises(UserError, match=r"a\.arrow: wrong checksum"):
        verify_shard(path)


def test_an_id_beyond_the_vocabulary_is_found(tmp_path):
    path = tmp_path / "a.arrow"
    write_shard(path, small_columns(), **(ABOUT | {"vocab_size": 3999}))
    with pytest.raises(UserError, match="holds id 3999, beyond the vocabulary of 3999"):
        verify_shard(path)


def test_other_files_are_no_shards(tmp_path):
    with pytest.raises(UserError, match=r"none\.arrow: no such shard"):
        open_shard(tmp_path / "none.arrow")
    table = pa.table({"ids": [1, 2]})
    with pa.ipc.new_file(str(tmp_path / "other.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(UserError, match=r"other\.arrow: .*no shard header"):
        open_shard(tmp_path / "other.arrow")


def test_selected_documents_keep_their_order_and_their_tokens(tmp_path):
    write_shard(tmp_path / "a", small_columns(), **ABOUT)
    shard = open_shard(tmp_path / "a")
    columns = select_documents([shard, shard], [np.array([True, False, False]), np.array([False, True, True])])
    assert np.array_equal(columns.ids, np.arange(4000))
    assert columns.document_offsets.tolist() == [0, 1000, 1001, 4000]
    assert columns.document_bytes.tolist() == [3000, 3, 9000]


def test_a_corpus_refuses_shards_and_tokenizers_that_are_not_its_own(tmp_path):
    folder = numbered_corpus(tmp_path / "corpus", {"a": 2000})
    assert verify_corpus(folder) == 2997
    assert verify_corpus(folder, largest=100) == 0

    other = numbered_corpus(tmp_path / "other", {"a": 3000}, shard_tokens=1500)
    (folder / "train/a/00001.arrow").write_bytes((other / "train/a/00000.arrow").read_bytes())
    with pytest.raises(UserError, match=r"00001\.arrow: its checksum is .* corpus\.json says"):
        TokenStream(folder, seed=0, num_lanes=1, block_tokens=2000).windows(0, 2000)

    train_bpe(folder / "tokenizer", ["other text, other text, other merges"], 280)
    with pytest.raises(UserError, match="another tokenizer than the one that made the shards"):
        open_corpus(folder)


def test_a_shard_made_with_another_tokenizer_is_refused(tmp_path):
    folder = numbered_corpus(tmp_path, {"a": 2000})
    manifest = json.loads((folder / "corpus.json").read_text())
    columns = Columns(np.arange(1000, dtype=np.uint32), np.array([0, 1000]), np.zeros(1, np.uint64), np.array([1000]))
    write_shard(folder / "train/a/00000.arrow", columns, **(ABOUT | {"corpus_id": manifest["corpus_id"]}))
    with pytest.raises(UserError, match=r"00000\.arrow: its tokenizer_digest is d"):
        verify_corpus(folder, largest=0)


def test_a_folder_without_a_manifest_is_no_corpus(tmp_path):
    with pytest.raises(UserError, match="no whole corpus there"):
        open_corpus(tmp_path)
    folder = numbered_corpus(tmp_path / "c", {"a": 100})
    text = (folder / "corpus.json").read_text()
    (folder / "corpus.json").write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match=r"corpus\.json: not a whole JSON file"):
        open_corpus(folder)
