"""Actions: masked, discretised, scaled, flattened, clipped."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torch.nn.functional import one_hot

from torchrl._core.errors import SpecError, describe
from torchrl._core.keys import as_keys
from torchrl.data import (
    Bounded,
    Composite,
    MultiCategorical,
    MultiOneHot,
    OneHot,
    TensorSpec,
    Unbounded,
)
from torchrl.envs.spec_access import leaf_names
from torchrl.envs.step_plan import legal
from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.images import clamped, rearranged
from torchrl.envs.transforms.pixels import Keys


class SamplingStrategy(Enum):
    """Which number of an interval stands for it."""

    MEDIAN = "median"
    LOW = "low"
    HIGH = "high"
    RANDOM = "random"


class ActionDiscretizer(Transform):
    """Offers a choice among intervals where the environment wants a bounded number.

    Each dimension of the action is cut into intervals of equal width.

    Args:
        num_intervals: How many, or how many in each dimension.
        action_key: The environment's action, :class:`~torchrl.data.Bounded`.
        out_action_key: The choice as seen from outside; ``action_key`` if ``None``. Under another
            name, the environment that the transform belongs to records the number that was played
            beside it.
        sampling: Which number of an interval is played, a :class:`SamplingStrategy`; the middle
            if ``None``.
        categorical: A choice is a number; otherwise a one-hot vector.

    Raises:
        SpecError: if the action is not bounded.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), ActionDiscretizer(5))
    >>> env.action_spec.nvec, env.rollout(3)["action"].shape
    (tensor([5]), torch.Size([3, 1]))
    """

    entrywise = True
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

    @property
    def is_recorded(self) -> bool:
        """Whether the number that was played stands in the record."""
        return self.in_keys_inv != self.out_keys_inv

    def _inv_apply_transform(self, value: Tensor) -> Tensor:
        low, high, width = (self._buffers[name] for name in ("low", "high", "width"))
        if low is None or high is None or width is None:
            raise RuntimeError(
                "ActionDiscretizer: the bounds are unknown; append it to an environment first."
            )
        if not self.categorical:
            parts = value.split(self._sizes, -1)
            value = torch.stack([part.to(torch.uint8).argmax(-1) for part in parts], -1)
        place: float | Tensor = {"low": 0.0, "median": 0.5, "high": 1.0}.get(self.sampling.value, 0)
        if self.sampling is SamplingStrategy.RANDOM:
            place = torch.rand(value.shape, device=value.device, dtype=width.dtype)
        number = (low + (value + place) * width).minimum(high)  # rounding may lead beyond it
        self.__dict__["_played"] = number
        return number

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        if self.is_recorded:
            tensordict.set(self.in_keys_inv[0], self._played)
        return next_tensordict

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        return tensordict_reset

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Replace the bounded action by a choice."""
        self._check_keys(specs)
        inner = specs["action"][self.in_keys_inv[0]]
        if not isinstance(inner, Bounded) or not inner.shape or inner.low.isinf().any():
            raise SpecError(
                describe(
                    self,
                    "cannot be cut into intervals",
                    key=self.in_keys_inv[0],
                    expected="a Bounded spec [*B, A] with finite bounds",
                    found=f"{type(inner).__name__}{list(inner.shape)}",
                )
            )
        count = torch.as_tensor(self.num_intervals, device=inner.device).expand(inner.shape[-1:])
        self.low, self.high = inner.low.clone(), inner.high.clone()
        self.width = (inner.high - inner.low) / count
        self._sizes = count.tolist()
        del specs["action"][self.in_keys_inv[0]]
        if self.is_recorded:
            specs["state"][self.in_keys_inv[0]] = inner
        choice: TensorSpec
        if self.categorical:
            choice = MultiCategorical(
                count, shape=inner.shape, device=inner.device, remove_singleton=False
            )
        else:
            shape = (*inner.shape[:-1], int(count.sum()))
            choice = MultiOneHot(count, shape=shape, device=inner.device)
        specs["action"][self.out_keys_inv[0]] = choice
        return specs


class ActionMask(Transform):
    """Lets random actions be legal: what the environment allows becomes the mask of its spec.

    It may stand inside of the environments of a batch, or around the batch.

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

    entrywise = True
    _spec: Any

    def __init__(
        self, action_key: NestedKey = "action", mask_key: NestedKey = "action_mask"
    ) -> None:
        super().__init__(in_keys=as_keys(mask_key))
        self.action_key = as_keys(action_key)[0]
        self.__dict__["_spec"] = None

    def _call(self, tensordict: Any) -> Any:
        if self._spec is None:
            raise RuntimeError(
                "ActionMask needs an environment whose spec it can mask; append it to one."
            )
        mask = legal(tensordict, self.in_keys[0])
        if mask is None:
            raise self._missing(self.in_keys[0], tensordict)
        self._spec.update_mask(mask)
        return tensordict

    @property
    def action_masks(self) -> dict[NestedKey, NestedKey]:
        """The entry of the root that says which choices of the action are legal."""
        return {self.action_key: self.in_keys[0]}

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Take hold of the spec of the action."""
        self._check_keys(specs)
        if self.action_key not in leaf_names(specs["action"]):
            raise self._missing(self.action_key, leaf_names(specs["action"]))
        spec = specs["action"][self.action_key]
        if not hasattr(spec, "update_mask"):
            raise SpecError(
                describe(
                    self,
                    "cannot be masked",
                    key=self.action_key,
                    expected="a discrete spec",
                    found=type(spec).__name__,
                )
            )
        # A spec of our own: the environment inside must not see the mask.
        self.__dict__["_spec"] = specs["action"][self.action_key] = spec.clone()
        return specs


class _OfActions(Transform):
    """Base of transforms that are undone in a replay buffer only: environments emit no actions."""

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        return next_tensordict  # an environment emits no actions

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        return tensordict_reset


class ActionScaling(_OfActions):
    r"""Lets the policy act between -1 and 1 (or 0 and 1) whatever the bounds of the environment.

    On the way in, :math:`a \leftarrow a \cdot s + l`. As a module or in a replay buffer, the
    inverse on the way out.

    Args:
        in_keys_inv: The environment's action, one; ``action`` if ``None``.
        out_keys_inv: Its name seen from outside.
        in_keys: The action mapped by :meth:`forward`; as seen from outside if ``None``.
        out_keys: Where :meth:`forward` writes it.
        loc: The shift :math:`l`; from the bounds if ``None``.
        scale: The factor :math:`s`; from the bounds if ``None``.
        standard_normal: The policy acts between -1 and 1; otherwise between 0 and 1.

    Raises:
        SpecError: if ``loc`` or ``scale`` is needed from an action without finite bounds.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), ActionScaling())
    >>> env.action_spec.low, env.base_env.action_spec.low
    (tensor([-1.]), tensor([-2.]))
    """

    entrywise = True
    loc: Tensor | None
    scale: Tensor | None

    def __init__(
        self,
        in_keys_inv: Keys = None,
        out_keys_inv: Keys = None,
        in_keys: Keys = None,
        out_keys: Keys = None,
        *,
        loc: float | Tensor | None = None,
        scale: float | Tensor | None = None,
        standard_normal: bool = True,
    ) -> None:
        inner = ["action"] if in_keys_inv is None else in_keys_inv
        outer = inner if out_keys_inv is None else out_keys_inv
        super().__init__(outer if in_keys is None else in_keys, out_keys, inner, outer)
        if len(self.in_keys_inv) != 1:
            raise ValueError(
                f"ActionScaling: expected one action, found {self.in_keys_inv}; use one transform "
                "for each."
            )
        self.standard_normal = standard_normal
        for name, value in (("loc", loc), ("scale", scale)):
            given = None if value is None else torch.as_tensor(value)
            self.register_buffer(name, given)
        self._given = (loc is not None, scale is not None)

    def _pair(self) -> tuple[Tensor, Tensor]:
        loc, scale = self._buffers["loc"], self._buffers["scale"]
        if loc is None or scale is None:
            raise RuntimeError(
                "ActionScaling: loc and scale are unknown; give both, or append the transform to "
                "an environment with bounded actions."
            )
        return loc, scale

    def _apply_transform(self, value: Tensor) -> Tensor:
        loc, scale = self._pair()
        return (value - loc) / scale

    def _inv_apply_transform(self, value: Tensor) -> Tensor:
        loc, scale = self._pair()
        return torch.addcmul(loc, value, scale)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Derive shift and factor from the bounds, where not given, and map the bounds."""
        known = leaf_names(specs["action"])
        if self.in_keys_inv[0] not in known:
            raise self._missing(self.in_keys_inv[0], known)
        spec = specs["action"][self.in_keys_inv[0]]
        bounded = isinstance(spec, Bounded) and bool((spec.high - spec.low).isfinite().all())
        if not all(self._given):
            if not bounded:
                raise SpecError(
                    describe(
                        self,
                        "has no finite bounds to scale to",
                        key=self.in_keys_inv[0],
                        found=type(spec).__name__,
                        hint="Give loc and scale.",
                    )
                )
            span = spec.high - spec.low
            loc, scale = (
                (spec.low + span / 2, span / 2) if self.standard_normal else (spec.low, span)
            )
            if not self._given[0]:
                self.loc = loc.clone()
            if not self._given[1]:
                self.scale = scale.clone()
        return super().transform_specs(specs)

    def _check_keys(self, specs: dict[str, Composite]) -> None:
        """Pass: ``in_keys`` are those of replay buffers."""

    def _inv_transform_spec(self, spec: TensorSpec) -> TensorSpec:
        if not isinstance(spec, Bounded):
            return Unbounded(spec.shape, dtype=spec.dtype, device=spec.device)
        ends = self._apply_transform(spec.low), self._apply_transform(spec.high)
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        return Bounded(low, high, shape=spec.shape, dtype=spec.dtype, device=spec.device)


class ClipTransform(Transform):
    """Clamps entries on the way out, actions and states on the way in.

    Args:
        in_keys: Entries clamped on the way out.
        out_keys: Where to write them; in place if ``None``.
        in_keys_inv: Entries clamped on the way in.
        out_keys_inv: Their names seen from outside.
        low: Least value; none if ``None``.
        high: Largest value; none if ``None``.

    >>> from tensordict import TensorDict
    >>> clip = ClipTransform(["reward"], low=-10.0, high=10.0)
    >>> clip(TensorDict(reward=torch.full((1,), 50.0)))["reward"]
    tensor([10.])
    """

    entrywise = True
    postponable = True

    def __init__(
        self,
        in_keys: Keys = None,
        out_keys: Keys = None,
        in_keys_inv: Keys = None,
        out_keys_inv: Keys = None,
        *,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        super().__init__(in_keys, out_keys, in_keys_inv, out_keys_inv)
        if low is None and high is None:
            raise ValueError("ClipTransform: give low, high or both.")
        self.low, self.high = low, high

    def _apply_transform(self, value: Tensor) -> Tensor:
        return value.clamp(self.low, self.high)

    _inv_apply_transform = _apply_transform

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return clamped(spec, self.low, self.high)

    _inv_transform_spec = _transform_spec


class DiscreteActionProjection(_OfActions):
    """Lets a policy with many actions play in an environment with fewer.

    An action that the environment does not have is replaced by a random one.

    Args:
        num_actions_effective: Number of actions of the environment, one-hot.
        max_actions: Number of actions seen from outside.
        action_key: The action.
        include_forward: As a module or in a replay buffer, widen actions of the environment to
            ``max_actions``.

    >>> import torch
    >>> project = DiscreteActionProjection(2, 4)
    >>> from tensordict import TensorDict
    >>> project(TensorDict(action=torch.tensor([0, 1])))["action"]
    tensor([0, 1, 0, 0])
    """

    entrywise = True

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
                    "is not what the transform projects to",
                    key=self.in_keys_inv[0],
                    expected=f"a OneHot spec of {self.num_actions_effective}",
                    found=f"{type(spec).__name__}{list(spec.shape)}",
                )
            )
        shape = (*spec.shape[:-1], self.max_actions)
        return OneHot(self.max_actions, shape, spec.device, spec.dtype or torch.bool)


class FlattenAction(_OfActions):
    """Lets the policy see neighbouring dimensions of the action as one.

    Args:
        first_dim: First of them, negative.
        last_dim: Last of them, negative.
        in_keys_inv: The environment's actions; ``action`` if ``None``.
        out_keys_inv: Their names seen from outside.
        in_keys: Actions flattened by :meth:`forward`; none if ``None``.
        out_keys: Where :meth:`forward` writes them.
        allow_positive_dim: Accept dimensions that are not negative; they count without the batch.
        action_shape: The sizes that are flattened; from the environment's spec if ``None``.

    >>> flatten = FlattenAction(action_shape=(2, 3))
    >>> from tensordict import TensorDict
    >>> flatten.inv(TensorDict(action=torch.zeros(6)))["action"].shape
    torch.Size([2, 3])
    """

    entrywise = True
    _batch_ndim = 0

    def __init__(
        self,
        first_dim: int = -2,
        last_dim: int = -1,
        in_keys_inv: Keys = None,
        out_keys_inv: Keys = None,
        in_keys: Keys = None,
        out_keys: Keys = None,
        allow_positive_dim: bool = False,
        *,
        action_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(
            in_keys, out_keys, ["action"] if in_keys_inv is None else in_keys_inv, out_keys_inv
        )
        if (first_dim >= 0 or last_dim >= 0) and not allow_positive_dim:
            raise ValueError(
                f"FlattenAction: expected negative dimensions, found {first_dim} and {last_dim}."
            )
        self.first_dim, self.last_dim = first_dim, last_dim
        self._sizes = None if action_shape is None else tuple(action_shape)

    def _flat(self, value: Tensor) -> Tensor:
        first, last = self._range(value.ndim)
        return value.flatten(first, last)

    def _range(self, ndim: int) -> tuple[int, int]:
        dims = (self.first_dim, self.last_dim)
        first, last = (d if d < 0 else d + self._batch_ndim - ndim for d in dims)
        return first, last

    _apply_transform = _flat

    def _inv_apply_transform(self, value: Tensor) -> Tensor:
        if self._sizes is None:
            raise RuntimeError(
                "FlattenAction: the shape of the action is unknown; append the transform to an "
                "environment, or give action_shape."
            )
        _, last = self._range(value.ndim + len(self._sizes) - 1)
        return value.unflatten(last, self._sizes)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Flatten the actions of a record."""
        self.__dict__["_batch_ndim"] = tensordict.ndim
        return super().forward(tensordict)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Flatten the specs of the actions."""
        self.__dict__["_batch_ndim"] = len(specs["action"].shape)
        return super().transform_specs(specs)

    def _check_keys(self, specs: dict[str, Composite]) -> None:
        known = leaf_names(specs["action"])
        for key in self.in_keys_inv:
            if key not in known:
                raise self._missing(key, known)

    def _inv_transform_spec(self, spec: TensorSpec) -> TensorSpec:
        first, last = self._range(len(spec.shape))
        self._sizes = tuple(spec.shape[first:] if last == -1 else spec.shape[first : last + 1])
        return rearranged(spec, self._flat)
