"""The policy of a collector: on its device, with the newest weights, its versions counted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import CudaGraphModule
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl._core.errors import describe
from torchrl._core.records.policy_output import output_entries, with_output
from torchrl.collectors.env_factories import Device
from torchrl.envs.base import EnvBase
from torchrl.envs.stepping.rollout import Act, PreparedPolicy
from torchrl.weight_update import WeightReceiver, Weights

Options = bool | dict[str, Any] | None


class ActingPolicy:
    """A policy made ready for the stepping loop of one environment.

    Args:
        env: The environment.
        policy: Acts; or a copy does, if it lives on another device than it should.
        device: Where it should act; where it is if ``None``.
        trust: Call it with the record, whatever its signature.
        compile_policy: Compile it with ``torch.compile``; a dictionary holds its arguments.
        cudagraph_policy: Capture it in a CUDA graph; a dictionary holds the arguments of
            ``tensordict.nn.CudaGraphModule``.
        waits: Whether the moves of records to a CUDA device are waited for.
        tracks_version: Keep the version that acted at each step.

    Raises:
        ValueError: if it should be captured in a CUDA graph and does not act on a CUDA device.
    """

    def __init__(
        self,
        env: EnvBase,
        policy: Callable[..., object] | None,
        *,
        device: Device = None,
        trust: bool = False,
        compile_policy: Options = None,
        cudagraph_policy: Options = None,
        waits: bool = True,
        tracks_version: bool = False,
    ) -> None:
        check_devices(self, device=device)
        self.given = self.module = policy
        there = None if device is None else torch.device(device)
        if isinstance(policy, nn.Module) and there is not None:
            lives = {parameter.device for parameter in policy.parameters()}
            if any(_differ(one, there) for one in lives):
                self.module = copy.deepcopy(policy).to(there)
        self.plain = PreparedPolicy(env, self.module, trust=trust)
        act = self.plain.on_tensordict
        if is_wanted(compile_policy):
            act = torch.compile(act, **arguments(compile_policy))
        if is_wanted(cudagraph_policy):
            act = _captured(act, self.module, there or env.device, arguments(cudagraph_policy))
        here = env.device or torch.device("cpu")
        # A policy that takes tensordicts may read their device, which those of the environment may lack.
        sees_device = env.device is None and self.plain.on_flat_record is None
        if policy is not None and there is not None and (sees_device or _differ(here, there)):
            act = _elsewhere(act, self.module, there, here, waits)
        if act is not self.plain.on_tensordict:
            self.plain.on_flat_record, self.plain.on_tensordict = None, act
        self._version = 0
        self._receiver: WeightReceiver | None = None
        self.tracks_version = tracks_version
        self._versions: list[int] | None = [] if tracks_version else None
        self.prepared = self._looking() if tracks_version else self.plain

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

    def poll(self) -> None:
        """Take the newest weights that were sent."""
        if self._receiver is not None:
            self._receiver.poll()

    def set_version(self, version: int) -> None:
        """Set how often the weights were renewed; what was sent before is not to come after."""
        self.poll()
        self._version = version
        if self._receiver is not None:
            self._receiver.version = version

    def count_version(self) -> None:
        """Count an update of the weights that was made elsewhere."""
        if self._receiver is None:
            self._version += 1
        else:
            self._receiver.version += 1

    def take(self, weights: dict[str, Tensor], version: int) -> None:
        """Act with these weights until newer ones are found."""
        assert self._receiver is not None
        self._receiver.poll()  # what was sent before is not to come after
        self._receiver.take(weights, version)

    def _looking(self) -> PreparedPolicy:
        prepared = copy.copy(self.plain)
        if prepared.on_flat_record is not None:
            prepared.on_flat_record = self._before(prepared.on_flat_record)
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
        prepared, plain = copy.copy(self.plain), self.plain
        prepared.on_tensordict = lambda td: draw.on_tensordict(with_output(td, plain.on_tensordict(td), self.module))
        prepared.on_flat_record = _one_after_the_other(plain.on_flat_record, draw.on_flat_record)
        return prepared

    def take_versions(self) -> Tensor:
        """Return the versions ``[T]`` that acted since the last call."""
        assert self._versions is not None
        versions = torch.tensor(self._versions, dtype=torch.int64)
        self._versions.clear()
        return versions

    def update(self, source: Weights | None) -> None:
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
                f"Collector: a policy without parameters ({type(self.module).__name__}) has no weights to update."
            )
        if isinstance(new, TensorDictBase):
            TensorDict.from_module(self.module).data.update_(new.data)
            return
        self.module.load_state_dict(new.state_dict() if isinstance(new, nn.Module) else new)


def check_one_policy(owner: object, policy: object, factory: object) -> None:
    """Refuse a policy beside a factory of one, and a class in the place of a policy."""
    if isinstance(policy, type):
        raise TypeError(
            describe(
                owner,
                "policy is a class, which cannot act",
                found=policy.__name__,
                hint="Pass an instance, or the class as policy_factory.",
            )
        )
    if policy is not None and factory is not None:
        raise TypeError(f"{type(owner).__name__}: give either a policy or a policy_factory, not both.")


def is_wanted(choice: Options) -> bool:
    """Return whether an option that may be its arguments is wanted: an empty ``{}`` means yes."""
    return bool(choice) or isinstance(choice, dict)


def arguments(choice: Options) -> dict[str, Any]:
    """Return the arguments that an option holds."""
    return choice if isinstance(choice, dict) else {}


def _differ(one: torch.device, other: torch.device) -> bool:
    """Return whether two devices differ; one without a number is any of its kind."""
    if one.type != other.type:
        return True
    return None not in (one.index, other.index) and one.index != other.index


def _captured(act: Act, policy: Any, device: torch.device | None, options: dict[str, Any]) -> Act:
    """Return a policy that a CUDA graph replays after a few calls."""
    if device is None and isinstance(policy, nn.Module):
        device = next((parameter.device for parameter in policy.parameters()), None)
    if device is None or device.type != "cuda":
        raise ValueError(
            describe(
                "Collector",
                "cudagraph_policy captures the policy on a CUDA device",
                expected="policy_device='cuda'",
                found=device,
                hint="Pass such a device, or leave cudagraph_policy out.",
            )
        )
    keys: dict[str, Any] = {} if hasattr(act, "in_keys") else {"in_keys": [], "out_keys": []}
    return CudaGraphModule(act, **{**keys, **options})


def _elsewhere(act: Act, policy: Any, there: torch.device, here: torch.device, waits: bool) -> Act:
    """Return a policy that acts on a copy of the record ``there``."""

    def act_there(td: TensorDictBase) -> TensorDictBase:
        output = output_entries(act(moved(td, there, waits)), policy)
        return td.update(moved(output, here, waits))

    return act_there


def _one_after_the_other(first: Act | None, second: Act | None) -> Act | None:
    if first is None or second is None:
        return None

    def act(record: Any) -> None:
        first(record)
        second(record)

    return act


def moved(record: TensorDictBase, device: torch.device, waits: bool) -> TensorDictBase:
    """Return a record on ``device``; a copy to a CUDA device need not be synchronous.

    A copy to the CPU always is: its numbers may be read at once.
    """
    if waits or device.type != "cuda":
        return record.to(device)
    return record.to(device, non_blocking=True)
