"""Deep Q-learning, on expected values and on distributions of them.

``N`` actions, ``Z`` atoms or quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn
from torch.nn import functional as F

from torchrl._core.errors import describe
from torchrl._core.keys import write
from torchrl._core.records.policies import input_keys, take
from torchrl.data import TensorSpec
from torchrl.modules.tensordict_module.action_space import resolve
from torchrl.modules.tensordict_module.qvalue import choice_of
from torchrl.objectives.common import distance_loss
from torchrl.objectives.off_policy import CriticKeys, CriticLoss
from torchrl.objectives.value.registry import ValueEstimators


@dataclass
class DQNKeys(CriticKeys):
    """Names of the entries of Q-learning."""

    advantage: NestedKey = write("advantage")
    value_target: NestedKey = write("value_target")
    value: NestedKey = write("chosen_action_value")
    action_value: NestedKey = write("action_value")


class _QLearning(CriticLoss):
    """What the losses of this file share: a network of action values and an action space."""

    _AcceptedKeys = DQNKeys
    network_inputs: Mapping[str, str] = {"value_network": "root next"}
    network_outputs: Mapping[str, tuple[str, ...]] = {"value_network": ("action_value", "action", "value")}

    def __init__(
        self,
        value_network: TensorDictModuleBase,
        *,
        delay_value: bool = True,
        double_dqn: bool = False,
        action_space: str | TensorSpec | None = None,
        **options: Any,
    ) -> None:
        if double_dqn and not delay_value:
            raise ValueError(
                describe(
                    self,
                    "cannot be double without a target network",
                    expected="delay_value=True",
                    found=f"delay_value={delay_value}",
                )
            )
        super().__init__(**options)
        if isinstance(value_network, nn.Module) and not hasattr(value_network, "in_keys"):
            value_network = TensorDictModule(value_network, ["observation"], [self.tensor_keys.action_value])
        self.convert_to_functional(value_network, "value_network", create_target_params=delay_value)
        self.delay_value, self.double_dqn = delay_value, double_dqn
        choice = choice_of(value_network)  # the last part, if it only chooses an action
        self._has_choice = choice is not None
        self._mask_key = None if choice is None else choice.action_mask_key
        space = None
        if action_space is None:
            space = getattr(value_network, "action_space", getattr(choice, "action_space", None))
        if space is None or isinstance(space, str):
            space, _ = resolve(self, action_space or space, None, None)
        self.action_space = space
        self.out_keys = ["loss"]

    def _values(self, td: TensorDictBase, target: bool = False) -> Tensor:
        """Return the values of all actions; the choice of one is left out."""
        name = "value_network"
        network: Any = self.target(name) if target else self.value_network
        if self._has_choice:
            *before, network = list(network.module)[:-1]
            for module in before:
                td = module(td.copy())
        return take(network, td, self.tensor_keys.action_value)

    def _next_values(self, td: TensorDictBase, target: bool = False) -> Tensor:
        """Return the values of all actions at the next observations, given all that came before."""
        if not (self._may_remember and self.value_estimator.remembers(self.value_network, td)):
            return self._values(td.get("next"), target)
        _, values = self.value_estimator.in_turn(
            td, input_keys(self.value_network), lambda rows: self._values(rows, target)
        )
        return values

    def _next_outputs(self, td: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Return the target network's values of the next step, and the action to value there."""
        values = self._next_values(td, target=True)
        judged = self._next_values(td) if self.double_dqn else values
        scores = self._possible(self._scores(judged), td.get("next"))  # [*B, N]
        return values, self.action_space.greedy(scores)

    def _possible(self, values: Tensor, td: TensorDictBase) -> Tensor:
        """Return values ``[*B, N]``, lower than any where a mask says that an action cannot be."""
        if self._mask_key is None:
            return values
        return self.action_space.masked(values, td.get(self._mask_key), choosing=False)

    def _scores(self, values: Tensor) -> Tensor:
        """Return the expected values ``[*B, N]``."""
        return values


class DQNLoss(_QLearning):
    r"""Q-learning towards a target network.

    .. math:: L = d\big(Q(s, a),\ r + \gamma (1 - e) \max_{a'} \bar Q(s', a')\big)

    Args:
        value_network: Reads observations, writes ``action_value [*B, N]``, such as
            :class:`~torchrl.modules.QValueActor`; any other ``nn.Module`` is called with the entry
            ``"observation"``.
        loss_function: ``"l1"``, ``"l2"`` or ``"smooth_l1"``.
        delay_value: Take the target from a frozen copy of the network.
        double_dqn: Choose :math:`a'` with the network that is trained
            (van Hasselt et al., 2016, https://arxiv.org/abs/1509.06461, eq. 4).
        gamma: Discount factor, 0.99 by default.
        action_space: ``"one_hot"``, ``"categorical"``, ... or a spec, if the network does not say.
        options: Arguments of :class:`~torchrl.objectives.off_policy.CriticLoss`.

    Reads: ``action``, ``next.reward [*B, 1]``, ``next.terminated [*B, 1]`` (or ``next.done``) and
        the inputs of the network, now and next.
    Writes: ``td_error [*B, 1]``, the squared error, as priority.
    Returns: ``loss``.

    Source: Mnih et al., 2015, https://doi.org/10.1038/nature14236, algorithm 1.

    >>> from tensordict.nn import TensorDictModule
    >>> net = TensorDictModule(torch.nn.Linear(3, 2), ["observation"], ["action_value"])
    >>> loss = DQNLoss(net, action_space="categorical")
    >>> obs, flag = torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.bool)
    >>> loss(observation=obs, next_observation=obs, action=torch.tensor([0, 1, 0, 1]),
    ...      next_reward=torch.ones(4, 1), next_done=flag, next_terminated=flag).shape
    torch.Size([])
    """

    def __init__(self, value_network: TensorDictModuleBase, *, loss_function: str = "l2", **options: Any) -> None:
        super().__init__(value_network, loss_function=loss_function, **options)

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        taken = self.action_space.value_of(self._values(td), td.get(self.tensor_keys.action))
        with torch.no_grad():
            ahead = self._next_value(td)  # [*B, 1]
            target = self.value_estimator.value_estimate(td, next_value=ahead).squeeze(-1)
        taken = taken.squeeze(-1)  # [*B]
        td.set(self.tensor_keys.priority, (taken.detach() - target).square().unsqueeze(-1))
        return {"loss": self._weigh(td, distance_loss(taken, target, self.loss_function))}

    def _next_value(self, td: TensorDictBase) -> Tensor:
        """Return the value ``[*B, 1]`` of the best next action."""
        if self._mask_key is None and not self.double_dqn and not self.action_space.is_product:
            return self._next_values(td, target=True).amax(-1, keepdim=True)
        return self.action_space.value_of(*self._next_outputs(td))


class DistributionalDQNLoss(_QLearning):
    r"""Q-learning on categorical distributions of returns (C51).

    The target distribution, moved by :math:`r + \gamma^n (1 - e) z`, is projected on the atoms; the
    loss is its cross-entropy with the prediction.

    Args:
        value_network: Writes log-probabilities ``action_value [*B, Z, N]`` and has a ``support``,
            such as :class:`~torchrl.modules.DistributionalQValueActor`.
        gamma: Discount factor.
        delay_value: Take the target from a frozen copy of the network.
        action_space: As in :class:`DQNLoss`.
        options: Arguments of :class:`~torchrl.objectives.off_policy.CriticLoss`.

    Reads: As :class:`DQNLoss`; ``steps_to_next_obs [*B, 1]`` if it is there.
    Writes: ``td_error [*B, 1]``, the cross-entropy, as priority.
    Returns: ``loss``.

    Source: Bellemare et al., 2017, https://arxiv.org/abs/1707.06887, algorithm 1.

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import make_q_actor
    >>> env = GymEnv("CartPole-v1")
    >>> net = make_q_actor(env, num_cells=(16,), support=(0, 500, 51))  # 51 atoms from 0 to 500
    >>> loss = DistributionalDQNLoss(net, gamma=0.99)
    >>> loss(env.rollout(8))["loss"].shape
    torch.Size([])
    """

    value_estimators = (ValueEstimators.TD0,)

    def __init__(self, value_network: TensorDictModuleBase, *, gamma: float, **options: Any) -> None:
        super().__init__(value_network, gamma=gamma, **options)

    def _scores(self, values: Tensor) -> Tensor:
        return (values.exp() * self.value_network.support.unsqueeze(-1)).sum(-2)

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        space, action = self.action_space, td.get(self.tensor_keys.action)
        log_p = of_action(space, self._values(td), action)  # [*B, Z]
        with torch.no_grad():
            support = self.value_network.support  # [Z]
            next_p = of_action(space, *self._next_outputs(td)).exp()  # [*B, Z]
            moved = self._bootstrap_each(td, support.expand_as(next_p))  # [*B, Z]
            target = project(next_p, moved, support)  # [*B, Z]
        loss = -(target * log_p).sum(-1)
        self._prioritise(td, loss.unsqueeze(-1))
        return {"loss": self._weigh(td, loss)}


class QRDQNLoss(_QLearning):
    r"""Q-learning on quantiles of the return (QR-DQN).

    Args:
        value_network: Writes quantiles ``action_value [*B, Z, N]``.
        kappa: Threshold of the Huber loss.
        delay_value: Take the target from a frozen copy of the network.
        double_dqn: Choose the next action with the network that is trained.
        gamma: Discount factor, 0.99 by default.
        action_space: As in :class:`DQNLoss`; the network's own choice is not asked.
        options: Arguments of :class:`~torchrl.objectives.off_policy.CriticLoss`.

    Reads: As :class:`DQNLoss`.
    Writes: ``td_error [*B, 1]``, the distance of the means, as priority.
    Returns: ``loss``.

    Source: Dabney et al., 2018, https://arxiv.org/abs/1710.10044, algorithm 1.

    >>> net = TensorDictModule(lambda obs: obs.expand(-1, 51, 2), ["observation"], ["action_value"])  # 51 quantiles
    >>> loss = QRDQNLoss(net, action_space="categorical")
    >>> obs, flag = torch.zeros(4, 1, 1), torch.zeros(4, 1, dtype=torch.bool)
    >>> loss(observation=obs, next_observation=obs, action=torch.tensor([0, 1, 0, 1]),
    ...      next_reward=torch.zeros(4, 1), next_done=flag, next_terminated=flag)
    tensor(0.)
    """

    value_estimators = (ValueEstimators.TD0,)

    def __init__(self, value_network: TensorDictModuleBase, *, kappa: float = 1.0, **options: Any) -> None:
        super().__init__(value_network, **options)
        self.kappa = kappa

    def _scores(self, values: Tensor) -> Tensor:
        return values.mean(-2)

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        space, action = self.action_space, td.get(self.tensor_keys.action)
        quantiles = of_action(space, self._values(td), action)  # [*B, Z]
        with torch.no_grad():
            ahead = of_action(space, *self._next_outputs(td))
            target = self._bootstrap_each(td, ahead)  # [*B, Z]
        self._prioritise(td, (quantiles.mean(-1) - target.mean(-1)).abs().unsqueeze(-1))
        return {"loss": self._weigh(td, quantile_huber(quantiles, target, self.kappa))}


def of_action(space: Any, values: Tensor, action: Tensor) -> Tensor:
    """Return ``[*B, Z]`` of ``values [*B, Z, N]``: those of the action."""
    index = space.index(action, values[..., 0, :]).unsqueeze(-2)  # [*B, 1, 1]
    return values.gather(-1, index.expand(*values.shape[:-1], 1)).squeeze(-1)


def project(p: Tensor, atoms: Tensor, support: Tensor) -> Tensor:
    """Spread the mass of each atom over the two points of a regular support around it.

    Args:
        p: Mass of each atom, ``[*B, Z]``.
        atoms: Where it is, ``[*B, Z]``; clamped to the support.
        support: ``[Z]``.

    Source: Bellemare et al., 2017, https://arxiv.org/abs/1707.06887, eq. 7.

    >>> project(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.25]), torch.tensor([0.0, 1.0]))
    tensor([0.7500, 0.2500])
    """
    step = (support[-1] - support[0]) / (len(support) - 1)
    where = atoms.clamp(support[0], support[-1]).unsqueeze(-2)  # [*B, 1, Z]
    share = (1 - (where - support.unsqueeze(-1)).abs() / step).clamp_min(0.0)  # [*B, Z, Z]
    return (share * p.unsqueeze(-2)).sum(-1)


def quantile_huber(quantiles: Tensor, target: Tensor, kappa: float = 1.0) -> Tensor:
    """Quantile regression ``[*B]`` of ``quantiles [*B, Z]`` on samples ``target [*B, K]``.

    Source: Dabney et al., 2018, https://arxiv.org/abs/1710.10044, eq. 10.
    """
    count = quantiles.shape[-1]
    middle = (torch.arange(count, device=quantiles.device, dtype=quantiles.dtype) + 0.5) / count
    quantiles, target = quantiles.unsqueeze(-1), target.unsqueeze(-2)  # [*B, Z, 1], [*B, 1, K]
    below = (target.detach() < quantiles.detach()).to(quantiles.dtype)
    shape = torch.broadcast_shapes(quantiles.shape, target.shape)
    pairs = (quantiles.expand(shape), target.expand(shape))
    huber = F.huber_loss(*pairs, reduction="none", delta=kappa) / kappa if kappa else (pairs[1] - pairs[0]).abs()
    return ((middle.unsqueeze(-1) - below).abs() * huber).mean(-1).sum(-1)
