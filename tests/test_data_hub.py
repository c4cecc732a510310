"""Hub datasets in streaming mode: a dataset folder on disk, and a server that speaks the hub's protocol and fails."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_fixtures import settings, texts
from data_hub_server import COMMIT, LATER_COMMIT, HubServer

from tst_titan.data.build import build_corpus
from tst_titan.data.documents import document_hash
from tst_titan.data.held_out import ONE_IN
from tst_titan.data.shards import open_shard
from tst_titan.data.sources import list_source, read_documents
from tst_titan.data.tokenizers import train_bpe
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
    assert manifest["sources"][0]["num_documents"] == sum(document_hash(text) >= 2**64 // ONE_IN for text in documents)
    assert manifest["sources"][0]["origin"]["num_files"] == 3

    with pytest.raises(
        UserError, match=r"0000\d-of-00003\.parquet: no column 'text' \(there: body, n\); set `text_column`"
    ):
        build_corpus(settings("", source=source | {"text_column": "text"}), tmp_path / "other", num_workers=1)


def test_a_damaged_file_is_named(tmp_path):
    pq.write_table(pa.table({"text": texts(50)}), tmp_path / "train.parquet")
    data = bytearray((tmp_path / "train.parquet").read_bytes())
    data[10:300] = bytes(290)
    (tmp_path / "train.parquet").write_bytes(data)
    source = SourceSettings(**HUB, path=str(tmp_path))
    with pytest.raises(UserError, match=r"train\.parquet: damaged Parquet file"):
        [list(read_documents(source, entry, Counter())) for entry in list_source(source).groups[0]]


def test_files_of_a_kind_that_is_not_read_are_refused_with_a_way_out(tmp_path):
    (tmp_path / "train.csv").write_text("text\nx\n")
    with pytest.raises(UserError, match=r"train\.csv is of a kind that is not read .*refs/convert/parquet"):
        list_source(SourceSettings(**HUB, path=str(tmp_path)))
    with pytest.raises(UserError, match=r"no split 'test' of files \(there: train\)"):
        list_source(SourceSettings(**HUB, path=str(tmp_path), split="test"))


# In a process of its own: the hub's client reads its endpoint and cache from the environment once.
PROGRAM = """
import json, sys
from collections import Counter
sys.path.insert(0, sys.argv[1])
from tst_titan.data import hub
from tst_titan.data.sources import list_source, read_documents
from tst_titan.errors import UserError
from tst_titan.plan.settings import SourceSettings
from huggingface_hub import constants
hub._FIRST_PAUSE_S, hub._ATTEMPTS = 0.01, 4
constants.DOWNLOAD_CHUNK_SIZE = 1000  # 10 MB by default: what a broken connection loses
for settings in json.loads(sys.argv[2]):
    source = SourceSettings(**settings)
    try:
        listing = list_source(source)
        entries = [entry for group in listing.groups for entry in group]
        found = {entry.name: [d.text for d in read_documents(source, entry, Counter())] for entry in entries}
        print(json.dumps({"origin": listing.origin, "texts": found, "sizes": {e.name: e.size for e in entries}}))
    except UserError as error:
        print(json.dumps({"error": str(error)}))
"""


def run_with_hub(server, tmp_path, program, *arguments, **variables):
    """The JSON lines that a process prints which knows this hub alone."""
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir(exist_ok=True)
    environment = os.environ | {
        "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "TMPDIR": str(tmp_path / "tmp"),  # noqa: E501
    } | variables  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program, Path(__file__).parent.parent, *map(str, arguments)],
        env=environment, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert not list((tmp_path / "tmp").glob("tst-titan-*"))  # what was downloaded is gone
    return [json.loads(line) for line in done.stdout.splitlines()]


def read_remotely(server, tmp_path, *asked, **variables):
    """What is found for each of the sources."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = run_with_hub(server, tmp_path, PROGRAM, json.dumps([HUB | one for one in asked]), **variables)
    server.shutdown()
    return found


def rows(documents):
    return "".join(json.dumps({"text": text}) + "\n" for text in documents).encode()


def test_a_remote_dataset_survives_faults_and_is_pinned_to_a_commit(tmp_path):
    parts = {f"data/train-0000{part}.jsonl": texts(100 if part else 10, seed=part) for part in range(3)}
    faults = {
        "api": [503, 429],
        "data/train-00000.jsonl": ["changed", 503, 500],
        "data/train-00001.jsonl": ["cut", 429],
        "data/train-00002.jsonl": ["changed", "cut"],
    }
    server = HubServer({name: rows(documents) for name, documents in parts.items()}, faults)
    (whole,) = read_remotely(server, tmp_path, {"path": "org/name"})
    assert whole["texts"] == parts
    assert whole["sizes"] == {name: len(server.files[name]) for name in parts}
    assert whole["origin"]["revision"] == COMMIT
    assert not any(server.faults.values())
    # A connection that broke off is taken up where it stood.
    name = "data/train-00001.jsonl"
    assert len(server.files[name]) <= server.bytes_sent[name] < len(server.files[name]) + 1000


def test_what_a_remote_dataset_lacks_is_said(tmp_path):
    name = "data/train-00000.jsonl"
    server = HubServer({name: rows(texts(20))}, {})
    absent, revision, column, pattern = read_remotely(
        server,
        tmp_path,
        {"path": "org/absent"},
        {"path": "org/name", "revision": "v9"},
        {"path": "org/name", "text_column": "body"},
        {"path": "org/name", "file_pattern": "none/*.jsonl"},
    )
    assert "there is no dataset 'org/absent'" in absent["error"]
    assert "no revision 'v9'" in revision["error"]
    assert f"org/name@{COMMIT}/{name}, line 1: no column 'body' (there: text)" in column["error"]
    assert "'none/*.jsonl'" in pattern["error"]


TOKEN = "hf_" + "a1B2" * 8


@pytest.mark.parametrize("redirected", [False, True])
def test_a_token_opens_a_gated_dataset_and_goes_to_the_hub_alone(tmp_path, redirected):
    """To the hub with every listing and download; not to the storage that it redirects to, into no file and no
    output."""
    parts = {"data/train-00000.jsonl": texts(10), "data/train-00001.jsonl": texts(100, seed=1)}
    server = HubServer({name: rows(documents) for name, documents in parts.items()}, {})
    server.token = TOKEN
    storage = HubServer(server.files, {})
    threading.Thread(target=storage.serve_forever, daemon=True).start()
    if redirected:
        server.elsewhere = storage.url.replace("127.0.0.1", "localhost")
    (found,) = read_remotely(server, tmp_path, {"path": "org/name"}, HF_TOKEN=TOKEN)
    storage.shutdown()
    assert found["texts"] == parts
    assert set(server.authorizations) == {f"Bearer {TOKEN}"}
    assert set(storage.authorizations) == ({""} if redirected else set())
    assert sum(storage.requests.values()) == (2 if redirected else 0)
    assert TOKEN not in json.dumps(found)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


@pytest.mark.parametrize("token", ["", TOKEN[:-1] + "9"])
def test_a_dataset_that_needs_a_login_is_told_how(tmp_path, token):
    """It was "gone: the revision was removed after it was listed"."""
    server = HubServer({"train.jsonl": rows(texts(20))}, {})
    server.token = TOKEN
    (refused,) = read_remotely(server, tmp_path, {"path": "org/name"}, HF_TOKEN=token)
    message = refused["error"]
    assert (
        "dataset org/name: needs a login: accept its terms on the hub, then set HF_TOKEN or run `hf auth login`"
        in message
    )
    assert "hf_a1B2" not in message


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("changed", "its content is not what was listed"),
        (500, r"cannot be downloaded \(tried 4 times\)"),
        (404, "is gone: the revision was removed after it was listed"),
    ],
)
def test_a_file_that_stays_wrong_is_one_error_that_names_it(tmp_path, fault, message):
    server = HubServer({"train.jsonl": rows(texts(20))}, {"train.jsonl": [fault] * 40})
    (refused,) = read_remotely(server, tmp_path, {"path": "org/name"})
    assert "train.jsonl" in refused["error"]
    assert re.search(message, refused["error"])


BUILD = """
import json, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
from data_fixtures import settings
from tst_titan.data import sources
from tst_titan.data.build import build_corpus
from tst_titan.plan.settings import TokenizerSettings
sources._SMALLEST_GROUP = 20_000  # a group a file
tokenizer, source = TokenizerSettings(kind="file", vocab_size=300, name=sys.argv[2]), {"name": "hub", "kind": "hub", "path": "org/name"}
for folder, needed in json.loads(sys.argv[3]):
    manifest = build_corpus(settings("", source=source, tokenizer=tokenizer), Path(folder), num_workers=1, needed={"hub": needed})
    print(json.dumps(manifest["sources"][0]))
"""  # noqa: E501


def documents_of(folder, source):
    shards = [open_shard(folder / entry["file"]) for entry in source["shards"]]
    return {int(identity) for shard in shards for identity in shard.document_hashes}


def test_a_corpus_keeps_the_commit_that_it_was_listed_at_when_the_revision_moves_and_takes_no_file_too_many(
    tmp_path,
):
    train_bpe(tmp_path / "tokenizer", texts(100), 300)
    before, later = (
        {f"data/train-{part:05d}.jsonl": texts(60, seed=seed + part) for part in range(12)} for seed in (0, 100)
    )
    server = HubServer({name: rows(documents) for name, documents in before.items()}, {})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = tmp_path / "corpus"

    def build(*asked):
        return run_with_hub(
            server, tmp_path, BUILD, tmp_path / "tokenizer", json.dumps([(str(f), n) for f, n in asked])
        )

    (some,) = build((folder, 10_000))
    assert not some["complete"]
    taken = [name for name in before if server.requests[name]]
    assert 0 < len(taken) < 12
    server.move_to({name: rows(documents) for name, documents in later.items()})
    # Without what a growing corpus keeps, too: corpus.json knows the commit.
    shutil.rmtree(folder / ".work")
    grown, fresh = build((folder, 10**9), (tmp_path / "fresh", 10**9))
    server.shutdown()

    for source, commit, parts, where in [
        (grown, COMMIT, before, folder),
        (fresh, LATER_COMMIT, later, tmp_path / "fresh"),
    ]:
        assert source["complete"]
        assert source["origin"]["revision"] == commit
        identities = {document_hash(text) for documents in parts.values() for text in documents}
        assert documents_of(where, source) == {one for one in identities if one >= 2**64 // ONE_IN}
    assert grown["shards"][: len(some["shards"])] == some["shards"]


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_an_environment_that_forbids_the_network_is_named_at_once(tmp_path: Path, name: str) -> None:
    """It was taken for a hub that is away, and asked again for four minutes."""
    code = (
        "import time; time.sleep = lambda seconds: exit('asked again')\n"
        "from tst_titan.data.sources import list_source\n"
        "from tst_titan.errors import UserError\n"
        "from tst_titan.plan.settings import SourceSettings\n"
        "try: list_source(SourceSettings(name='hub', kind='hub', path='org/name'))\n"
        "except UserError as error: print(error)"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    server = HubServer({"train.jsonl": b"{}"}, {})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment |= {"HF_HOME": str(tmp_path), "HF_ENDPOINT": server.url, name: "1"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    server.shutdown()
    assert f"the environment forbids the network ({name}); unset that" in run.stdout, run.stderr
