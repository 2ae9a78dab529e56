"""Contract checks of trainer hooks.

>>> from torchrl.trainers import CountFramesLog
>>> check_hook(lambda: CountFramesLog(frame_skip=1))
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection

import torch

from torchrl.collectors import Collector
from torchrl.envs import CartPoleEnv
from torchrl.modules import MLP, QValueActor
from torchrl.objectives import DQNLoss
from torchrl.testing.report import run_checks
from torchrl.trainers import Trainer, TrainerHookBase
from torchrl.trainers.stages import STAGES

Make = Callable[[], TrainerHookBase]


def check_hook(make: Make, skip: Collection[str] = ()) -> None:
    """Run every check of this file.

    Args:
        make: Builds a hook that serves a trainer of DQN on CartPole without a replay buffer.
        skip: Names of checks to leave out.

    Raises:
        ContractError: if a check fails.

    >>> from torchrl.trainers import CountFramesLog
    >>> check_hook(lambda: CountFramesLog(1))  # raises if a check fails
    """
    run_checks(CHECKS, make, skip=skip)


def small_trainer(*hooks: TrainerHookBase) -> Trainer:
    """Return a trainer of two batches, with hooks registered."""
    torch.manual_seed(0)
    env = CartPoleEnv(seed=0)
    loss = DQNLoss(QValueActor(MLP(4, 2, num_cells=[8]), spec=env.action_spec))
    trainer = Trainer(
        collector=Collector(env, loss.value_network, frames_per_batch=20, total_frames=40),
        total_frames=40,
        loss_module=loss,
        optimizer=torch.optim.SGD(loss.parameters(), lr=0.1),
        progress_bar=False,
    )
    for hook in hooks:
        hook.register(trainer)
    return trainer


def names_its_stage(make: Make) -> None:
    hook = make()
    if type(hook).register is TrainerHookBase.register:
        assert hook.stage in STAGES, f"stage {hook.stage!r} is none of {list(STAGES)}"
    assert callable(hook)


def runs_in_a_trainer(make: Make) -> None:
    trainer = small_trainer(make())
    trainer.train()
    assert trainer.collected_frames == 40


def two_of_a_kind_are_saved_apart(make: Make) -> None:
    one, two = make(), make()
    state, alone = small_trainer(one, two).state_dict(), small_trainer().state_dict()
    assert len(state) - len(alone) == 2, sorted(state)


def resumes_with_the_trainer(make: Make) -> None:
    """A trainer that takes over the state of another has a hook in the same state."""
    first, second = make(), make()
    trainer = small_trainer(first)
    trainer.train()
    state = copy.deepcopy(trainer.state_dict())
    other = small_trainer(second)
    other.load_state_dict(state)
    other.collector.shutdown()
    found, expected = second.state_dict(), first.state_dict()
    assert found.keys() == expected.keys() == set(first.saved)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0, msg=name)


CHECKS: list[Callable[[Make], None]] = [
    names_its_stage,
    runs_in_a_trainer,
    two_of_a_kind_are_saved_apart,
    resumes_with_the_trainer,
]
