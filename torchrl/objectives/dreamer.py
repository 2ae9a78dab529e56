"""Dreamer: Hafner et al., 2019, https://arxiv.org/abs/1912.01603.

``T`` steps of the data, ``H`` imagined steps, ``S`` stochastic state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core.exploration import ExplorationType, set_exploration_type
from torchrl._core.keys import next_key, read, read_next, write
from torchrl._core.legacy import old_keywords
from torchrl._core.mdp import step_mdp
from torchrl._core.records.policies import take
from torchrl.objectives.common import LossModule, distance_loss, known_distance
from torchrl.objectives.networks import frozen
from torchrl.objectives.value.registry import ValueEstimators


class _DreamerLoss(LossModule, ABC):
    """Base of the losses of this file, which also return data: beliefs, dreams, values.

    Hooks:
        losses_and_data: ``td -> ({out_key: tensor}, data)``; losses as in ``LossModule.losses``.
    """

    def forward(self, tensordict: TensorDictBase) -> tuple[TensorDictBase, TensorDictBase]:
        """Return the losses, and the data without gradient; the batch stays as it is."""
        mask = self.row_mask(tensordict)
        losses, data = self.losses_and_data(self.prepare_batch(tensordict, mask))
        if self._selects:
            losses = {name: value for name, value in losses.items() if name in self.out_keys}
        return TensorDict({name: self._reduce(value, mask) for name, value in losses.items()}), data.detach()

    @abstractmethod
    def losses_and_data(self, td: TensorDictBase) -> tuple[dict[str, Tensor], TensorDictBase]: ...


class DreamerModelLoss(_DreamerLoss):
    r"""A world model predicts what is seen and rewarded, from states that it could foresee.

    .. math:: L = KL\big(q(s_t | b_t, o_t) \,\|\, p(s_t | b_t)\big) + d(o_t, \hat o_t)
        + d(r_t, \hat r_t)

    Args:
        world_model: Runs along the last batch dimension; writes, under ``next``, mean and standard
            deviation of prior and posterior ``[*B, T, S]``, the reconstruction and ``reward``.
        lambda_kl: Weight of the divergence.
        lambda_reco: Weight of the reconstruction.
        lambda_reward: Weight of the reward.
        reco_loss: ``"l1"``, ``"l2"`` (the default) or ``"smooth_l1"``.
        reward_loss: The same for the reward.
        free_nats: A divergence below this costs nothing.
        delayed_clamp: Compare the mean divergence with it, rather than that of each step.
        global_average: Average over the features, rather than sum.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Reads: ``next.reward [*B, T, 1]``, ``next.pixels [*B, T, ...]`` and the inputs of the model.
    Returns: ``loss_model_kl``, ``loss_model_reco``, ``loss_model_reward``; and the batch with what
        the model wrote, without gradient, the reward of the data under ``next.true_reward``.

    Source: Hafner et al., 2019, https://arxiv.org/abs/1912.01603, eq. 10, with a Gaussian of
        variance 1/2 as the likelihood.

    >>> from tensordict.nn import TensorDictModule, TensorDictSequential
    >>> from torchrl.modules import RSSMPosterior, RSSMPrior, RSSMRollout
    >>> after = [("next", name) for name in ("prior_mean", "prior_std", "state", "belief")]
    >>> kw = {"hidden_dim": 8, "rnn_hidden_dim": 8, "state_dim": 4}
    >>> prior = TensorDictModule(RSSMPrior(action_dim=1, **kw), ["state", "belief", "action"], after)
    >>> posterior = TensorDictModule(
    ...     RSSMPosterior(obs_embed_dim=3, **kw),
    ...     [("next", "belief"), ("next", "pixels")],  # in practice of an encoder of the pixels
    ...     [("next", "posterior_mean"), ("next", "posterior_std"), ("next", "state")],
    ... )
    >>> heads = [
    ...     TensorDictModule(torch.nn.Linear(4, 3), [("next", "state")], [("next", "reco_pixels")]),
    ...     TensorDictModule(torch.nn.Linear(4, 1), [("next", "state")], [("next", "reward")]),
    ... ]
    >>> loss = DreamerModelLoss(TensorDictSequential(RSSMRollout(prior, posterior), *heads))
    >>> batch = TensorDict(state=torch.zeros(2, 5, 4), belief=torch.zeros(2, 5, 8), action=torch.zeros(2, 5, 1))
    >>> batch["next"] = TensorDict(pixels=torch.zeros(2, 5, 3), reward=torch.zeros(2, 5, 1))
    >>> losses, _ = loss(batch.auto_batch_size_(2))
    >>> list(losses.keys())
    ['loss_model_kl', 'loss_model_reco', 'loss_model_reward']
    """

    @dataclass
    class _AcceptedKeys:
        reward: NestedKey = read_next("reward")
        pixels: NestedKey = read_next("pixels")
        true_reward: NestedKey = write("true_reward")
        reco_pixels: NestedKey = write("reco_pixels")
        prior_mean: NestedKey = write("prior_mean")
        prior_std: NestedKey = write("prior_std")
        posterior_mean: NestedKey = write("posterior_mean")
        posterior_std: NestedKey = write("posterior_std")

    world_model: Any
    network_inputs: Mapping[str, str] = {"world_model": "root"}

    @old_keywords()
    def __init__(
        self,
        world_model: TensorDictModuleBase,
        *,
        lambda_kl: float = 1.0,
        lambda_reco: float = 1.0,
        lambda_reward: float = 1.0,
        reco_loss: str | None = None,
        reward_loss: str | None = None,
        free_nats: float = 3,
        delayed_clamp: bool = False,
        global_average: bool = False,
        reduction: str | None = None,
    ) -> None:
        super().__init__(reduction=reduction)
        self.convert_to_functional(world_model, "world_model")
        self.lambda_kl, self.lambda_reco, self.lambda_reward = lambda_kl, lambda_reco, lambda_reward
        self.reco_loss = known_distance(self, reco_loss or "l2")
        self.reward_loss = known_distance(self, reward_loss or "l2")
        self.free_nats, self.delayed_clamp = free_nats, delayed_clamp
        self.global_average = global_average
        self.out_keys = ["loss_model_kl", "loss_model_reco", "loss_model_reward"]

    def losses_and_data(self, td: TensorDictBase) -> tuple[dict[str, Tensor], TensorDictBase]:
        keys, reward = self.tensor_keys, td.get(next_key(self.tensor_keys.reward))
        data = self.world_model(td.copy().set(next_key(keys.true_reward), reward))
        seen, drawn, foreseen = (data.get(next_key(key)) for key in (keys.pixels, keys.reco_pixels, keys.reward))
        reco = self._pooled(data, distance_loss(seen, drawn, self.reco_loss))  # [*B, T]
        gain = self._pooled(data, distance_loss(reward, foreseen, self.reward_loss))
        losses = {
            "loss_model_kl": self.lambda_kl * self._surprise(data),
            "loss_model_reco": self.lambda_reco * reco,
            "loss_model_reward": self.lambda_reward * gain,
        }
        return losses, data

    def _surprise(self, data: TensorDictBase) -> Tensor:
        """Return how far the posterior is from the prior, ``[*B, T]`` or on average, if too far."""
        keys = self.tensor_keys
        names = (keys.posterior_mean, keys.posterior_std, keys.prior_mean, keys.prior_std)
        mean, std, prior_mean, prior_std = (data.get(next_key(name)) for name in names)
        distance = (std.square() + (mean - prior_mean).square()) / (2 * prior_std.square())
        divergence = self._pooled(data, (prior_std / std).log() + distance - 0.5)  # [*B, T]
        if self.delayed_clamp:
            divergence = self._reduce(divergence, self.row_mask(data), "mean")
        return divergence.clamp_min(self.free_nats)

    def _pooled(self, data: TensorDictBase, error: Tensor) -> Tensor:
        """Sum or average errors ``[*B, T, ...]`` over features."""
        error = error.flatten(data.ndim)
        return error.mean(-1) if self.global_average else error.sum(-1)


class DreamerActorLoss(_DreamerLoss):
    r"""A policy climbs the values of what a world model imagines it to do.

    .. math:: L = -\sum_{\tau = t}^{t + H} \gamma^{\tau - t} V_\lambda(s_\tau)

    The gradient flows through the imagined steps; neither the world model nor the values learn.

    Args:
        actor_model: A policy on latent states, whose draws have gradients (``rsample``).
        value_model: Reads latent states, writes ``state_value [*B, 1]``.
        model_based_env: Imagines, such as :class:`~torchrl.envs.DreamerEnv`.
        imagination_horizon: ``H``.
        discount_loss: Weigh imagined steps by powers of ``gamma``, as above.
        gamma: Discount factor, 0.99 by default.
        lmbda: :math:`\lambda`, 0.95 by default.

    Reads: ``state [*B, S]`` and ``belief [*B, ...]`` (or what else the environment starts from):
        where to start.
    Returns: ``loss_actor``; and what was imagined ``[prod(*B), H]``, without gradient, with the
        returns :math:`V_\lambda` under ``lambda_target``.

    Source: Hafner et al., 2019, https://arxiv.org/abs/1912.01603, eq. 6 and 7.

    >>> from tensordict.nn import TensorDictModule
    >>> from torchrl.data import Bounded
    >>> from torchrl.envs import DreamerEnv
    >>> from torchrl.modules import WorldModelWrapper
    >>> move = TensorDictModule(lambda state, belief, action: (state + action, belief),
    ...                         ["state", "belief", "action"], ["state", "belief"])
    >>> reward = TensorDictModule(lambda state: -(state**2), ["state"], ["reward"])
    >>> env = DreamerEnv(WorldModelWrapper(move, reward), [1], [1])
    >>> env.action_spec = Bounded(-1, 1, (1,))
    >>> actor = TensorDictModule(torch.nn.Linear(1, 1), ["state"], ["action"])
    >>> value = TensorDictModule(torch.nn.Linear(1, 1), ["state"], ["state_value"])
    >>> loss = DreamerActorLoss(actor, value, env, imagination_horizon=15)
    >>> start = TensorDict(state=torch.ones(6, 1), belief=torch.zeros(6, 1), batch_size=[6])
    >>> losses, imagined = loss(start)
    >>> imagined.shape, losses["loss_actor"].requires_grad
    (torch.Size([6, 15]), True)
    """

    @dataclass
    class _AcceptedKeys:
        belief: NestedKey = read("belief")
        state: NestedKey = read("state")
        reward: NestedKey = write("reward")
        value: NestedKey = write("state_value")
        done: NestedKey = write("done")
        terminated: NestedKey = write("terminated")
        lambda_target: NestedKey = write("lambda_target")

    actor_model: Any
    default_value_estimator = ValueEstimators.TDLambda
    value_estimators = (ValueEstimators.TD0, ValueEstimators.TD1, ValueEstimators.TDLambda)

    @old_keywords()
    def __init__(
        self,
        actor_model: TensorDictModuleBase,
        value_model: TensorDictModuleBase,
        model_based_env: Any,
        *,
        imagination_horizon: int = 15,
        discount_loss: bool = True,
        gamma: float | None = None,
        lmbda: float | None = None,
    ) -> None:
        super().__init__()
        self.convert_to_functional(actor_model, "actor_model")
        # not submodules: they have losses of their own
        self.__dict__.update(value_model=value_model, model_based_env=model_based_env)
        self.imagination_horizon, self.discount_loss = imagination_horizon, discount_loss
        given = {"gamma": gamma, "lmbda": lmbda}
        self._value_kwargs = {name: value for name, value in given.items() if value is not None}
        self.out_keys = ["loss_actor"]

    def losses_and_data(self, td: TensorDictBase) -> tuple[dict[str, Tensor], TensorDictBase]:
        keys, env = self.tensor_keys, self.model_based_env
        start = td.select(keys.state, keys.belief).reshape(-1)
        world, critic = env.world_model, self.value_model
        with frozen(world), frozen(critic), set_exploration_type(ExplorationType.RANDOM):
            imagined = env.rollout(
                self.imagination_horizon,
                self.actor_model,
                auto_reset=False,
                break_when_any_done=False,
                tensordict=env.reset(start),
            )
            ahead = take(critic, step_mdp(imagined), keys.value)  # [N, H, 1]
            target = self.value_estimator.value_estimate(imagined, next_value=ahead)
        gain = target
        if self.discount_loss:
            gain = gain * discounts(target, self.value_estimator.gamma)
        loss = -gain.sum((-2, -1)).reshape(td.batch_size)
        return {"loss_actor": loss}, imagined.set(keys.lambda_target, target)


class DreamerValueLoss(_DreamerLoss):
    r"""Values follow the returns of what was imagined.

    .. math:: L = \sum_{\tau = t}^{t + H} \gamma^{\tau - t} d\big(v(s_\tau), V_\lambda(s_\tau)\big)

    Args:
        value_model: Reads latent states, writes ``state_value [*B, H, 1]``.
        value_loss: ``"l1"``, ``"l2"`` (the default) or ``"smooth_l1"``.
        discount_loss: Weigh imagined steps by powers of ``gamma``, as above.
        gamma: Discount factor.

    Reads: ``lambda_target [*B, H, 1]`` and the inputs of the model.
    Returns: ``loss_value``; and the batch with the values, without gradient.

    Source: Hafner et al., 2019, https://arxiv.org/abs/1912.01603, eq. 8, without its factor 1/2.

    >>> from tensordict.nn import TensorDictModule
    >>> model = TensorDictModule(torch.nn.Linear(4, 1), ["state"], ["state_value"])
    >>> imagined = TensorDict(state=torch.zeros(6, 15, 4), lambda_target=torch.ones(6, 15, 1), batch_size=[6, 15])
    >>> losses, _ = DreamerValueLoss(model, gamma=0.99)(imagined)
    >>> losses["loss_value"].shape
    torch.Size([])
    """

    @dataclass
    class _AcceptedKeys:
        lambda_target: NestedKey = read("lambda_target")
        value: NestedKey = write("state_value")

    value_model: Any
    network_inputs: Mapping[str, str] = {"value_model": "root"}

    @old_keywords()
    def __init__(
        self,
        value_model: TensorDictModuleBase,
        value_loss: str | None = None,
        discount_loss: bool = True,
        gamma: float = 0.99,
    ) -> None:
        super().__init__()
        self.convert_to_functional(value_model, "value_model")
        self.value_loss = known_distance(self, value_loss or "l2")
        self.discount_loss = discount_loss
        self.gamma = gamma
        self.out_keys = ["loss_value"]

    def losses_and_data(self, td: TensorDictBase) -> tuple[dict[str, Tensor], TensorDictBase]:
        keys = self.tensor_keys
        value = take(self.value_model, td, keys.value)  # [*B, H, 1]
        error = distance_loss(value, td.get(keys.lambda_target), self.value_loss)
        if self.discount_loss:
            error = error * discounts(error, self.gamma)
        return {"loss_value": error.sum((-2, -1))}, td.copy().set(keys.value, value)


def discounts(like: Tensor, gamma: float | Tensor) -> Tensor:
    """Return ``1, gamma, gamma ** 2, ...`` along time, ``[H, 1]`` for a tensor ``[*B, H, 1]``.

    >>> discounts(torch.zeros(3, 1), 0.5).T
    tensor([[1.0000, 0.5000, 0.2500]])
    """
    steps = torch.arange(like.shape[-2], device=like.device, dtype=like.dtype)
    return (gamma**steps).unsqueeze(-1)
