"""The policy that acts: where it should live, with the newest weights, its versions counted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from torchrl.envs.common import EnvBase
from torchrl.envs.rollout import Act, PreparedPolicy
from torchrl.weight_update import WeightReceiver

Device = torch.device | str | int | None


class ActingPolicy:
    """A policy made ready for the stepping loop of one environment.

    Args:
        env: The environment.
        policy: Acts; or a copy does, if it lives on another device than it should.
        device: Where it should act; where it is if ``None``.
        trust: Call it with the record, whatever its signature.
        compile_policy: Compile it with ``torch.compile``; a dictionary holds its arguments.
        tracks_version: Keep the version that acted at each step.
    """

    def __init__(
        self,
        env: EnvBase,
        policy: Callable[..., Any] | None,
        *,
        device: Device = None,
        trust: bool = False,
        compile_policy: bool | dict[str, Any] = False,
        tracks_version: bool = False,
    ) -> None:
        self.given = self.module = policy
        cast = False
        if device is not None and isinstance(policy, nn.Module):
            device = torch.device(device)
            elsewhere = any(p.device.type != device.type for p in policy.parameters())
            if elsewhere:
                self.module = copy.deepcopy(policy).to(device)
            cast = elsewhere or env.device not in (None, device)
        self._plain = PreparedPolicy(env, self.module, trust=trust, cast=cast)
        if compile_policy or isinstance(compile_policy, dict):
            options = compile_policy if isinstance(compile_policy, dict) else {}
            self._plain.on_entries = None
            self._plain.on_tensordict = torch.compile(self._plain.on_tensordict, **options)
        self._version = 0
        self._receiver: WeightReceiver | None = None
        self._versions: list[int] | None = [] if tracks_version else None
        self.prepared = self._looking() if tracks_version else self._plain

    @property
    def version(self) -> int:
        """Number of times that the weights were renewed."""
        return self._version if self._receiver is None else self._receiver.version

    def follow(self, make_receiver: Callable[[object], WeightReceiver]) -> None:
        """Take the newest weights before each action.

        Args:
            make_receiver: ``policy -> receiver``.
        """
        self._receiver = make_receiver(self.module)
        self.prepared = self._looking()

    def _looking(self) -> PreparedPolicy:
        prepared = copy.copy(self._plain)
        if prepared.on_entries is not None:
            prepared.on_entries = self._before(prepared.on_entries)
        prepared.on_tensordict = self._before(prepared.on_tensordict)
        return prepared

    def _before(self, act: Act) -> Act:
        receiver, versions = self._receiver, self._versions

        def look_and_act(record: Any) -> Any:
            if receiver is not None:
                receiver.poll()
            if versions is not None:
                versions.append(self.version)
            return act(record)

        return look_and_act

    def at_random(self, env: EnvBase) -> PreparedPolicy:
        """Return the policy with random actions in the place of its own.

        What else it writes stays, so that all steps have the same entries.
        """
        draw = PreparedPolicy(env, None)
        if self.module is None:
            return draw
        prepared, plain = copy.copy(self._plain), self._plain
        prepared.on_tensordict = lambda td: draw.on_tensordict(plain.on_tensordict(td))
        prepared.on_entries = _one_after_the_other(plain.on_entries, draw.on_entries)
        return prepared

    def take_versions(self) -> Tensor | None:
        """Return the versions ``[T]`` that acted since the last call, if they are tracked."""
        if self._versions is None:
            return None
        versions = torch.tensor(self._versions, dtype=torch.int64)
        self._versions.clear()
        return versions

    def update(self, source: nn.Module | TensorDictBase | dict | None) -> None:
        """Renew the weights, from the policy that was given if ``source`` is ``None``.

        Raises:
            TypeError: if the policy has no weights.
        """
        new: Any = self.given if source is None else source
        self._version += 1
        if new is self.module or self.module is None:
            return
        if not isinstance(self.module, nn.Module):
            raise TypeError(
                f"Collector: a policy without parameters ({type(self.module).__name__}) has no "
                "weights to update."
            )
        if isinstance(new, TensorDictBase):
            TensorDict.from_module(self.module).data.update_(new.data)
            return
        self.module.load_state_dict(new.state_dict() if isinstance(new, nn.Module) else new)


def _one_after_the_other(first: Act | None, second: Act | None) -> Act | None:
    if first is None or second is None:
        return None

    def act(record: Any) -> None:
        first(record)
        second(record)

    return act
