"""CrossQ: Bhatt et al., 2024, https://arxiv.org/abs/1902.05605."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.records.policies import merge, value_of
from torchrl._core.recurrence import branches
from torchrl.data import TensorSpec
from torchrl.objectives.max_entropy import OUT_KEYS, SoftActorCriticLoss
from torchrl.objectives.networks import Critics, frozen
from torchrl.objectives.value.sequences import takes_branches


class CrossQLoss(SoftActorCriticLoss):
    r"""Soft actor-critic without target networks, for critics with batch normalisation.

    Each critic sees the steps of the data and the next steps in one batch, so that its statistics
    are those of both.

    Args:
        actor_network: A policy with a distribution that has gradients (``rsample``).
        qvalue_network: Reads observations and action, writes ``state_action_value [*B, 1]``; one
            network, from which the others are drawn, or a list of all.
        num_qvalue_nets: Number of critics.
        target_entropy: See :class:`~torchrl.objectives.max_entropy.MaxEntropyLoss`.
        action_spec: See there.
        options: As in :class:`~torchrl.objectives.SACLoss`.

    Reads: As :class:`~torchrl.objectives.SACLoss`.
    Writes: ``td_error [*B]``, the largest error of a critic, as priority.
    Returns: ``loss_actor``, ``loss_qvalue``, ``loss_alpha``, ``alpha``, ``entropy``; in a tensordict
        also ``log_prob [*B]``, ``td_error [*B]``.

    Source: Bhatt et al., 2024, https://arxiv.org/abs/1902.05605, figure 2.

    >>> from torch import nn
    >>> from tensordict.nn import TensorDictModule
    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import MLP, make_actor
    >>> env = GymEnv("Pendulum-v1")
    >>> net = MLP(4, 1, num_cells=[16], norm_class=nn.BatchNorm1d, norm_kwargs={"num_features": 16})
    >>> critic = TensorDictModule(net, ["observation", "action"], ["state_action_value"])
    >>> loss = CrossQLoss(make_actor(env, num_cells=(16,)), critic)  # needs no updater of targets
    >>> list(loss(env.rollout(8)).keys())
    ['loss_actor', 'log_prob', 'loss_qvalue', 'td_error', 'loss_alpha', 'alpha', 'entropy']
    """

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        qvalue_network: Critics,
        *,
        num_qvalue_nets: int = 2,
        target_entropy: float | str = "auto",
        action_spec: TensorSpec | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._set_actor(actor_network)
        self.convert_to_functional(qvalue_network, "qvalue_network", num_qvalue_nets)
        self._set_target_entropy(target_entropy, action_spec)
        self.out_keys = list(OUT_KEYS)

    def _critic_terms(self, td: TensorDictBase) -> dict[str, Tensor]:
        with self._apart(self.network("qvalue_network")):
            predicted, ahead, next_log_prob = self._now_and_next(td)
        with torch.no_grad():
            soft = ahead.amin(0) - self.alpha * next_log_prob
            target = self._bootstrap(td, soft.unsqueeze(-1))  # [*B]
            error = (predicted.detach() - target).abs().amax(0)
            self._prioritise(td, error)
        return {"loss_qvalue": self._weigh(td, self._errors(predicted, target).sum(0)), "td_error": error}

    def _actor_terms(self, td: TensorDictBase) -> tuple[dict[str, Tensor], Tensor]:
        actions, log_prob = self._draw(td)
        with frozen(self.network("qvalue_network")) as critics, _evaluating(critics):
            value = self._judged(critics, td, self.tensor_keys.state_action_value, actions).squeeze(-1).amin(0)  # [*B]
        return {"loss_actor": self.alpha * log_prob - value, "log_prob": log_prob}, log_prob

    def _now_and_next(self, td: TensorDictBase) -> tuple[Tensor, Tensor, Tensor]:
        """Return values ``[N, *B]`` now and next, and the log-probability ``[*B]`` of what is next.

        The values are those of one pass; those of the next steps are not to be differentiated.
        """
        key = self.tensor_keys.state_action_value
        if self._remembers(td):
            return self._now_and_next_of_sequences(td)
        with torch.no_grad():
            next_root = td.get("next")
            actions, log_prob = self._draw(next_root)
        pairs = []
        for critic in self.network("qvalue_network"):
            now = merge(td, critic)
            both = torch.stack([now, merge(next_root, critic, actions)])  # [2, *B]
            # one batch dimension: the statistics are over all of it
            pairs.append(critic(both.reshape(-1)).get(key).reshape(2, *td.batch_size))
        predicted, ahead = torch.stack(pairs, 1).unbind(0)
        return predicted, ahead, log_prob

    def _now_and_next_of_sequences(self, td: TensorDictBase) -> tuple[Tensor, Tensor, Tensor]:
        if not takes_branches(self):
            raise TypeError(
                describe(
                    self,
                    "needs a memory that can also take single steps",
                    expected="recurrent modules of one direction",
                    hint="Build them without bidirectional=True.",
                )
            )
        rows = self._beside(td, td.get("next"))  # [*B, 2 T]
        with branches("after"):
            with torch.no_grad():
                actions, log_prob = self._draw(rows)
            actions, key = self._beside_taken(rows, actions), self.tensor_keys.state_action_value
            values = value_of(self.network("qvalue_network"), rows, key, actions)  # [N, *B, 2 T]
        predicted, ahead = values.chunk(2, -1)
        return predicted, ahead, log_prob.chunk(2, -1)[1]


class _evaluating:  # noqa: N801 - reads like the verb that it is
    """Switch a network to evaluation inside the block, so that its statistics stay as they are."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network, self.training = network, network.training

    def __enter__(self) -> None:
        self.network.eval()

    def __exit__(self, *_: object) -> None:
        self.network.train(self.training)
