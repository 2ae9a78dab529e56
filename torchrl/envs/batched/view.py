"""A view of some environments of a batch, as an environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase

from torchrl._core.attributes import is_class_attribute
from torchrl._core.generators import next_seed
from torchrl._core.records.flat_record import Record
from torchrl._core.records.rows import entry_names
from torchrl.envs.base import EnvBase
from torchrl.envs.batched.transport import stack_rows
from torchrl.envs.metadata import meta_of
from torchrl.envs.specs import GROUPS

if TYPE_CHECKING:
    from torchrl.envs.batched.base import BatchedEnvBase


class EnvView(EnvBase):
    """Steps and resets some environments of a batch; the others stay as they are.

    It is a view: the environments are those of the batch, not copies. Attributes and methods are
    those of the environments, a list with one value for each, or the value of a single one.

    Args:
        parent: The batch.
        index: Selects environments: a number, a slice, a list or a mask.

    >>> from torchrl.envs import GymEnv, SerialEnv
    >>> env = SerialEnv(3, lambda: GymEnv("CartPole-v1"))
    >>> env[1:].rollout(2).batch_size, env[0].rollout(2).batch_size
    (torch.Size([2, 2]), torch.Size([2]))
    """

    def __init__(self, parent: BatchedEnvBase, index: Any) -> None:
        chosen = torch.arange(parent.num_envs)[index]  # [n], or [] for a single one
        rows = torch.zeros(parent.num_envs, dtype=torch.bool)
        rows[chosen] = True
        size = (*chosen.shape, *parent.batch_size[1:])
        super().__init__(device=parent.device, batch_size=size, allow_done_after_reset=parent._allow_done_after_reset)
        self.__dict__.update(_parent=parent)  # not a submodule
        self.numbers: list[int] = chosen.reshape(-1).tolist()
        self._alone, self._rows = chosen.ndim == 0, rows
        where = self.numbers[0] if self._alone else chosen
        specs = parent._get_specs()
        picked = {group: self._pick(specs[group], where) for group in GROUPS}
        self.__dict__["_specs"] = {group: self._lock(spec) for group, spec in picked.items()}

    @property
    def action_masks(self) -> dict[NestedKey, NestedKey]:
        """The entry of the root that masks the legal choices of an action, by action."""
        return self._parent.action_masks

    @property
    def draws_from_spec(self) -> bool:
        """Whether random actions are draws from the spec."""
        return self._parent.draws_from_spec

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Write a random action that is legal in ``tensordict``, or any into a new one."""
        if tensordict is None or self.draws_from_spec:
            return super().rand_action(tensordict)
        action = self._parent.draw_for_rows(self.full_action_spec, tensordict)
        return tensordict.update(action)

    def _pick(self, whole: Any, where: object = None) -> Any:
        """Return the selected rows of a record or a spec ``[N, *B]``."""
        if self._alone:
            return whole[self.numbers[0]]
        parts = [whole[number] for number in self.numbers]
        return torch.stack(parts, 0) if where is not None else stack_rows(parts)

    def _placed(self, whole: Record) -> TensorDictBase:
        own = self._pick(whole)
        return own if self.device in (None, own.device) else own.to(self.device)

    def _whole(self, record: TensorDictBase) -> TensorDictBase:
        """Return a root ``[N, *B]`` with the selected rows; the other rows are zero."""
        parent = self._parent
        rows = list(parent.fake_tensordict().exclude("next").unbind(0))
        own_rows = [record] if self._alone else record.unbind(0)
        preset = own_rows[0].get("next", None)  # written by the policy
        if preset is not None and parent.is_flat():
            names = meta_of(parent).preset_names
            zeros = preset.select(*names, strict=False).apply(torch.zeros_like)
            rows = [row.set("next", zeros.copy()) for row in rows]
        for number, own in zip(self.numbers, own_rows, strict=True):
            rows[number] = rows[number].update(own)
        return stack_rows(rows)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        whole = self._whole(tensordict)
        shape = (*self._parent.batch_size, 1)
        mask = self._rows.reshape(-1, *(1,) * (len(shape) - 1)).expand(shape)
        own = tensordict.get("_step", None)
        if own is not None:
            mask = mask.clone()
            mask[self.numbers] &= own.unsqueeze(0) if self._alone else own
        self._parent.bump_state_version()
        return self._placed(self._parent._step(whole.set("_step", mask)))

    def _reset(self, tensordict: Any, **kwargs: object) -> TensorDictBase:
        parent = self._parent.start()
        if tensordict is None:
            tensordict = TensorDict({}, self.batch_size, device=self.device)
        whole = self._whole(tensordict)
        for group in parent.compiled_specs.groups:
            mask = torch.zeros(group.shape, dtype=torch.bool, device=group.device)
            own = tensordict.get(group.reset, None)
            rows = mask[self.numbers]
            mask[self.numbers] = True if own is None else own.expand_as(rows)
            whole.set(group.reset, mask)
        parent.bump_state_version()
        root = self._placed(parent._reset(whole, **kwargs))
        kept = set(
            self.compiled_specs.observation_keys + self.compiled_specs.done_keys + self.compiled_specs.state_keys
        )
        return root.select(*(key for key in entry_names(root) if key in kept))

    def _set_state(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self._reset(tensordict, set_state=True)

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """Seed the environments, each with the next seed; return the one after the last."""
        seeds: list[object] = [None] * self._parent.num_envs
        for number in self.numbers:
            seeds[number] = (seed,)
            seed = seed if static_seed or seed is None else next_seed(seed)
        self._parent.start()._pool.scatter("seed_some", seeds)
        return seed

    def _set_seed(self, seed: int | None) -> None:
        self.set_seed(seed)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or "_parent" not in self.__dict__ or is_class_attribute(self, name):
                raise
        found = self._parent.attribute_of(self.numbers, name)
        if not self._alone:
            return found
        return (lambda *args, **kwargs: found(*args, **kwargs)[0]) if callable(found) else found[0]

    def read_attribute(self, path: str) -> Any:
        """Return an attribute of the environments, numbers ``[n, ...]``."""
        values = self._parent.read_attribute(path)[self.numbers]
        return values[0] if self._alone else values

    def close(self, *, raise_if_closed: bool = False) -> None:
        """Do nothing: the environments belong to the batch."""
