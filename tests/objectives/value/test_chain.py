"""On a chain whose values are known, every estimator returns these values.

One unit of reward a step, for ever or until the chain terminates: ``V = 1 + gamma + ...``. A target
that bootstraps from exact values is exact, whatever lambda and n are; one that confuses an end with
a cut is not.
"""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule

from torchrl.objectives.value import GAE, TD0Estimator, TD1Estimator, TDLambdaEstimator, VTrace
from torchrl.testing.networks import gaussian_actor

GAMMA, ROWS = 0.8, 5
ESTIMATORS = {
    "td0": lambda value, **kw: TD0Estimator(gamma=GAMMA, value_network=value, **kw),
    "td1": lambda value, **kw: TD1Estimator(gamma=GAMMA, value_network=value, **kw),
    "td_lambda": lambda value, **kw: TDLambdaEstimator(gamma=GAMMA, lmbda=0.6, value_network=value, **kw),
    "gae": lambda value, **kw: GAE(gamma=GAMMA, lmbda=0.6, value_network=value, **kw),
    "vtrace": lambda value, **kw: VTrace(gamma=GAMMA, actor_network=gaussian_actor(), value_network=value, **kw),
}


def value_of(left):
    """The value with so many steps left; a negative number stands for a chain without end."""
    powers = torch.where(left < 0, 0.0, GAMMA ** left.clamp_min(0))
    return (1 - powers) / (1 - GAMMA)


def episode(end, n):
    """Rows of ``n`` steps each, the last one maybe shorter; what is seen is how many are left."""
    steps = torch.full((ROWS, 1), n)
    left = torch.full((ROWS, 1), -1.0)
    if end == "terminated":
        left = n * torch.arange(ROWS - 1.0, -1.0, -1.0).unsqueeze(-1) + min(n, 2)
        steps = steps.minimum(left.long())
    last = torch.arange(ROWS).unsqueeze(-1) == ROWS - 1
    after = TensorDict(
        left=torch.where(left < 0, left, left - steps),
        reward=(1 - GAMMA**steps) / (1 - GAMMA),
        done=last & (end != "cut"),
        terminated=last & (end == "terminated"),
        batch_size=[ROWS],
    )
    return TensorDict(left=left, steps_to_next_obs=steps, next=after, batch_size=[ROWS])


def complete(td):
    """Add what V-trace reads: another policy acted."""
    td["observation"] = torch.randn(*td.batch_size, 3)
    td["action"] = torch.randn(*td.batch_size, 2)
    td["action_log_prob"] = torch.randn(*td.batch_size) - 2
    return td


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("end", ["terminated", "truncated", "cut"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_exact_values_are_returned(name, end, n):
    value = TensorDictModule(value_of, ["left"], ["state_value"])
    pieces = [complete(episode(end, n)), complete(episode("truncated", n))]
    td = torch.stack([torch.cat(pieces), torch.cat(pieces[::-1])])  # episodes follow each other
    if end == "cut":  # which only the end of the data does
        td = td[1:]
    out = ESTIMATORS[name](value)(td)
    torch.testing.assert_close(out["value_target"], value_of(td["left"]), atol=1e-5, rtol=1e-5)
    zero = torch.zeros_like(out["advantage"])
    torch.testing.assert_close(out["advantage"], zero, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_cut_that_is_taken_for_an_end_is_seen(name):
    """The probe can fail: of a truncated chain that is called terminated, values are too low."""
    td = complete(episode("truncated", 1))
    td["next", "terminated"] = td["next", "done"].clone()
    value = TensorDictModule(value_of, ["left"], ["state_value"])
    out = ESTIMATORS[name](value)(td)
    assert (out["value_target"][-1] < value_of(td["left"])[-1] - 1).all()
