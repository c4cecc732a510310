"""Batches are made, and sent to the accelerator, ahead of their turn; the saved position is that of the last one handed
out."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from training import EXACT, chain, constant, make_job, recipe, rows, superposition, train_here

import tst_titan.train.titan  # noqa: F401
from tst_titan.train.titan.components import BagDataLoader
from tst_titan.train.titan.copies import CopiesAhead, OnItsWay


def loader(corpus_dir: Path, local_batch_size: int = 2) -> BagDataLoader:
    """Steps of two micro-batches of bags."""
    config = BagDataLoader.Config(
        corpus=str(corpus_dir), sequences_per_step=4, block_tokens=256, bag_size=3, positions="document"
    )
    return config.build(dp_world_size=1, dp_rank=0, seq_len=32, local_batch_size=local_batch_size)


def equal(one: Any, other: Any) -> bool:
    (batch, labels), (other_batch, other_labels) = one, other
    return torch.equal(labels, other_labels) and all(
        torch.equal(batch[name], other_batch[name]) for name in batch | other_batch
    )


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the streams, in order. torch.cpu has their interface; page-locked memory it has not."""
    asked: list[str] = []
    here = threading.local()  # the current stream is a thread's own, as CUDA's is

    class Event(torch.cpu.Event):
        stream = None

        def record(self, stream: torch.cpu.Stream | None = None) -> None:
            self.stream = stream
            if stream:  # FSDP records events, too
                assert stream is torch.cpu.current_stream() is not computing
                asked.append("copy begun")

    class Stream(torch.cpu.Stream):
        def wait_event(self, event: Any) -> None:
            if getattr(event, "stream", None):
                assert self is computing
                asked.append("wait for the copy")

    @contextmanager
    def in_stream(stream: torch.cpu.Stream) -> Iterator[None]:
        here.stream = stream
        yield
        del here.stream

    computing = Stream()
    monkeypatch.setattr(torch.cpu, "Event", Event)
    monkeypatch.setattr(torch.cpu, "Stream", Stream)
    monkeypatch.setattr(torch.cpu, "stream", in_stream)
    monkeypatch.setattr(torch.cpu, "current_stream", lambda device=None: getattr(here, "stream", computing))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.clone())

    def record_stream(self: torch.Tensor, stream: torch.cpu.Stream) -> None:
        assert type(self) is torch.Tensor
        assert stream is computing
        asked.append("keep for the computation")

    monkeypatch.setattr(torch.Tensor, "record_stream", record_stream)
    return asked


@pytest.mark.parametrize("ahead", [False, True])
def test_a_loader_goes_on_with_the_first_batch_that_was_not_handed_out(
    corpus_dir: Path, streams: list[str], ahead: bool
) -> None:
    """One batch more is made, and on its way, than the state counts."""
    expected = list(islice(loader(corpus_dir), 8))
    first = loader(corpus_dir)
    if ahead:
        first.copies = CopiesAhead(torch.device("cpu"))
    batches = iter(first)
    for step in range(4):
        assert first.state_dict() == {"data_tokens": step * 4 * 32 * 3}
        second = loader(corpus_dir)
        second.load_state_dict(first.state_dict())
        assert equal(next(iter(second)), expected[2 * step])
        assert equal(next(batches), expected[2 * step])
        assert equal(next(batches), expected[2 * step + 1])


def test_a_copy_begins_before_its_batchs_turn_and_is_waited_for_where_it_is_used(
    corpus_dir: Path, streams: list[str]
) -> None:
    loading = loader(corpus_dir)
    loading.copies = CopiesAhead(torch.device("cpu"))
    batches = iter(loading)
    batch, labels = next(batches)
    next(batches)
    # Two batches of three tensors at least, and none was waited for.
    assert len(streams) >= 6
    assert set(streams) == {"copy begun"}
    streams.clear()
    assert isinstance(labels, OnItsWay)
    # What torchtitan computes on the host is neither copied nor waited for.
    assert type((labels != -100).sum()) is torch.Tensor
    assert labels.numel() == 2 * 32 * 3
    assert labels.to(torch.int32).dtype == torch.int32
    waited = "wait for the copy"
    assert waited not in streams
    copy = labels.to(torch.device("cpu"))
    assert [asked for asked in streams if asked != "copy begun"] == [waited, "keep for the computation"]
    assert type(copy) is torch.Tensor
    assert torch.equal(copy, labels)
    assert copy.data_ptr() == labels.ahead[1].data_ptr()
    assert set(batch) == {"input", "positions"}


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("stage", [superposition(0, 3), constant(3)], ids=["superposition", "plain"])
def test_training_takes_the_copies_and_ends_bit_equal(
    tmp_path: Path, corpus_dir: Path, streams: list[str], monkeypatch: pytest.MonkeyPatch, stage: Any
) -> None:
    """torchtitan's own loop: it counts on the host, and its `to(device)` hands out what was sent ahead."""
    from tst_titan.train.titan.config import trainer_config

    (segment,) = chain(stage, recipe=recipe())
    plain = train_here(segment, tmp_path / "plain", corpus_dir, micro_batch=2)
    assert not streams
    job = make_job(segment, tmp_path / "ahead", corpus_dir, micro_batch=2)
    trainer = trainer_config(job).build()
    try:
        trainer.dataloader.copies = CopiesAhead(trainer.device)
        trainer.train()
    finally:
        trainer.close()
        torch.distributed.destroy_process_group()
    # Three steps of two micro-batches, inputs and labels.
    assert streams.count("keep for the computation") == streams.count("wait for the copy") == 12
    assert rows(job.folder, *EXACT) == rows(plain, *EXACT)
