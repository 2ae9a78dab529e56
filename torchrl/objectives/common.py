"""The base class of losses: keys, networks, targets, reductions, once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase, dispatch
from torch import Tensor, nn

from torchrl._core.ended_rows import evaluating
from torchrl._core.errors import describe
from torchrl._core.keys import as_keys, groups_of, inputs, next_key, require, sibling
from torchrl._core.plan import input_keys
from torchrl.objectives.masks import (
    AUTO_LOSS_MASK_KEYS,
    PADDING_MASK,
    cleared,
    expand_right,
    replaced,
)
from torchrl.objectives.networks import (
    check_network,
    copies,
    frozen_copy,
    parameters_of,
)
from torchrl.objectives.value.base import ValueEstimatorBase, ValueKeys, renamed
from torchrl.objectives.value.estimators import ValueEstimators, dispatch_value_estimator

VALUE_KEYS = tuple(f.name for f in fields(ValueKeys))
REDUCTIONS = ("mean", "sum", "none")
SCALAR_MODES = (None, "exclude", "non_tensor")


class LossModule(TensorDictModuleBase):
    """A map from a batch of transitions to named losses.

    Every entry of the output that starts with ``loss`` carries a gradient, and their sum is what to
    minimise; all other entries are detached. Networks are submodules and are called as they are: a
    target network is a frozen copy, updated by :class:`SoftUpdate` or :class:`HardUpdate`. Padded
    rows, marked by a mask under ``loss_mask_key`` or one of ``AUTO_LOSS_MASK_KEYS``, do not count.

    Args:
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` to keep one loss a sample.
        use_prioritized_weights: Weigh the errors of the critics by the entry ``priority_weight``:
            always, never, or (``"auto"``) where there is one.
        scalar_output_mode: What becomes of scalars that are only reported where nothing is reduced
            (``reduction="none"``): ``"exclude"`` leaves them out, ``"non_tensor"`` returns them as
            numbers; by default they stay tensors.

    Hooks:
        _AcceptedKeys: Dataclass of entry names, each ``read``, ``read_next`` or ``write``.
        out_keys: Names of what ``losses`` returns.
        network_inputs: Which inputs of which networks are read: ``{"actor_network": "root next"}``.
        losses: ``td -> {out_key: tensor}``; losses ``[*B]`` or ``[*B, 1]``, unreduced.
        network_outputs: Which entries are outputs of which networks: ``{"critic": ("value",)}``; a
            network that has the entry under another name, in a group of agents for one, gives that.
        default_value_estimator: A :class:`ValueEstimators`.
        keys_of_heads: Which names of ``_AcceptedKeys`` may stand for one entry of each head.

    Raises:
        MissingKeyError: if an entry of ``in_keys`` is absent when the loss is called.
    """

    @dataclass
    class _AcceptedKeys:
        """A loss that declares no entries reads none by itself."""

    network_inputs: Mapping[str, str] = {}
    network_outputs: Mapping[str, tuple[str, ...]] = {}
    default_value_estimator: ValueEstimators | None = None
    value_estimators: ClassVar[tuple[ValueEstimators, ...]] = tuple(ValueEstimators)
    keys_of_heads: ClassVar[tuple[str, ...]] = ()
    loss_mask_key: NestedKey | None = None
    out_keys: Any
    tensor_keys: Any
    _in_keys: Any = None
    _value_estimator: ValueEstimatorBase | None = None

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
                    describe(
                        self,
                        f"got an unknown {name}",
                        expected=f"one of {list(known)}",
                        found=repr(value),
                    )
                )
        self.reduction, self.scalar_output_mode = reduction, scalar_output_mode
        self.use_prioritized_weights = use_prioritized_weights
        self.tensor_keys = self._AcceptedKeys()
        self._value_kwargs: dict[str, Any] = {}
        self._spared: dict[str, list[nn.Parameter]] = {}

    # ------------------------------------------------------------------ networks

    def convert_to_functional(
        self,
        module: nn.Module | list[nn.Module],
        module_name: str,
        expand_dim: int | None = None,
        create_target_params: bool = False,
        compare_against: Iterable[nn.Parameter] | None = None,
    ) -> None:
        """Hold a network as a submodule and, on demand, a frozen target copy of it.

        Its parameters can be had as a tensordict, ``<module_name>_params``, those of the target as
        ``target_<module_name>_params``; without a target copy the latter are the detached
        parameters themselves.

        Args:
            module: A tensordict module; a list of them is an ensemble.
            module_name: Name of the attribute.
            expand_dim: Make an ensemble of that many networks: the given one and others drawn like
                it.
            create_target_params: Whether to hold the target copy.
            compare_against: Parameters that ``<module_name>_params`` shall have without gradient,
                where the network shares them, since another loss trains them.

        Raises:
            TypeError: if the module has no ``in_keys``.
            ValueError: if a parameter has no shape yet.
        """
        for network in module if isinstance(module, list | nn.ModuleList) else [module]:
            check_network(self, module_name, network)
        if isinstance(module, list):
            module = nn.ModuleList(module)
        elif expand_dim is not None and not isinstance(module, nn.ModuleList):
            module = copies(module, expand_dim)
        if isinstance(module, nn.ModuleList) and expand_dim not in (None, len(module)):
            raise ValueError(
                describe(
                    self,
                    f"got the wrong number of networks for {module_name}",
                    expected=expand_dim,
                    found=len(module),
                )
            )
        setattr(self, module_name, module)
        self._name_outputs(module_name)
        self._spared[module_name] = list(compare_against or ())
        if create_target_params:
            setattr(self, f"target_{module_name}", frozen_copy(module))
        self.__dict__.pop("_in_keys", None)

    def _name_outputs(self, module_name: str) -> None:
        """Take over the names of entries from the network that writes them."""
        module: Any = self._modules[module_name]
        network = module[0] if isinstance(module, nn.ModuleList) else module
        names = self.network_outputs.get(module_name, ())
        for name in names:
            key = getattr(self.tensor_keys, name)
            keys: Any = network.out_keys
            if name == "action":
                keys = getattr(network, "dist_sample_keys", keys)
            alike = [k for k in keys if k == sibling(k, _last(key))]
            found = list(keys) if len(keys) == len(names) == 1 else alike
            if key not in keys and len(found) == 1:
                setattr(self.tensor_keys, name, found[0])

    def target(self, module_name: str) -> Any:
        """Return the target copy of a network, or the network itself if it has none."""
        modules = self._modules
        return modules.get(f"target_{module_name}") or modules[module_name]

    def target_pairs(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        """Return, by name, each network that has a target copy, and that copy."""
        names = [name.removeprefix("target_") for name in self._modules if name[:7] == "target_"]
        return {
            name: (getattr(self, name), getattr(self, f"target_{name}"))
            for name in names
            if name in self._modules
        }

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_params"):
            modules, network = self.__dict__.get("_modules", {}), name.removesuffix("_params")
            online = network.removeprefix("target_")
            if network in modules:
                return parameters_of(modules[network], spared=self._spared.get(network, ()))
            if online in modules:
                return parameters_of(modules[online], spared=modules[online].parameters())
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        buffer = self.__dict__.get("_buffers", {}).get(name)
        if buffer is not None and isinstance(value, int | float):
            buffer.fill_(value)  # coefficients are buffers and can be set as numbers
        else:
            super().__setattr__(name, value)

    def set_vmap_randomness(self, vmap_randomness: str) -> None:
        """Agree that each network of an ensemble draws for itself, ``"different"``.

        Raises:
            ValueError: for ``"same"`` or ``"error"``.
        """
        if vmap_randomness != "different":
            raise ValueError(
                describe(
                    self,
                    "calls the networks of an ensemble one by one",
                    expected="'different'",
                    found=repr(vmap_randomness),
                )
            )

    def get_stateful_net(self, network_name: str, copy: bool = True) -> Any:
        """Return a network of the loss, by default as a copy that no longer follows it."""
        network = getattr(self, network_name)
        return deepcopy(network) if copy else network

    def from_stateful_net(self, network_name: str, stateful_net: nn.Module) -> None:
        """Load the parameters of ``stateful_net`` into a network of the loss."""
        getattr(self, network_name).load_state_dict(stateful_net.state_dict())

    @torch.no_grad()
    def reset_parameters_recursive(self, parameters: TensorDictBase | None = None) -> Any:
        """Draw all parameters anew; target copies follow."""
        pairs = self.target_pairs()
        for name, module in self._modules.items():
            if name.removeprefix("target_") in pairs and name not in pairs:
                continue
            layers: Any = module.modules() if module is not None else ()
            for layer in layers:
                if hasattr(layer, "reset_parameters"):
                    layer.reset_parameters()
        for online, twin in pairs.values():
            twin.load_state_dict(online.state_dict())

    # ------------------------------------------------------------------ keys

    def set_keys(self, **names: NestedKey | list[NestedKey]) -> None:
        """Rename entries: ``loss.set_keys(action="my_action")``.

        Losses of policies with several heads take a list, of one name for each head, for the
        entries in ``keys_of_heads``.

        Raises:
            ValueError: if a name is unknown, or a list is given where one entry is read.
        """
        self.tensor_keys = renamed(self, self.tensor_keys, names)
        self.__dict__.pop("_in_keys", None)
        if self._value_estimator is not None:
            self._value_estimator.set_keys(**self._shared_keys())

    @property
    def in_keys(self) -> list[NestedKey]:
        """Every entry that is read, in the order of the keyword arguments of a call."""
        if self._in_keys is None:
            self.__dict__["_in_keys"] = self._collect_in_keys()
        return self._in_keys

    @in_keys.setter  # type: ignore[override]  # an attribute of tensordict's
    def in_keys(self, keys: list[NestedKey]) -> None:
        self.__dict__["_in_keys"] = list(keys)

    call_keys = property(lambda self: self.in_keys)  # what a call may be given by keyword

    def _collect_in_keys(self) -> list[NestedKey]:
        keys = dict.fromkeys(inputs(self.tensor_keys))
        for name, places in self.network_inputs.items():
            network: Any = self._modules.get(name)
            if network is None:
                continue
            network = network[0] if isinstance(network, nn.ModuleList) else network
            if "root" in places:
                keys.update(dict.fromkeys(input_keys(network)))
            if "next" in places:
                keys.update((next_key(key), None) for key in input_keys(network))
        actor: Any = self._modules.get("actor_network")
        actions = as_keys(getattr(self.tensor_keys, "action", "action"))
        heads = getattr(actor, "dist_sample_keys", ())
        # the action of the next step is the policy's, not the data's
        drawn = (*actions, *heads)
        for key in (*drawn, *groups_of(drawn), *getattr(actor, "out_keys", ())):
            keys.pop(next_key(key), None)
        if len(heads) > len(actions) and actions[0] in keys:  # a composite policy has several
            keys.pop(actions[0])
            keys.update(dict.fromkeys(heads))
        return list(keys)

    def _check_entries(self, td: TensorDictBase) -> None:
        """Raise :class:`MissingKeyError` unless everything that is read is there."""
        missing = [key for key in self.in_keys if not self._has(td, key)]
        if missing:
            require(td, missing, self)

    def _has(self, td: TensorDictBase, key: NestedKey) -> bool:
        """Return whether an entry, or one that stands in for it, is there."""
        if td.get(key, None) is not None:
            return True
        return any(td.get(other, None) is not None for other in self._stand_ins(key))

    def _stand_ins(self, key: NestedKey) -> list[NestedKey]:
        """Return what may be there instead: ``done`` and ``terminated`` stand in for each other."""
        names = [getattr(self.tensor_keys, name, None) for name in ("done", "terminated")]
        ends = [next_key(name) for name in names if name is not None]
        return ends if key in ends else []

    # ------------------------------------------------------------------ values

    def make_value_estimator(
        self,
        value_type: ValueEstimators | str | type | ValueEstimatorBase | None = None,
        **hyperparams: Any,
    ) -> LossModule:
        """Choose how values are estimated, and with which arguments.

        Args:
            value_type: One of :class:`ValueEstimators`, its name, an estimator class or a built
                estimator; by default what suits the loss.
            hyperparams: Arguments of the estimator, such as ``gamma`` and ``lmbda``.

        Raises:
            ValueError: if the loss cannot use such an estimator.
        """
        return dispatch_value_estimator(
            self, value_type, supported=self.value_estimators, **hyperparams
        )

    @property
    def value_estimator(self) -> ValueEstimatorBase:
        """The value estimator, built with its defaults if none was chosen."""
        if self._value_estimator is None:
            self.make_value_estimator()
        assert self._value_estimator is not None
        return self._value_estimator

    def _estimator_networks(self) -> dict[str, Any]:
        """Return the networks that an estimator of this loss gets."""
        return {"value_network": None}

    def _shared_keys(self) -> dict[str, NestedKey]:
        """Return the names of entries that the value estimator takes over from the loss."""
        known = {f.name for f in fields(self.tensor_keys)}
        return {name: getattr(self.tensor_keys, name) for name in VALUE_KEYS if name in known}

    # ------------------------------------------------------------------ the call

    @dispatch(source="call_keys")
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Check the input, compute the losses, reduce them.

        Args:
            tensordict: A batch ``[*B]`` with the entries ``in_keys``.
        """
        mask = self._mask(tensordict)
        td = self._as_data(tensordict, mask)
        with evaluating():
            out = self._reduced(self.losses(td), mask)
        if self.scalar_output_mode is not None and self.reduction == "none":
            self._convert_scalars(out)
        if td is not tensordict and td.batch_size == tensordict.batch_size:
            priority = getattr(self.tensor_keys, "priority", None)
            if priority is not None:
                tensordict.set(priority, td.get(priority))
        return out

    def _reduced(self, values: dict[str, Tensor], mask: Tensor | None) -> TensorDict:
        """Return reduced losses, and without gradient what is reported beside them."""
        return TensorDict(
            {
                name: self._reduce(value, mask) if name.startswith("loss") else value.detach()
                for name, value in values.items()
            }
        )

    def _convert_scalars(self, out: TensorDict) -> None:
        """Leave out what has no samples, or return it as numbers."""
        scalars: Any = [item for item in out.items() if not item[1].ndim]
        for name, value in scalars:
            out.pop(name)
            if self.scalar_output_mode == "non_tensor":
                out.set_non_tensor(name, value.item())

    def _as_data(self, td: TensorDictBase, mask: Tensor | None) -> TensorDictBase:
        """Check the batch, and return it as what it is: data, which takes no gradient.

        A batch size that swallowed features, as is guessed from keywords ``[B, 1]``, is corrected.
        Rows that do not count may hold anything: padding is replaced by a row of the data, and its
        rewards are cleared, since no target shall be made of them; of other rows, which may be
        needed as a context, only what is not finite is replaced.
        """
        entries = [td.get(key, None) for key in self.in_keys]
        if any(entry is None for entry in entries):
            self._check_entries(td)
        if any(isinstance(entry, Tensor) and entry.requires_grad for entry in entries):
            td = td.detach()  # actions of a rollout, for one, may carry the policy's graph
        if mask is not None:
            td = self._cleaned(td, mask)
        name: Any = getattr(self.tensor_keys, "reward", None)
        reward = None if name is None else td.get(next_key(name), None)
        if reward is None:
            return td
        if td.ndim >= reward.ndim and reward.shape[-1:] == (1,):
            guessed, td = td, TensorDict({}, reward.shape[:-1])
            for key in guessed.keys(True, True):
                td.set(key, guessed.get(key))
        elif mask is not None:
            td = td.copy().set(next_key(name), cleared(reward, mask))
        return td

    def _cleaned(self, td: TensorDictBase, mask: Tensor) -> TensorDictBase:
        """Return a copy of the batch in which rows that do not count harm no gradient."""
        everything = self._is_padding(td)
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

    def _is_padding(self, td: TensorDictBase) -> bool:
        """Return whether the rows that do not count are no data at all."""
        return self.loss_mask_key is None and td.get(PADDING_MASK, None) is not None

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        raise TypeError(describe(self, "has neither its own losses() nor its own forward()"))

    def _mask(self, td: TensorDictBase) -> Tensor | None:
        """Return the mask ``[*B]`` of the rows that count, if there is one."""
        if self.loss_mask_key is not None:
            require(td, [self.loss_mask_key], self)
        keys = AUTO_LOSS_MASK_KEYS if self.loss_mask_key is None else (self.loss_mask_key,)
        for key in keys:
            mask = td.get(key, None)
            if mask is not None:
                return mask.reshape(td.batch_size).bool()
        return None

    def _reduce(self, loss: Tensor, mask: Tensor | None = None) -> Tensor:
        """Reduce the losses of samples ``[*B, ...]`` to what was asked for."""
        if mask is not None and loss.ndim >= mask.ndim:
            loss = cleared(loss, mask)
            if self.reduction == "mean":
                return loss.sum() / expand_right(mask, loss).sum().clamp_min(1)
        if self.reduction == "mean":
            return loss.mean()
        return loss.sum() if self.reduction == "sum" else loss

    def _mean(self, value: Tensor, mask: Tensor | None) -> Tensor:
        """Return the mean over the rows that count, for what is only reported."""
        if mask is None:
            return value.mean()
        return cleared(value, mask).sum() / expand_right(mask, value).sum().clamp_min(1)

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


def _last(key: Any) -> str:
    return key if isinstance(key, str) else key[-1]
