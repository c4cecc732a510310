"""A training job as the workflow runs it: killed, told to stop, started twice, fed with bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from training import (
    EXACT,
    all_descendants,
    assert_same_state,
    chain,
    constant,
    launch,
    make_job,
    recipe,
    recovery,
    rows,
    saved_state,
    start_launcher,
    superposition,
    train_here,
)

from tst_titan.plan.settings import Segment
from tst_titan.train.job import EXIT_CONTINUE, Job


def wait_for_step(job: Job, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        metrics = job.folder / "metrics.jsonl"
        if metrics.exists() and len(metrics.read_text().splitlines()) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached:\n{(job.folder / 'train.log').read_text()[-3000:]}")


# Steps enough that a signal finds training under way, however fast the machine is.
SWITCH, END = 400, 700


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, corpus_dir: Path, process_group: None
) -> tuple[list[Segment], Path]:
    """A superposition and its recovery, trained in peace."""
    segments = chain(superposition(0, SWITCH), recovery(SWITCH, END), recipe=recipe(learning_rate=3e-3))
    results = tmp_path_factory.mktemp("undisturbed")
    for segment in segments:
        train_here(segment, results, corpus_dir)
    return segments, results


def test_killed_in_either_phase_a_run_ends_bit_equal(
    undisturbed: tuple[list[Segment], Path], tmp_path: Path, corpus_dir: Path
) -> None:
    segments, peace = undisturbed
    for segment in segments:
        job = make_job(segment, tmp_path, corpus_dir, checkpoint_steps=7)
        process = start_launcher(job)
        wait_for_step(job, 20)
        for pid in [process.pid, *all_descendants(process.pid)]:
            os.kill(pid, signal.SIGKILL)
        process.wait()
        assert not (job.folder / "done.json").exists()
        assert len(rows(job.folder, "step")) < segment.end_step - segment.start_step

        again = launch(job)
        assert again.returncode == 0, again.stderr
        assert_same_state(saved_state(job.folder, segment.end_step), saved_state(peace / segment.id, segment.end_step))
        assert rows(job.folder, *EXACT) == rows(peace / segment.id, *EXACT)
        done = json.loads((job.folder / "done.json").read_text())
        assert len(done["attempts"]) == 2
        assert done["wall_clock_s"] >= sum(a["end"] - a["start"] for a in done["attempts"]) - 1e-6


def test_told_to_stop_it_saves_and_the_next_call_goes_on(
    undisturbed: tuple[list[Segment], Path], tmp_path: Path, corpus_dir: Path
) -> None:
    segments, peace = undisturbed
    job = make_job(segments[0], tmp_path, corpus_dir)
    for number in (signal.SIGTERM, signal.SIGINT):
        process = start_launcher(job)
        before = len(rows(job.folder, "step")) if (job.folder / "metrics.jsonl").exists() else 0
        wait_for_step(job, before + 15)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == EXIT_CONTINUE, errors
        saved = int(errors.split("saved at step ")[1].split(";")[0])
        assert saved >= len(rows(job.folder, "step")) - 1
        assert (job.folder / "checkpoint" / f"step-{saved}").is_dir()
    assert launch(job).returncode == 0
    assert_same_state(saved_state(job.folder, SWITCH), saved_state(peace / segments[0].id, SWITCH))
    assert rows(job.folder, *EXACT) == rows(peace / segments[0].id, *EXACT)
    assert [path.name for path in (job.folder / "checkpoint").iterdir()] == [f"step-{SWITCH}"]


def test_two_jobs_of_one_segment_train_it_once(tmp_path: Path, corpus_dir: Path) -> None:
    (segment,) = chain(constant(60), recipe=recipe())
    job = make_job(segment, tmp_path, corpus_dir)
    first = start_launcher(job)
    wait_for_step(job, 1)
    second = launch(job)
    first.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "being trained by process" in second.stderr
    done = json.loads((job.folder / "done.json").read_text())
    assert len(done["attempts"]) == 1
    assert len(rows(job.folder, "step")) == 60


def test_a_checkpoint_that_was_cut_off_is_passed_over(
    undisturbed: tuple[list[Segment], Path], tmp_path: Path, corpus_dir: Path
) -> None:
    segments, peace = undisturbed
    job = make_job(segments[0], tmp_path, corpus_dir, checkpoint_steps=10)
    process = start_launcher(job)
    wait_for_step(job, 45)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    newest, older = sorted((job.folder / "checkpoint").iterdir(), key=lambda path: -int(path.name[5:]))[:2]
    data = max(newest.glob("*.distcp"), key=lambda path: path.stat().st_size)
    os.truncate(data, data.stat().st_size // 2)
    unfinished = newest.with_name(f"step-{SWITCH - 1}")
    shutil.copytree(older, unfinished)
    (unfinished / ".metadata").unlink()
    assert launch(job).returncode == 0
    log = (job.folder / "train.log").read_text()
    assert f"{newest.name}: not a whole checkpoint; discarded" in log
    assert f"step-{SWITCH - 1}: not a whole checkpoint; discarded" in log
    assert f"Training starts at step {int(older.name[5:]) + 1}" in log
    assert_same_state(saved_state(job.folder, SWITCH), saved_state(peace / segments[0].id, SWITCH))


def test_a_loss_that_is_not_finite_stops_with_step_and_last_good_checkpoint(tmp_path: Path, corpus_dir: Path) -> None:
    (segment,) = chain(constant(60), recipe=recipe(learning_rate=1e30, warmup_steps=40, max_grad_norm=1e9))
    job = make_job(segment, tmp_path, corpus_dir, checkpoint_steps=1)
    result = launch(job)
    assert result.returncode == 1
    assert "not finite" in result.stderr
    assert "step" in result.stderr
    assert "checkpoint" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (job.folder / "done.json").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda corpus: (corpus / "corpus.json").unlink(), "no such corpus; build it first"),
        (lambda corpus: cut_in_half(next(corpus.glob("train/*/*.arrow"))), "cut short"),
        (lambda corpus: flip_last_byte_of_ids(next(corpus.glob("train/*/*.arrow"))), "checksum"),
        (lambda corpus: (corpus / "tokenizer/tokenizer.json").write_text("{}"), "another tokenizer"),
    ],
)
def test_a_damaged_corpus_is_one_error_before_training(damage, message, tmp_path: Path, corpus_dir: Path) -> None:  # type: ignore[no-untyped-def]
    corpus = tmp_path / "corpus"
    shutil.copytree(corpus_dir, corpus)
    damage(corpus)
    (segment,) = chain(constant(2), recipe=recipe())
    job = make_job(segment, tmp_path / "results", corpus)
    result = launch(job)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (job.folder / "train.log").exists()


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_last_byte_of_ids(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_corpus_that_is_too_small_says_what_is_needed_and_there(tmp_path: Path, corpus_dir: Path) -> None:
    (segment,) = chain(constant(2), recipe=recipe(seq_len=4096, sequences_per_step=512))
    result = launch(make_job(segment, tmp_path, corpus_dir))
    assert result.returncode == 1
    assert "one batch needs" in result.stderr
    assert "there are" in result.stderr


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path, corpus_dir: Path) -> None:
    (segment,) = chain(constant(2), recipe=recipe())
    job = make_job(segment, tmp_path, corpus_dir)
    (tmp_path / "a-file").write_text("in the way")
    from tst_titan.errors import UserError
    from tst_titan.train.launch import run_segment

    with pytest.raises(UserError, match="cannot be written"):
        run_segment(replace(job, folder=tmp_path / "a-file" / "segment"))


def test_ranks_that_do_not_divide_the_batch_are_refused(tmp_path: Path, corpus_dir: Path) -> None:
    (segment,) = chain(constant(2), recipe=recipe())
    result = launch(make_job(segment, tmp_path, corpus_dir, processes=3))
    assert result.returncode == 1
    assert "4 sequences a step cannot be split over 3 data-parallel ranks" in result.stderr


def test_two_ranks_read_the_same_data_and_end_within_rounding(
    tmp_path: Path, corpus_dir: Path, process_group: None
) -> None:
    # The 80 steps over which rounding stays below the bound.
    segments = chain(superposition(0, 80), recovery(80, 90), recipe=recipe(learning_rate=3e-3))
    one, two = train_here(segments[0], tmp_path / "one", corpus_dir), tmp_path / segments[0].id
    job = make_job(segments[0], tmp_path, corpus_dir, processes=2)
    result = launch(job)
    assert result.returncode == 0, result.stderr
    losses = {name: [loss for (loss,) in rows(folder, "loss")] for name, folder in (("one", one), ("two", two))}
    # A step is one line of the log, not one of each rank.
    log = (job.folder / "train.log").read_text()
    assert len(re.findall(r"step +1  loss", log)) == len(re.findall(r"step +80  validation loss", log)) == 1
    # The first loss shows equal initial weights and data; later ones drift by float32 rounding of gradients.
    assert losses["two"][0] == pytest.approx(losses["one"][0], rel=1e-6)
    assert losses["two"] == pytest.approx(losses["one"], rel=1e-3)
    # The recovery goes on from the two ranks' checkpoint, at two ranks or at one.
    next_segment = segments[1]
    at_one = train_here(next_segment, tmp_path, corpus_dir)
    alone = [loss for (loss,) in rows(at_one, "loss")]
    at_one.rename(at_one.with_name("at-one"))
    again = launch(make_job(next_segment, tmp_path, corpus_dir, processes=2))
    assert again.returncode == 0, again.stderr
    assert [loss for (loss,) in rows(at_one, "loss")] == pytest.approx(alone, rel=1e-4)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system to fill up")
def test_a_full_disk_is_one_error_and_the_run_goes_on_after_it(
    undisturbed: tuple[list[Segment], Path], tmp_path: Path, corpus_dir: Path
) -> None:
    segments, peace = undisturbed
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(tmp_path)], check=True)
    try:
        ballast = tmp_path / "ballast"
        ballast.write_bytes(b"x" * (5 << 20))
        job = make_job(segments[0], tmp_path, corpus_dir, checkpoint_steps=10)
        result = launch(job)
        assert result.returncode == 1
        assert "o space left on" in result.stderr
        assert "Traceback" not in result.stderr
        ballast.unlink()
        again = launch(job)
        assert again.returncode == 0, again.stderr
        assert_same_state(saved_state(job.folder, SWITCH), saved_state(peace / segments[0].id, SWITCH))
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
