"""Behaviour cloning: Pomerleau, 1991, https://doi.org/10.1162/neco.1991.3.1.88."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tensordict import NestedKey, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase
from torch import Tensor

from torchrl._core.keys import read, write
from torchrl._core.legacy import old_keywords
from torchrl._core.records.policies import take
from torchrl._core.records.rows import expand_right
from torchrl.objectives.common import LossModule, distance_loss, known_distance
from torchrl.objectives.distributions import distribution, log_prob


class BCLoss(LossModule):
    r"""A policy does what the data does.

    .. math:: L = -\log\pi(a|s) \quad \text{or} \quad L = d(\pi(s), a)

    Args:
        actor_network: A policy with a distribution, or one that writes ``action [*B, A]``.
        loss_function: ``"l1"``, ``"l2"`` or ``"smooth_l1"``: the distance of the policy's action
            from the data's, averaged over the action. By default the log-probability for a policy
            with a distribution, ``"l2"`` for another.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Reads: ``action [*B, A]`` and the inputs of the policy; ``pad_mask [*B]`` if it is there: the
        rows that are padding, which do not count; ``[*B, T]`` for sequences of actions.
    Returns: ``loss_bc``.

    >>> import torch
    >>> from tensordict.nn import TensorDictModule
    >>> actor = TensorDictModule(torch.nn.Identity(), ["observation"], ["action"])
    >>> BCLoss(actor)(observation=torch.zeros(4, 1), action=torch.ones(4, 1))
    tensor(1.)
    """

    @dataclass
    class _AcceptedKeys:
        action: NestedKey = read("action")
        pad_mask: NestedKey = write("pad_mask")

    network_inputs: Mapping[str, str] = {"actor_network": "root"}
    network_outputs: Mapping[str, tuple[str, ...]] = {"actor_network": ("action",)}
    keys_of_heads = ("action",)

    @old_keywords()
    def __init__(
        self, actor_network: TensorDictModuleBase, *, loss_function: str | None = None, reduction: str | None = None
    ) -> None:
        super().__init__(reduction=reduction)
        self.convert_to_functional(actor_network, "actor_network")
        is_probabilistic = isinstance(actor_network, ProbabilisticTensorDictSequential)
        if loss_function is None and not is_probabilistic:
            loss_function = "l2"
        self.loss_function = None if loss_function is None else known_distance(self, loss_function)
        self.out_keys = ["loss_bc"]

    def row_mask(self, td: TensorDictBase) -> Tensor | None:
        mask, padding = super().row_mask(td), td.get(self.tensor_keys.pad_mask, None)
        if padding is None:
            return mask
        if padding.numel() == td.numel():
            padding = padding.reshape(td.batch_size)
        kept = ~padding.bool()  # [*B] or [*B, T]
        return kept if mask is None else expand_right(mask, kept) & kept

    def is_padding(self, td: TensorDictBase) -> bool:
        return super().is_padding(td) or td.get(self.tensor_keys.pad_mask, None) is not None

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        actor, key, mask = self.actor_network, self.tensor_keys.action, self.row_mask(td)
        ndim = td.ndim if mask is None else mask.ndim
        if self.loss_function is None:
            return {"loss_bc": -log_prob(distribution(actor, td), td, key, ndim)}
        distance = distance_loss(take(actor, td, key), td.get(key), self.loss_function)
        return {"loss_bc": distance.flatten(ndim).mean(-1) if distance.ndim > ndim else distance}
