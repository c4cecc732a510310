"""A corpus that was good stays what it is: its id, the order of its files and every token id, whatever else is
mended."""

import gzip
import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from data_fixtures import jsonl, settings, texts

from tst_titan.data import sources
from tst_titan.data.build import build_corpus
from tst_titan.data.shards import open_shard

# By path and file_pattern: the corpus's id, and the SHA-256 of its training and held-out token ids in their order.
LASTING = {
    ("in", ""): ("local-bpe300-5b057424", "814b72919575bc9d40a5dc14bc4aca2a8a141b8da4fa40eadea6fe1e9df662f9"),
    ("in/*", ""): (
        "local-bpe300-3540de81",
        "cfa69ba321eec058b167dcadf5bce76410f540c69e0f80882fc2da5b72abe91d",
    ),
    ("in/**", ""): (
        "local-bpe300-714b80dd",
        "e083f0264cff05fb590d0f9498cd4ee33dccdfd215629f575239433cce1ddb65",
    ),
    ("in/*/deeper/*.jsonl", ""): (
        "local-bpe300-3a508239",
        "0eba0f23b47a5c39268f2944709b78f3c3927728fdbdb2e29f72e19b6544ff9e",
    ),
    ("in", "**/*.jsonl*"): (
        "local-bpe300-f546587c",
        "4d01cf9a53222f583670e64e69bf08bf7111726cbea48df926d9646b42114690",
    ),
    ("in", "python/*.py"): (
        "local-bpe300-a3853c66",
        "9eb134a8c1e33bd53e0c5116f8068b973180027e237d9b5b59a7bf420e377188",
    ),
    ("in/big.jsonl", ""): (
        "local-bpe300-293350fa",
        "3b214fcec1b0896109b29d3ed6591b546272e7f59e5a22f42070c10f957bd3c5",
    ),
}


@pytest.mark.parametrize(("path", "pattern"), LASTING)
def test_ids_and_tokens_of_a_good_corpus_are_those_of_the_first_version(tmp_path, monkeypatch, path, pattern):
    monkeypatch.setattr(sources, "_SMALLEST_GROUP", 20_000)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "in"
    documents = texts(500)
    for number in range(6):
        jsonl(folder / f"{number}.jsonl", documents[number:100:6])
        jsonl(folder / f"a/deeper/{number}.jsonl", documents[100 + number : 200 : 6])
    jsonl(folder / "big.jsonl", documents[200:300])
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress((folder / "big.jsonl").read_bytes() + b"\n\n"))
    (folder / "packed.txt.zst").write_bytes(zstandard.compress("\n".join(documents[300:340]).encode()))
    (folder / "latin.txt").write_bytes(("déjà vu. " * 40).encode("latin-1"))
    (folder / "marked.md").write_bytes(b"\xef\xbb\xbfa byte order mark\x0c and a form feed")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "a/nothing.jsonl").write_bytes(b"")
    pq.write_table(pa.table({"id": [1, 2, 3], "text": [documents[400], None, documents[401]]}), folder / "rows.parquet")
    (folder / "python").mkdir()
    for number in range(410, 500):
        (folder / f"python/{number}.py").write_text(documents[number])
    chosen = settings(path, source={"file_pattern": pattern}, validation_tokens=10)
    manifest = build_corpus(chosen, tmp_path / "corpus", num_workers=1)
    digest = hashlib.sha256()
    for part in [*manifest["sources"], manifest["validation"]]:
        for entry in part["shards"]:
            digest.update(open_shard(tmp_path / "corpus" / entry["file"]).ids.tobytes())
    found = (manifest["corpus_id"], digest.hexdigest())
    assert found == LASTING[path, pattern]
