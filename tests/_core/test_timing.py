"""Timers by name."""

import time

import pytest
import torch

import torchrl
from torchrl import timeit
from torchrl._core.timing import Laps


@pytest.fixture(autouse=True)
def _no_timers():
    timeit.erase()
    yield
    timeit.erase()


def test_sums_and_means():
    for _ in range(4):
        with timeit("nap"):
            time.sleep(0.002)
    total, mean = timeit.todict(percall=False)["nap"], timeit.todict()["nap"]
    assert total >= 0.008
    assert mean == pytest.approx(total / 4)
    assert list(timeit.todict(prefix="time")) == ["time/nap"]


def test_functions_that_call_themselves():
    @timeit("countdown")
    def countdown(n):
        return n and countdown(n - 1)

    countdown(3)
    assert timeit.laps["countdown"].count == 4


def test_a_table_longest_first(capsys):
    timeit.laps.update(short=Laps(0.5, 1), long=Laps(2.0, 4))
    timeit.print(prefix="t")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["t/long", "t/short"]
    assert "2.000 s in 4 calls of 500.000 ms" in lines[0]


def test_an_error_is_still_measured():
    with pytest.raises(ZeroDivisionError), timeit("fails"):
        raise ZeroDivisionError
    assert timeit.laps["fails"].count == 1


def test_accelerators_are_waited_for(monkeypatch):
    waits = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: waits.append(1))
    with timeit("device", sync=True), timeit("host"):
        pass
    assert len(waits) == 2


def test_stands_where_it_always_stood():
    from torchrl._utils import logger
    from torchrl._utils import timeit as old

    assert (old, logger) == (timeit, torchrl.logger)
