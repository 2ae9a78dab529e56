"""Every loss keeps the contract. A new loss joins with one line in ``LOSSES``."""

import inspect

import pytest

import torchrl.objectives as objectives
from torchrl.objectives import (
    A2CLoss,
    ClipPPOLoss,
    KLPENPPOLoss,
    LossModule,
    PPOLoss,
    ReinforceLoss,
)
from torchrl.testing import loss as contract
from torchrl.testing.networks import (
    advantage_batch,
    critic,
    discrete_actor,
    gaussian_actor,
    tanh_normal,
)

LOSSES = {
    "a2c": (lambda: A2CLoss(gaussian_actor(), critic()), advantage_batch),
    "a2c discrete": (
        lambda: A2CLoss(discrete_actor(), critic()),
        lambda: advantage_batch(3, discrete=True),
    ),
    "a2c, no critic": (lambda: A2CLoss(gaussian_actor()), advantage_batch),
    "ppo": (lambda: PPOLoss(gaussian_actor(), critic()), advantage_batch),
    "ppo, tanh": (lambda: PPOLoss(gaussian_actor(2, tanh_normal), critic()), advantage_batch),
    "clip ppo": (lambda: ClipPPOLoss(gaussian_actor(), critic()), advantage_batch),
    "clip ppo, all options": (
        lambda: ClipPPOLoss(
            gaussian_actor(17),
            critic(),
            clip_epsilon=(0.1, 0.3),
            clip_value=0.2,
            normalize_advantage=True,
            max_importance_ratio=3.0,
        ),
        lambda: advantage_batch(17),
    ),
    "clip ppo, discrete": (
        lambda: ClipPPOLoss(discrete_actor(), critic()),
        lambda: advantage_batch(3, discrete=True),
    ),
    "kl ppo": (lambda: KLPENPPOLoss(gaussian_actor(), critic()), advantage_batch),
    "reinforce": (lambda: ReinforceLoss(gaussian_actor(), critic()), advantage_batch),
    "reinforce, delayed": (
        lambda: ReinforceLoss(gaussian_actor(), critic(), delay_value=True),
        advantage_batch,
    ),
}
# what a loss cannot keep, and why
EXCEPT = {
    # advantages are standardised without the padded rows, so these change the others
    "clip ppo, all options": {"padded_rows_do_not_count"},
}


CHECKS = [
    pytest.param(
        check,
        id=check.__name__,
        marks=[pytest.mark.slow] * (check is contract.compiles_without_graph_breaks),
    )
    for check in contract.CHECKS
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", LOSSES)
def test_contract(name, check):
    if check.__name__ not in EXCEPT.get(name, ()):
        check(*LOSSES[name])


def test_every_public_loss_is_listed():
    classes = (getattr(objectives, name) for name in objectives.__all__)
    public = {c for c in classes if inspect.isclass(c) and issubclass(c, LossModule)}
    assert public - {LossModule} == {type(make()) for make, _ in LOSSES.values()}
