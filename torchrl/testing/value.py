"""Contract checks of value estimators."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from tensordict import TensorDictBase

from torchrl._core.keys import next_key
from torchrl.objectives.value import ValueEstimatorBase
from torchrl.testing.loss import refusal
from torchrl.testing.report import run_checks

Make = Callable[[], ValueEstimatorBase]
Batch = Callable[[], TensorDictBase]


def check_value_estimator(make: Make, batch: Batch, skip: Collection[str] = ()) -> None:
    """Run every check of this file.

    Args:
        make: Builds the estimator; every call gives the same networks.
        batch: Builds trajectories ``[*B, T]`` with all that the estimator reads.
        skip: Names of checks to leave out.

    Raises:
        ContractError: if a check fails.

    >>> from torchrl.objectives.value import GAE
    >>> from torchrl.testing.networks import critic, transitions
    >>> batch = lambda: transitions(batch=(3, 5))  # three pieces of five steps
    >>> network = critic()
    >>> check_value_estimator(lambda: GAE(gamma=0.9, lmbda=0.9, value_network=network), batch)
    """
    run_checks(CHECKS, make, batch, skip=skip)


def writes_its_out_keys(make: Make, batch: Batch) -> None:
    """The batch gains ``out_keys``, the values and nothing else; they have the shape of the reward."""
    estimator, td = make(), batch()
    before = set(td.keys(True, True))
    out = estimator(td)
    assert out is td
    value = estimator.tensor_keys.value
    values: set = {value, next_key(value)}
    assert set(td.keys(True, True)) - before <= {*estimator.out_keys, *values}
    for key in estimator.out_keys:
        assert td.get(key).isfinite().all(), key
        assert not td.get(key).requires_grad, key


def can_be_called_again(make: Make, batch: Batch) -> None:
    """A second call on the output of the first gives the same values."""
    estimator, td = make(), batch()
    once = estimator(td).clone()
    torch.testing.assert_close(estimator(td), once)


def in_keys_suffice(make: Make, batch: Batch) -> None:
    """Entries that are not in ``in_keys`` are not read."""
    estimator = make()
    expected = estimator(batch()).select(*estimator.out_keys)
    bare = batch().select(*estimator.in_keys)
    torch.testing.assert_close(make()(bare).select(*estimator.out_keys), expected)


def every_in_key_is_needed(make: Make, batch: Batch) -> None:
    """A missing entry is named; ``done`` and ``terminated`` can replace each other."""
    estimator = make()
    ends = [key for key in estimator.in_keys if key[-1] in ("done", "terminated")]
    for gone in [[key] for key in estimator.in_keys if key not in ends] + [ends]:
        message = refusal(estimator, batch().select(*estimator.in_keys).exclude(*gone))
        assert any(repr(key) in message for key in gone), (gone, message)


def value_estimate_is_the_target(make: Make, batch: Batch) -> None:
    """``value_estimate`` returns what ``forward`` writes, and leaves the batch alone."""
    estimator, td = make(), batch()
    keys = set(td.keys(True, True))
    target = estimator.value_estimate(td)
    assert set(td.keys(True, True)) == keys
    torch.testing.assert_close(target, estimator(td).get(estimator.value_target_key))


def set_keys_renames(make: Make, batch: Batch) -> None:
    """``set_keys`` renames outputs."""
    estimator, other = make(), make()
    other.set_keys(advantage="a", value_target=("b", "c"))
    out, renamed = estimator(batch()), other(batch())
    torch.testing.assert_close(renamed["a"], out.get(estimator.advantage_key))
    torch.testing.assert_close(renamed["b", "c"], out.get(estimator.value_target_key))


def nan_stays_in_its_episode(make: Make, batch: Batch) -> None:
    """A reward that is NaN changes no estimate of the episode before it, nor of other rows."""
    good, bad = batch(), batch()
    estimator = make()
    keys = estimator.tensor_keys
    time = estimator._find_time(good)
    middle = (good.shape[time] - 1) // 2
    for td in (good, bad):
        for key in (keys.done, keys.terminated):
            if (flag := td.get(next_key(key), None)) is not None:
                flag.movedim(time, 0)[middle] = True
    bad.get(next_key(keys.reward)).movedim(time, 0)[-1].view(-1)[-1] = torch.nan
    for key in (keys.advantage, keys.value_target):
        one, other = (make()(td.clone()).get(key).movedim(time, 0) for td in (good, bad))
        torch.testing.assert_close(other[: middle + 1], one[: middle + 1])
        assert other.isnan().any()
        if good.ndim > 1:
            torch.testing.assert_close(other[:, :-1], one[:, :-1])


CHECKS: list[Callable[[Make, Batch], None]] = [
    writes_its_out_keys,
    can_be_called_again,
    in_keys_suffice,
    every_in_key_is_needed,
    value_estimate_is_the_target,
    set_keys_renames,
    nan_stays_in_its_episode,
]
