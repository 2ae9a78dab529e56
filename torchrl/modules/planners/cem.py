"""Planning by the cross-entropy method."""

from __future__ import annotations

from tensordict import TensorDictBase
from torch import Tensor

from torchrl._core.keys import sibling
from torchrl.modules.planners.common import GaussianPlanner


class CEMPlanner(GaussianPlanner):
    """Fits a normal distribution of plans to those of highest return, again and again.

    Rewards behind the end of an episode do not count.

    Args:
        env: A model of the environment: any environment that takes any batch size.
        planning_horizon: Steps ``T`` of a plan.
        optim_steps: How often the distribution is fitted.
        num_candidates: Number of plans that are tried each time.
        top_k: How many of them are fitted.
        reward_key: Where the reward is.
        action_key: Where the action goes.

    Reads: the observations of ``env``. Writes: ``action [*B, A]``, the first of the plan.

    Raises:
        SpecError: if there are fewer candidates than ``top_k``.

    Source: Rubinstein and Kroese, 2004; Chua et al., 2018, https://arxiv.org/abs/1805.12114.

    >>> from torchrl.envs import PendulumEnv
    >>> env = PendulumEnv()
    >>> policy = CEMPlanner(
    ...     env, planning_horizon=5, optim_steps=3, num_candidates=16, top_k=4
    ... )
    >>> env.rollout(3, policy)["action"].shape
    torch.Size([3, 1])
    """

    def _scores(self, transitions: TensorDictBase) -> Tensor:
        reward = transitions.get(self.reward_key)  # [*B, K, T, 1]
        done = transitions.get(sibling(self.reward_key, "done"), None)
        if done is not None:
            ended = done.cumsum(-2) - done.long() > 0  # before this step
            reward = reward.masked_fill(ended, 0.0)
        return reward.sum((-2, -1))

    def _fit(self, elite: Tensor, scores: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        return elite.mean(dim), elite.std(dim, correction=0)
