"""Scores of the branches of a search tree."""

import math

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import MissingKeyError
from torchrl.modules import EXP3Score, MCTSScores, PUCTScore, UCB1TunedScore, UCBScore
from torchrl.modules.mcts import MCTSScore


def node(*batch, visits=(3.0, 0.0, 4.0)):
    torch.manual_seed(0)
    n = torch.tensor(visits).expand(*batch, 3)
    return TensorDict(
        win_count=torch.rand(*batch, 3) * n,
        visits=n,
        total_visits=n.sum(-1, keepdim=True),
        prior_prob=torch.rand(*batch, 3),
        sum_squared_rewards=torch.rand(*batch, 3) * n,
        weights=torch.rand(*batch, 3),
        batch_size=batch,
    )


@pytest.mark.parametrize("batch", [(), (5,)])
@pytest.mark.parametrize("kind", ["puct", "ucb", "tuned"])
def test_scores_are_those_of_the_papers(kind, batch):
    td = node(*batch)
    score = {"puct": PUCTScore(c=1.5), "ucb": UCBScore(c=1.5), "tuned": UCB1TunedScore()}[kind](td)["score"]
    for row, found in zip(td.reshape(-1).unbind(0), score.reshape(-1, 3), strict=True):
        total = row["total_visits"].item()
        for i in range(3):
            w, n, p, s = (row[k][i].item() for k in ("win_count", "visits", "prior_prob", "sum_squared_rewards"))
            mean = w / n if n else 0.0
            if kind == "tuned":
                if n == 0:
                    expected = math.inf
                else:
                    variance = max(s / n - mean**2, 0) + math.sqrt(2 * math.log(total) / n)
                    expected = mean + math.sqrt(math.log(total) / n * min(0.25, variance))
            else:
                expected = mean + 1.5 * (p if kind == "puct" else 1) * math.sqrt(total) / (1 + n)
            assert found[i].item() == pytest.approx(expected, rel=1e-4)


def test_exp3_learns_the_branch_that_pays():
    torch.manual_seed(0)
    module, td = EXP3Score(gamma=0.2), TensorDict(num_actions=torch.tensor(3))
    for _ in range(300):
        probs = module(td)["action_prob"]
        torch.testing.assert_close(probs.sum(), torch.tensor(1.0))
        action = probs.multinomial(1).squeeze()
        td = module.update_weights(td.set("reward", (action == 1).float()), action)
    probs = module(td)["score"]
    assert probs.argmax() == 1
    assert probs[1] > 0.8
    assert probs.min() >= 0.2 / 3 - 1e-6


@pytest.mark.parametrize("member", MCTSScores)
def test_entries_have_names_of_ones_own(member):
    module = member.value(score_key=("branch", "value"))
    td = node(4)
    assert isinstance(module, MCTSScore)
    assert module(td)["branch", "value"].equal(member.value()(td)["score"])
    with pytest.raises(MissingKeyError, match="is read but absent"):
        module(TensorDict())
