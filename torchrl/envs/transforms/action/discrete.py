"""Discrete actions: discretised, masked, projected."""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor
from torch.nn.functional import one_hot

from torchrl._core.errors import SpecError, describe
from torchrl._core.keys import as_keys
from torchrl._core.records.flat_record import Record
from torchrl.data import Bounded, Categorical, Composite, MultiCategorical, MultiOneHot, OneHot, TensorSpec
from torchrl.envs.specs import leaf_names
from torchrl.envs.stepping.compiled_specs import legal
from torchrl.envs.transforms.action.scaling import ActionTransform
from torchrl.envs.transforms.base import R, Transform


class SamplingStrategy(Enum):
    """The number that represents an interval."""

    MEDIAN = "median"
    LOW = "low"
    HIGH = "high"
    RANDOM = "random"


class ActionDiscretizer(Transform):
    """Discretises a bounded action: the policy chooses an interval in each dimension.

    The intervals of a dimension have equal width.

    Args:
        num_intervals: Number of intervals, one number or one for each dimension.
        action_key: The environment's action, :class:`~torchrl.data.Bounded`.
        out_action_key: The discrete action; ``action_key`` if ``None``. Under another name, the
            environment also records the continuous action that was taken.
        sampling: The number of an interval that is used, a :class:`SamplingStrategy`; the middle
            if ``None``.
        categorical: Encode the discrete action as integers; otherwise one-hot.

    Raises:
        SpecError: if the action is not bounded.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), ActionDiscretizer(5))
    >>> env.action_spec.nvec, env.rollout(3)["action"].shape
    (tensor([5]), torch.Size([3, 1]))
    """

    supports_flat_records = True
    SamplingStrategy = SamplingStrategy

    def __init__(
        self,
        num_intervals: int | Tensor,
        action_key: NestedKey = "action",
        out_action_key: NestedKey | None = None,
        sampling: Enum | str | None = None,
        categorical: bool = True,
    ) -> None:
        outer = action_key if out_action_key is None else out_action_key
        super().__init__(in_keys_inv=as_keys(action_key), out_keys_inv=as_keys(outer))
        self.num_intervals = num_intervals
        self.categorical = categorical
        name = str(getattr(sampling, "value", sampling or "median"))
        self.sampling = SamplingStrategy(name.lower())
        self.register_buffer("low", None)
        self.register_buffer("high", None)
        self.register_buffer("width", None)
        self.__dict__["_played"] = None
        self._is_scalar = False

    @property
    def is_recorded(self) -> bool:
        """Whether the continuous action is recorded."""
        return self.in_keys_inv != self.out_keys_inv

    def _inv_apply_transform(self, value: Tensor) -> Tensor:
        low, high, width = (self._buffers[name] for name in ("low", "high", "width"))
        if low is None or high is None or width is None:
            raise RuntimeError("ActionDiscretizer: the bounds are unknown; append it to an environment first.")
        if not self.categorical and self._is_scalar:
            value = value.to(torch.uint8).argmax(-1)
        elif not self.categorical:
            parts = value.split(self._sizes, -1)
            value = torch.stack([part.to(torch.uint8).argmax(-1) for part in parts], -1)
        place: float | Tensor = {"low": 0.0, "median": 0.5, "high": 1.0}.get(self.sampling.value, 0)
        if self.sampling is SamplingStrategy.RANDOM:
            place = torch.rand(value.shape, device=value.device, dtype=width.dtype)
        number = (low + (value + place) * width).minimum(high)  # rounding may exceed it
        self.__dict__["_played"] = number
        return number

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        if self.is_recorded:
            tensordict.set(self.in_keys_inv[0], self._played)
        return next_tensordict

    def _reset(self, tensordict: Record | None, tensordict_reset: R) -> R:
        return tensordict_reset

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Replace the bounded action by the discrete one."""
        self._check_keys(specs)
        inner = specs["action"][self.in_keys_inv[0]]
        if not isinstance(inner, Bounded) or inner.low.isinf().any():
            raise SpecError(
                describe(
                    self,
                    "cannot be divided into intervals",
                    key=self.in_keys_inv[0],
                    expected="a Bounded spec [*B, A] or [*B] with finite bounds",
                    found=f"{type(inner).__name__}{list(inner.shape)}",
                )
            )
        self._is_scalar = len(inner.shape) == len(specs["action"].shape)
        sizes = () if self._is_scalar else inner.shape[-1:]
        count = torch.as_tensor(self.num_intervals, device=inner.device).expand(sizes)
        self.low, self.high = inner.low.clone(), inner.high.clone()
        self.width = (inner.high - inner.low) / count
        self._sizes = count.tolist()
        del specs["action"][self.in_keys_inv[0]]
        if self.is_recorded:
            specs["state"][self.in_keys_inv[0]] = inner
        choice: TensorSpec
        if self._is_scalar:
            n = int(count)
            choice = OneHot(n, (*inner.shape, n), inner.device)
            if self.categorical:
                choice = Categorical(n, inner.shape, inner.device)
        elif self.categorical:
            choice = MultiCategorical(count, shape=inner.shape, device=inner.device, remove_singleton=False)
        else:
            shape = (*inner.shape[:-1], int(count.sum()))
            choice = MultiOneHot(count, shape=shape, device=inner.device)
        specs["action"][self.out_keys_inv[0]] = choice
        return specs


class ActionMask(Transform):
    """Masks illegal actions: the mask in each record becomes the mask of the action spec.

    Random actions are legal then. Append it to each environment of a batch or to the batch.

    Args:
        action_key: The action, one-hot or categorical.
        mask_key: True where a category is legal ``[*B, n]``.

    >>> import torch
    >>> from torchrl.data import OneHot
    >>> spec = OneHot(3)
    >>> spec.update_mask(torch.tensor([True, False, False]))
    >>> spec.rand()
    tensor([ True, False, False])
    """

    supports_flat_records = True
    _spec: Any

    def __init__(self, action_key: NestedKey = "action", mask_key: NestedKey = "action_mask") -> None:
        super().__init__(in_keys=as_keys(mask_key))
        self.action_key = as_keys(action_key)[0]
        self.__dict__["_spec"] = None

    def _call(self, tensordict: R) -> R:
        if self._spec is None:
            raise NotImplementedError("ActionMask needs an environment whose spec it can mask; append it to one.")
        mask = legal(tensordict, self.in_keys[0])
        if mask is None:
            raise self._missing(self.in_keys[0], tensordict)
        self._spec.update_mask(mask)
        return tensordict

    @property
    def action_masks(self) -> dict[NestedKey, NestedKey]:
        """The entry of the root that masks the illegal choices of the action."""
        return {self.action_key: self.in_keys[0]}

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Replace the spec of the action by a copy that is masked in each step."""
        self._check_keys(specs)
        if self.action_key not in leaf_names(specs["action"]):
            raise self._missing(self.action_key, leaf_names(specs["action"]))
        spec = specs["action"][self.action_key]
        if not hasattr(spec, "update_mask"):
            raise SpecError(
                describe(
                    self, "cannot be masked", key=self.action_key, expected="a discrete spec", found=type(spec).__name__
                )
            )
        # A copy: the mask must not reach the inner environment.
        self.__dict__["_spec"] = specs["action"][self.action_key] = spec.clone()
        return specs


class DiscreteActionProjection(ActionTransform):
    """Projects the actions of a policy to those of an environment with fewer actions.

    An action that the environment does not have is replaced by a random one.

    Args:
        num_actions_effective: Number of actions of the environment, one-hot.
        max_actions: Number of actions of the policy.
        action_key: The action.
        include_forward: As a module or in a replay buffer, widen actions of the environment to
            ``max_actions``.

    >>> import torch
    >>> project = DiscreteActionProjection(2, 4)
    >>> from tensordict import TensorDict
    >>> project(TensorDict(action=torch.tensor([0, 1])))["action"]
    tensor([0, 1, 0, 0])
    """

    supports_flat_records = True

    def __init__(
        self,
        num_actions_effective: int,
        max_actions: int,
        action_key: NestedKey = "action",
        include_forward: bool = True,
    ) -> None:
        key = as_keys(action_key)
        super().__init__(key if include_forward else [], None, key)
        if num_actions_effective > max_actions:
            raise ValueError(
                "DiscreteActionProjection: num_actions_effective must not exceed max_actions, "
                f"found {num_actions_effective} and {max_actions}."
            )
        self.num_actions_effective, self.max_actions = num_actions_effective, max_actions

    def _apply_transform(self, value: Tensor) -> Tensor:
        wide = value.new_zeros(*value.shape[:-1], self.max_actions)
        wide[..., : value.shape[-1]] = value
        return wide

    def _inv_apply_transform(self, value: Tensor) -> Tensor:
        index = value.to(torch.uint8).argmax(-1)
        other = torch.randint(self.num_actions_effective, index.shape, device=index.device)
        index = torch.where(index < self.num_actions_effective, index, other)
        return one_hot(index, self.num_actions_effective).to(value.dtype)

    def _inv_transform_spec(self, spec: TensorSpec) -> TensorSpec:
        if not isinstance(spec, OneHot) or spec.n != self.num_actions_effective:
            raise SpecError(
                describe(
                    self,
                    "is not the action that the transform projects to",
                    key=self.in_keys_inv[0],
                    expected=f"a OneHot spec of {self.num_actions_effective}",
                    found=f"{type(spec).__name__}{list(spec.shape)}",
                )
            )
        shape = (*spec.shape[:-1], self.max_actions)
        return OneHot(self.max_actions, shape, spec.device, spec.dtype or torch.bool)
