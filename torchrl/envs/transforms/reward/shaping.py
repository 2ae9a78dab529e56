"""Rewards from other entries: weighted sums, success, target returns, intrinsic rewards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import as_keys
from torchrl._core.records.flat_record import Record
from torchrl._core.records.rows import expand_right
from torchrl.data import Bounded, Composite, TensorSpec, Unbounded
from torchrl.envs.specs import leaf_names
from torchrl.envs.transforms.base import Keys, R, Transform, free_dims
from torchrl.envs.transforms.derived_specs import unbounded_image
from torchrl.envs.transforms.observation.normalization import RunningMeanStd


class LineariseRewards(Transform):
    r"""Sums the weighted parts of a reward: :math:`r = \sum_i w_i r_i`.

    Args:
        in_keys: Rewards of several objectives ``[*B, N]``, continuous.
        out_keys: Where to write their sums ``[*B, 1]``; in place if ``None``.
        weights: ``[N]``; ones if ``None``.

    Raises:
        ShapeError: (a ``ValueError``) unless there is one weight for each reward.
        NotImplementedError: for discrete rewards.

    >>> from tensordict import TensorDict
    >>> sums = LineariseRewards(["reward"], weights=[1.0, 0.5])
    >>> sums(TensorDict(reward=torch.tensor([2.0, 4.0])))["reward"]
    tensor([4.])
    """

    supports_flat_records = True
    weights: Tensor | None

    def __init__(
        self,
        in_keys: Sequence[NestedKey],
        out_keys: Sequence[NestedKey] | None = None,
        *,
        weights: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__(in_keys, out_keys)
        known = None if weights is None else torch.as_tensor(weights)
        if known is not None and known.ndim != 1:
            raise ShapeError(describe(self, "needs one weight for each reward", expected="[N]", found=[*known.shape]))
        self.register_buffer("weights", known)

    def _apply_transform(self, value: Tensor) -> Tensor:
        weights = self._buffers["weights"]
        if weights is None:
            return value.sum(-1, True)
        if value.shape[-1] != len(weights):
            raise ShapeError(
                describe(
                    self, "has another number of rewards than of weights", expected=len(weights), found=value.shape[-1]
                )
            )
        return (value * weights).sum(-1, True)

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        if spec.domain != "continuous":
            raise NotImplementedError(
                describe(
                    self, "sums continuous rewards only", found=type(spec).__name__, hint="Cast them to floats first."
                )
            )
        if isinstance(spec, Bounded):
            weights = 1.0 if self.weights is None else self.weights
            ends = torch.stack([spec.low * weights, spec.high * weights])  # [2, *B, N]
            low, high = ends.amin(0).sum(-1, True), ends.amax(0).sum(-1, True)
            if not (low.isnan().any() or high.isnan().any()):
                return Bounded(low, high, shape=low.shape, dtype=low.dtype, device=spec.device)
        return unbounded_image(spec, self._apply_transform)


class SuccessReward(Transform):
    """Replaces the reward by ``scale`` in steps that succeed, else 0.

    Args:
        success_key: Flag of success ``[*B, 1]``.
        reward_key: The reward that is replaced.
        scale: Reward of a success.

    >>> from tensordict import TensorDict
    >>> record = TensorDict(success=torch.tensor([True]), reward=torch.zeros(1))
    >>> SuccessReward(scale=2.0)(record)["reward"]
    tensor([2.])
    """

    supports_flat_records = True
    deferrable = True

    def __init__(
        self, success_key: NestedKey = "success", reward_key: NestedKey = "reward", *, scale: float = 1.0
    ) -> None:
        super().__init__(as_keys(success_key), as_keys(reward_key))
        self.scale = scale

    def _reset(self, tensordict: Record | None, tensordict_reset: R) -> R:
        return tensordict_reset  # a reset has no reward

    def entries_touched(self) -> set[NestedKey]:
        """Return the flag and the reward."""
        return {*self.in_keys, *self.out_keys}

    def _apply_transform(self, value: Tensor) -> Tensor:
        return value.to(torch.get_default_dtype()) * self.scale

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Replace the spec of the reward."""
        self._check_keys(specs)
        keys = (self.in_keys[0], self.out_keys[0])
        known = next((s[key] for key in keys for s in specs.values() if key in leaf_names(s)), None)
        if known is None:
            return specs
        low, high = sorted((0.0, float(self.scale)))
        dtype = torch.get_default_dtype()
        specs["reward"][self.out_keys[0]] = Bounded(low, high, shape=known.shape, dtype=dtype, device=known.device)
        return specs


class TargetReturn(Transform):
    """Writes the return that the policy should still reach.

    Args:
        target_return: The return that an episode should have.
        mode: ``"reduce"`` subtracts each reward from it, ``"constant"`` does not.
        in_keys: The rewards; ``reward`` if ``None``.
        out_keys: Where to write it; ``target_return`` if ``None``.
        reset_key: Name of the mask of rows that are reset, if not that of the environment.

    Reads: the reward, and the entry of the step before.
    Writes: ``target_return [*B, 1]``.

    Source: Chen et al., 2021, https://arxiv.org/abs/2106.01345, section 3.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), TargetReturn(10.0))
    >>> env.rollout(3)["target_return"].squeeze(-1)
    tensor([10., 9., 8.])
    """

    supports_flat_records = True
    follows_steps = True

    def __init__(
        self,
        target_return: float,
        mode: str = "reduce",
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        reset_key: NestedKey | None = None,
    ) -> None:
        super().__init__(
            ["reward"] if in_keys is None else in_keys, ["target_return"] if out_keys is None else out_keys
        )
        if mode not in ("reduce", "constant"):
            raise ValueError(f"TargetReturn: mode must be 'reduce' or 'constant', found {mode!r}.")
        self.target_return, self.mode, self.reset_key = target_return, mode, reset_key
        self._specs: list[tuple[NestedKey, TensorSpec]] = []
        self._batch = torch.Size([])

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            wanted = tensordict.get(destination, None)
            if wanted is None:
                raise self._missing(destination, tensordict)
            if self.mode == "reduce":
                wanted = wanted - next_tensordict.get(source)
            next_tensordict.set(destination, wanted)
        return next_tensordict

    def _reset(self, tensordict: Record | None, tensordict_reset: R) -> R:
        mask = None
        if self.reset_key is not None and tensordict is not None:
            mask = tensordict.get(self.reset_key, None)
        free = free_dims(tensordict_reset, self._batch)
        for key, spec in self._specs:
            wanted = torch.full_like(spec.zero(free), self.target_return)
            if mask is not None and tensordict is not None:
                wanted = torch.where(expand_right(mask, wanted.shape), wanted, tensordict.get(key))
            tensordict_reset.set(key, wanted)
        return tensordict_reset

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add what is wanted to the observations."""
        self._check_keys(specs)
        self._specs, self._batch = [], specs["observation"].shape
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            like = specs["reward"][source]
            spec = Unbounded(like.shape, dtype=like.dtype, device=like.device)
            specs["observation"][destination] = spec
            self._specs.append((destination, spec))
        return specs


class RNDTransform(Transform):
    r"""Random network distillation: rewards the error of a network that predicts a random one.

    .. math:: r_t = \lVert \hat f(s_{t+1}) - f(s_{t+1}) \rVert^2

    Args:
        target_network: ``f``, ``[*B, *S] -> [*B, E]``, never trained.
        predictor_network: :math:`\hat f`, of the same shape; train it on visited observations.
        in_keys: The observation; ``observation`` if ``None``.
        out_keys: Where to write the reward; ``intrinsic_reward`` if ``None``.
        normalize_obs: Normalise observations to running mean 0 and deviation 1, and clip them.
        normalize_reward: Divide by the running deviation of the reward, and clip it.
        obs_clip: Largest normalised observation.
        reward_clip: Largest normalised reward.

    Writes: ``intrinsic_reward [*B, 1]``, that of reaching the observation beside it.

    The statistics are updated until ``eval()`` is called.

    Source: Burda et al., 2019, https://arxiv.org/abs/1810.12894, sections 2.2 to 2.4.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> nets = torch.nn.Linear(3, 8), torch.nn.Linear(3, 8)
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), RNDTransform(*nets))
    >>> env.rollout(4)["next", "intrinsic_reward"].shape
    torch.Size([4, 1])
    """

    supports_flat_records = True
    _rows: Tensor | None = None  # that update the statistics in the current call

    def __init__(
        self,
        target_network: nn.Module,
        predictor_network: nn.Module,
        in_keys: Keys = None,
        out_keys: Keys = None,
        normalize_obs: bool = True,
        normalize_reward: bool = True,
        obs_clip: float = 5.0,
        reward_clip: float = 5.0,
    ) -> None:
        super().__init__(
            ["observation"] if in_keys is None else in_keys, ["intrinsic_reward"] if out_keys is None else out_keys
        )
        self.target_network = target_network.requires_grad_(False)
        self.predictor_network = predictor_network
        self.normalize_obs, self.normalize_reward = normalize_obs, normalize_reward
        self.obs_clip, self.reward_clip = obs_clip, reward_clip
        self.observation_statistics: RunningMeanStd | None = None
        self.reward_statistics = RunningMeanStd()
        self._batch_ndim = 0

    def _allocate(self, shape: torch.Size, device: torch.device | None) -> RunningMeanStd:
        if self.observation_statistics is None:
            self.observation_statistics = RunningMeanStd(shape).to(device)
        return self.observation_statistics

    @torch.no_grad()
    def _apply_transform(self, value: Tensor) -> Tensor:
        value = value if value.is_floating_point() else value.to(torch.get_default_dtype())
        if self.normalize_obs:
            statistics = self._allocate(value.shape[self._batch_ndim :], value.device)
            self._update(statistics, value)
            value = statistics.normalize(value, self.obs_clip)
        error = self.predictor_network(value) - self.target_network(value)  # [*B, E]
        reward = error.square().mean(-1, True)  # [*B, 1]
        if self.normalize_reward:
            self._update(self.reward_statistics, reward)
            deviation = self.reward_statistics.std.clamp_min(1e-8).to(reward.dtype)
            reward = (reward / deviation).clamp(-self.reward_clip, self.reward_clip)
        return reward

    def _update(self, statistics: RunningMeanStd, value: Tensor) -> None:
        """Update the statistics with the rows that moved or were reset."""
        if not self.evaluating:
            rows = self._rows
            moved = value if rows is None else value[rows.reshape(value.shape[: self._batch_ndim])]
            statistics.update(moved)

    def _of_rows(self, rows: Tensor | None, record: TensorDictBase) -> TensorDictBase:
        self.__dict__["_rows"] = rows
        try:
            return self._call(record)
        finally:
            self.__dict__["_rows"] = None

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        return self._of_rows(tensordict.get("_step", None), next_tensordict)

    def _reset(self, tensordict: TensorDictBase | None, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return self._of_rows(self.inner.reset_rows(tensordict), tensordict_reset)

    def prediction_error(self, observation: Tensor) -> Tensor:
        """Return the loss of the predictor ``[*B]``, with gradients; statistics are not updated."""
        if self.normalize_obs and self.observation_statistics is not None:
            observation = self.observation_statistics.normalize(observation, self.obs_clip)
        gap = self.predictor_network(observation) - self.target_network(observation).detach()
        return gap.square().mean(-1)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the reward of each row."""
        self._batch_ndim = tensordict.ndim
        return super().forward(tensordict)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the reward to the observations."""
        self._batch_ndim = len(specs["observation"].shape)
        return super().transform_specs(specs)

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        self._allocate(spec.shape[self._batch_ndim :], spec.device)
        shape = (*spec.shape[: self._batch_ndim], 1)
        dtype = torch.get_default_dtype()
        high = self.reward_clip if self.normalize_reward else torch.inf
        return Bounded(0.0, high, shape=shape, dtype=dtype, device=spec.device)
