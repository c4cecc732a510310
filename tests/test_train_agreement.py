"""Ranks agree on the step at which all stop or save, host to host, through the store where they met."""

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from tst_titan.train.titan.agreement import KEPT_ANSWERS, Agreement, Cadence


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dist.TCPStore:
    """As ranks of several nodes have it."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    return store


def run(world_size: int, rank: Callable[[int, Agreement], object]) -> list[object]:
    """`rank` on every rank, each with a connection of its own."""
    assert os.environ["MASTER_PORT"]
    with ThreadPoolExecutor(world_size) as ranks:
        return list(ranks.map(lambda number: rank(number, Agreement(number, 60)), range(world_size)))


@pytest.mark.parametrize("told", [0, 2])
def test_told_on_one_rank_all_stop_after_the_same_step(store: dist.TCPStore, told: int) -> None:
    def train(rank: int, agreement: Agreement) -> int:
        for step in range(100_000):
            if agreement.ask(step, stop=rank == told and step >= 40, save=False).stop:
                return step
        raise AssertionError("was never told")

    stops = run(3, train)
    assert len(set(stops)) == 1
    assert stops[0] >= 40


def test_rank_0s_clock_saves_on_all_and_short_steps_are_seldom_asked_about(store: dist.TCPStore) -> None:
    def train(rank: int, agreement: Agreement) -> list[int]:
        saved: list[int] = []
        for step in range(5000):
            # Other ranks' clocks count for nothing.
            due = step >= 31 and not saved if rank == 0 else True
            if agreement.ask(step, stop=False, save=due).save:
                saved.append(step)
        return saved

    first, second = run(2, train)
    assert first == second
    assert len(first) == 1
    # Not one question for each step, but for each second at growing distances.
    assert store.num_keys() < 100


def test_answers_do_not_pile_up_in_the_store(store: dist.TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cadence, "steps", lambda self, step, now: 1)
    meet = threading.Barrier(2, timeout=60)

    def train(rank: int, agreement: Agreement) -> None:
        for step in range(500):
            # The step's collectives, which let no rank be more than a step or two ahead.
            meet.wait()
            agreement.ask(step, stop=False, save=False)

    run(2, train)
    assert store.num_keys() < KEPT_ANSWERS + 10


def test_asked_about_once_a_second_and_at_every_step_that_takes_longer() -> None:
    slow = Cadence()
    assert [slow.steps(step, 22.0 * step) for step in range(5)] == [1] * 5
    fast, step, asked = Cadence(), 0, []
    while step < 4000:
        asked.append(step)
        step += fast.steps(step, 0.01 * step)
    gaps = [after - before for before, after in itertools.pairwise(asked)]
    assert gaps[:7] == [1, 2, 4, 8, 16, 32, 64]
    assert set(gaps[7:]) <= {99, 100}
    # A compilation or a save between two steps, then short ones again.
    assert fast.steps(step, 1e6) == 1
    assert fast.steps(step + 1, 1e6 + 0.01) == 2
