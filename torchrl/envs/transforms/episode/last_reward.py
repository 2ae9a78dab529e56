"""A primer that also passes the reward of the last step to the policy."""

from __future__ import annotations

from typing import Any

from tensordict import NestedKey

from torchrl._core.records.flat_record import Record
from torchrl.data import Composite
from torchrl.envs.transforms.base import R
from torchrl.envs.transforms.episode.resets import TensorDictPrimer


class LastRewardPrimer(TensorDictPrimer):
    """A :class:`TensorDictPrimer` one of whose entries is the reward of the last step, for the next action.

    Args:
        primers: Specs of the entries.
        last_reward_key: The entry among them that is the last reward; zero after resets.
        reward_key: The reward.
        kwargs: Of :class:`TensorDictPrimer`.

    Reads: the reward under ``"next"``. Writes: each entry ``[*B, *S]``.

    >>> from torchrl.data import Unbounded
    >>> from torchrl.envs import CartPoleEnv, TransformedEnv
    >>> spec = Composite(last_reward=Unbounded((1,)))
    >>> env = TransformedEnv(CartPoleEnv(), LastRewardPrimer(spec, "last_reward", expand_specs=True))
    >>> env.rollout(3)["last_reward"].flatten().tolist()
    [0.0, 1.0, 1.0]
    """

    follows_steps = True

    def __init__(
        self, primers: Composite, last_reward_key: NestedKey, reward_key: NestedKey = "reward", **kwargs: Any
    ) -> None:
        super().__init__(primers, **kwargs)
        self.last_reward_key, self.reward_key = last_reward_key, reward_key
        self._dtype = primers[last_reward_key].dtype

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        next_tensordict.set(self.last_reward_key, next_tensordict.get(self.reward_key).to(self._dtype))
        return super()._step(tensordict, next_tensordict)
