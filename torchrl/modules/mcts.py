"""Scores of the branches of a search tree, by which a search chooses among them.

``*B`` batch dimensions, ``N`` branches of a node.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core.keys import require

__all__ = ["EXP3Score", "MCTSScore", "MCTSScores", "PUCTScore", "UCB1TunedScore", "UCBScore"]
__path__: list[str] = []  # old paths below this module can be imported, see torchrl._legacy


class MCTSScore(TensorDictModuleBase, ABC):
    """Base class of scores: modules that read the statistics of the branches of a node and write a score of each.

    Args:
        in_keys: The statistics.
        score_key: The score.

    Hooks:
        score: ``*statistics -> score [*B, N]``, in the order of ``in_keys``.

    >>> from tensordict import TensorDict
    >>> class MostVisited(MCTSScore):
    ...     def score(self, visits):
    ...         return visits / visits.sum(-1, keepdim=True)
    >>> MostVisited(["visits"], "score")(TensorDict(visits=torch.tensor([1, 3])))["score"]
    tensor([0.2500, 0.7500])
    """

    def __init__(self, in_keys: list[NestedKey], score_key: NestedKey) -> None:
        super().__init__()
        keys: Any = in_keys, [score_key]
        self.in_keys, self.out_keys = keys
        self.score_key = score_key

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the score of each branch."""
        require(tensordict, self.in_keys, self, "Write the statistics of the branches, or name yours.")
        statistics = [tensordict.get(key) for key in self.in_keys]
        return tensordict.set(self.score_key, self.score(*statistics))

    @abstractmethod
    def score(self, *statistics: Tensor) -> Tensor: ...


def _mean(total: Tensor, visits: Tensor) -> Tensor:
    """Return the mean of a sum over visits; zero for branches that were not visited."""
    return torch.where(visits > 0, total / visits.clamp_min(1), 0.0)


class UCBScore(MCTSScore):
    r"""Mean value, and a bonus for branches that were seldom visited: :class:`PUCTScore` with a prior of one.

    .. math:: \frac{w}{n} + c \frac{\sqrt N}{1 + n}

    with a mean of zero for a branch that was not visited.

    Args:
        c: Weight of the bonus.
        win_count_key: Sum of the values :math:`w` found below each branch.
        visits_key: Number of its visits :math:`n`.
        total_visits_key: Number of visits :math:`N` of the node.
        score_key: The score.

    Reads: ``win_count``, ``visits`` ``[*B, N]``; ``total_visits`` ``[*B, 1]``, or ``[]``.
    Writes: ``score [*B, N]``.

    Source: Rosin, 2011, https://doi.org/10.1007/s10472-011-9258-6, without a prior.

    >>> from tensordict import TensorDict
    >>> node = TensorDict(win_count=torch.ones(2), visits=torch.tensor([1, 3]), total_visits=torch.tensor(4))
    >>> UCBScore(c=1.0)(node)["score"]
    tensor([2.0000, 0.8333])
    """

    def __init__(
        self,
        *,
        c: float,
        win_count_key: NestedKey = "win_count",
        visits_key: NestedKey = "visits",
        total_visits_key: NestedKey = "total_visits",
        score_key: NestedKey = "score",
    ) -> None:
        super().__init__([win_count_key, visits_key, total_visits_key], score_key)
        self.c = c

    def score(self, *statistics: Tensor) -> Tensor:
        """Return the score of each branch."""
        wins, visits, total, *prior = statistics
        weight = self.c * prior[0] if prior else self.c
        return _mean(wins, visits) + weight * total.sqrt() / (1 + visits)


class PUCTScore(UCBScore):
    r"""Mean value, and a bonus for branches that a policy prefers and that were seldom visited.

    .. math:: \frac{w}{n} + c \, p \frac{\sqrt N}{1 + n}

    Args:
        c: Weight of the bonus.
        prior_prob_key: Probability :math:`p` of each branch under the policy.
        **keys: Names of the other entries, as for :class:`UCBScore`.

    Reads: ``win_count``, ``visits``, ``prior_prob [*B, N]``; ``total_visits`` ``[*B, 1]``, or ``[]``.
    Writes: ``score [*B, N]``.

    Source: Silver et al., 2017, https://doi.org/10.1038/nature24270, methods.

    >>> from tensordict import TensorDict
    >>> node = TensorDict(win_count=torch.tensor([3.0, 0.0]), visits=torch.tensor([3, 0]))
    >>> node = node.update({"total_visits": torch.tensor(4), "prior_prob": torch.tensor([0.5, 0.5])})
    >>> PUCTScore(c=2.0)(node)["score"]
    tensor([1.5000, 2.0000])
    """

    def __init__(self, *, c: float, prior_prob_key: NestedKey = "prior_prob", **keys: NestedKey) -> None:
        super().__init__(c=c, **keys)
        read: Any = [*self.in_keys, prior_prob_key]
        self.in_keys = read


class UCB1TunedScore(MCTSScore):
    r"""Mean value, and a bonus that is smaller where the values of a branch vary little.

    .. math:: \bar w + \sqrt{\frac{\ln N}{n} \min\left(\frac14,
        \overline{w^2} - \bar w^2 + \sqrt{\frac{2 \ln N}{n}}\right)}

    It is infinite for a branch that was not visited, so that each is visited once. Values are in [0, 1].

    Args:
        exploration_constant: The logarithm in the inner root is multiplied by it; 2 in the paper.
        win_count_key: Sum of the values found below each branch.
        visits_key: Number of its visits.
        total_visits_key: Number of visits of the node.
        sum_squared_rewards_key: Sum of the squares of the values.
        score_key: The score.

    Reads: ``win_count``, ``visits``, ``sum_squared_rewards`` ``[*B, N]``; ``total_visits`` ``[*B, 1]``, or ``[]``.
    Writes: ``score [*B, N]``.

    Source: Auer et al., 2002, https://doi.org/10.1023/A:1013689704352, section 4.

    >>> from tensordict import TensorDict
    >>> node = TensorDict(win_count=torch.tensor([1.0, 0.0]), visits=torch.tensor([2, 0]))
    >>> node = node.update({"total_visits": torch.tensor(2), "sum_squared_rewards": torch.tensor([1.0, 0.0])})
    >>> UCB1TunedScore()(node)["score"]
    tensor([0.7944,    inf])
    """

    def __init__(
        self,
        *,
        exploration_constant: float = 2.0,
        win_count_key: NestedKey = "win_count",
        visits_key: NestedKey = "visits",
        total_visits_key: NestedKey = "total_visits",
        sum_squared_rewards_key: NestedKey = "sum_squared_rewards",
        score_key: NestedKey = "score",
    ) -> None:
        super().__init__([win_count_key, visits_key, total_visits_key, sum_squared_rewards_key], score_key)
        self.exploration_constant = exploration_constant

    def score(self, *statistics: Tensor) -> Tensor:
        """Return the score of each branch."""
        wins, visits, total, squares = statistics
        mean, log = _mean(wins, visits), total.clamp_min(1).log()
        ratio = log / visits.clamp_min(1)
        variance = (_mean(squares, visits) - mean.square()).clamp_min(0) + (self.exploration_constant * ratio).sqrt()
        return torch.where(visits > 0, mean + (ratio * variance.clamp_max(0.25)).sqrt(), torch.inf)


class EXP3Score(MCTSScore):
    r"""Probability of each branch: a mixture of its weight and the uniform distribution.

    .. math:: (1 - \gamma) \frac{w_i}{\sum_j w_j} + \frac{\gamma}{N}

    :meth:`update_weights` raises the weight of the branch that was chosen by its reward.

    Args:
        gamma: Weight of the uniform distribution.
        weights_key: Weight of each branch.
        action_prob_key: Where the probabilities go, too.
        reward_key: Reward of the branch that was chosen, in [0, 1].
        score_key: Where the probabilities go.
        num_actions_key: Number of branches, from which weights of one are made where there are none.

    Reads: ``weights [*B, N]``, or else ``num_actions []``.
    Writes: ``score``, ``action_prob`` ``[*B, N]``, and ``weights`` where there are none.

    Source: Auer et al., 2002, https://doi.org/10.1137/S0097539701398375, figure 1.

    >>> from tensordict import TensorDict
    >>> EXP3Score(gamma=0.5)(TensorDict(weights=torch.tensor([1.0, 3.0])))["score"]
    tensor([0.3750, 0.6250])
    """

    def __init__(
        self,
        *,
        gamma: float = 0.1,
        weights_key: NestedKey = "weights",
        action_prob_key: NestedKey = "action_prob",
        reward_key: NestedKey = "reward",
        score_key: NestedKey = "score",
        num_actions_key: NestedKey = "num_actions",
    ) -> None:
        super().__init__([weights_key], score_key)
        self.gamma, self.weights_key, self.action_prob_key = gamma, weights_key, action_prob_key
        self.reward_key, self.num_actions_key = reward_key, num_actions_key
        keys: Any = [score_key, action_prob_key]
        self.out_keys = keys

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the probability of each branch."""
        count = tensordict.get(self.num_actions_key, None)
        if tensordict.get(self.weights_key, None) is None and count is not None:
            shape = (*tensordict.batch_size, int(torch.as_tensor(count).flatten()[0]))
            tensordict.set(self.weights_key, torch.ones(shape, device=tensordict.device))
        out = super().forward(tensordict)
        return out.set(self.action_prob_key, out.get(self.score_key))

    def score(self, *statistics: Tensor) -> Tensor:
        """Return the probability of each branch."""
        (weights,) = statistics
        return (1 - self.gamma) * weights / weights.sum(-1, keepdim=True) + self.gamma / weights.shape[-1]

    def update_weights(self, tensordict: TensorDictBase, action: int | Tensor) -> TensorDictBase:
        """Multiply the weight of the branch that was chosen by ``exp(gamma r / (p N))``.

        Args:
            tensordict: A node, with ``reward`` ``[*B, 1]`` or ``[*B]``; its weights are replaced.
            action: The branch, ``[*B]``.
        """
        require(tensordict, [self.weights_key, self.reward_key], self, "Call the module before.")
        weights, reward = tensordict.get(self.weights_key), tensordict.get(self.reward_key)
        index = torch.as_tensor(action, device=weights.device).reshape(*weights.shape[:-1], 1)
        probability = self.score(weights).gather(-1, index)
        growth = (self.gamma * reward.reshape(probability.shape) / (probability * weights.shape[-1])).exp()
        return tensordict.set(self.weights_key, weights.scatter(-1, index, weights.gather(-1, index) * growth))


class _Preset:
    """A score with constants, which arguments of the call replace."""

    def __init__(self, kind: type[MCTSScore], **options: float) -> None:
        self.kind, self.options = kind, options

    def __call__(self, **kwargs: Any) -> MCTSScore:
        return self.kind(**{**self.options, **kwargs})


class MCTSScores(Enum):
    """The scores, with usual constants: ``MCTSScores.PUCT.value()`` is a module.

    >>> MCTSScores.UCB.value().c, MCTSScores.PUCT.value(c=1.0).c
    (1.4142135623730951, 1.0)
    """

    PUCT = _Preset(PUCTScore, c=5.0)
    UCB = _Preset(UCBScore, c=2.0**0.5)
    UCB1_TUNED = _Preset(UCB1TunedScore)
    EXP3 = _Preset(EXP3Score, gamma=0.1)
