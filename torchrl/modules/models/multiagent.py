"""Networks of several agents, and mixers of their values (VDN, QMIX).

``*B`` batch dimensions, ``N`` agents (the dimension before the features of one agent), ``F``
features, ``S`` features of the global state.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from tensordict import TensorDict, TensorDictParams
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from torchrl._core.devices import check_devices
from torchrl._core.errors import ShapeError, describe
from torchrl._core.legacy import old_keywords
from torchrl.modules.models.conv import ConvNet, Sizes
from torchrl.modules.models.mlp import MLP

Device = torch.device | str | None


class MultiAgentNetBase(nn.Module):
    """A network for each agent, or one that they share; of each agent's input, or of all.

    Args:
        n_agents: Number of agents.
        centralized: Every network reads the inputs of all agents; also ``centralised``.
        share_params: All agents have the same network.
        agent_dim: Dimension of the agents in the input, counted from the end.
        vmap_randomness: Whether networks that draw do so ``"different"`` or ``"same"`` for agents.
        use_td_params: Without sharing, stack the parameters of all networks and run them at once
            with :func:`torch.vmap`; else keep a list and run one after the other. Networks that infer
            the size of their input are built at the first call; an optimizer made before trains them.
        **kwargs: Of ``_build_single_net``.

    Hooks:
        _build_single_net: ``**kwargs -> module``, the network of one agent.
        _pre_forward_check: ``*inputs -> input``, where agents come in ``agent_dim``; joins them
            along their features if ``centralized``.

    Raises:
        ValueError: if ``centralized`` or ``share_params`` is not given.
        ShapeError: at a call, if the input has another number of agents.

    >>> class Linear(MultiAgentNetBase):
    ...     def _build_single_net(self, size, device=None):
    ...         return nn.Linear(size, 1, device=device)
    ...
    ...     def _pre_forward_check(self, observation):  # [*B, N, F]
    ...         return observation.flatten(-2) if self.centralized else observation
    >>> net = Linear(n_agents=3, centralized=True, share_params=False, agent_dim=-2, size=6)
    >>> net(torch.zeros(10, 3, 2)).shape
    torch.Size([10, 3, 1])
    """

    @old_keywords(centralised="centralized")
    def __init__(
        self,
        *,
        n_agents: int,
        centralized: bool | None = None,
        share_params: bool | None = None,
        agent_dim: int,
        vmap_randomness: str = "different",
        use_td_params: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if centralized is None or share_params is None:
            raise ValueError(describe(self, "must know", expected="centralized and share_params, true or false"))
        self.n_agents, self.agent_dim = n_agents, agent_dim
        self.centralized, self.share_params = centralized, share_params
        self.vmap_randomness, self.use_td_params = vmap_randomness, use_td_params
        nets = [self._build_single_net(**kwargs) for _ in range(1 if share_params else n_agents)]
        self.is_stacked = use_td_params and not share_params
        if not self.is_stacked:
            self.nets = nn.ModuleList(nets)
            return
        # The computation without parameters; in a tuple it is no submodule.
        self._structure: tuple[nn.Module, ...] = ()
        if any(nn.parameter.is_lazy(p) for net in nets for p in net.parameters()):
            # Placeholders that become the stacked parameters at the first call.
            self._lazy_nets = tuple(nets)
            self._placeholders = nn.ParameterDict()
            lazy_parameter: Any = UninitializedParameter
            for name, parameter in nets[0].named_parameters():
                made = lazy_parameter(device=parameter.device, dtype=parameter.dtype)
                self._placeholders[name.replace(".", "/")] = made
            return
        self._stack(nets)

    _lazy_nets: tuple[nn.Module, ...] = ()

    def _stack(self, nets: Sequence[nn.Module]) -> None:
        self._modules["params"] = TensorDict.from_modules(*nets, as_module=True)
        self._structure = (deepcopy(nets[0]).to("meta"),)

    @torch.no_grad()
    def _materialize(self, x: Tensor) -> None:
        """Build lazy networks for an input, and stack their parameters in the placeholders."""
        slices = [x] * self.n_agents if self.centralized else x.unbind(self.agent_dim)
        device = next(iter(self._placeholders.values())).device
        for net, part in zip(self._lazy_nets, slices, strict=True):
            net.to(device)(part.to(device))
        self._stack(self._lazy_nets)
        stacked = self.params.data.clone()
        for name, placeholder in self._placeholders.items():
            key = tuple(name.split("/"))
            placeholder.materialize(stacked[key].shape, dtype=stacked[key].dtype)
            placeholder.copy_(stacked[key])
            stacked[key] = placeholder
        self._modules["params"] = TensorDictParams(stacked, no_convert=True)
        del self._placeholders, self._lazy_nets

    @property
    def params(self) -> Any:
        """All parameters, those of agents that do not share them stacked along a first dimension."""
        if self._modules.get("params") is not None:
            return self._modules["params"]
        if self._lazy_nets:
            raise RuntimeError(describe(self, "has no parameters before its first call"))
        return TensorDict.from_module(self.nets[0]) if self.share_params else TensorDict.from_modules(*self.nets)

    def get_stateful_net(self, copy: bool = True) -> nn.Module:
        """Return a network over the parameters of all agents, for setting them in place.

        Its parameters are those of this module: of agents that do not share them, stacked.

        Args:
            copy: Return a new network; otherwise the same one at each call, where parameters are stacked.
        """
        if not self.is_stacked:
            return self.nets[0] if self.share_params else self.nets
        params = self.params  # raises if there are none yet
        net = deepcopy(self._structure[0]) if copy else self._structure[0]
        params.to_module(net)
        return net

    def from_stateful_net(self, stateful_net: nn.Module) -> None:
        """Copy the parameters of a network that :meth:`get_stateful_net` returned."""
        if not self.is_stacked:
            self.get_stateful_net().load_state_dict(stateful_net.state_dict())
            return
        self.params.data.update_(TensorDict.from_module(stateful_net).data)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise all parameters again, those of each agent on their own; layers without this method keep theirs."""
        if self._lazy_nets:
            return  # they are initialised at the first call
        if not self.is_stacked:
            _reset(self.nets)
            return
        for i in range(self.n_agents):
            own = self.params.data[i]
            net = deepcopy(self._structure[0]).to_empty(device=own.device or next(self.parameters()).device)
            TensorDict.from_module(net).data.update_(own)
            _reset(net)
            own.update_(TensorDict.from_module(net).data)

    @abstractmethod
    def _build_single_net(self, **kwargs: Any) -> nn.Module: ...

    @abstractmethod
    def _pre_forward_check(self, *inputs: Tensor) -> Tensor: ...

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return an output for each agent, ``[*B, N, *out]``."""
        x = self._pre_forward_check(*inputs)
        if self._lazy_nets:
            self._materialize(x)
        if self.share_params:
            out = self.nets[0](x)
            if not self.centralized:
                return out
            batch = self._batch_ndim(x)
            return out.unsqueeze(batch).expand(*out.shape[:batch], self.n_agents, *out.shape[batch:])
        dim = None if self.centralized else self.agent_dim
        if self.is_stacked:
            run: Any = torch.vmap(self._run_one, (0, dim), 0, randomness=self.vmap_randomness)
            stacked = dict(self.params.flatten_keys(".").items())  # those of to_module, too
            out = run(stacked, x)
        else:
            slices = [x] * self.n_agents if dim is None else x.unbind(dim)
            out = torch.stack([net(part) for net, part in zip(self.nets, slices, strict=True)])
        return out.movedim(0, self._batch_ndim(x))

    def _run_one(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(self._structure[0], params, (x,))

    def _batch_ndim(self, x: Tensor) -> int:
        features = -self.agent_dim - 1
        return x.ndim - features - (0 if self.centralized else 1)

    def _check_agents(self, x: Tensor) -> Tensor:
        if x.ndim < -self.agent_dim or x.shape[self.agent_dim] != self.n_agents:
            raise ShapeError(
                describe(
                    self,
                    f"has the agents in dimension {self.agent_dim} of its input",
                    expected=self.n_agents,
                    found=list(x.shape),
                )
            )
        return x


class MultiAgentMLP(MultiAgentNetBase):
    """A multi-layer perceptron for each agent, or one that they share.

    Args:
        n_agent_inputs: Features ``F`` of one agent's input; inferred if ``None``.
        n_agent_outputs: Size of one agent's output.
        n_agents: Number of agents ``N``.
        centralized: Every network reads the inputs of all agents; also ``centralised``.
        share_params: All agents have the same network.
        device: Where the parameters live.
        depth: See :class:`MLP`.
        num_cells: See :class:`MLP`.
        activation_class: See :class:`MLP`.
        use_td_params: See :class:`MultiAgentNetBase`.
        **kwargs: Of :class:`MLP`.

    Raises:
        ValueError: if ``centralized`` or ``share_params`` is not given.
        ShapeError: at a call, if the input has another number of agents.

    Source: Yu et al., 2021, https://arxiv.org/abs/2103.01955.

    >>> net = MultiAgentMLP(3, 2, 4, centralized=True, share_params=False, depth=1)
    >>> net(torch.zeros(10, 4, 3)).shape
    torch.Size([10, 4, 2])
    """

    @old_keywords(centralised="centralized")
    def __init__(
        self,
        n_agent_inputs: int | None,
        n_agent_outputs: int,
        n_agents: int,
        *,
        centralized: bool | None = None,
        share_params: bool | None = None,
        device: Device = None,
        depth: int | None = None,
        num_cells: Sequence[int] | int | None = None,
        activation_class: Callable[..., nn.Module] = nn.Tanh,
        use_td_params: bool = True,
        **kwargs: Any,
    ) -> None:
        check_devices(self, device=device)
        in_features = n_agent_inputs
        if centralized and in_features is not None:
            in_features *= n_agents
        super().__init__(
            n_agents=n_agents,
            centralized=centralized,
            share_params=share_params,
            agent_dim=-2,
            use_td_params=use_td_params,
            in_features=in_features,
            out_features=n_agent_outputs,
            device=device,
            depth=depth,
            num_cells=num_cells,
            activation_class=activation_class,
            **kwargs,
        )

    def _build_single_net(self, **kwargs: Any) -> nn.Module:
        return MLP(**kwargs)

    def _pre_forward_check(self, *inputs: Tensor) -> Tensor:
        x = self._check_agents(inputs[0] if len(inputs) == 1 else torch.cat(inputs, -1))
        return x.flatten(-2) if self.centralized else x


class MultiAgentConvNet(MultiAgentNetBase):
    """A convolutional network for each agent, or one that they share.

    Args:
        n_agents: Number of agents ``N``.
        centralized: Every network reads the images of all agents, as channels.
        share_params: All agents have the same network.
        in_features: Channels ``C`` of one agent's image; inferred if ``None``.
        device: Where the parameters live.
        num_cells: See :class:`ConvNet`.
        kernel_sizes: See :class:`ConvNet`.
        strides: See :class:`ConvNet`.
        paddings: See :class:`ConvNet`.
        activation_class: See :class:`ConvNet`.
        use_td_params: See :class:`MultiAgentNetBase`.
        **kwargs: Of :class:`ConvNet`.

    Raises:
        ValueError: if ``centralized`` or ``share_params`` is not given.
        ShapeError: at a call, if the input has another number of agents.

    >>> net = MultiAgentConvNet(2, False, True, num_cells=[4], kernel_sizes=3)
    >>> net(torch.zeros(10, 2, 3, 7, 7)).shape
    torch.Size([10, 2, 36])
    """

    @old_keywords(centralised="centralized")
    def __init__(
        self,
        n_agents: int,
        centralized: bool | None = None,
        share_params: bool | None = None,
        *,
        in_features: int | None = None,
        device: Device = None,
        num_cells: Sequence[int] | int | None = None,
        kernel_sizes: Sizes = 5,
        strides: Sizes = 2,
        paddings: Sizes = 0,
        activation_class: Callable[..., nn.Module] = nn.ELU,
        use_td_params: bool = True,
        **kwargs: Any,
    ) -> None:
        check_devices(self, device=device)
        if centralized and in_features is not None:
            in_features *= n_agents
        super().__init__(
            n_agents=n_agents,
            centralized=centralized,
            share_params=share_params,
            agent_dim=-4,
            use_td_params=use_td_params,
            in_features=in_features,
            device=device,
            num_cells=num_cells,
            kernel_sizes=kernel_sizes,
            strides=strides,
            paddings=paddings,
            activation_class=activation_class,
            **kwargs,
        )

    def _build_single_net(self, **kwargs: Any) -> nn.Module:
        return ConvNet(**kwargs)

    def _pre_forward_check(self, *inputs: Tensor) -> Tensor:
        x = self._check_agents(inputs[0] if len(inputs) == 1 else torch.cat(inputs, -3))
        return x.flatten(-4, -3) if self.centralized else x


def _reset(net: nn.Module) -> None:
    for layer in net.modules():
        reset: Any = getattr(layer, "reset_parameters", None)
        if reset is not None:
            reset()


class Mixer(nn.Module, ABC):
    """Base class of mixers: from the values of all agents, and maybe the state, to one value.

    Args:
        n_agents: Number of agents ``N``.
        needs_state: Whether it reads the global state.
        state_shape: Shape of the state, if it does.
        device: Where the parameters live.

    Hooks:
        mix: ``values [*B, N, 1], state [*B, *S] or None -> value [*B, 1]``.

    Raises:
        ValueError: at a call, if the state is missing, or there is one and it is not read.
        ShapeError: at a call, if there is another number of agents, or the state has another shape.

    >>> class Largest(Mixer):
    ...     def mix(self, values, state):
    ...         return values.amax(-2)
    >>> Largest(3, needs_state=False)(torch.tensor([[1.0], [5.0], [2.0]]))
    tensor([5.])
    """

    def __init__(
        self, n_agents: int, needs_state: bool, state_shape: Sequence[int] = (), device: Device = None
    ) -> None:
        check_devices(self, device=device)
        super().__init__()
        self.n_agents, self.needs_state, self.device = n_agents, needs_state, device
        self.state_shape = torch.Size(state_shape)

    @abstractmethod
    def mix(self, chosen_action_value: Tensor, state: Tensor | None = None) -> Tensor: ...

    def forward(self, chosen_action_value: Tensor, state: Tensor | None = None) -> Tensor:
        """Return the value ``[*B, 1]`` of values ``[*B, N, 1]``, in a state ``[*B, *S]``."""
        value = chosen_action_value
        if value.ndim < 2 or value.shape[-2:] != (self.n_agents, 1):
            raise ShapeError(
                describe(
                    self, "mixes one value for each agent", expected=["*", self.n_agents, 1], found=list(value.shape)
                )
            )
        if self.needs_state is (state is None):
            fact = "reads the state beside the values" if self.needs_state else "reads values alone, without a state"
            raise ValueError(describe(self, fact, hint="Compare the in_keys of the mixer."))
        if state is not None and state.shape != value.shape[:-2] + self.state_shape:
            expected = [*value.shape[:-2], *self.state_shape]
            raise ShapeError(
                describe(self, "has the wrong shape", key="state", expected=expected, found=list(state.shape))
            )
        return self.mix(value, state)


class VDNMixer(Mixer):
    """Value decomposition: the sum of the values of all agents.

    Args:
        n_agents: Number of agents ``N``.
        device: Device to which values are moved before they are added; theirs if ``None``.

    Raises:
        ShapeError: at a call, if there is another number of agents.
        ValueError: at a call with a state.

    Source: Sunehag et al., 2017, https://arxiv.org/abs/1706.05296.

    >>> VDNMixer(3)(torch.ones(10, 3, 1)).shape
    torch.Size([10, 1])
    """

    def __init__(self, n_agents: int, device: Device = None) -> None:
        super().__init__(n_agents, False, device=device)

    def mix(self, chosen_action_value: Tensor, state: Tensor | None = None) -> Tensor:
        """Return the sum of the values."""
        values = chosen_action_value
        return (values if self.device is None else values.to(self.device)).sum(-2)


class QMixer(Mixer):
    r"""Mix the values of all agents with positive weights that depend on the state.

    .. math:: Q = |w_2(s)|^T \mathrm{ELU}(|W_1(s)|^T q + b_1(s)) + v(s)

    Args:
        state_shape: Shape of the global state.
        mixing_embed_dim: Width of the hidden layer.
        n_agents: Number of agents ``N``.
        device: Where the parameters live.

    Raises:
        ShapeError: at a call, if there is another number of agents, or the state has another shape.

    Source: Rashid et al., 2018, https://arxiv.org/abs/1803.11485, section 4.

    >>> QMixer((6,), 8, 3)(torch.ones(10, 3, 1), torch.zeros(10, 6)).shape
    torch.Size([10, 1])
    """

    def __init__(self, state_shape: Sequence[int], mixing_embed_dim: int, n_agents: int, device: Device = None) -> None:
        super().__init__(n_agents, True, state_shape, device)
        self.embed_dim, size = mixing_embed_dim, math.prod(state_shape)
        self.hyper_w_1 = nn.Linear(size, mixing_embed_dim * n_agents, device=device)
        self.hyper_b_1 = nn.Linear(size, mixing_embed_dim, device=device)
        self.hyper_w_2 = nn.Linear(size, mixing_embed_dim, device=device)
        self.value = MLP(size, 1, num_cells=[mixing_embed_dim], activation_class=nn.ReLU, device=device)

    def mix(self, chosen_action_value: Tensor, state: Tensor | None = None) -> Tensor:
        """Return the mixed value in a state."""
        assert state is not None
        batch = chosen_action_value.shape[:-2]
        state = state.flatten(len(batch))
        w_1 = self.hyper_w_1(state).abs().unflatten(-1, (self.n_agents, self.embed_dim))
        hidden = nn.functional.elu((chosen_action_value * w_1).sum(-2) + self.hyper_b_1(state))
        mixed = (hidden * self.hyper_w_2(state).abs()).sum(-1, keepdim=True)
        return mixed + self.value(state)
