"""Contract checks of batched environments: batches, pools and their wrappers.

Each takes ``wrap``, which builds an environment of batch size ``[N, *B]`` from ``N`` functions that
build one of ``[*B]`` each.

>>> from torchrl.envs import SerialEnv
>>> check_batch(lambda makers: SerialEnv(len(makers), makers))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from tensordict import TensorDictBase

from torchrl._core.records.flat_record import Record
from torchrl.data import Unbounded
from torchrl.envs import ActionMask, Compose, EnvBase, InitTracker, TensorDictPrimer, TransformedEnv
from torchrl.testing.env import assert_same
from torchrl.testing.mocks import CountingEnv, MaskedEnv, MultiAgentEnv

R = TypeVar("R", bound=Record)
Wrap = Callable[[Sequence[Callable[[], EnvBase]]], EnvBase]
HORIZONS, STEPS = (3, 5), 12


def primed(horizon: int) -> EnvBase:
    """Return an environment with a recurrent state, written by a primer."""
    transform = Compose(InitTracker(), TensorDictPrimer(memory=Unbounded((1,))))
    return TransformedEnv(CountingEnv(horizon), transform)


def masked() -> EnvBase:
    """Return an environment whose random actions are legal."""
    return TransformedEnv(MaskedEnv(), ActionMask())


def remember(tensordict: R) -> R:
    """Write an action that depends on the observation and on the state, and the next state."""
    seen = tensordict.get("observation").sum(-1, keepdim=True)
    memory = tensordict.get("memory")
    tensordict.set("action", torch.sin(seen + memory))
    tensordict.set(("next", "memory"), memory + 1)
    return tensordict


def remember_apart(tensordict: TensorDictBase) -> TensorDictBase:
    """Return the entries that :func:`remember` writes, in a new tensordict."""
    acted = remember(tensordict.copy())
    return acted.select("action", ("next", "memory"))


@contextmanager
def wrapped(wrap: Wrap, makers: Sequence[Callable[[], EnvBase]]) -> Iterator[EnvBase]:
    """Build the environment, seed all of it, and close it at the end."""
    env = wrap(makers)
    try:
        env.set_seed(0)
        torch.manual_seed(0)
        yield env
    finally:
        if not env.is_closed:
            env.close()


def check_each_environment_steps_as_alone(wrap: Wrap) -> None:
    """A row of a rollout equals, to the bit, the rollout of its environment alone.

    What a policy writes under ``"next"`` is what it reads at the next step, until the episode ends.
    """
    makers = [partial(primed, h) for h in HORIZONS]
    with wrapped(wrap, makers) as env:
        batch = env.rollout(STEPS, remember, break_when_any_done=False)
    seed: int | None = 0
    for row, make in zip(batch.unbind(0), makers, strict=True):
        alone = make()
        seed = alone.set_seed(seed)
        expected = alone.rollout(STEPS, remember, break_when_any_done=False)
        assert_same(row.select(*expected.keys(True, True)), expected)


def check_policies_may_return_their_action_alone(wrap: Wrap) -> None:
    """A policy may return only what it writes instead of writing in place."""
    batches = []
    for policy in (remember, remember_apart):
        with wrapped(wrap, [partial(primed, h) for h in HORIZONS]) as env:
            batches.append(env.rollout(STEPS, policy, break_when_any_done=False))
    assert_same(batches[1], batches[0])


def check_rows_that_run_on_keep_their_state(wrap: Wrap) -> None:
    """With ``break_when_all_done``, the environment that runs longest keeps its state."""
    with wrapped(wrap, [partial(primed, h) for h in HORIZONS]) as env:
        batch = env.rollout(STEPS, remember, break_when_any_done=False, break_when_all_done=True)
    assert batch.shape[-1] == max(HORIZONS), "the last episode to end decides the length"
    longest = HORIZONS.index(max(HORIZONS))
    assert batch[longest]["memory"].flatten().tolist() == [float(t) for t in range(max(HORIZONS))]


def check_groups_keep_their_batch_size(wrap: Wrap) -> None:
    """The group of agents of a batch ``[N, T]`` has the batch size ``[N, T, agents]``."""
    agents = 3
    with wrapped(wrap, [partial(MultiAgentEnv, agents)] * 2) as env:
        batch = env.rollout(STEPS, break_when_any_done=False)
        after = env.step_mdp(env.rand_step(env.reset()))
    assert after.get("agents").batch_size == (2, agents), after.get("agents").batch_size
    for record in (batch, batch.get("next")):
        found = record.get("agents").batch_size
        assert found == (2, STEPS, agents), found


def check_random_actions_are_legal(wrap: Wrap) -> None:
    """Random actions are legal under the masks of the inner environments."""
    with wrapped(wrap, [masked] * 2) as env:
        batch = env.rollout(STEPS, break_when_any_done=False)
    legal = batch["action_mask"].gather(-1, batch["action"].unsqueeze(-1))
    assert legal.all(), "a random action is forbidden by the mask of its row"


def check_partial_resets_leave_other_rows_alone(wrap: Wrap) -> None:
    """A reset of one environment changes nothing of the other."""
    with wrapped(wrap, [partial(primed, 9)] * 2) as env:
        root = env.reset()
        for _ in range(2):
            root = env.step_mdp(env.step(remember(root)))
        before = root.clone()
        mask = torch.tensor([[True], [False]])
        after = env.reset(root.set("_reset", mask))
    assert_same(after[1].select(*before.keys(True, True)), before[1])
    assert after[0]["memory"] == 0
    assert after[0]["is_init"]


CHECKS: tuple[Callable[[Wrap], None], ...] = (
    check_each_environment_steps_as_alone,
    check_policies_may_return_their_action_alone,
    check_rows_that_run_on_keep_their_state,
    check_groups_keep_their_batch_size,
    check_random_actions_are_legal,
    check_partial_resets_leave_other_rows_alone,
)


def check_batch(wrap: Wrap) -> None:
    """Run every check.

    Args:
        wrap: ``[() -> env [*B]] -> env [N, *B]``.
    """
    for check in CHECKS:
        check(wrap)
