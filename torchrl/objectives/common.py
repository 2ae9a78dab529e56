"""``LossModule``: one forward of a loss, from the keys of a batch to the reduced terms.

What happens in ``loss(batch)``, in this order:

1. ``in_keys``, computed once and kept, are the entries that the loss and its networks read
   (:meth:`LossModule.collect_in_keys`). A call with tensors by keyword builds the batch from them.
2. :meth:`LossModule.row_mask` finds the mask of the rows that count, if the batch has one.
3. :meth:`LossModule.prepare_batch` checks that every entry is present, detaches the batch, and
   replaces the rows that do not count, so that they cannot reach a gradient.
4. :meth:`LossModule.losses`, the method that each algorithm writes, computes the terms, one number
   a sample.
5. For that it runs networks on the batch: ``take(network, batch, key)`` returns an output,
   ``distribution(actor, batch)`` the distribution of a policy; neither writes to the batch.
   :meth:`LossModule.target` returns the target copy of a network.
6. Targets of critics come from the value estimator of the loss
   (:attr:`LossModule.value_estimator`), which calls a pure function of
   :mod:`torchrl._core.returns`.
7. Terms whose name starts with ``loss`` are reduced over the rows that count; all others are
   detached.
8. The priority of each sample is written to the batch, for a prioritised replay buffer.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, fields
from types import FunctionType
from typing import Any, ClassVar

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase, dispatch, set_interaction_type
from torch import Tensor, nn
from torch.nn import functional as F

from torchrl._core.attributes import is_class_attribute
from torchrl._core.errors import ShapeError, describe
from torchrl._core.exploration import ExplorationType
from torchrl._core.keys import as_keys, groups_of, inputs, is_private, kept_keys, next_key, require, sibling
from torchrl._core.math import cleared, replaced
from torchrl._core.records.ended_rows import ENDED_ROWS
from torchrl._core.records.policies import input_keys
from torchrl._core.records.rows import expand_right
from torchrl._core.records.torch_private import leaves_of, register_leaves, set_leaves
from torchrl._core.recurrence import set_recurrent_mode
from torchrl.objectives.networks import (
    Ensemble,
    EnsembleError,
    Unsized,
    adopt_parameters,
    check_network,
    copies,
    draws,
    frozen_copy,
    in_modes_of_losses,
    is_lazy,
    parameters_of,
    reset_layers,
    run_once,
    stack_networks,
    structure_copy,
)
from torchrl.objectives.value.estimators import PADDING_MASK, ValueEstimatorBase, ValueKeys, renamed
from torchrl.objectives.value.registry import ValueEstimators, dispatch_value_estimator
from torchrl.objectives.value.sequences import may_take_sequences

VALUE_KEYS = tuple(f.name for f in fields(ValueKeys))
REDUCTIONS = ("mean", "sum", "none")
DISTANCES = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}
SCALAR_MODES = (None, "exclude", "non_tensor")
#: Entries that losses take for masks of rows that count, unless ``loss_mask_key`` says otherwise.
AUTO_LOSS_MASK_KEYS: tuple[NestedKey, ...] = (PADDING_MASK, "learning_mask")


class LossModule(TensorDictModuleBase):
    """A map from a batch of transitions to named losses.

    Every entry of the output that starts with ``loss`` carries a gradient, and their sum is what to
    minimise; all other entries are detached. Networks are called as they are; their parameters are
    registered as ``<network>_params``, stacked for an ensemble. A target network is a frozen copy,
    updated by :class:`SoftUpdate` or :class:`HardUpdate`.

    Padded rows, marked by a mask under one of ``AUTO_LOSS_MASK_KEYS``, do not count; set the
    attribute ``loss_mask_key`` to the name of another mask, or to ``None`` to count all rows.

    Inside ``forward``, and inside methods whose name ends with ``loss``, recurrent networks take
    sequences and policies take the action of ``deterministic_sampling_mode``.

    Args:
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` to keep one loss a sample.
        use_prioritized_weights: Multiply the errors of the critics by the entry
            ``priority_weight``: always, never, or (``"auto"``) if the batch has it.
        scalar_output_mode: What becomes of reported scalars where nothing is reduced
            (``reduction="none"``): ``"exclude"`` leaves them out, ``"non_tensor"`` returns them as
            numbers; by default they stay tensors.

    Hooks:
        losses: ``td -> {out_key: tensor}``; losses ``[*B]`` or ``[*B, 1]``, not reduced. The one
            method that every loss has.
        _AcceptedKeys: Dataclass of entry names, each ``read``, ``read_next`` or ``write``.
        out_keys: What a call with tensors returns, in this order: all losses, and what is reported
            first of all; the tensordict that a call returns may have more.
        network_inputs: Which inputs of which networks are read: ``{"actor_network": "root next"}``.
        network_outputs: Which entries are outputs of which networks: ``{"critic": ("value",)}``; if
            the network writes the entry under another name, that name is used.
        default_value_estimator: A :class:`ValueEstimators`.
        value_estimators: The estimators that the loss can use.
        keys_of_heads: Which names of ``_AcceptedKeys`` may be lists, with one entry for each head.
        collect_in_keys: ``() -> [key]``, all entries that are read; by default what
            ``_AcceptedKeys`` and ``network_inputs`` declare.
        alternatives: ``key -> [key]``, entries that may be present instead of one of ``in_keys``.
        check_entries: ``td ->`` nothing; raises :class:`MissingKeyError` if an entry is absent.
        row_mask: ``td -> mask [*B]`` of the rows that count, or ``None``.
        is_padding: ``td -> bool``, whether the rows that do not count are no data at all.
        value_networks: ``() -> {argument: network}``, what the value estimator is built with.

    Raises:
        MissingKeyError: if an entry of ``in_keys`` is absent when the loss is called.

    >>> from tensordict.nn import TensorDictModule
    >>> from torchrl.objectives import read
    >>> class Regression(LossModule):
    ...     out_keys, network_inputs = ["loss"], {"network": "root"}
    ...     @dataclass
    ...     class _AcceptedKeys:
    ...         target: NestedKey = read("target")
    ...     def __init__(self, network):
    ...         super().__init__()
    ...         self.convert_to_functional(network, "network")
    ...     def losses(self, td):
    ...         return {"loss": (self.network(td.copy())["value"] - td[self.tensor_keys.target]) ** 2}
    >>> loss = Regression(TensorDictModule(torch.nn.Identity(), ["observation"], ["value"]))
    >>> loss(observation=torch.zeros(4, 1), target=torch.ones(4, 1))
    tensor(1.)
    """

    @dataclass
    class _AcceptedKeys:
        """A loss that declares no entries reads none by itself."""

    network_inputs: Mapping[str, str] = {}
    network_outputs: Mapping[str, tuple[str, ...]] = {}
    default_value_estimator: ValueEstimators | None = None
    value_estimators: ClassVar[tuple[ValueEstimators, ...]] = tuple(ValueEstimators)
    keys_of_heads: ClassVar[tuple[str, ...]] = ()
    loss_mask_key: NestedKey | None = "auto"
    deterministic_sampling_mode: ExplorationType | None = ExplorationType.DETERMINISTIC
    default_keys: Callable[[], Any] = _AcceptedKeys
    out_keys: Any
    tensor_keys: Any
    _value_estimator: ValueEstimatorBase | None = None
    _may_remember = False
    _has_warned = _selects = False
    separate_losses = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        if "_AcceptedKeys" in own and "default_keys" not in own:
            cls.default_keys = cls._AcceptedKeys
        for name, method in list(own.items()):
            is_loss = name.endswith("loss") and not name.startswith("_")
            if isinstance(method, FunctionType) and (name == "forward" or is_loss):
                setattr(cls, name, in_modes_of_losses(method))

    def __init__(
        self,
        *,
        reduction: str | None = None,
        use_prioritized_weights: str | bool = "auto",
        scalar_output_mode: str | None = None,
    ) -> None:
        super().__init__()
        reduction = reduction or "mean"
        for name, value, known in (
            ("reduction", reduction, REDUCTIONS),
            ("scalar_output_mode", scalar_output_mode, SCALAR_MODES),
        ):
            if value not in known:
                raise ValueError(
                    describe(self, f"got an unknown {name}", expected=f"one of {list(known)}", found=repr(value))
                )
        self.reduction, self.scalar_output_mode = reduction, scalar_output_mode
        self.use_prioritized_weights = use_prioritized_weights
        self.tensor_keys = self._AcceptedKeys()
        self._value_kwargs: dict[str, Any] = {}
        self._spared: dict[str, list[nn.Parameter]] = {}
        self._networks: dict[str, Any] = {}  # what is called: a network or an ensemble, by name
        self._unsized: dict[str, Unsized] = {}
        self._handles: list[tuple[str, weakref.ref]] = []
        self._vmap_randomness: str | None = None
        self.has_updater = False

    # ------------------------------------------------------------------ networks

    def convert_to_functional(
        self,
        module: nn.Module | Sequence[nn.Module],
        module_name: str,
        expand_dim: int | None = None,
        create_target_params: bool = False,
        compare_against: Iterable[nn.Parameter] | None = None,
    ) -> None:
        """Hold a network and, on demand, a frozen target copy of it.

        Its parameters are ``<module_name>_params``, those of the target ``target_<module_name>_params``;
        without a target copy the latter are the detached parameters themselves. Those of an ensemble
        of ``N`` networks are stacked, ``[N, ...]``: the attribute ``<module_name>`` is one network that
        holds them, which ``torch.vmap`` maps over its members by ``params.to_module(network)``;
        :meth:`network` returns the members.

        A network with parameters that have no shape yet runs once on the first batch; its copies
        are made then.

        Args:
            module: A module; a list of them is an ensemble.
            module_name: Name of the attribute.
            expand_dim: Make an ensemble of that many networks: the given one and others drawn like
                it.
            create_target_params: Whether to hold the target copy.
            compare_against: Parameters that ``<module_name>_params`` shall have without gradient,
                where the network shares them, since another loss trains them; those of the actor, by
                default, in a loss with ``separate_losses``.

        Raises:
            TypeError: if the loss calls the module with a batch, and it has no ``in_keys``.
            EnsembleError: if a list has another length than ``expand_dim``, or the networks of an
                ensemble differ in structure; a RuntimeError and a ValueError.
        """
        is_list = isinstance(module, Sequence | nn.ModuleList)
        networks: list[Any] = [*module] if is_list else [module]  # type: ignore[misc]  # a list or not
        if module_name in self.network_inputs:
            for network in networks:
                check_network(self, module_name, network)
        count = len(networks) if is_list else expand_dim
        if expand_dim not in (None, count):
            raise EnsembleError(
                describe(self, f"got the wrong number of networks for {module_name}", expected=expand_dim, found=count)
            )
        if compare_against is None and self.separate_losses and "actor_network" in self._networks:
            compare_against = self.actor_network.parameters()
        self._spared[module_name] = list(compare_against or ())
        held = Unsized(networks, count, create_target_params)
        if any(map(is_lazy, networks)):
            self._unsized[module_name] = held
            self._networks[module_name] = self.__dict__[module_name] = networks[0]
            self._modules[f"{module_name}_params"] = networks[0] if count is None else deepcopy(networks[0])
        else:
            self._hold(module_name, held)
        self._may_remember = self._may_remember or may_take_sequences(networks[0])
        self._name_outputs(module_name)
        self._forget_keys()

    def _hold(self, name: str, held: Unsized) -> None:
        """Register the parameters of a network under its name, and those of its target copy."""
        count, network = held.count, held.networks[0]
        if count is None:
            self._networks[name] = self._modules[f"{name}_params"] = self.__dict__[name] = network
            if held.is_delayed:
                target = frozen_copy(network)
                name = f"target_{name}"
                self._networks[name] = self._modules[f"{name}_params"] = self.__dict__[name] = target
            return
        self.__dict__.pop(name, None)
        networks = held.networks if len(held.networks) == count else copies(network, count)
        stacked, shared = stack_networks(networks, {id(parameter) for parameter in self._spared[name]})
        self._modules[f"{name}_params"] = stacked
        randomness = self._vmap_randomness or "different"
        self._networks[name] = Ensemble(stacked, count, shared, randomness)
        if held.is_delayed:
            target = self._modules[f"target_{name}_params"] = frozen_copy(stacked)
            self._networks[f"target_{name}"] = Ensemble(target, count, shared, randomness)

    @torch.no_grad()
    def _size_networks(self, td: TensorDictBase) -> None:
        """Run once, on a batch, the networks whose parameters have no shape yet; then copy them."""
        rows = td.copy()
        for name, held in self._unsized.items():
            for network in held.networks:
                run_once(network, rows)
            modules: dict[str, Any] = self._modules
            before: Any = modules.get(f"{name}_params")
            self._hold(name, held)
            if held.count is not None:
                adopt_parameters(modules[f"{name}_params"], before)
        self._unsized = {}
        self._forget_keys()

    @property
    def is_lazy(self) -> bool:
        """Whether networks must run once before their parameters have shapes."""
        return bool(self._unsized)

    def _name_outputs(self, module_name: str) -> None:
        """Take over the names of entries from the network that writes them."""
        network: Any = getattr(self, module_name)
        names = self.network_outputs.get(module_name, ())
        for name in names:
            key = getattr(self.tensor_keys, name)
            last = key if isinstance(key, str) else key[-1]
            keys: Any = network.out_keys
            if name == "action":
                keys = getattr(network, "dist_sample_keys", keys)
            alike = [k for k in keys if k == sibling(k, last)]
            found = list(keys) if len(keys) == len(names) == 1 else alike
            if key not in keys and len(found) == 1:
                setattr(self.tensor_keys, name, found[0])

    def named_networks(self) -> dict[str, Any]:
        """Return, by name, the networks and ensembles of the loss, without target copies."""
        return {name: network for name, network in self._networks.items() if name[:7] != "target_"}

    def network(self, module_name: str) -> Any:
        """Return a network as the loss calls it: of an ensemble, an iterable of all networks."""
        return self._networks[module_name]

    def target(self, module_name: str) -> Any:
        """Return the target copy of a network, or the network itself if it has none."""
        networks = self._networks
        return networks.get(f"target_{module_name}") or networks[module_name]

    @property
    def has_targets(self) -> bool:
        """Whether a network has a target copy, or will have one once it has run."""
        return any(held.is_delayed for held in self._unsized.values()) or bool(self.target_pairs())

    def target_pairs(self) -> dict[str, tuple[Any, Any]]:
        """Return, by name, each network that has a target copy, and that copy; ensembles stacked."""
        names = [name.removeprefix("target_") for name in self._networks if name[:7] == "target_"]
        modules = self._modules
        return {name: (modules[f"{name}_params"], modules[f"target_{name}_params"]) for name in names}

    def warn_of_targets(self) -> None:
        """Warn that target networks stay as they are, unless an updater was built."""
        if not self.has_updater and self.has_targets:
            warnings.warn(
                describe(
                    self,
                    "has target networks that no updater moves",
                    hint="Build SoftUpdate(loss, tau=...) or HardUpdate(loss, ...) and call its step() "
                    "after each step of the optimiser.",
                ),
                stacklevel=3,
            )

    def __getattr__(self, name: str) -> Any:
        networks: dict[str, Any] = self.__dict__.get("_networks", {})
        if name in networks:
            return networks[name].template  # of an ensemble; others are attributes
        if name.endswith("_params"):
            network = name.removesuffix("_params")
            online = network.removeprefix("target_")
            if network in networks or online in networks:
                if network != online:
                    self.warn_of_targets()
                params = self._parameters_of(network)
                self._handles = [pair for pair in self._handles if pair[1]() is not None]
                self._handles.append((network, weakref.ref(params)))
                return params
        try:
            return super().__getattr__(name)
        except AttributeError:
            if not is_class_attribute(self, name):
                raise
        return object.__getattribute__(self, name)  # raises the error of a property

    def _parameters_of(self, name: str) -> TensorDictParams:
        """Return the parameters of a network, or of a target copy, as they are now."""
        spared = self._spared.get(name, ())
        if name not in self._networks:  # a target without a copy
            name = name.removeprefix("target_")
            spared = [*self._modules[f"{name}_params"].parameters()]  # type: ignore[union-attr]  # never None
        return parameters_of(self._networks[name], {id(parameter) for parameter in spared})

    def _apply(self, fn: Any, *args: object, **kwargs: Any) -> Any:
        out = super()._apply(fn, *args, **kwargs)
        for name, handle in self._handles:  # tensordicts of parameters follow a move or cast
            params = handle()
            if params is not None:
                set_leaves(params, leaves_of(self._parameters_of(name)))
                register_leaves(params)
        return out

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": []}

    def train(self, mode: bool = True) -> Any:
        for network in self._networks.values():
            network.train(mode)
        return super().train(mode)

    def __setattr__(self, name: str, value: Any) -> None:
        buffer = self.__dict__.get("_buffers", {}).get(name)
        if buffer is not None and isinstance(value, int | float):
            buffer.fill_(value)  # coefficients are buffers and can be set as numbers
        else:
            if name == "_value_estimator":  # no submodule: it shares the networks of the loss
                self.__dict__[name] = value
                return
            if isinstance(value, nn.Module) and name in self.__dict__.get("_networks", ()):
                self._networks[name] = self._modules[f"{name}_params"] = self.__dict__[name] = value
                return
            super().__setattr__(name, value)
            if name == "in_keys":
                self.__dict__.pop("call_keys", None)

    @property
    def vmap_randomness(self) -> str:
        """How the networks of ensembles draw: ``"different"`` if one of them can, otherwise ``"error"``."""
        if self._vmap_randomness is not None:
            return self._vmap_randomness
        return "different" if any(map(draws, self._networks.values())) else "error"

    def set_vmap_randomness(self, vmap_randomness: str) -> None:
        """Set how the networks of ensembles draw random numbers.

        Args:
            vmap_randomness: ``"different"``: each for itself; ``"same"``: all the same;
                ``"error"``: a draw raises RuntimeError.

        Raises:
            ValueError: for any other name.
        """
        if vmap_randomness not in ("different", "same", "error"):
            raise ValueError(
                describe(
                    self,
                    "has no such randomness",
                    expected="'different', 'same' or 'error'",
                    found=repr(vmap_randomness),
                )
            )
        self._vmap_randomness = vmap_randomness
        for network in self._networks.values():
            if isinstance(network, Ensemble):
                network.randomness = vmap_randomness

    def get_stateful_net(self, network_name: str, copy: bool = True) -> Any:
        """Return a network that holds the parameters of the loss; of an ensemble, stacked ones.

        Args:
            network_name: Name of its attribute.
            copy: Return another module, with the same parameters; otherwise the loss's own.
        """
        network: Any = self._modules[f"{network_name}_params"]
        return structure_copy(network) if copy else network

    def from_stateful_net(self, network_name: str, stateful_net: nn.Module) -> None:
        """Load the parameters of ``stateful_net`` into a network of the loss."""
        network: Any = self._modules[f"{network_name}_params"]
        network.load_state_dict(stateful_net.state_dict())

    def select_out_keys(self, *out_keys: NestedKey) -> LossModule:
        """Return these entries alone."""
        super().select_out_keys(*out_keys)
        self._selects = True
        return self

    def reset_out_keys(self) -> LossModule:
        """Return all entries again."""
        super().reset_out_keys()
        self._selects = False
        return self

    def reset(self) -> None:
        """Forget what the loss keeps from one call to the next, which is nothing."""

    @torch.no_grad()
    def reset_parameters_recursive(self, parameters: TensorDictBase | None = None) -> Any:
        """Initialise all parameters again; target networks become copies of their networks.

        Args:
            parameters: Initialise these instead, as :class:`~tensordict.nn.TensorDictModuleBase`
                does, and return them.
        """
        if parameters is not None:
            return super().reset_parameters_recursive(parameters)
        held = {f"{name}_params" for name in self._networks}
        others = [module for name, module in self._modules.items() if name not in held and module is not None]
        for module in (*others, *self.named_networks().values()):
            for network in module if isinstance(module, Ensemble) else [module]:
                reset_layers(network)
        for online, target in self.target_pairs().values():
            target.load_state_dict(online.state_dict())

    # ------------------------------------------------------------------ keys

    def set_keys(self, **names: NestedKey | list[NestedKey]) -> None:
        """Rename entries: ``loss.set_keys(action="my_action")``.

        Losses of policies with several heads take a list, of one name for each head, for the
        entries in ``keys_of_heads``.

        Raises:
            ValueError: if a name is unknown, or a list is given where one entry is read.
        """
        self.tensor_keys = renamed(self, self.tensor_keys, names)
        self._forget_keys()
        if self._value_estimator is not None:
            self._value_estimator.set_keys(**self._shared_keys())

    @kept_keys
    def in_keys(self) -> list[NestedKey]:
        """Every entry that is read, in the order of the keyword arguments of a call."""
        return self.collect_in_keys()

    @kept_keys
    def call_keys(self) -> list[NestedKey]:
        """Every entry that a call takes by keyword."""
        return self.in_keys

    def _forget_keys(self) -> None:
        """Let the keys be collected again after a change."""
        self.__dict__.pop("in_keys", None)
        self.__dict__.pop("call_keys", None)

    def collect_in_keys(self) -> list[NestedKey]:
        keys = dict.fromkeys(inputs(self.tensor_keys))
        for name, places in self.network_inputs.items():
            network = getattr(self, name) if name in self._networks else self._modules.get(name)  # a plain attribute
            if network is None:
                continue
            if "root" in places:
                keys.update(dict.fromkeys(input_keys(network)))
            if "next" in places:
                keys.update((next_key(key), None) for key in input_keys(network))
        actor = self._networks.get("actor_network")
        actions = as_keys(getattr(self.tensor_keys, "action", "action"))
        heads = getattr(actor, "dist_sample_keys", ())
        # the action of the next step is the policy's, not the data's
        drawn = (*actions, *heads)
        for key in (*drawn, *groups_of(drawn), *getattr(actor, "out_keys", ())):
            keys.pop(next_key(key), None)
        if len(heads) > len(actions) and actions[0] in keys:  # a composite policy has several
            keys.pop(actions[0])
            keys.update(dict.fromkeys(heads))
        return [key for key in keys if not is_private(key)]  # collectors drop them; modules get None

    def check_entries(self, td: TensorDictBase) -> None:
        """Raise :class:`MissingKeyError` unless everything that is read is there."""
        missing = [key for key in self.in_keys if not self._has(td, key)]
        if missing:
            require(td, missing, self)

    def _has(self, td: TensorDictBase, key: NestedKey) -> bool:
        """Return whether an entry, or one that is read instead, is there."""
        if td.get(key, None) is not None:
            return True
        return any(td.get(other, None) is not None for other in self.alternatives(key))

    def alternatives(self, key: NestedKey) -> list[NestedKey]:
        """Return what may be there instead: ``done`` for ``terminated`` and conversely."""
        names = [getattr(self.tensor_keys, name, None) for name in ("done", "terminated")]
        ends = [next_key(name) for name in names if name is not None]
        return ends if key in ends else []

    # ------------------------------------------------------------------ values

    def make_value_estimator(
        self, value_type: ValueEstimators | str | type | ValueEstimatorBase | None = None, **hyperparams: Any
    ) -> LossModule:
        """Choose how values are estimated, and with which arguments.

        Args:
            value_type: One of :class:`ValueEstimators`, its name, an estimator class or a built
                estimator; by default what suits the loss.
            hyperparams: Arguments of the estimator, such as ``gamma`` and ``lmbda``.

        Raises:
            ValueError: if the loss cannot use such an estimator.
        """
        return dispatch_value_estimator(self, value_type, supported=self.value_estimators, **hyperparams)

    @property
    def value_estimator(self) -> ValueEstimatorBase:
        """The value estimator, built with its defaults if none was chosen."""
        if self._value_estimator is None:
            self.make_value_estimator()
        estimator = self._value_estimator
        assert estimator is not None
        if estimator.needs_time and not estimator.linked_keys:
            keys = self.in_keys
            estimator.linked_keys = [key for key in keys if next_key(key) in keys]
        return estimator

    def value_networks(self) -> dict[str, Any]:
        """Return the networks that an estimator of this loss gets."""
        return {"value_network": None}

    def _shared_keys(self) -> dict[str, NestedKey]:
        """Return the names of entries that the value estimator takes over from the loss."""
        known = {f.name for f in fields(self.tensor_keys)}
        names = {name: getattr(self.tensor_keys, name) for name in VALUE_KEYS if name in known}
        if "value" not in names and "state_action_value" in known:  # the critic judges actions alone
            names["value"] = self.tensor_keys.state_action_value
        return names

    # ------------------------------------------------------------------ the call

    @dispatch(source="call_keys")
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Check the batch, compute the losses, reduce them.

        Args:
            tensordict: A batch ``[*B]`` with the entries ``in_keys``.
        """
        terms, mask = self._evaluate(tensordict, self.losses)
        if self._selects:
            terms = {name: value for name, value in terms.items() if name in self.out_keys}
        reduced = {}
        for name, value in terms.items():  # terms that are only reported have no gradient
            reduced[name] = self._reduce(value, mask) if name.startswith("loss") else value.detach()
        out = TensorDict(reduced)
        if self.scalar_output_mode is not None and self.reduction == "none":
            self._convert_scalars(out)
        return out

    def _evaluate(
        self, tensordict: TensorDictBase, losses: Callable[[TensorDictBase], dict[str, Tensor]]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return what ``losses`` computes of a batch, not reduced, and the mask of the rows that count."""
        if self._unsized:
            self._size_networks(tensordict)
        mask = self.row_mask(tensordict)
        td = self.prepare_batch(tensordict, mask)
        recurrent = set_recurrent_mode(True) if self._may_remember else nullcontext()
        mode = self.deterministic_sampling_mode
        with recurrent, nullcontext() if mode is None else set_interaction_type(mode):
            if torch.compiler.is_compiling():
                terms = losses(td)
            else:
                if not (self.has_updater or self._has_warned):
                    self._has_warned = True
                    self.warn_of_targets()
                # networks evaluate terminal observations and padding too: no mask must allow an action
                token = ENDED_ROWS.set(True)
                try:
                    terms = losses(td)
                finally:
                    ENDED_ROWS.reset(token)
        if td is not tensordict and td.batch_size == tensordict.batch_size:
            priority: Any = getattr(self.tensor_keys, "priority", None)
            errors = None if priority is None else td.get(priority, None)
            if errors is not None:
                tensordict.set(priority, errors)
        return terms, mask

    def _convert_scalars(self, out: TensorDict) -> None:
        """Leave out what has no samples, or return it as numbers."""
        scalars: Any = [item for item in out.items() if not item[1].ndim]
        for name, value in scalars:
            out.pop(name)
            if self.scalar_output_mode == "non_tensor":
                out.set_non_tensor(name, value.item())

    def prepare_batch(self, td: TensorDictBase, mask: Tensor | None) -> TensorDictBase:
        """Check the batch and return it without gradient and with rows that do not count replaced.

        If the batch size, guessed from keywords ``[B, 1]``, contains features, it is corrected.
        Rows that do not count may hold anything: padding is replaced by a row of the data, and its
        rewards are cleared, since no target may be made of them; other rows may be needed as
        context, and only what is not finite is replaced.
        """
        missing = requires_grad = False
        for key in self.in_keys:
            entry = td.get(key, None)
            if entry is None:
                missing = True
            elif isinstance(entry, Tensor) and entry.requires_grad:
                requires_grad = True
        if missing:
            self.check_entries(td)
        if self.loss_mask_key is None and td.get(PADDING_MASK, None) is not None:
            td = td.exclude(PADDING_MASK)  # which value estimators read
        if requires_grad:
            td = td.detach()  # the actions of a rollout may carry the policy's graph
        if mask is not None:
            td = self._cleaned(td, mask)
        name: Any = getattr(self.tensor_keys, "reward", None)
        key = ("next", name) if isinstance(name, str | None) else ("next", *name)
        reward = None if name is None else td.get(key, None)
        if reward is None:
            return td
        if td.ndim >= reward.ndim and reward.shape[-1:] == (1,):
            guessed, td = td, TensorDict({}, reward.shape[:-1])
            for key in guessed.keys(True, True):
                td.set(key, guessed.get(key))
        elif mask is not None:
            td = td.copy().set(key, cleared(reward, mask))
        return td

    def _cleaned(self, td: TensorDictBase, mask: Tensor) -> TensorDictBase:
        """Return a copy of the batch in which rows that do not count harm no gradient."""
        everything = self.is_padding(td)
        names: Any = [key for keys in vars(self.tensor_keys).values() for key in as_keys(keys)]
        keys = dict.fromkeys([*self.in_keys, *names, *map(next_key, names)])
        td = td.copy()
        for key in keys:
            entry = td.get(key, None)
            if isinstance(entry, Tensor):
                td.set(key, replaced(entry, mask, everything))
            elif isinstance(entry, TensorDictBase):  # a group that a network reads as a whole
                group: Any = entry.apply(lambda x: replaced(x, mask, everything))
                td.set(key, group)
        return td

    def is_padding(self, td: TensorDictBase) -> bool:
        """Return whether the rows that do not count are no data at all."""
        return self.loss_mask_key == "auto" and td.get(PADDING_MASK, None) is not None

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        raise TypeError(describe(self, "has neither its own losses() nor its own forward()"))

    def row_mask(self, td: TensorDictBase) -> Tensor | None:
        """Return the mask ``[*B]`` of the rows that count, if there is one."""
        chosen = self.loss_mask_key
        if chosen is None:
            return None
        if chosen != "auto":
            require(td, [chosen], self)
        for key in AUTO_LOSS_MASK_KEYS if chosen == "auto" else (chosen,):
            mask = td.get(key, None)
            if mask is not None:
                return mask.reshape(td.batch_size).bool()
        return None

    def _reduce(self, value: Tensor, mask: Tensor | None = None, reduction: str | None = None) -> Tensor:
        """Reduce numbers of samples ``[*B, ...]`` over the rows that count, to ``reduction``.

        Losses use that of the loss, what is only reported the mean.
        """
        reduction = reduction or self.reduction
        if mask is not None and value.ndim >= mask.ndim:
            value = cleared(value, mask)
            if reduction == "mean":
                return value.sum() / expand_right(mask, value).sum().clamp_min(1)
        if reduction == "mean":
            return value.mean()
        return value.sum() if reduction == "sum" else value

    def _weigh(self, td: TensorDictBase, loss: Tensor) -> Tensor:
        """Multiply errors ``[..., *B]`` by the importance weights of prioritised replay."""
        if self.use_prioritized_weights is False:
            return loss
        key = getattr(self.tensor_keys, "priority_weight", "priority_weight")
        weight = td.get(key, None)
        if weight is None:
            if self.use_prioritized_weights is True:
                require(td, [key], self, "Sample from a prioritised buffer.")
            return loss
        return loss * weight.to(loss.dtype).reshape(td.batch_size)

    def _coefficient(self, name: str, value: float | Sequence[float] | Tensor) -> None:
        """Register a number as a buffer beside the networks, so that it is saved and can be set."""
        parameter = next(self.parameters(), None)
        device = None if parameter is None else parameter.device
        tensor = torch.as_tensor(value, device=device, dtype=torch.float32)
        self.register_buffer(name, tensor.clone())


def distance_loss(v1: Tensor, v2: Tensor, loss_function: str, strict_shape: bool = True) -> Tensor:
    """Distance of each element.

    Args:
        v1: Any shape.
        v2: The same shape.
        loss_function: ``"l1"``, ``"l2"`` (squared) or ``"smooth_l1"`` (Huber with threshold 1).
        strict_shape: Refuse shapes that differ; otherwise ``v2`` is reshaped as ``v1``.

    Raises:
        ShapeError: if the shapes differ.
        ValueError: if the name of the distance is unknown.

    >>> distance_loss(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 1.0]), "l2")
    tensor([1., 4.])
    """
    if v1.shape != v2.shape:
        if strict_shape:
            fact, hint = "got tensors of different shapes", "Give both the shape [*batch, 1]."
            raise ShapeError(describe("distance_loss", fact, expected=[*v1.shape], found=[*v2.shape], hint=hint))
        v2 = v2.reshape(v1.shape)
    if loss_function not in DISTANCES:
        known_distance("distance_loss", loss_function)
    return DISTANCES[loss_function](v1, v2, reduction="none")


def known_distance(owner: object, name: str) -> str:
    """Return the name of a distance.

    Raises:
        ValueError: if there is no such distance.
    """
    if name not in DISTANCES:
        expected = f"one of {[*DISTANCES]}"
        raise ValueError(describe(owner, "got an unknown distance", expected=expected, found=repr(name)))
    return name
