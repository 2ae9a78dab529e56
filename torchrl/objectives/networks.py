"""Networks of a loss: frozen for a call, copied, stacked; target networks and their updates."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from torchrl._core.errors import describe
from torchrl._core.exploration import ExplorationType, set_exploration_type
from torchrl._core.records.policies import check_states, input_keys
from torchrl._core.records.torch_private import (
    buffer_slots,
    copy_all_,
    has_flat_weights,
    leaves_of,
    lerp_all_,
    parameter_slots,
    refresh_flat_weights,
    register_leaves,
    set_leaves,
)
from torchrl._core.recurrence import set_recurrent_mode

if TYPE_CHECKING:
    from torchrl.objectives.common import LossModule

Critics = TensorDictModuleBase | Sequence[TensorDictModuleBase]  # one network, or all of an ensemble


def frozen(network: nn.Module, only: Container[int] | None = None) -> AbstractContextManager[nn.Module]:
    """Let gradients pass through a network without reaching its parameters.

    Unlike ``requires_grad_(False)`` it can be traced and mapped (``torch.compile``,
    ``torch.vmap``), since it puts detached copies in the place of the parameters.

    Args:
        network: Any module.
        only: ``id`` of the parameters to freeze; all of them if not given.

    >>> net, x = nn.Linear(1, 1), torch.ones(1, requires_grad=True)
    >>> with frozen(net):
    ...     net(x).backward()
    >>> net.weight.grad is None, x.grad is None
    (True, False)
    """
    return _sparing(network, only) if isinstance(network, Ensemble) else _detached(network, only)


@contextmanager
def _sparing(ensemble: Ensemble, only: Container[int] | None) -> Iterator[nn.Module]:
    before, ensemble.spared = ensemble.spared, only
    try:
        yield ensemble
    finally:
        ensemble.spared = before


@contextmanager
def _detached(network: nn.Module, only: Container[int] | None) -> Iterator[nn.Module]:
    swapped: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
    nested: list[tuple[Any, TensorDictBase]] = []  # which keep their leaves in a tensordict
    recurrent = []
    for module in network.modules():
        if isinstance(module, TensorDictParams):
            nested.append((module, leaves_of(module)))
            continue
        parameters = parameter_slots(module)
        for name, parameter in parameters.items():
            if parameter is not None and (only is None or id(parameter) in only):
                swapped.append((parameters, name, parameter))
        if has_flat_weights(module):
            recurrent.append(module)
    for parameters, name, parameter in swapped:
        parameters[name] = parameter.detach()
    for module, leaves in nested:
        detached: Any = leaves.apply(lambda leaf: leaf.detach() if only is None or id(leaf) in only else leaf)
        set_leaves(module, detached)
    for module in recurrent:
        refresh_flat_weights(module)
    try:
        yield network
    finally:
        for parameters, name, parameter in swapped:
            parameters[name] = parameter
        for module, leaves in nested:
            set_leaves(module, leaves)
        for module in recurrent:
            refresh_flat_weights(module)


@contextmanager
def hold_out_net(network: nn.Module) -> Iterator[nn.Module]:
    """Keep a network from learning inside the block: its parameters require no gradient.

    Args:
        network: Its parameters get no gradient within the block.

    >>> net = nn.Linear(1, 1)
    >>> with hold_out_net(net):
    ...     net(torch.ones(1)).requires_grad
    False
    >>> net(torch.ones(1)).requires_grad
    True
    """
    held = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield network
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


@contextmanager
def hold_out_params(params: TensorDictBase) -> Iterator[TensorDictBase]:
    """Yield detached copies of parameters held in a tensordict.

    Args:
        params: The parameters, which stay as they are.

    >>> params = TensorDict(weight=nn.Parameter(torch.ones(1)))
    >>> with hold_out_params(params) as held:
    ...     held["weight"].requires_grad
    False
    """
    yield params.detach()


def frozen_copy(network: nn.Module) -> nn.Module:
    """Return a deep copy whose parameters are buffers: it moves and saves, but never trains."""
    clone = deepcopy(network)
    tied: dict[int, Tensor] = {}  # what was one tensor stays one
    for module in clone.modules():
        if isinstance(module, TensorDictParams):
            leaves: Any = leaves_of(module).apply(lambda leaf: tied.setdefault(id(leaf), leaf.detach()))
            set_leaves(module, leaves)
            register_leaves(module)  # leaves that require no gradient are buffers
            continue
        for name, parameter in list(parameter_slots(module).items()):
            if parameter is not None:
                delattr(module, name)
                module.register_buffer(name, tied.setdefault(id(parameter), parameter.detach()))
        if has_flat_weights(module):
            refresh_flat_weights(module)
    return clone


def structure_copy(network: nn.Module) -> Any:
    """Return a copy of the modules of a network, with the parameters and buffers of the network itself.

    >>> net = nn.Linear(1, 1)
    >>> structure_copy(net) is net, structure_copy(net).weight is net.weight
    (False, True)
    """
    return deepcopy(network, {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())})


def copies(network: nn.Module, count: int) -> list[nn.Module]:
    """Return the network and ``count - 1`` others drawn like it.

    The entries of every parameter of a copy are shuffled: that draws from the initialisation of
    the original, whatever it was, and leaves constants as they are.
    """
    networks = [network]
    for _ in range(count - 1):
        clone = deepcopy(network)
        with torch.no_grad():
            for parameter in clone.parameters():
                entries = parameter.reshape(-1)
                order = torch.randperm(entries.numel(), device=entries.device)
                parameter.copy_(entries[order].view_as(parameter))
        networks.append(clone)
    return networks


def stack_networks(networks: Sequence[nn.Module], shared: Container[int] = ()) -> tuple[nn.Module, frozenset[str]]:
    """Return a copy of the first network whose parameters and buffers are stacked, ``[N, ...]`` each.

    Args:
        networks: ``N`` networks of one structure.
        shared: ``id`` of parameters that are not to be stacked. Nor are those that are one and the
            same in all networks.

    Returns: the stacked network, and the names of what is not stacked in it.

    Raises:
        EnsembleError: if the networks differ in structure.
    """
    stacked = structure_copy(networks[0])
    done: dict[tuple[int, ...], Tensor] = {}  # what was one tensor in each network stays one
    kept = set()

    def stack(name: str, tensors: Sequence[Tensor]) -> Tensor:
        first = tensors[0]
        if id(first) in shared or (len(tensors) > 1 and all(tensor is first for tensor in tensors)):
            kept.add(name)
            return first
        ids = tuple(map(id, tensors))
        if ids not in done:
            value = torch.stack([tensor.detach() for tensor in tensors])
            is_parameter = isinstance(first, nn.Parameter)
            done[ids] = nn.Parameter(value, first.requires_grad) if is_parameter else value
        return done[ids]

    try:
        for (slots, key, name), *others in zip(_slots(stacked), *map(_slots, networks), strict=True):
            slots[key] = stack(name, [source[other] for source, other, _ in others])
        for (_, params), *sources in zip(_nested(stacked), *map(_nested, networks), strict=True):
            all_leaves: Any = torch.stack([leaves_of(source).detach() for _, source in sources])
            like: Any = leaves_of(sources[0][1])
            like = like.expand(len(networks), *like.shape)
            set_leaves(params, all_leaves.apply(lambda x, old: nn.Parameter(x) if old.requires_grad else x, like))
            register_leaves(params)
    except (ValueError, RuntimeError) as error:
        raise EnsembleError(
            describe(
                "an ensemble",
                "is made of networks of different structures",
                expected="the same layers of the same sizes",
                found=[type(network).__name__ for network in networks],
            )
        ) from error
    for module in stacked.modules():
        if has_flat_weights(module):
            refresh_flat_weights(module)
    return stacked, frozenset(kept)


class EnsembleError(RuntimeError, ValueError):
    """The networks of an ensemble are too many, too few, or of different structures."""


class NoTargetError(RuntimeError, ValueError):
    """A loss has no target network to update."""


class Ensemble(nn.ModuleList):
    """Networks of one structure; their parameters are slices of those of a stacked network.

    The slices are taken each time that the ensemble is iterated or indexed, and carry the gradients
    of their members to the stacked parameters. ``template`` is one more network of that structure,
    which holds the stacked parameters and is to be run with others: ``params.to_module(template)``.

    Args:
        stacked: Network whose parameters are ``[N, ...]``, see :func:`stack_networks`.
        count: ``N``.
        shared: Names of the parameters that are not stacked: those of every member.
        randomness: How members draw random numbers: ``"different"``, ``"same"`` or ``"error"``.

    >>> stacked, _ = stack_networks([nn.Linear(1, 1), nn.Linear(1, 1)])
    >>> first, second = Ensemble(stacked, 2)
    >>> bool((second.weight == stacked.weight[1]).all())
    True
    """

    stacked: nn.Module
    template: nn.Module

    def __init__(
        self, stacked: nn.Module, count: int, shared: frozenset[str] = frozenset(), randomness: str = "different"
    ) -> None:
        super().__init__([structure_copy(stacked) for _ in range(count)])
        self.__dict__.update(stacked=stacked, template=structure_copy(stacked))  # no members
        self.count, self.shared = count, shared
        self.spared: Container[int] | None = ()  # ``id`` of parameters that get no gradient now; all: None
        self.randomness = randomness
        members = [*self._modules.values()]
        self._sources = _slots(stacked)
        self._places = [[slots for slots, _, _ in places] for places in zip(*map(_slots, members), strict=True)]
        self._nested = [
            (params, [part for _, part in parts])
            for (_, params), *parts in zip(_nested(stacked), *map(_nested, members), strict=True)
        ]
        self._recurrent = [layer for member in members for layer in member.modules() if has_flat_weights(layer)]
        self._slice()

    def train(self, mode: bool = True) -> Any:
        self.template.train(mode)
        return super().train(mode)

    def _slice(self) -> None:
        """Set the parameters and buffers of all members."""
        spared = self.spared
        for (source, key, name), places in zip(self._sources, self._places, strict=True):
            tensor = source[key]
            if spared is None or id(tensor) in spared:
                tensor = tensor.detach()
            parts = [tensor] * self.count if name in self.shared else tensor.unbind(0)
            for slots, part in zip(places, parts, strict=True):
                slots[key] = part
        for params, members in self._nested:
            leaves: Any = leaves_of(params)
            leaves = leaves.apply(lambda leaf: leaf.detach() if spared is None or id(leaf) in spared else leaf)
            for member, part in zip(members, leaves.unbind(0), strict=True):
                set_leaves(member, part)
        for layer in self._recurrent:
            refresh_flat_weights(layer)

    def __iter__(self) -> Iterator[nn.Module]:
        self._slice()
        members = super().__iter__()
        return members if self.randomness == "different" else self._with_randomness(members)

    def _with_randomness(self, members: Iterator[nn.Module]) -> Iterator[nn.Module]:
        """Yield members that draw the same random numbers, or must draw none."""
        device = next((tensor.device for tensor in self.stacked.parameters()), torch.device("cpu"))
        source: Any = torch.random if device.type == "cpu" else getattr(torch, device.type)
        state = source.get_rng_state()
        for member in members:
            if self.randomness == "same":
                source.set_rng_state(state)
            yield member
            if self.randomness == "error" and not torch.equal(state, source.get_rng_state()):
                raise RuntimeError(
                    describe(
                        self,
                        "has a member that drew random numbers",
                        hint="Choose set_vmap_randomness('different') or 'same'.",
                    )
                )

    def __getitem__(self, index: Any) -> Any:
        self._slice()
        return super().__getitem__(index)

    def __reduce__(self) -> Any:  # slices cannot be copied: they are no leaves of the graph
        return Ensemble, (self.stacked, self.count, self.shared, self.randomness)

    def __reduce_ex__(self, protocol: object) -> Any:
        return self.__reduce__()


def parameters_of(network: nn.Module | Ensemble, spared: Container[int] = ()) -> TensorDictParams:
    """Return the parameters of a network as a tensordict, some of them without gradient.

    Args:
        network: A network; those of an ensemble of ``N`` are ``[N, ...]``.
        spared: ``id`` of parameters without gradient.
    """
    if not isinstance(network, Ensemble):
        params: Any = TensorDict.from_module(network)
        params = TensorDict() if params is None else params
        return TensorDictParams(params.apply(lambda p: p.detach() if id(p) in spared else p), no_convert=True)
    count = network.count
    shared = {id(slots[key]) for slots, key, name in _slots(network.stacked) if name in network.shared}

    def entry(p: Tensor) -> Tensor:
        x = p.detach() if id(p) in spared else p
        return x.expand(count, *x.shape) if id(p) in shared else x

    params = TensorDict.from_module(network.stacked).apply(entry, batch_size=[count])
    return TensorDictParams(params, no_convert=True)


def _slots(network: nn.Module) -> list[tuple[dict[str, Any], str, str]]:
    """Return where each tensor of a network is held, its key there and its full name.

    Those of tensordicts among its modules are left out.
    """
    return [
        (slots, key, f"{path}.{key}")
        for path, module in network.named_modules()
        if not isinstance(module, TensorDictParams)
        for slots in (parameter_slots(module), buffer_slots(module))
        for key, tensor in slots.items()
        if tensor is not None
    ]


def _nested(network: nn.Module) -> list[tuple[str, TensorDictParams]]:
    """Return the tensordicts of parameters among the modules of a network, by name."""
    return [(path, part) for path, part in network.named_modules() if isinstance(part, TensorDictParams)]


@dataclass
class Unsized:
    """Networks that have not run yet: some of their parameters have no shape."""

    networks: list[nn.Module]
    count: int | None
    is_delayed: bool


def is_lazy(network: nn.Module) -> bool:
    """Return whether a parameter or buffer of a network has no shape yet."""
    return any(nn.parameter.is_lazy(tensor) for tensor in (*network.parameters(), *network.buffers()))


def run_once(network: nn.Module, rows: TensorDictBase) -> None:
    """Run a network that declares its keys on a batch, which gets its outputs, so that its parameters get shapes.

    Entries that the root of the batch lacks are taken from its ``"next"``.
    """
    if not hasattr(network, "in_keys"):
        return
    after = rows.get("next", None)
    for key in input_keys(network):
        if rows.get(key, None) is None and after is not None and after.get(key, None) is not None:
            rows.set(key, after.get(key))
    with set_recurrent_mode(True), set_exploration_type(ExplorationType.DETERMINISTIC):
        network(rows)


def reset_layers(network: nn.Module) -> None:
    """Initialise the parameters of every layer of a network again."""
    for layer in network.modules():
        reset: Callable[[], object] | None = getattr(layer, "reset_parameters", None)
        if reset is not None:
            reset()


def adopt_parameters(network: nn.Module, others: nn.Module) -> None:
    """Put the parameters of another network, which have no shape yet, in the place of those of ``network``.

    They take over shapes and values, so that optimisers that were built with them train the network.
    """
    for (slots, key, _), (other_slots, other_key, _) in zip(_slots(network), _slots(others), strict=True):
        tensor, lazy = slots[key], other_slots[other_key]
        if isinstance(lazy, nn.UninitializedParameter):
            lazy.materialize(tensor.shape, tensor.device, tensor.dtype)
            lazy.data.copy_(tensor.data)
            slots[key] = lazy


_DRAWING = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU)


def draws(network: nn.Module) -> bool:
    """Return whether a layer of a network draws random numbers.

    >>> draws(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5))), draws(nn.Linear(1, 1))
    (True, False)
    """
    return any(isinstance(layer, _DRAWING) for layer in network.modules())


def check_network(component: object, name: str, network: object) -> None:
    """Refuse what a loss cannot call.

    Raises:
        TypeError: if ``network`` does not read and write entries of a tensordict.
        ValueError: if two recurrent modules share a state.
    """
    if not isinstance(network, nn.Module) or not hasattr(network, "in_keys"):
        raise TypeError(
            describe(
                component,
                f"got a {name} without in_keys and out_keys",
                expected="a tensordict module",
                found=type(network).__name__,
                hint="Wrap it: TensorDictModule(net, in_keys=[...], out_keys=[...]).",
            )
        )
    check_states(network)


def in_modes_of_losses(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method of a loss: recurrent networks take sequences, policies take their mode."""

    @wraps(method)
    def run(self: LossModule, *args: Any, **kwargs: Any) -> Any:
        if self.is_lazy and args and isinstance(args[0], TensorDictBase):
            self._size_networks(args[0])
        mode = self.deterministic_sampling_mode
        with set_recurrent_mode(True), nullcontext() if mode is None else set_exploration_type(mode):
            return method(self, *args, **kwargs)

    return run


class TargetNetUpdater(ABC):
    """Moves every target network of a loss.

    Args:
        loss_module: A loss with at least one target network.

    Hooks:
        _move: ``(targets, online) ->`` nothing, in place; lists of floating tensors.

    Raises:
        NoTargetError: if the loss has no target network; a ValueError and a RuntimeError.
        ValueError: if what is passed is no loss.

    >>> from torchrl.objectives import DQNLoss
    >>> from tensordict.nn import TensorDictModule
    >>> class Half(TargetNetUpdater):
    ...     def _move(self, targets, online):
    ...         torch._foreach_lerp_(targets, online, 0.5)
    >>> net = TensorDictModule(nn.Linear(1, 2), ["observation"], ["action_value"])
    >>> loss = DQNLoss(net, action_space="categorical")
    >>> updater = Half(loss)
    >>> net.module.bias.data += 1
    >>> updater.step()
    >>> (net.module.bias - loss.target_value_network_params["module", "bias"]).tolist()
    [0.5, 0.5]
    """

    def __init__(self, loss_module: LossModule) -> None:
        if not hasattr(loss_module, "target_pairs"):
            raise ValueError(describe(self, "got a module that is no loss", found=type(loss_module).__name__))
        if not loss_module.has_targets:
            raise NoTargetError(
                describe(
                    self,
                    f"got a {type(loss_module).__name__} that has no target network",
                    hint="Build the loss with delay_value=True, or its like.",
                )
            )
        self.loss_module = loss_module
        self._pairs: list[tuple[dict, dict, str]] | None = None
        loss_module.has_updater = True
        self.init_()

    @torch.no_grad()
    def init_(self) -> None:
        """Copy the networks that are trained into their targets."""
        for target, online in self._tensors():
            target.copy_(online)

    @torch.no_grad()
    def step(self) -> None:
        """Move the targets once; counts and other whole numbers are copied."""
        pairs = self._tensors()
        moving = [pair for pair in pairs if pair[0].is_floating_point()]
        self._move([target for target, _ in moving], [online for _, online in moving])
        for target, online in pairs:
            if not target.is_floating_point():
                target.copy_(online)

    def state_dict(self) -> dict[str, int]:
        """Return what must be saved beside the loss."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore what :meth:`state_dict` returned."""

    @abstractmethod
    def _move(self, targets: list[Tensor], online: list[Tensor]) -> None: ...

    def _tensors(self) -> list[tuple[Tensor, Tensor]]:
        # looked up each time, since moving a module replaces its buffers; a shared one counts once
        if self._pairs is None:
            if self.loss_module.is_lazy:
                return []  # there are no targets yet: they will be copies of networks that have run
            self._pairs = [
                pair for online, target in self.loss_module.target_pairs().values() for pair in _paired(online, target)
            ]
        pairs = [(target[name], online[name]) for target, online, name in self._pairs]
        return list({id(target): (target, source) for target, source in pairs}.values())


class SoftUpdate(TargetNetUpdater):
    r"""Polyak averaging.

    .. math:: \bar\theta \leftarrow \epsilon\,\bar\theta + (1 - \epsilon)\,\theta

    Args:
        loss_module: A loss with at least one target network.
        eps: How much of the old target is kept; 0.999 if neither it nor ``tau`` is given. One below
            1/2, which is rather a ``tau``, warns.
        tau: ``1 - eps``.

    Raises:
        ValueError: if both ``eps`` and ``tau`` are given, or one lies outside [0, 1].

    Source: Lillicrap et al., 2016, https://arxiv.org/abs/1509.02971, section 3.

    >>> from torchrl.objectives import DQNLoss
    >>> from tensordict.nn import TensorDictModule
    >>> net = TensorDictModule(nn.Linear(1, 1), ["observation"], ["action_value"])
    >>> loss = DQNLoss(net, action_space="categorical")
    >>> updater = SoftUpdate(loss, tau=0.25)
    >>> net.module.bias.data += 1  # a step of an optimizer
    >>> updater.step()
    >>> (net.module.bias - loss.target_value_network_params["module", "bias"]).item()
    0.75
    """

    def __init__(self, loss_module: LossModule, *, eps: float | None = None, tau: float | None = None) -> None:
        if eps is not None and tau is not None:
            raise ValueError(describe(self, "got both eps and tau", hint="tau is 1 - eps: give one of them."))
        if eps is None:
            eps = 0.999 if tau is None else 1 - tau
        if not 0 <= eps <= 1:
            raise ValueError(describe(self, "got a weight that is none", expected="0 to 1", found=eps))
        if tau is None and eps < 0.5:
            hint = f"If each step shall move the target by {eps}, give tau={eps}."
            warnings.warn(describe(self, "keeps little of the target", found=f"eps={eps}", hint=hint), stacklevel=2)
        self.eps = eps
        super().__init__(loss_module)

    def _move(self, targets: list[Tensor], online: list[Tensor]) -> None:
        lerp_all_(targets, online, 1 - self.eps)


class HardUpdate(TargetNetUpdater):
    """Copy the networks into their targets once every so many steps.

    Args:
        loss_module: A loss with at least one target network.
        value_network_update_interval: Every how many calls of :meth:`step`.

    Source: Mnih et al., 2015, https://doi.org/10.1038/nature14236.

    >>> from torchrl.objectives import DQNLoss
    >>> from tensordict.nn import TensorDictModule
    >>> net = TensorDictModule(nn.Linear(1, 1), ["observation"], ["action_value"])
    >>> loss = DQNLoss(net, action_space="categorical")
    >>> updater = HardUpdate(loss, value_network_update_interval=2)
    >>> net.module.bias.data += 1  # a step of an optimizer
    >>> for _ in range(2):
    ...     updater.step()
    ...     print((net.module.bias - loss.target_value_network_params["module", "bias"]).item())
    1.0
    0.0
    """

    def __init__(self, loss_module: LossModule, *, value_network_update_interval: int = 1000) -> None:
        self.value_network_update_interval = value_network_update_interval
        self.counter = 0
        super().__init__(loss_module)

    def step(self) -> None:
        """Count, and copy when the count is full."""
        self.counter += 1
        if self.counter >= self.value_network_update_interval:
            self.counter = 0
            self.init_()

    def state_dict(self) -> dict[str, int]:
        """Return the count."""
        return {"counter": self.counter}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore the count."""
        self.counter = state_dict["counter"]

    def _move(self, targets: list[Tensor], online: list[Tensor]) -> None:
        copy_all_(targets, online)


def _paired(online: nn.Module, target: nn.Module) -> list[tuple[dict, dict, str]]:
    """Return where each tensor of a target network and of its network is held, by name."""
    return [
        (buffer_slots(copy), source, name)
        for module, copy in zip(online.modules(), target.modules(), strict=True)
        for source in (parameter_slots(module), buffer_slots(module))
        for name, tensor in source.items()
        if tensor is not None
    ]
