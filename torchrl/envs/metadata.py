"""What is known of an environment without holding it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey

from torchrl._core.errors import describe
from torchrl._core.records.capabilities import supports
from torchrl._core.records.flat_record import Groups
from torchrl.data import Composite
from torchrl.envs.base import EnvBase
from torchrl.envs.specs import GROUPS, INPUTS, OUTPUTS, leaf_names, nested_groups

ROOTS = ("observation", "done")


@dataclass(frozen=True)
class EnvMeta:
    """What is known of an environment without holding it.

    Args:
        specs: The five groups of specs.
        batch_size: Its batch size.
        device: Where it lives.
        reads_action_only: Whether a step reads nothing of the record but the action, and a reset
            nothing at all.
        allow_done_after_reset: Whether its episodes may be over after a reset.
        action_masks: The entry that says which choices of an action are legal, by action.
        draws_from_spec: Whether any action of the spec may be a random action.
        event_flags: The flags that tell what happened in a step, and their value after a reset.
    """

    specs: dict[str, Composite]
    batch_size: torch.Size
    device: torch.device | None
    reads_action_only: bool
    allow_done_after_reset: bool
    action_masks: dict[NestedKey, NestedKey]
    draws_from_spec: bool
    event_flags: dict[NestedKey, bool]

    def names(self, *groups: str) -> list[NestedKey]:
        """Return the entries of some groups of specs, each once."""
        return list(dict.fromkeys(key for group in groups for key in leaf_names(self.specs[group])))

    @property
    def input_names(self) -> list[NestedKey]:
        """The entries that a step may read."""
        return self.names("action") if self.reads_action_only else self.names(*INPUTS, *ROOTS)

    @property
    def preset_names(self) -> list[NestedKey]:
        """The entries under ``"next"`` that a step may read, where a policy has written them."""
        return [] if self.reads_action_only else self.names("observation", "state")

    @property
    def result_names(self) -> list[NestedKey]:
        """The entries that a step may write; what is only a state need not be among them."""
        return self.names(*OUTPUTS, "state")

    @property
    def root_names(self) -> list[NestedKey]:
        """The entries that a reset may write; what is only a state need not be among them."""
        return self.names(*ROOTS, "state")

    @property
    def optional_names(self) -> list[NestedKey]:
        """The entries that are only a state: a step or a reset may leave them out."""
        known = self.names(*OUTPUTS)
        return [key for key in self.names("state") if key not in known]

    @property
    def nested(self) -> Groups:
        """The nested tensordicts with a batch size of their own."""
        return nested_groups(self.specs, self.batch_size)

    def spec_of(self, key: NestedKey) -> Any:
        """Return the spec of an entry."""
        for spec in self.specs.values():
            if key in leaf_names(spec):
                return spec[key]
        raise KeyError(key)

    def layout(self) -> dict[str, dict[NestedKey, tuple[torch.Size, torch.dtype]]]:
        """Return the shape and the dtype of each entry, by group."""
        return {
            group: {key: (spec[key].shape, spec[key].dtype) for key in leaf_names(spec)}
            for group, spec in self.specs.items()
        }

    def is_fixed(self) -> bool:
        """Return whether every entry is a tensor of one shape, so that it can have a row."""
        leaves = [spec[key] for spec in self.specs.values() for key in leaf_names(spec)]
        return all(leaf is not None and leaf.dtype is not None and -1 not in leaf.shape for leaf in leaves)


def meta_of(env: EnvBase) -> EnvMeta:
    """Return what others need to know of an environment."""
    specs = env._get_specs()
    groups: dict[str, Composite] = {group: specs[group].clone().unlock_() for group in GROUPS}
    return EnvMeta(
        groups,
        env.batch_size,
        env.device,
        reads_action_only=supports(env, "reads_action_only"),
        allow_done_after_reset=env._allow_done_after_reset,
        action_masks=env.action_masks,
        draws_from_spec=env.draws_from_spec,
        event_flags=env.event_flags,
    )


def build(recipe: Callable[[], EnvBase] | EnvBase) -> EnvBase:
    """Return the environment that a recipe makes.

    Raises:
        TypeError: if it makes something else.
    """
    env = recipe if isinstance(recipe, EnvBase) else recipe()
    if not isinstance(env, EnvBase):
        raise TypeError(
            describe(
                "create_env_fn",
                "must build an environment",
                expected="an EnvBase",
                found=type(env).__name__,
                hint="Wrap a gymnasium environment in GymWrapper.",
            )
        )
    return env
