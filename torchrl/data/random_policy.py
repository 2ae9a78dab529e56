"""Actions at random: the policy that needs nothing but a spec."""

from __future__ import annotations

from tensordict import NestedKey

from torchrl._core.records.flat_record import Record
from torchrl.data.tensor_specs.base import TensorSpec
from torchrl.data.tensor_specs.composite import Composite
from torchrl.data.tensor_specs.stacked import contains_lazy_spec


class RandomPolicy:
    """Writes an action drawn from a spec.

    Args:
        action_spec: The spec of the action; a composite writes each of its entries at their own
            names.
        action_key: Where the action goes, unless the spec is a composite.

    Writes: ``action [*S]``, or each entry of a composite.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import OneHot
    >>> RandomPolicy(OneHot(4))(TensorDict())["action"].sum()
    tensor(1)
    """

    supports_flat_records = True

    def __init__(self, action_spec: TensorSpec, action_key: NestedKey = "action") -> None:
        self.action_spec, self.action_key = action_spec, action_key
        leaves: dict[NestedKey, TensorSpec] = {action_key: action_spec}
        if isinstance(action_spec, Composite):
            leaves = {k: s for k, s in action_spec.items(True, True) if s is not None}
        self.in_keys: list[NestedKey] = []
        self.out_keys: list[NestedKey] = list(leaves)
        # What only some of stacked composites have is no entry of the stack: draw it as a whole.
        self._whole = isinstance(action_spec, Composite) and contains_lazy_spec(action_spec)
        self._draws = [] if self._whole else [(key, spec.rand) for key, spec in leaves.items()]

    def __call__(self, tensordict: Record) -> Record:
        """Write the action into ``tensordict`` and return it."""
        for key, draw in self._draws:
            tensordict.set(key, draw())
        if self._whole:
            tensordict.update(self.action_spec.rand())
        return tensordict
