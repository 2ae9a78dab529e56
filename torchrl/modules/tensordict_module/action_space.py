"""Discrete action spaces: from one value for each choice to an action, and back.

``*B`` batch dimensions, ``N`` choices; a product of ``G`` spaces has ``N = N_1 + ... + N_G``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.errors import ShapeError, SpecError, describe
from torchrl.data import Categorical, Composite, OneHot, TensorSpec
from torchrl.data.tensor_specs import MultiCategorical, MultiOneHot
from torchrl.modules.distributions.discrete import index_of, one_hot, require_choice, usable

_ALIASES = {"multi_one_hot": "mult_one_hot", "multi_categorical": "mult_categorical"}
NAMES = ("one_hot", "mult_one_hot", "categorical", "mult_categorical")
_OF_SPEC = {
    OneHot: "one_hot",
    MultiOneHot: "mult_one_hot",
    Categorical: "categorical",
    MultiCategorical: "mult_categorical",
}


class ActionSpace:
    """The encoding of the actions of a discrete space, or of a product of several.

    Args:
        name: ``"one_hot"``, ``"mult_one_hot"`` (one-hot vectors side by side), ``"categorical"``
            (an index) or ``"mult_categorical"`` (indices side by side); also with hyphens, or with ``multi``.
        sizes: Number of choices of each space of a product.
        dtype: Dtype of one-hot actions.

    ``num_choices`` is the number ``N`` of choices, ``None`` if it is not known. A space equals its name,
    written with underscores.

    Raises:
        ValueError: if the name is unknown, or a product comes without sizes.

    >>> space = ActionSpace("mult_one_hot", [2, 3])
    >>> space.greedy(torch.tensor([0.0, 1.0, 5.0, 2.0, 5.0]))
    tensor([0, 1, 1, 0, 0])
    """

    def __init__(self, name: str, sizes: Sequence[int] | None = None, dtype: torch.dtype | None = None) -> None:
        name = name.replace("-", "_")
        name = _ALIASES.get(name, name)
        if name not in NAMES:
            raise ValueError(describe(self, "is unknown", key=name, expected=f"one of {list(NAMES)}"))
        self.is_product = name.startswith("mult")
        counts = [] if sizes is None else [int(size) for size in sizes]
        if self.is_product and not counts:
            raise ValueError(describe(self, f"{name!r} needs the sizes of its spaces", hint="Give var_nums."))
        self.name, self.sizes = name, counts if self.is_product else None
        self.is_one_hot = name.endswith("one_hot")
        self.dtype = dtype or torch.int64
        self.num_choices = None if self.sizes is None else sum(self.sizes)

    def __eq__(self, other: object) -> bool:
        """Return whether another space, or the name of one, is the same."""
        if isinstance(other, str):
            return self.name == other
        return isinstance(other, ActionSpace) and (self.name, self.sizes) == (other.name, other.sizes)

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return self.name

    @classmethod
    def of(cls, spec: TensorSpec) -> ActionSpace:
        """Return the action space of a spec.

        Raises:
            SpecError: if the spec is not discrete.
        """
        for kind, name in _OF_SPEC.items():
            if isinstance(spec, kind):
                nvec = getattr(spec, "nvec", None)
                sizes = None if nvec is None else torch.as_tensor(nvec).tolist()
                space = cls(name, sizes, spec.dtype)
                space.num_choices = _count(spec)
                return space
        raise SpecError(
            describe(
                cls.__name__,
                "is a choice among finitely many",
                expected=[kind.__name__ for kind in _OF_SPEC],
                found=type(spec).__name__,
            )
        )

    def best(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best action and its value ``[*B, 1]``; of equal ones the first.

        The value of an action of a product is the sum over its spaces.
        """
        if self.sizes is None:
            value, index = values.max(-1, keepdim=True)
            return self._written(index, values), value
        self.check(values)
        best = [part.max(-1, keepdim=True) for part in values.split(self.sizes, -1)]
        value = torch.cat([v for v, _ in best], -1).sum(-1, keepdim=True)
        return self._joined([i for _, i in best]), value

    def greedy(self, values: Tensor) -> Tensor:
        """Return the best action."""
        return self.best(values)[0]

    def value_of(self, values: Tensor, action: Tensor) -> Tensor:
        """Return the value ``[*B, 1]`` of an action.

        Raises:
            ShapeError: if the action does not fit ``values [*B, N]``.
        """
        index = self.index(action, values)
        if self.sizes is None:
            return values.gather(-1, index)
        picked = [
            part.gather(-1, chosen)
            for part, chosen in zip(values.split(self.sizes, -1), index.split(1, -1), strict=True)
        ]
        return torch.cat(picked, -1).sum(-1, keepdim=True)

    def index(self, action: Tensor, values: Tensor | None = None) -> Tensor:
        """Return an action as indices ``[*B, 1]``, of a product ``[*B, G]``.

        Args:
            action: In the encoding of the space; an index may have a last dimension of one.
            values: ``[*B, N]`` of all choices, which the action must fit.

        Raises:
            ShapeError: if it does not.
        """
        if self.name == "one_hot" and (values is None or action.shape == values.shape):
            return (action.byte() if action.dtype is torch.bool else action).argmax(-1, keepdim=True)
        if values is not None:
            batch = values.shape[:-1]
            if self.name == "categorical" and action.shape == (*batch, 1):
                action = action.squeeze(-1)
            width = values.shape[-1:] if self.is_one_hot else [len(self.sizes)] if self.sizes else []
            if action.shape != (*batch, *width):
                raise ShapeError(
                    describe(
                        self,
                        f"an action written as {self.name!r} does not fit the values of the network",
                        expected=[*batch, *width],
                        found=list(action.shape),
                        hint="Compare the action space of the environment with that of the loss.",
                    )
                )
        if self.name == "categorical":
            return action.long().unsqueeze(-1)
        if self.name == "mult_categorical":
            return action.long()
        assert self.sizes is not None
        return torch.cat([index_of(part) for part in action.split(self.sizes, -1)], -1)

    def random(self, mask: Tensor) -> Tensor:
        """Return an action drawn uniformly from those that ``mask [*B, N]`` allows.

        Raises:
            ValueError: if a row of the mask allows nothing.
        """
        parts = [usable(part) for part in self._parts(mask)]
        for _, has_choice in parts:
            require_choice(self, has_choice)
        # The largest of uniform numbers, of which forbidden choices have none.
        draws = [
            torch.rand(part.shape, device=part.device).masked_fill(~part, -1.0).argmax(-1, True) for part, _ in parts
        ]  # each [*B, 1]
        if self.sizes is None:
            return self._written(draws[0], mask)
        return self._joined(draws)

    def masked(self, values: Tensor, mask: Tensor, *, choosing: bool = True) -> Tensor:
        """Return values ``[*B, N]`` with minus infinity where ``mask [*B, N]`` forbids a choice.

        Args:
            values: One for each choice.
            mask: True where allowed. Where it allows nothing, values stay as they are.
            choosing: Whether the best choice is executed, so that something must be allowed.

        Raises:
            ValueError: if a row of the mask allows nothing, and ``choosing``.
        """
        parts = [usable(part) for part in self._parts(mask.bool())]
        if choosing:
            for _, has_choice in parts:
                require_choice(self, has_choice)
        allowed = parts[0][0] if len(parts) == 1 else torch.cat([part for part, _ in parts], -1)
        return values.masked_fill(~allowed, -torch.inf)

    def _parts(self, mask: Tensor) -> Sequence[Tensor]:
        """Return the mask of each space of a product."""
        return (mask,) if self.sizes is None else mask.split(self.sizes, -1)

    def _written(self, index: Tensor, like: Tensor) -> Tensor:
        """Return choices ``[*B, 1]`` as actions; one-hot ones are as wide as ``like``."""
        if not self.is_one_hot:
            return index.squeeze(-1)
        return one_hot(index, like.shape[-1], self.dtype)

    def _joined(self, indices: list[Tensor]) -> Tensor:
        if not self.is_one_hot:
            return torch.cat(indices, -1)
        assert self.sizes is not None
        pairs = zip(indices, self.sizes, strict=True)
        return torch.cat([one_hot(index, n, self.dtype) for index, n in pairs], -1)

    def check(self, values: Tensor) -> None:
        """Raise :class:`ShapeError` unless there is one value for each choice."""
        if self.num_choices not in (None, values.shape[-1]):
            raise ShapeError(
                describe(
                    self,
                    "has one value for each choice",
                    expected=self.num_choices,
                    found=values.shape[-1],
                    hint="Compare var_nums, or the spec, with the output of the network.",
                )
            )


def _count(spec: TensorSpec | None) -> int | None:
    """Return the number of choices of a spec, if it has one."""
    if isinstance(spec, MultiOneHot | MultiCategorical):
        return int(torch.as_tensor(spec.nvec).sum())
    n = getattr(spec, "n", None)
    return n if isinstance(n, int) and n > 0 else None


def resolve(
    owner: object,
    action_space: str | TensorSpec | None,
    spec: TensorSpec | None,
    var_nums: Sequence[int] | None,
    action_key: NestedKey = "action",
) -> tuple[ActionSpace, TensorSpec | None]:
    """Return the action space of these arguments, and the spec of the action if there is one.

    Raises:
        ValueError: if they determine none.
        SpecError: if they contradict each other.
    """
    if isinstance(action_space, TensorSpec):
        action_space, spec = None, action_space if spec is None else spec
    leaf = spec.get(action_key) if isinstance(spec, Composite) else spec
    if action_space is not None:
        space = ActionSpace(action_space, var_nums, None if leaf is None else leaf.dtype)
        space.num_choices = space.num_choices or _count(leaf)
        found = next((name for kind, name in _OF_SPEC.items() if isinstance(leaf, kind)), space.name)
        if found != space.name:
            raise SpecError(
                describe(
                    owner,
                    "has another action space than its spec",
                    expected=found,
                    found=space.name,
                    hint="Leave out action_space, or the spec.",
                )
            )
        return space, spec
    if leaf is None:
        raise ValueError(describe(owner, "needs an action space", hint="Give spec, or action_space by name."))
    return ActionSpace.of(leaf), spec
