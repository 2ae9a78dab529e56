"""What the critics of a loss predict of the steps of a sample, and a hook that logs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from torchrl._core.errors import describe
from torchrl._core.exploration import set_exploration_type
from torchrl._core.records.policies import take
from torchrl._core.recurrence import set_recurrent_mode
from torchrl.objectives import DistributionalDQNLoss, LossModule, REDQLoss, TQCLoss
from torchrl.trainers.hooks.base import TrainerHookBase
from torchrl.trainers.trainer import Trainer

MEANS = (REDQLoss, TQCLoss)  # their policies climb the mean of all critics, those of the others the lowest


def critic_name(loss_module: nn.Module) -> str | None:
    """Return the name of the network of a loss that values actions, or ensemble of them; ``None`` without one.

    >>> from torchrl.modules import QValueActor
    >>> from torchrl.objectives import DQNLoss
    >>> critic_name(DQNLoss(QValueActor(nn.Linear(4, 2), action_space="one_hot")))
    'value_network'
    """
    if not isinstance(loss_module, LossModule):
        return None
    keys = vars(loss_module.tensor_keys)
    networks = loss_module.named_networks() if {"action_value", "state_action_value"} & keys.keys() else {}
    return next((name for name in ("qvalue_network", "value_network") if name in networks), None)


def q_values(loss_module: LossModule, tensordict: TensorDictBase) -> Tensor:
    """Return what the critics of a loss predict of the actions of a batch, ``[*B]``, without gradient.

    Of several critics it is the lowest; the mean for a :class:`~torchrl.objectives.REDQLoss` or
    :class:`~torchrl.objectives.TQCLoss`, whose policies climb that. A distribution of returns counts with its
    mean. Networks run in evaluation mode and without noise; they and the batch stay as they are, and nothing
    is drawn.

    Args:
        loss_module: A loss that values actions, whose networks have run.
        tensordict: A batch ``[*B]`` of transitions; ``[*B, T]`` for networks with a memory.

    Reads: the inputs of the critics, and ``action``.

    Raises:
        TypeError: if the loss has no critic of actions.

    >>> from tensordict import TensorDict
    >>> from torchrl.modules import QValueActor
    >>> from torchrl.objectives import DQNLoss
    >>> layer = nn.Linear(1, 2, bias=False)
    >>> layer.weight.data[:] = torch.tensor([[1.0], [10.0]])
    >>> loss_module = DQNLoss(QValueActor(layer, action_space="categorical"))
    >>> q_values(loss_module, TensorDict(observation=torch.ones(3, 1), action=torch.tensor([0, 1, 1]), batch_size=[3]))
    tensor([ 1., 10., 10.])
    """
    name = critic_name(loss_module)
    if name is None:
        raise TypeError(describe("q_values", "the loss has no critic of actions", found=type(loss_module).__name__))
    network, keys = loss_module.network(name), loss_module.tensor_keys
    is_ensemble = isinstance(network, nn.ModuleList)
    with torch.no_grad(), _evaluating(network), set_exploration_type("deterministic"), set_recurrent_mode(True):
        if not hasattr(keys, "action_value"):
            values = take(network, tensordict, keys.state_action_value).mean(-1)  # [N, *B], or [*B]; of quantiles
        else:
            values = take(network, tensordict, keys.action_value)  # [N, *B, A], or [*B, A], or [*B, Z, A]
            if isinstance(loss_module, DistributionalDQNLoss):
                values = (values.exp() * network.support.unsqueeze(-1)).sum(-2)  # [*B, A]
            elif values.ndim > tensordict.ndim + is_ensemble + 1:
                values = values.mean(-2)  # [*B, A]; of quantiles
            action, space = tensordict.get(keys.action), loss_module.action_space
            parts = values.unbind(0) if is_ensemble else [values]
            values = torch.stack([space.value_of(part, action).squeeze(-1) for part in parts])  # [N, *B]
        if values.ndim > tensordict.ndim:
            values = values.mean(0) if isinstance(loss_module, MEANS) else values.amin(0)  # [*B]
    return values


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Run the block with all parts of a network in evaluation mode; set each back as it was."""
    modes = [(part, part.training) for part in network.modules()]
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes:
            part.training = mode


class LogQValue(TrainerHookBase):
    """Log the mean of :func:`q_values` of a sample, as ``q_value``, whenever the trainer is to log it.

    :func:`~torchrl.trainers.doctor` compares it with the discounted returns of evaluations, or with the
    rewards: values that no policy earns are overestimated. Nothing is computed at the steps between.

    Args:
        trainer: Its loss is asked; its ``log_interval`` is when.
        logname: Name in the log.

    Raises:
        TypeError: if the loss of the trainer has no critic of actions.

    Source: van Hasselt et al., 2016, https://arxiv.org/abs/1509.06461, figure 3; Fujimoto et al., 2018,
        https://arxiv.org/abs/1802.09477, figure 1.

    >>> from torchrl.testing.hook import small_trainer
    >>> trainer = small_trainer()
    >>> LogQValue(trainer).register(trainer)
    >>> trainer.train()
    """

    stage, name = "post_optim_log", "log_q_value"

    def __init__(self, trainer: Trainer, logname: str = "q_value") -> None:
        if critic_name(trainer.loss_module) is None:
            found = type(trainer.loss_module).__name__
            raise TypeError(describe(self, "the loss has no critic of actions", found=found))
        self.trainer, self.logname = trainer, logname

    def __call__(self, sub_batch: TensorDictBase) -> dict[str, float] | None:
        if not self.trainer.is_due(self.logname):
            return None
        loss_module: Any = self.trainer.loss_module
        values, mask = q_values(loss_module, sub_batch), loss_module.row_mask(sub_batch)
        return {self.logname: float((values if mask is None else values[mask]).mean())}
