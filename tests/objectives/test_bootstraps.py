"""What every loss with a bootstrap does with ends and with transitions of several steps."""

import pytest
import torch

from tests.objectives.test_losses_contract import LOSSES
from torchrl.objectives.off_policy import CriticLoss
from torchrl.testing import loss as contract

GAMMA = 0.9
CRITICS = [
    name
    for name, (make, _) in LOSSES.items()
    if isinstance(make(), CriticLoss) and name != "online dt"  # which has no critic
]


def samples(name, gamma=GAMMA, change=lambda td: td):
    """The losses of each sample of a batch that is changed first."""
    make, batch = LOSSES[name]
    loss, td = contract.build(make), batch()
    loss.reduction = "none"
    loss.make_value_estimator(gamma=gamma)
    change(td)
    return contract.losses_of(contract.run(loss, td))


@pytest.mark.parametrize("name", CRITICS)
def test_each_row_is_discounted_by_its_own_power(name):
    count = torch.tensor([1, 2, 3, 1, 2, 3]).unsqueeze(-1)
    out = samples(name, change=lambda td: td.set("steps_to_next_obs", count))
    for steps in (1, 2, 3):
        rows = count.squeeze(-1) == steps
        for key, value in samples(name, GAMMA**steps).items():
            torch.testing.assert_close(out[key][rows], value[rows], msg=key)
    plain = samples(name)
    assert any(not torch.equal(value, out[key]) for key, value in plain.items())


@pytest.mark.parametrize("name", CRITICS)
def test_an_end_without_termination_changes_nothing(name):
    plain, out = (samples(name, change=lambda td, to=to: td["next", "done"].fill_(to)) for to in (False, True))
    for key, value in plain.items():
        torch.testing.assert_close(out[key], value, msg=key)


@pytest.mark.parametrize("name", CRITICS)
def test_what_is_seen_after_termination_does_not_matter(name):
    def shifted(td):
        assert td["next", "terminated"].any()
        for key in ("observation", "state", ("agents", "observation")):
            seen = td.get(("next", key) if isinstance(key, str) else ("next", *key), None)
            if seen is not None:
                seen[td["next", "terminated"].squeeze(-1)] += 1.0

    plain, out = samples(name), samples(name, change=shifted)
    for key in plain.keys() - {"loss_cql", "loss_alpha_prime"}:  # also ask what policies do next
        torch.testing.assert_close(out[key], plain[key], msg=key)
