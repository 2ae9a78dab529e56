"""Contract checks that every collector must pass.

``make(**kwargs)`` builds the collector, with ``frames_per_batch`` and ``total_frames`` among the
keywords, over environments whose episodes end within the batches.

>>> from torchrl.collectors import Collector
>>> from torchrl.testing.mocks import CountingEnv
>>> check_collector(lambda **kwargs: Collector(CountingEnv(), **kwargs))
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from tensordict import TensorDictBase

from torchrl._core.mdp import last_name
from torchrl.collectors.base import BaseCollector
from torchrl.testing.report import run_checks

Make = Callable[..., BaseCollector]
FRAMES, BATCHES = 24, 4


def collect(make: Make, **kwargs: Any) -> list[TensorDictBase]:
    """Return every batch of a new collector."""
    kwargs = {"frames_per_batch": FRAMES, "total_frames": BATCHES * FRAMES, **kwargs}
    with make(**kwargs) as collector:
        return list(collector)


def rows(batches: list[TensorDictBase]) -> list[TensorDictBase]:
    """Return the steps of each row of the environment, ``[T]``, in order of time."""
    whole: Any = torch.cat(batches, -1)  # type: ignore[arg-type]  # of its kind
    return list(whole.reshape(-1, whole.shape[-1]).unbind(0))


def check_frames_are_exact(make: Make) -> None:
    batches = collect(make)
    assert [batch.numel() for batch in batches] == [FRAMES] * BATCHES
    assert all(batch.names[-1] == "time" for batch in batches)


def check_iteration_resumes(make: Make) -> None:
    with make(frames_per_batch=FRAMES, total_frames=3 * FRAMES) as collector:
        assert len(collector) == 3
        for _ in collector:
            break
        assert len(list(collector)) == 2
        assert list(collector) == []
        assert collector.next() is None


def check_trajectories_have_a_number_each(make: Make) -> None:
    seen: set[int] = set()
    for row in rows(collect(make)):
        ids = row["collector", "traj_ids"]
        assert ids.dtype == torch.int64
        done = row["next", "done"].squeeze(-1)
        assert done.any(), "no episode ends within the batches: use environments with shorter episodes"
        changes = ids[1:] != ids[:-1]
        assert torch.equal(changes, done[:-1])
        pieces = ids[torch.cat([changes.new_ones(1), changes])].tolist()
        assert len(set(pieces)) == len(pieces)
        assert not seen & set(pieces)
        seen |= set(pieces)


def check_steps_follow_each_other(make: Make) -> None:
    """Inside a trajectory, and from batch to batch."""
    for row in rows(collect(make)):
        done = row["next", "done"].squeeze(-1)
        for key in row["next"].keys(True, True):
            if key in row.keys(True, True) and "done" not in key:
                before, after = row["next"].get(key)[:-1], row.get(key)[1:]
                assert torch.equal(before[~done[:-1]], after[~done[:-1]]), key


def check_roots_have_the_entries_of_next(make: Make) -> None:
    """Observations are at the root too, whatever the policy returns."""
    for batch in collect(make):
        root = batch.keys(True, True)
        lost = [k for k in batch.get("next").keys(True, True) if k not in root]
        lost = [key for key in lost if last_name(key) != "reward"]
        assert not lost, f"{lost} are under 'next' only"


def check_nothing_is_shared_between_batches(make: Make) -> None:
    with make(frames_per_batch=FRAMES, total_frames=2 * FRAMES) as collector:
        batches = iter(collector)
        first = next(batches)
        before = first.clone()
        next(batches)
        assert (first == before).all()


def check_no_gradients_and_no_private_entries(make: Make) -> None:
    for batch in collect(make):
        for key, value in batch.items(True, True):
            assert not value.requires_grad, key
            path = (key,) if isinstance(key, str) else key
            assert not any(part.startswith("_") for part in path), key


def check_shutdown_can_be_repeated(make: Make) -> None:
    collector = make(frames_per_batch=FRAMES, total_frames=FRAMES)
    list(collector)
    collector.shutdown()
    collector.shutdown()


def check_state_is_restored(make: Make) -> None:
    kwargs = {"frames_per_batch": FRAMES, "total_frames": 3 * FRAMES}
    with make(**kwargs) as first, make(**kwargs) as second:
        batch = next(iter(first))
        second.load_state_dict(first.state_dict())
        remaining = list(second)
        assert len(remaining) == 2
        newest = max(int(b["collector", "traj_ids"].min()) for b in remaining)
        assert newest > int(batch["collector", "traj_ids"].max())


CHECKS = (
    check_frames_are_exact,
    check_iteration_resumes,
    check_trajectories_have_a_number_each,
    check_steps_follow_each_other,
    check_roots_have_the_entries_of_next,
    check_nothing_is_shared_between_batches,
    check_no_gradients_and_no_private_entries,
    check_shutdown_can_be_repeated,
    check_state_is_restored,
)


def check_collector(make: Make, skip: Collection[str] = ()) -> None:
    """Run all contract checks of a collector.

    Args:
        make: Builds the collector, an equal one in each call.
        skip: Names of checks to leave out, without ``check_``.

    Raises:
        ContractError: if a check fails.

    >>> from torchrl.collectors import Collector
    >>> from torchrl.testing.mocks import CountingEnv
    >>> check_collector(lambda **kwargs: Collector(CountingEnv(), **kwargs))  # raises if a check fails
    """
    run_checks(CHECKS, make, skip=skip)
