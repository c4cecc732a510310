"""A checkpoint is tied to its segment and step, and every byte of it to what was saved, wherever it is loaded.

Before, another segment's checkpoint was scored and exported under this one's name, and of 60 single flipped bits 20
changed the weights without a word.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from finished_segments import Finished, finish, finished
from ranks import errors, train_on_ranks
from training import (
    assert_same_state,
    chain,
    make_job,
    recipe,
    saved_state,
    superposition,
    train_here,
)

from tst_titan.errors import UserError
from tst_titan.evaluate.checkpoint import find_checkpoint, load_model
from tst_titan.evaluate.export import export
from tst_titan.files import digest_file, read_json, write_json
from tst_titan.train import seals
from tst_titan.train.job import Job
from tst_titan.train.titan.checkpoints import whole_checkpoint


@pytest.fixture
def trained(corpus_dir: Path, process_group: None) -> Finished:
    return finished(corpus_dir)


@pytest.fixture
def own(trained: Finished, tmp_path: Path) -> Finished:
    """A copy for a test to damage, whose files were all compared once."""
    mine = trained.copy(tmp_path / "results")
    find_checkpoint(mine.results, mine.first.id)
    return mine


def flip(path: Path, place: float, bit: int = 0) -> None:
    """Flip one bit `place` (0 to 1) of the way through a file."""
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(content)


def evaluates(own: Finished, corpus_dir: Path) -> None:
    load_model(find_checkpoint(own.results, own.first.id))


def exports(own: Finished, corpus_dir: Path) -> None:
    export(own.results, own.first.id)


def trains_on(own: Finished, corpus_dir: Path) -> None:
    """The segment after this one."""
    train_here(own.child, own.segments, corpus_dir)


LOADERS = [evaluates, exports, trains_on]
# Each file of a checkpoint, with what is wrong with it for a reader.
FILES = {
    "__0_0.distcp": r"__0_0\.distcp: its bytes are not those that were saved",
    ".metadata": r"\.metadata: its bytes are not those that were saved",
    "seal-0.json": r"step-2",
    "seal-index.json": r"step-2",
}


@pytest.mark.parametrize("file", FILES)
def test_no_bit_of_a_checkpoint_can_flip_unseen(own: Finished, file: str) -> None:
    """Sixty bits a file, spread over it: of those in the data a third were not noticed before, and changed the
    weights."""
    path, draw = own.checkpoint / file, random.Random(0)
    whole = path.read_bytes()
    for number in range(60):
        flip(path, number / 59, bit=draw.randrange(8))
        with pytest.raises(UserError):
            find_checkpoint(own.results, own.first.id)
        path.write_bytes(whole)
    find_checkpoint(own.results, own.first.id)


def test_a_note_of_what_was_compared_that_is_damaged_is_not_believed(own: Finished) -> None:
    before = find_checkpoint(own.results, own.first.id)
    note = own.checkpoint / seals.VERIFIED
    whole = note.read_bytes()
    for number in range(60):
        flip(note, number / 59, bit=number % 8)
        assert find_checkpoint(own.results, own.first.id).digest == before.digest
        note.write_bytes(whole)


def test_what_was_compared_is_read_again_only_when_it_changed(own: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return digest_file(path)

    monkeypatch.setattr(seals, "digest_file", counted)
    digest = find_checkpoint(own.results, own.first.id).digest
    assert read == []
    os.utime(own.checkpoint / "__0_0.distcp")
    assert find_checkpoint(own.results, own.first.id).digest == digest
    assert sorted(read) == [".metadata", "__0_0.distcp"]
    # Bytes exchanged and the time of the change put back.
    data = own.checkpoint / "__0_0.distcp"
    stat = data.stat()
    flip(data, 0.5)
    os.utime(data, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(UserError, match=r"__0_0\.distcp: its bytes are not those that were saved"):
        find_checkpoint(own.results, own.first.id)


def test_a_folder_that_cannot_be_written_is_compared_each_time(own: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    note = own.checkpoint / seals.VERIFIED
    note.unlink()
    note.mkdir()
    (note / "in-the-way").touch()
    read: list[Path] = []
    monkeypatch.setattr(seals, "digest_file", lambda path: read.append(path) or digest_file(path))
    for times in (1, 2):
        find_checkpoint(own.results, own.first.id)
        assert len(read) == 2 * times


def test_a_copy_has_the_same_digest_and_another_training_another(own: Finished, tmp_path: Path) -> None:
    there = find_checkpoint(own.results, own.first.id).digest
    shutil.copytree(own.results, tmp_path / "copy", symlinks=True)
    assert find_checkpoint(tmp_path / "copy", own.first.id).digest == there
    assert read_json(own.folder / "done.json")["checkpoint_digest"] == there
    assert find_checkpoint(own.results, own.other_seed.id).digest != there


def test_seals_of_two_checkpoints_in_one_folder_are_refused(own: Finished) -> None:
    shutil.copyfile(own.others_checkpoint / "seal-0.json", own.checkpoint / "seal-0.json")
    said = (
        f"files of several checkpoints: seal-0.json is of {own.other_seed.id} at step 2 and seal-index.json is of "
        f"{own.first.id}"
    )
    with pytest.raises(UserError, match=said):
        find_checkpoint(own.results, own.first.id)


def test_a_job_does_not_go_on_from_a_checkpoint_of_another_step(own: Finished, corpus_dir: Path) -> None:
    """A folder that was renamed: its name says one step, its seals another."""
    job = make_job(own.child, own.segments, corpus_dir)
    shutil.copytree(own.checkpoint, job.checkpoints / "step-3")
    with pytest.raises(
        UserError,
        match=f"step-3: is the checkpoint of {own.first.id} at step 2, not of {own.child.id} at step 3",
    ):
        train_here(own.child, own.segments, corpus_dir)


@pytest.mark.parametrize("load", LOADERS)
def test_an_index_that_names_a_file_elsewhere_is_refused(
    own: Finished, corpus_dir: Path, load: Callable[[Finished, Path], None]
) -> None:
    import pickle

    unsealed(own)
    index_file = own.checkpoint / ".metadata"
    index = pickle.loads(index_file.read_bytes())
    for key, place in index.storage_data.items():
        index.storage_data[key] = replace(
            place, relative_path=f"../../../../../{own.others_checkpoint / place.relative_path}"
        )
    index_file.write_bytes(pickle.dumps(index))
    with pytest.raises(UserError, match=r"\.metadata: not read: it names the file .*__0_0\.distcp of another folder"):
        load(own, corpus_dir)


def unsealed(own: Finished) -> None:
    """Make the checkpoint one of an earlier version."""
    for path in (*own.checkpoint.glob("seal-*.json"), own.checkpoint / seals.VERIFIED):
        path.unlink()
    done = own.folder / "done.json"
    later = ("checkpoint_digest", "files", "digest")
    write_json(done, {key: value for key, value in read_json(done).items() if key not in later})


def test_a_checkpoint_of_an_earlier_version_is_used_with_one_warning(
    own: Finished, corpus_dir: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from torchtitan.tools.logging import logger

    expected = load_model(find_checkpoint(own.results, own.first.id)).state_dict()
    unsealed(own)
    capfd.readouterr()
    found = load_model(find_checkpoint(own.results, own.first.id)).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    said = (
        f"{own.checkpoint}: saved before checkpoints were sealed, so whether it is damaged, or another segment's, is "
        "not checked"
    )
    assert capfd.readouterr().err == f"warning: {said}\n"
    caplog.set_level("INFO", logger=logger.name)
    trains_on(own, corpus_dir)
    assert caplog.messages.count(said) == 1
    assert not (own.checkpoint / seals.VERIFIED).exists()
    # Its own are sealed.
    assert seals.read_seals(own.segments / own.child.id / "checkpoint" / "step-3") is not None


def test_the_checkpoint_of_another_training_of_the_same_segment_is_named(
    own: Finished, tmp_path: Path, corpus_dir: Path
) -> None:
    """Such as one of another results folder: its settings and steps are the same, its scores would be kept."""
    finish(own.first, tmp_path / "elsewhere", corpus_dir)
    shutil.rmtree(own.checkpoint)
    shutil.copytree(tmp_path / "elsewhere" / own.first.id / "checkpoint" / "step-2", own.checkpoint)
    with pytest.raises(
        UserError,
        match=r"step-2: is another checkpoint \(\w{16}\) than the one that .*done\.json was written for",
    ):
        find_checkpoint(own.results, own.first.id)


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("behind", [False, True])
def test_seals_are_of_the_bytes_on_the_disk(tmp_path: Path, corpus_dir: Path, behind: bool) -> None:
    (segment,) = chain(superposition(0, 3), recipe=recipe())
    folder = train_here(segment, tmp_path, corpus_dir, checkpoint_steps=1, async_checkpoints=behind)
    for step in (2, 3):
        checkpoint = folder / "checkpoint" / f"step-{step}"
        found = seals.read_seals(checkpoint)
        assert found is not None
        assert (found.segment, found.step, sorted(found.files)) == (
            segment.id,
            step,
            [".metadata", "__0_0.distcp"],
        )
        for name, seal in found.files.items():
            assert seal == seals.FileSeal((checkpoint / name).stat().st_size, digest_file(checkpoint / name))
        assert sorted(path.name for path in checkpoint.iterdir()) == [
            ".metadata", "__0_0.distcp", "seal-0.json", "seal-index.json",
        ]  # fmt: skip


def test_a_save_that_was_killed_before_its_last_seal_is_not_whole(own: Finished) -> None:
    assert whole_checkpoint(own.checkpoint)
    (own.checkpoint / "seal-index.json").unlink()
    assert not whole_checkpoint(own.checkpoint)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory, corpus_dir: Path, process_group: None) -> dict[str, Job]:
    """Jobs of two ranks, each in results of its own: from a sound checkpoint, and from damaged ones."""
    jobs = {}
    for name in ("sound", "index", "swapped", "behind"):
        mine = finished(corpus_dir).copy(tmp_path_factory.mktemp(name) / "results")
        if name == "index":  # the smaller of two files: the second rank reads it
            flip(mine.checkpoint / ".metadata", 0.5)
        if name == "swapped":
            shutil.rmtree(mine.checkpoint)
            shutil.copytree(mine.others_checkpoint, mine.checkpoint)
        jobs[name] = make_job(mine.child, mine.segments, corpus_dir, processes=2, async_checkpoints=name == "behind")
    train_on_ranks(jobs, 2)
    return jobs


def test_two_ranks_seal_a_checkpoint_together(two_ranks: dict[str, Job], trained: Finished) -> None:
    for name in ("sound", "behind"):
        job = two_ranks[name]
        assert not errors(job.folder)
        checkpoint = job.checkpoints / "step-3"
        found = seals.read_seals(checkpoint)
        assert found is not None
        assert (found.segment, found.step) == (trained.child.id, 3)
        assert sorted(found.files) == [".metadata", "__0_0.distcp", "__1_0.distcp"]
        assert all(seal.sha256 == digest_file(checkpoint / file) for file, seal in found.files.items())
        assert whole_checkpoint(checkpoint)
        # What the ranks compared before they loaded the parent.
        parent = job.folder.parent.parent / trained.first.id / "checkpoint" / "step-2"
        assert sorted(json.loads((parent / seals.VERIFIED).read_text())["files"]) == [
            ".metadata",
            "__0_0.distcp",
        ]
    assert_same_state(saved_state(two_ranks["sound"].folder, 3), saved_state(two_ranks["behind"].folder, 3))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("index", ".metadata: its bytes are not those that were saved"),
        ("swapped", "step-2: is the checkpoint of "),
    ],
)
def test_what_one_rank_finds_every_rank_refuses(two_ranks: dict[str, Job], name: str, said: str) -> None:
    job = two_ranks[name]
    texts = [(job.folder / f"error-{rank}.txt").read_text() for rank in (0, 1)]
    assert all("tst_titan.errors.UserError" in text for text in texts)
    assert all(said.partition(":")[0] in text for text in texts)
    assert any(said in text for text in texts)
    assert not (job.checkpoints / "step-3").exists()
