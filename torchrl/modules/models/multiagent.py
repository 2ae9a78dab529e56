"""Networks of several agents, and what mixes their values.

``*B`` batch dimensions, ``N`` agents (the dimension before the features of one agent), ``F``
features, ``S`` features of the global state.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl._core.errors import ShapeError, describe
from torchrl.modules.models.conv import ConvNet, Sizes
from torchrl.modules.models.mlp import MLP

Device = torch.device | str | None


class MultiAgentNetBase(nn.Module):
    """A network for each agent, or one that they share; of each agent's input, or of all.

    Args:
        n_agents: Number of agents.
        centralized: Every network reads the inputs of all agents.
        share_params: All agents have the same network.
        agent_dim: Dimension of the agents in the input, counted from the end.
        vmap_randomness: Whether networks that draw do so ``"different"`` or ``"same"`` for agents.
        use_td_params: Without sharing, stack the parameters of all networks and run them at once
            with :func:`torch.vmap`; else keep a list and run one after the other.
        **kwargs: Handed to the hook.

    Hooks:
        _build_single_net: ``**kwargs -> module``, the network of one agent.
        _pre_forward_check: ``*inputs -> input``, where agents come in ``agent_dim``; joins them
            along their features if ``centralized``.

    Raises:
        ValueError: if ``centralized`` or ``share_params`` is not said, or stacked networks are
            lazy.
        ShapeError: at a call, if the input has another number of agents.
    """

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
            raise ValueError(
                describe(self, "must know", expected="centralized and share_params, true or false")
            )
        self.n_agents, self.agent_dim = n_agents, agent_dim
        self.centralized, self.share_params = centralized, share_params
        self.vmap_randomness, self.use_td_params = vmap_randomness, use_td_params
        nets = [self._build_single_net(**kwargs) for _ in range(1 if share_params else n_agents)]
        self.is_stacked = use_td_params and not share_params
        if not self.is_stacked:
            self.nets = nn.ModuleList(nets)
            return
        if any(nn.parameter.is_lazy(p) for net in nets for p in net.parameters()):
            raise ValueError(
                describe(
                    self,
                    "cannot stack networks that infer their input",
                    hint="Give its size, or use_td_params=False.",
                )
            )
        self.params: Any = TensorDict.from_modules(*nets, as_module=True)
        # The shape of the computation, without parameters of its own; a tuple keeps it from being
        # a submodule.
        self._structure = (copy.deepcopy(nets[0]).to("meta"),)

    @abstractmethod
    def _build_single_net(self, **kwargs: Any) -> nn.Module: ...

    @abstractmethod
    def _pre_forward_check(self, *inputs: Tensor) -> Tensor: ...

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return an output for each agent, ``[*B, N, *out]``."""
        x = self._pre_forward_check(*inputs)
        if self.share_params:
            out = self.nets[0](x)
            return self._for_all(out, x) if self.centralized else out
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

    def _for_all(self, out: Tensor, x: Tensor) -> Tensor:
        batch = self._batch_ndim(x)
        return out.unsqueeze(batch).expand(*out.shape[:batch], self.n_agents, *out.shape[batch:])

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
        centralized: Every network reads the inputs of all agents.
        share_params: All agents have the same network.
        device: Where the parameters live.
        depth: See :class:`MLP`.
        num_cells: See :class:`MLP`.
        activation_class: See :class:`MLP`.
        use_td_params: See :class:`MultiAgentNetBase`.
        **kwargs: Of :class:`MLP`.

    Raises:
        ValueError: if ``centralized`` or ``share_params`` is not said.
        ShapeError: at a call, if the input has another number of agents.

    Source: Yu et al., 2021, https://arxiv.org/abs/2103.01955.

    >>> net = MultiAgentMLP(3, 2, 4, centralized=True, share_params=False, depth=1)
    >>> net(torch.zeros(10, 4, 3)).shape
    torch.Size([10, 4, 2])
    """

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
        ValueError: if ``centralized`` or ``share_params`` is not said.
        ShapeError: at a call, if the input has another number of agents.

    >>> net = MultiAgentConvNet(2, False, True, num_cells=[4], kernel_sizes=3)
    >>> net(torch.zeros(10, 2, 3, 7, 7)).shape
    torch.Size([10, 2, 36])
    """

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


class VDNMixer(nn.Module):
    """Adds up the values of all agents.

    Args:
        n_agents: Number of agents ``N``.
        device: Where it lives; there is nothing to move, it is the place of the other mixer's.

    Raises:
        ShapeError: at a call, if there is another number of agents.

    Source: Sunehag et al., 2017, https://arxiv.org/abs/1706.05296.

    >>> VDNMixer(3)(torch.ones(10, 3, 1)).shape
    torch.Size([10, 1])
    """

    def __init__(self, n_agents: int, device: Device = None) -> None:
        check_devices(self, device=device)
        super().__init__()
        self.n_agents = n_agents

    def forward(self, chosen_action_value: Tensor) -> Tensor:
        """Return the value ``[*B, 1]`` of values ``[*B, N, 1]``."""
        _check_values(self, chosen_action_value)
        return chosen_action_value.sum(-2)


class QMixer(nn.Module):
    r"""Mixes the values of all agents by weights that depend on the state and are positive.

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

    def __init__(
        self,
        state_shape: Sequence[int],
        mixing_embed_dim: int,
        n_agents: int,
        device: Device = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__()
        self.state_shape, self.n_agents = torch.Size(state_shape), n_agents
        self.embed_dim, size = mixing_embed_dim, math.prod(state_shape)
        self.hyper_w_1 = nn.Linear(size, mixing_embed_dim * n_agents, device=device)
        self.hyper_b_1 = nn.Linear(size, mixing_embed_dim, device=device)
        self.hyper_w_2 = nn.Linear(size, mixing_embed_dim, device=device)
        self.value = MLP(
            size, 1, num_cells=[mixing_embed_dim], activation_class=nn.ReLU, device=device
        )

    def forward(self, chosen_action_value: Tensor, state: Tensor) -> Tensor:
        """Return the value ``[*B, 1]`` of values ``[*B, N, 1]`` in a state ``[*B, *S]``."""
        _check_values(self, chosen_action_value)
        batch = chosen_action_value.shape[:-2]
        if state.shape != batch + self.state_shape:
            raise ShapeError(
                describe(
                    self,
                    "has the wrong shape",
                    key="state",
                    expected=[*batch, *self.state_shape],
                    found=list(state.shape),
                )
            )
        state = state.flatten(len(batch))
        w_1 = self.hyper_w_1(state).abs().unflatten(-1, (self.n_agents, self.embed_dim))
        hidden = nn.functional.elu((chosen_action_value * w_1).sum(-2) + self.hyper_b_1(state))
        mixed = (hidden * self.hyper_w_2(state).abs()).sum(-1, keepdim=True)
        return mixed + self.value(state)


def _check_values(owner: Any, value: Tensor) -> None:
    if value.ndim < 2 or value.shape[-2:] != (owner.n_agents, 1):
        raise ShapeError(
            describe(
                owner,
                "mixes one value for each agent",
                expected=["*", owner.n_agents, 1],
                found=list(value.shape),
            )
        )
