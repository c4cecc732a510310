"""Folders of results are shared: a checkpoint that brings code along is refused, and its code does not run.

Before, exporting, evaluating or training from one ran it: torch unpickles an index, and items that are no tensors, as
they are.
"""

import ast
import io
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from evaluate_segments import DENSE, initialized, results
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex
from training import chain, make_job, recipe, recovery, superposition, train_here

import tst_titan
from tst_titan.errors import UserError
from tst_titan.evaluate.checkpoint import find_checkpoint
from tst_titan.evaluate.environment import prepare_environment
from tst_titan.evaluate.export import export
from tst_titan.evaluate.run import Evaluation, evaluate
from tst_titan.evaluate.through_export import load_export
from tst_titan.files import read_json, write_json
from tst_titan.plan.settings import Segment
from tst_titan.seal import with_seal
from tst_titan.train.checkpoint_reader import read_index
from tst_titan.train.titan.worker import failure_message


class Code:
    """Unpickled, it makes a folder: what a colleague's code would do to yours."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.folder),)


def in_the_index(checkpoint: Path, code: Code, item: str) -> None:
    with (checkpoint / ".metadata").open("rb") as file:
        index = pickle.load(file)
    index.planner_data = code
    write_index(checkpoint, index)


def in_an_item(checkpoint: Path, code: Code, item: str) -> None:
    with (checkpoint / ".metadata").open("rb") as file:
        index = pickle.load(file)
    data = io.BytesIO()
    torch.save(code, data)
    (checkpoint / "__9_0.distcp").write_bytes(data.getvalue())
    index.state_dict_metadata[item] = BytesStorageMetadata()
    index.storage_data = {key: place for key, place in index.storage_data.items() if key.fqn != item}
    index.storage_data[MetadataIndex(item)] = _StorageInfo("__9_0.distcp", 0, len(data.getvalue()))
    write_index(checkpoint, index)


def write_index(checkpoint: Path, index: Metadata) -> None:
    with (checkpoint / ".metadata").open("wb") as file:
        pickle.dump(index, file)


def evaluate_offline(folder: Path, segment: str) -> None:
    evaluate(Evaluation(results=folder, segment=segment, groups=["offline"], limit=5))


INDEX_NAMES = (
    r"step-\d+/\.metadata: not read: it names posix\.mkdir, .* delete the checkpoint .* train the segment again"
)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, corpus_dir: Path, process_group: None) -> tuple[Segment, Path]:
    """A trained superposition; the recovery after it starts from its checkpoint."""
    folder = tmp_path_factory.mktemp("parent")
    first, second = chain(superposition(0, 2), recovery(2, 3), recipe=recipe())
    train_here(first, folder, corpus_dir)
    return second, folder / first.id


@pytest.fixture
def own_parent(parent: tuple[Segment, Path], tmp_path: Path) -> tuple[Segment, Path]:
    child, folder = parent
    assert child.parent is not None
    shutil.copytree(folder, tmp_path / child.parent)
    checkpoint = tmp_path / child.parent / "checkpoint" / "step-2"
    # Whoever puts code there takes the seals away, or makes them anew: they tell damage, not malice.
    for seal in checkpoint.glob("seal-*.json"):
        seal.unlink()
    return child, checkpoint


@pytest.fixture
def own_results(tmp_path: Path) -> tuple[Path, str, Path]:
    segment = initialized(DENSE)
    folder = tmp_path / "results"
    shutil.copytree(results() / "segments" / segment.id, folder / "segments" / segment.id)
    (folder / "data").symlink_to(results() / "data")
    return folder, segment.id, folder / "segments" / segment.id / "checkpoint" / "step-1"


@pytest.mark.parametrize("file", [".metadata", "__0_0.distcp"])
@pytest.mark.parametrize("share", [0.0, 0.5, None], ids=["empty", "half", "gone"])
def test_a_parents_checkpoint_that_is_cut_short_is_named_with_the_mend(  # type: ignore[no-untyped-def]
    own_parent, tmp_path: Path, corpus_dir: Path, file: str, share: float | None
) -> None:
    """It was "EOFError" or "pickle data was truncated", of no file."""
    child, checkpoint = own_parent
    path = checkpoint / file
    if share is None:
        path.unlink()
    else:
        os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(UserError) as caught:
        train_here(child, tmp_path, corpus_dir)
    message = failure_message(caught.value, make_job(child, tmp_path, corpus_dir)) or ""
    assert str(checkpoint) in message
    assert f"train {child.parent} again" in message or "train the segment again" in message


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (in_the_index, INDEX_NAMES),
        (in_an_item, r"step-2: not read: its item lr_scheduler\.last_epoch names posix\.mkdir, .* delete the checkpoint"),  # noqa: E501
    ],
)  # fmt: skip
def test_training_from_a_checkpoint_with_code_is_refused(  # type: ignore[no-untyped-def]
    own_parent, tmp_path: Path, corpus_dir: Path, put, message: str
) -> None:
    child, checkpoint = own_parent
    put(checkpoint, Code(tmp_path / "it-ran"), "lr_scheduler.last_epoch")
    with pytest.raises(UserError, match=message):
        train_here(child, tmp_path, corpus_dir)
    assert not (tmp_path / "it-ran").exists()


def test_going_on_from_a_checkpoint_with_code_is_refused_and_it_is_kept(  # type: ignore[no-untyped-def]
    own_parent, tmp_path: Path, corpus_dir: Path
) -> None:
    """It is not taken for one that a killed save left, which would be deleted."""
    child, checkpoint = own_parent
    job = make_job(child, tmp_path, corpus_dir)
    own = job.checkpoints / "step-3"
    shutil.copytree(checkpoint, own)
    in_the_index(own, Code(tmp_path / "it-ran"), "")
    with pytest.raises(UserError, match=INDEX_NAMES) as refusal:
        train_here(child, tmp_path, corpus_dir)
    assert failure_message(refusal.value, job) == str(refusal.value)
    assert own.exists()
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    ("put", "message"), [(in_the_index, INDEX_NAMES), (in_an_item, "step-1: damaged.*norm.weight")]
)
@pytest.mark.parametrize("reads", [export, evaluate_offline])
def test_a_checkpoint_with_code_is_neither_exported_nor_evaluated(  # type: ignore[no-untyped-def]
    own_results, tmp_path: Path, reads, put, message: str
) -> None:
    folder, segment, checkpoint = own_results
    put(checkpoint, Code(tmp_path / "it-ran"), "norm.weight")
    prepare_environment()
    with pytest.raises(UserError, match=message):
        reads(folder, segment)
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("file", ["qwen3_moe_biased.py", "tokenizer_config.json"])
def test_an_export_with_other_code_is_not_evaluated(own_results, tmp_path: Path, file: str) -> None:  # type: ignore[no-untyped-def]
    folder, segment, _ = own_results
    path = export(folder, segment)
    code = f"import os; os.mkdir({str(tmp_path / 'it-ran')!r})"
    if file.endswith(".py"):
        (path / file).write_text(code)
    else:
        write_json(
            path / file,
            read_json(path / file) | {"auto_map": {"AutoTokenizer": ["stranger/repository--code.It", None]}},
        )
    # Who writes code writes the seal, too.
    write_json(path / "tst_titan.json", with_seal(read_json(path / "tst_titan.json") | {"needs_own_code": True}))
    with pytest.raises(UserError, match=rf"{file}: brings code that is not tst-titan's"):
        load_export(path, find_checkpoint(folder, segment), device="cpu", dtype="float32")
    assert not (tmp_path / "it-ran").exists()


def test_an_index_is_read_as_torch_reads_it(parent: tuple[Segment, Path]) -> None:
    checkpoint = parent[1] / "checkpoint" / "step-2"
    with (checkpoint / ".metadata").open("rb") as file:
        expected = pickle.load(file)
    found = read_index(checkpoint)
    assert found.state_dict_metadata == expected.state_dict_metadata
    assert found.storage_data == expected.storage_data
    assert len(found.storage_data) > 100


def test_what_is_no_index_is_refused(parent: tuple[Segment, Path], tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps({"state_dict_metadata": {}}))
    with pytest.raises(UserError, match=r"\.metadata: not read: it holds a dict, no index"):
        read_index(tmp_path)


# Names that read a file or bytes into objects. `json.loads` and Arrow make plain values, and are left out.
LOADERS = {
    "load", "safe_load", "unsafe_load", "full_load", "load_all", "load_yaml", "Unpickler", "FileSystemReader",
    "DefaultLoadPlanner", "read_pickle", "safe_open", "load_file", "from_file", "from_pretrained", "load_dataset",
    "open_memmap", "fromfile", "exec_module", "run_path", "eval", "exec",
}  # fmt: skip
# Those that the package uses. A new one is to be thought about before it stands here: nothing may run what a file
# names, as pickle, torch.load with weights_only=False, DCP's own reader and planner, and yaml.load do.
KNOWN = {
    # The one place that unpickles: classes of an index, and torch's plain values.
    ("train/checkpoint_reader.py", "dcp.load"),
    ("train/checkpoint_reader.py", "torch.load"),
    ("train/checkpoint_reader.py", "pickle.Unpickler"),
    ("train/checkpoint_reader.py", "_IndexUnpickler(file, path).load"),
    ("train/checkpoint_reader.py", "FileSystemReader"),
    ("train/checkpoint_reader.py", "dcp.DefaultLoadPlanner"),
    # torchtitan's, which comes to our dcp_load.
    ("train/titan/checkpoints.py", "super().load"),
    # Counts of tokens, with allow_pickle=False.
    ("data/training_split.py", "np.load"),
    # JSON; code of a hub's repository is not run (trust_remote_code is never given).
    ("data/tokenizers.py", "Tokenizer.from_file"),
    ("data/tokenizers.py", "AutoTokenizer.from_pretrained"),
    ("train/hardware_section.py", "yaml.safe_load"),
    # A loader of plain data, with `!function` as a name.
    ("evaluate/task_files.py", "yaml.load"),
    # Data of a task of the user's: a definition that names scripts or pickles is refused before (SECURITY.md).
    ("evaluate/task_settings.py", "datasets.load_dataset"),
    # lm-eval's definitions of tasks, which are programs, and users' own, which may name functions where they are
    # trusted.
    ("evaluate/fetch.py", "tasks.load"),
    ("evaluate/run.py", "self.tasks.load"),
    ("evaluate/suites.py", "self._manager.load"),
    # Seconds that it takes.
    ("train/time_bounds.py", "load"),
    ("train/time_bounds.py", "self.load"),
    # torch's evaluation mode.
    ("train/titan/models.py", "model.eval"),
}
PACKAGE = Path(tst_titan.__file__).parent


def source_nodes() -> Iterator[tuple[str, ast.AST]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield str(path.relative_to(PACKAGE)), node


def test_every_loader_of_the_package_is_known() -> None:
    found = {
        (file, ast.unparse(node))
        for file, node in source_nodes()
        if isinstance(node, ast.Attribute | ast.Name) and ast.unparse(node).rsplit(".", 1)[-1] in LOADERS
    }
    assert found == KNOWN


def test_loaders_are_told_to_run_nothing() -> None:
    told = {"torch.load": ("weights_only", "True"), "np.load": ("allow_pickle", "False")}
    calls = [
        (ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords})
        for _, node in source_nodes()
        if isinstance(node, ast.Call)
    ]
    assert {name for name, _ in calls} >= set(told)
    for name, keywords in calls:
        if name in told:
            assert keywords[told[name][0]] == told[name][1]
        # Where it is given, the code is compared with ours first.
        assert keywords.get("trust_remote_code") in (None, "exported['needs_own_code']")


def test_pickle_is_imported_where_checkpoints_are_read_alone() -> None:
    modules = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    found = set()
    for file, node in source_nodes():
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        found |= {(file, name) for name in names if name.split(".")[0] in modules}
    assert found == {("train/checkpoint_reader.py", "pickle")}


def test_no_rank_sends_another_an_object() -> None:
    """torch pickles what `all_gather_object` and its like are given, and unpickles what comes."""
    names = {
        (file, name.split(".")[-1])
        for file, node in source_nodes()
        for name in (
            [ast.unparse(node)] if isinstance(node, ast.Attribute | ast.Name)
            else [node.name] if isinstance(node, ast.alias)
            else []
        )
    }  # fmt: skip
    assert ("evaluate/ranks.py", "all_gather") in names
    assert not {(file, name) for file, name in names if re.search("_object(_list|s)?$|_tensor_to_object", name)}
