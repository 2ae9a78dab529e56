"""An argument that a loss does not know is named, with the loss and the nearest one."""

import inspect
import re

import pytest

from tests.objectives.test_losses_contract import LOSSES
from torchrl.objectives import ClipPPOLoss, PPOLoss, SACLoss
from torchrl.objectives.value import GAE
from torchrl.testing.networks import critic, gaussian_actor, q_critic


@pytest.mark.parametrize("cls", {type(make()) for make, _ in LOSSES.values()})
def test_every_loss_names_itself_and_the_argument(cls):
    arguments = inspect.signature(cls).parameters.items()
    required = [key for key, p in arguments if p.default is p.empty and key != "options"]
    networks = iter((gaussian_actor(), q_critic(), critic()))
    given = {key: 0.9 if key == "gamma" else next(networks) for key in required}
    with pytest.raises(TypeError, match=re.escape(f"{cls.__name__}: has no argument 'zzz'")):
        cls(**given, zzz=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClipPPOLoss(gaussian_actor(), clip_epsilom=0.1), "ClipPPOLoss.*'clip_epsilon'"),
        (lambda: PPOLoss(gaussian_actor(), entropy_coeffs=0.1), "PPOLoss.*'entropy_coeff'"),
        (lambda: SACLoss(gaussian_actor(), q_critic(), alpha_intt=1.0), "SACLoss.*'alpha_init'"),
        (lambda: GAE(gamma=0.9, lmbda=0.9, averge_gae=True), "GAE.*'average_gae'"),
        (lambda: PPOLoss(gaussian_actor(), critic()).make_value_estimator("gae", gama=0.9), "GAE.*'gamma'"),
    ],
)
def test_the_nearest_argument_is_named(make, message):
    with pytest.raises(TypeError, match=message):
        make()
