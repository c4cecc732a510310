"""Hub datasets in streaming mode: a dataset folder on disk, and a server that speaks the hub's protocol and fails."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_fixtures import settings, texts
from data_hub_server import COMMIT, HubServer

from tst_titan.data.build import build_corpus
from tst_titan.data.corpora import list_source, read_documents
from tst_titan.data.documents import document_hash
from tst_titan.data.held_out import ONE_IN
from tst_titan.errors import UserError
from tst_titan.plan.settings import SourceSettings

HUB = {"name": "hub", "kind": "hub"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_a_dataset_on_disk_is_streamed_by_its_parts(tmp_path):
    documents = texts(150)
    (tmp_path / "set/data").mkdir(parents=True)
    for part in range(3):
        table = pa.table({"body": documents[part::3], "n": list(range(50))})
        pq.write_table(table, tmp_path / f"set/data/train-0000{part}-of-00003.parquet")
    source = HUB | {"path": str(tmp_path / "set"), "text_column": "body"}
    manifest = build_corpus(settings("", source=source), tmp_path / "corpus", num_workers=1)
    assert manifest["sources"][0]["num_documents"] == sum(
        document_hash(text) >= 2**64 // ONE_IN for text in documents
    )
    assert manifest["sources"][0]["origin"]["num_parts"] == 3

    with pytest.raises(
        UserError, match=r"row 0: no text column 'text' \(there: body, n\); set `text_column`"
    ):
        build_corpus(settings("", source=source | {"text_column": "text"}), tmp_path / "other", num_workers=1)


def test_a_damaged_part_is_named(tmp_path):
    pq.write_table(pa.table({"text": texts(50)}), tmp_path / "train.parquet")
    data = bytearray((tmp_path / "train.parquet").read_bytes())
    data[10:300] = bytes(290)
    (tmp_path / "train.parquet").write_bytes(data)
    source = SourceSettings(**HUB, path=str(tmp_path))
    with pytest.raises(UserError, match=r"part 0 of 1 cannot be read|cannot be opened"):
        [list(read_documents(source, entry, Counter())) for entry in list_source(source).groups[0]]


PROGRAM = """
import json, sys
from collections import Counter
sys.path.insert(0, sys.argv[1])
from tst_titan.data.corpora import list_source, read_documents
from tst_titan.errors import UserError
from tst_titan.plan.settings import SourceSettings
for settings in json.loads(sys.argv[2]):
    source = SourceSettings(**settings)
    try:
        listing = list_source(source)
        found = [d.text for group in listing.groups for entry in group for d in read_documents(source, entry, Counter())]
        print(json.dumps({"origin": listing.origin, "texts": found}))
    except UserError as error:
        print(json.dumps({"error": str(error)}))
"""


def test_a_remote_dataset_survives_faults_is_pinned_to_a_commit_and_its_absence_is_said(tmp_path):
    documents = texts(200)
    files = {
        f"data/train-0000{part}.jsonl": "".join(
            json.dumps({"text": text}) + "\n" for text in documents[part::2]
        ).encode()
        for part in range(2)
    }
    server = HubServer(files, {"data/train-00000.jsonl": ["cut", 429], "data/train-00001.jsonl": [503]})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asked = [
        HUB | {"path": "org/name"},
        HUB | {"path": "org/absent"},
        HUB | {"path": "org/name", "revision": "v9"},
        HUB | {"path": "org/name", "text_column": "body"},
    ]
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, Path(__file__).parent.parent, json.dumps(asked)],
        env=environment, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    server.shutdown()
    whole, absent, revision, column = map(json.loads, done.stdout.splitlines())
    assert sorted(whole["texts"]) == sorted(documents)
    assert whole["origin"] == {"dataset": "org/name", "revision": COMMIT, "num_parts": 2}
    assert not any(server.faults.values())
    assert "dataset org/absent" in absent["error"]
    assert "no revision 'v9'" in revision["error"]
    assert "no text column 'body' (there: text)" in column["error"]
