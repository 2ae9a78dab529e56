"""Generative adversarial imitation: Ho and Ermon, 2016, https://arxiv.org/abs/1606.03476."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torch.nn import functional as F

from torchrl._core.keys import read, write
from torchrl._core.legacy import old_keywords
from torchrl.objectives.common import LossModule


class GAILLoss(LossModule):
    r"""A discriminator tells the expert's steps from the policy's.

    .. math:: L = -\log D(s_E, a_E) - \log(1 - D(s_\pi, a_\pi))

    where :math:`D` is the probability that a step is the expert's; a policy is rewarded with
    :math:`-\log(1 - D)`.

    Args:
        discriminator_network: Reads ``observation`` and ``action``, writes ``d_logits [*B, 1]``,
            the logarithm of the odds that the step is the expert's.
        use_grad_penalty: Drive the gradient of the logits, between the two kinds of steps, to norm
            1 (Gulrajani et al., 2017, https://arxiv.org/abs/1704.00028, eq. 3).
        gp_lambda: Weight of that penalty.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Reads: the expert's ``observation``, ``action`` and the policy's ``collector_observation``,
        ``collector_action``.
    Returns: ``loss``, ``gp_loss []`` (part of the loss, if there is a penalty).

    Source: Ho and Ermon, 2016, https://arxiv.org/abs/1606.03476, eq. 17, with the two labels the
        other way round, as is usual.

    >>> from tensordict.nn import TensorDictModule
    >>> from torchrl.modules import MLP
    >>> discriminator = TensorDictModule(MLP(4, 1), ["observation", "action"], ["d_logits"])
    >>> expert = {"observation": torch.zeros(8, 3), "action": torch.zeros(8, 1)}
    >>> policy = {"collector_observation": torch.ones(8, 3), "collector_action": torch.ones(8, 1)}
    >>> loss = GAILLoss(discriminator)
    >>> loss(TensorDict(**expert, **policy, batch_size=[8]))["loss"].shape
    torch.Size([])
    """

    @dataclass
    class _AcceptedKeys:
        expert_action: NestedKey = read("action")
        expert_observation: NestedKey = read("observation")
        collector_action: NestedKey = read("collector_action")
        collector_observation: NestedKey = read("collector_observation")
        discriminator_pred: NestedKey = write("d_logits")

    @old_keywords()
    def __init__(
        self,
        discriminator_network: TensorDictModuleBase,
        *,
        use_grad_penalty: bool = False,
        gp_lambda: float = 10.0,
        reduction: str | None = None,
    ) -> None:
        super().__init__(reduction=reduction)
        self.convert_to_functional(discriminator_network, "discriminator_network")
        self.use_grad_penalty, self.gp_lambda = use_grad_penalty, gp_lambda
        self.out_keys = ["loss", *["gp_loss"] * use_grad_penalty]

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        keys, mask = self.tensor_keys, self.row_mask(td)
        expert = td.get(keys.expert_observation), td.get(keys.expert_action)
        policy = td.get(keys.collector_observation), td.get(keys.collector_action)
        # one call, so that statistics over the batch are over both kinds
        both = [torch.cat([e, p.to(e.dtype)]) for e, p in zip(expert, policy, strict=True)]
        is_expert, is_policy = self._logits(*both).chunk(2)  # [*B] each
        out = {"loss": F.softplus(-is_expert) + F.softplus(is_policy)}
        if self.use_grad_penalty:
            penalty = self._penalty(expert, policy, td.ndim)  # [*B]
            out["loss"] = out["loss"] + penalty
            out["gp_loss"] = self._reduce(penalty.detach(), mask, "mean")
        return out

    def _logits(self, observation: Tensor, action: Tensor) -> Tensor:
        network, keys = self.discriminator_network, self.tensor_keys
        inputs = TensorDict({}, observation.shape[:-1])
        inputs.set(keys.expert_observation, observation).set(keys.expert_action, action)
        return network(inputs).get(keys.discriminator_pred).squeeze(-1)

    def _penalty(self, expert: tuple, policy: tuple, ndim: int) -> Tensor:
        share = torch.rand(expert[0].shape[:ndim], device=expert[0].device)
        points = []
        for e, p in zip(expert, policy, strict=True):
            weight = share.reshape(*share.shape, *(1,) * (e.ndim - ndim))
            points.append((weight * e + (1 - weight) * p).requires_grad_())
        with torch.enable_grad():
            gradients = torch.autograd.grad(self._logits(*points).sum(), points, create_graph=True)
        flat = torch.cat([g.flatten(ndim) for g in gradients], -1)
        return self.gp_lambda * (flat.norm(dim=-1) - 1).square()
