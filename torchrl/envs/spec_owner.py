"""The specs that an environment owns: assigned, completed, locked, and decided from once."""

from __future__ import annotations

from typing import Any

from tensordict import NestedKey

from torchrl._core.errors import MissingKeyError, describe
from torchrl._core.mdp import DONE, last_name
from torchrl.data import Composite, TensorSpec
from torchrl.envs.spec_access import GROUPS, SpecAccess, complete_group, default_spec, flag_spec
from torchrl.envs.step_plan import StepPlan


class SpecOwner(SpecAccess):
    """Keeps the specs of an environment and names their entries; mixed into ``EnvBase``."""

    _spec_locked: bool
    batch_locked: Any
    batch_size: Any
    device: Any

    def _get_specs(self) -> dict[str, Composite]:
        """Return the five groups of specs, completing them the first time they are asked for."""
        specs = self.__dict__.setdefault("_specs", {})
        for group in GROUPS:
            if group not in specs:
                specs[group] = self._lock(default_spec(self, group))
        return specs

    def _set_specs(self, specs: dict[str, TensorSpec | None]) -> None:
        if "_batch_size" not in self.__dict__:
            hint = "Call super().__init__() before you name specs."
            raise AttributeError(describe(self, "has no batch size yet", hint=hint))
        own = self.__dict__.setdefault("_specs", {})
        for group, spec in specs.items():
            own[group] = self._lock(complete_group(self, group, spec))
        self.empty_cache()

    def _lock(self, spec: Composite) -> Composite:
        return spec.lock_() if self._spec_locked else spec

    def set_spec_lock_(self, mode: bool = True) -> Any:
        """Lock or unlock the specs against edits in place; call :meth:`empty_cache` after edits."""
        self._spec_locked = mode
        for spec in self._get_specs().values():
            spec.lock_() if mode else spec.unlock_()
        self.empty_cache()
        return self

    def empty_cache(self) -> None:
        """Forget what was decided from the specs; it is decided anew at the next step."""
        self.__dict__.pop("_plan", None)
        self.__dict__.pop("_trusted", None)

    @property
    def plan(self) -> StepPlan:
        """What is known from the specs: keys, shapes, checks."""
        plan = self.__dict__.get("_plan")
        if plan is None:
            plan = self.__dict__["_plan"] = StepPlan(self)
        return plan

    @property
    def specs(self) -> Composite:
        """Both sides in one composite: ``input_spec`` and ``output_spec``."""
        return Composite(
            input_spec=self.input_spec, output_spec=self.output_spec, shape=self.batch_size
        )

    @property
    def action_keys(self) -> list[NestedKey]:
        """Names of the actions, flat ones first."""
        return self.plan.action_keys

    @property
    def action_key(self) -> NestedKey:
        """Name of the only action."""
        return self._only(self.action_keys, "action")

    @property
    def reward_keys(self) -> list[NestedKey]:
        """Names of the rewards."""
        return self.plan.reward_keys

    @property
    def reward_key(self) -> NestedKey:
        """Name of the only reward."""
        return self._only(self.reward_keys, "reward")

    @property
    def done_keys(self) -> list[NestedKey]:
        """Names of all end flags: ``done``, ``terminated`` and, if it can happen, ``truncated``."""
        return self.plan.done_keys

    @property
    def done_key(self) -> NestedKey:
        """Name of the only ``done`` flag."""
        return self._only([key for key in self.done_keys if last_name(key) == DONE], "done flag")

    @property
    def done_keys_groups(self) -> list[list[NestedKey]]:
        """Names of the end flags, grouped by nesting level."""
        return [group.keys for group in self.plan.groups]

    @property
    def reset_keys(self) -> list[NestedKey]:
        """Names of the ``_reset`` masks, one a nesting level of the flags."""
        return self.plan.reset_keys

    @property
    def observation_keys(self) -> list[NestedKey]:
        """Names of the observations."""
        return self.plan.observation_keys

    @property
    def state_keys(self) -> list[NestedKey]:
        """Names of what a step reads beside the action."""
        return self.plan.state_keys

    def _only(self, keys: list[NestedKey], what: str) -> NestedKey:
        if len(keys) != 1:
            raise MissingKeyError(
                describe(self, f"has {len(keys)} {what}s", found=keys, hint="Use the plural.")
            )
        return keys[0]

    def add_truncated_keys(self) -> Any:
        """Give every level of end flags a ``truncated`` beside its ``done``."""
        spec = self.full_done_spec.clone()
        for group in self.plan.groups:
            if not group.has_truncated:
                spec[group.truncated] = flag_spec(group.shape, self.device)
        self.full_done_spec = spec
        return self
