"""Items of recent policies are drawn more often."""

import pytest
import torch
from scipy.stats import chisquare
from tensordict import TensorDict

from torchrl.data import LazyTensorStorage, ReplayBuffer, StalenessAwareSampler


def filled(sampler, versions=(0, 1, 1, 3, 4)):
    buffer = ReplayBuffer(storage=LazyTensorStorage(9), sampler=sampler, batch_size=20_000)
    buffer.extend(TensorDict(policy_version=torch.tensor(versions), batch_size=[len(versions)]))
    return buffer


@pytest.mark.parametrize("weigh", [None, lambda staleness: 0.5**staleness])
@pytest.mark.parametrize("newest", [None, 6])
def test_odds_follow_the_weights(weigh, newest):
    sampler = StalenessAwareSampler(staleness_weight_fn=weigh)
    sampler.consumer_version = newest
    _, info = filled(sampler).sample(return_info=True)
    late = (4 if newest is None else newest) - torch.tensor([0.0, 1, 1, 3, 4]).double()
    odds = 1 / (1 + late) if weigh is None else 0.5**late
    count = torch.bincount(info["index"], minlength=5)
    assert chisquare(count, odds / odds.sum() * 20_000).pvalue > 1e-3
    assert (info["staleness"] == late[info["index"]]).all()


def test_stale_items_are_left_out():
    sampler = StalenessAwareSampler(max_staleness=1)
    buffer = filled(sampler)
    assert set(buffer.sample()["policy_version"].tolist()) == {3, 4}
    sampler.consumer_version = 9
    assert not buffer.can_sample()
    with pytest.raises(RuntimeError, match=r"fresh enough; expected .* at most 1, found at least 5"):
        buffer.sample()
    again = StalenessAwareSampler()
    again.load_state_dict(sampler.state_dict())
    assert again.consumer_version == 9
