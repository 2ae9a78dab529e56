"""What algorithms that learn from a dataset have in common: its batches take the place of a collector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase

from torchrl._core.errors import MissingKeyError, describe
from torchrl._core.keys import require
from torchrl._core.returns import reward2go
from torchrl.data import ReplayBuffer
from torchrl.data.datasets import load_dataset
from torchrl.envs import TransformedEnv, VecNormV2
from torchrl.trainers.algorithms.config import AlgorithmConfig
from torchrl.trainers.algorithms.environments import observation_transforms
from torchrl.trainers.algorithms.off_policy import OffPolicyConfig


@dataclass
class OfflineConfig(AlgorithmConfig):
    """Settings of algorithms that learn from a dataset; a frame is a gradient step there.

    >>> config = OfflineConfig(dataset="minari:mujoco/hopper/medium-v0", total_frames=10_000)
    >>> config.batch_size
    256
    """

    dataset: str = ""  # its path or name, see torchrl.data.datasets.load_dataset(); or pass a replay buffer
    total_frames: int = 1_000_000  # gradient steps
    batch_size: int = 256  # transitions per gradient step
    num_cells: int = 256  # units of a hidden layer
    activation: str = "relu"  # between layers
    anneal_lr: bool = False  # all learning rates fall to 0

    def check(self) -> None:
        super().check()
        self.at_least(1, "batch_size")

    @property
    def lr_factor(self) -> Callable[[int], float]:
        """The share of the learning rates that is left, by the number of gradient steps."""
        return lambda step: max(0.0, 1 - step / self.total_frames) if self.anneal_lr else 1.0


class DatasetReader:
    """In place of a collector: batches that are drawn from a dataset. Each of them counts as one frame.

    Observations are transformed as those of the environment; a normalisation has the statistics of the dataset.

    Args:
        env: The environment; its specs and transforms are used, no steps are taken.
        dataset: The transitions ``[N]``: a replay buffer, or a name for
            :func:`~torchrl.data.datasets.load_dataset`.
        config: Its ``batch_size``, ``device`` and ``normalize_observations`` are used.

    Raises:
        ValueError: if there is no dataset.
        MissingKeyError: if an observation of the environment is absent from it.

    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> from torchrl.envs import CartPoleEnv
    >>> from torchrl.trainers.algorithms import make_env
    >>> env = make_env(CartPoleEnv, OfflineConfig())
    >>> data = TensorDictReplayBuffer(storage=LazyTensorStorage(100))
    >>> _ = data.extend(env.rollout(100, break_when_any_done=False))
    >>> next(iter(DatasetReader(env, data, OfflineConfig(batch_size=8)))).shape
    torch.Size([8])
    """

    replay_buffer = None

    def __init__(
        self, env: TransformedEnv, dataset: ReplayBuffer | str | None, config: OfflineConfig | OffPolicyConfig
    ) -> None:
        if not dataset:
            hint = "Pass dataset: a path, a name such as 'minari:mujoco/hopper/expert-v0', or a replay buffer."
            raise ValueError(describe(config, "learns from a dataset", hint=hint))
        self.env, self.batch_size, self.device = env, config.batch_size, torch.device(config.device)
        self.dataset = load_dataset(dataset) if isinstance(dataset, str) else dataset
        count = len(observation_transforms(env.base_env.observation_spec, config))
        self.transforms = list(env.transform)[:count]
        if not len(self.dataset):
            raise ValueError(describe(config, "the dataset is empty", hint="Fill the buffer first."))
        first = self.dataset[:1]
        for key in env.base_env.observation_spec.keys(True, True):
            if first.get(key, None) is None:
                found = sorted(map(str, first.keys(True, True)))
                raise MissingKeyError(describe(config, "the dataset lacks an observation", key=key, found=found))
        for part in self.transforms:
            if isinstance(part, VecNormV2):
                rows = self.dataset[:].select(*part.in_keys)
                part(rows.to(self.device))
                part.freeze()

    def __iter__(self) -> Iterator[TensorDictBase]:
        while True:
            yield self.sample()

    def sample(self) -> TensorDictBase:
        """Return a batch ``[batch_size]``."""
        return self._as_observed(self.dataset.sample(self.batch_size))

    def rows(self) -> TensorDictBase:
        """Return the whole dataset ``[N]``."""
        return self._as_observed(self.dataset[:])

    def _as_observed(self, batch: TensorDictBase) -> TensorDictBase:
        """Return a copy with actions and transformed observations as the environment has them."""
        batch = batch.to(self.device).copy()
        batch.set("next", batch["next"].copy())
        spec, key = self.env.action_spec_unbatched, self.env.action_key
        action = batch.get(key)
        if spec.domain == "discrete" and action.shape[batch.ndim :] != spec.shape:  # numbers of one-hot actions
            batch.set(key, spec.encode(action.reshape(batch.batch_size)))
        for part in self.transforms:
            part(batch)
            part(batch["next"])
        return batch

    def num_frames(self, batch: TensorDictBase) -> int:
        """Return the number of frames that a batch counts as."""
        return 1

    def set_seed(self, seed: int, static_seed: bool = False) -> int | None:
        """Seed the environment; samples are drawn by torch's generator."""
        return self.env.set_seed(seed, static_seed)

    def pause(self) -> AbstractContextManager[object]:
        """Return a context: there is nothing to be paused."""
        return nullcontext()

    def state_dict(self) -> dict[str, object]:
        """Return the state: none, as the dataset does not change."""
        return {}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Do nothing."""

    def shutdown(self) -> None:
        """Close the environment."""
        if not self.env.is_closed:
            self.env.close()


class SequenceReader(DatasetReader):
    """A :class:`DatasetReader` whose batches are parts of episodes, ``[batch_size, T]``.

    A part starts at any step of the dataset, all being equally likely, and ends after ``T`` steps or with its episode;
    the padding after the end repeats the last step, and ``("collector", "mask")`` is false there. Episodes are those of
    :meth:`~torchrl.data.ReplayBuffer.query`; what is left to reach in those that were cut before their end is not
    known, so they are left out unless all were.

    Args:
        env: The environment.
        dataset: See :class:`DatasetReader`.
        config: See :class:`DatasetReader`.
        num_steps: ``T``.

    Attributes:
        episode_returns: Sum of the rewards of each episode, ``[E]``.
        largest_return: The largest absolute sum of the rewards from a step to the end of its episode; 1 without
            rewards.

    Raises:
        MissingKeyError: if the dataset lacks the rewards or the ends of episodes, or as :class:`DatasetReader`.

    Writes: the entries of the steps but those under ``"next"``, and ``return_to_go [*B, 1]``, the sum of the rewards
        from a step to the end of its episode.

    Source: Chen et al., 2021, https://arxiv.org/abs/2106.01345, appendix.

    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> from torchrl.envs import CartPoleEnv
    >>> from torchrl.trainers.algorithms import make_env
    >>> env = make_env(CartPoleEnv, OfflineConfig())
    >>> data = TensorDictReplayBuffer(storage=LazyTensorStorage(100))
    >>> _ = data.extend(env.rollout(100, break_when_any_done=False))
    >>> SequenceReader(env, data, OfflineConfig(batch_size=8), 5).sample()["return_to_go"].shape
    torch.Size([8, 5, 1])
    """

    def __init__(
        self,
        env: TransformedEnv,
        dataset: ReplayBuffer | str | None,
        config: OfflineConfig | OffPolicyConfig,
        num_steps: int,
    ) -> None:
        super().__init__(env, dataset, config)
        require(self.dataset[:1], [("next", env.reward_key), ("next", "done")], self, "Returns are sums of rewards.")
        found = [episode.data for episode in self.dataset.query()]
        episodes = [episode for episode in found if episode["next", "done"][-1].any()] or found
        steps = self._as_observed(TensorDict.cat(episodes))
        lengths = torch.tensor([len(episode) for episode in episodes], device=self.device)  # [E]
        stops = lengths.cumsum(0)
        is_last = torch.zeros(len(steps), 1, dtype=torch.bool, device=self.device)
        is_last[stops - 1] = True
        reward = steps["next", env.reward_key].reshape(-1, 1).to(torch.get_default_dtype())
        to_go = reward2go(reward, is_last)  # [N, 1]
        self.left = stops.repeat_interleave(lengths) - torch.arange(len(steps), device=self.device)  # [N]
        self.offsets = torch.arange(num_steps, device=self.device)
        self.episode_returns = to_go[stops - lengths, 0]
        self.largest_return = to_go.abs().max().item() or 1.0
        self.steps = steps.exclude("next").set("return_to_go", to_go)

    def sample(self) -> TensorDictBase:
        """Return a batch ``[batch_size, T]``."""
        first = torch.randint(len(self.left), (self.batch_size, 1)).to(self.device)
        left = self.left[first]  # [B, 1]
        batch = self.steps[first + torch.minimum(self.offsets, left - 1)]  # [B, T]
        return batch.set(("collector", "mask"), self.offsets < left)
