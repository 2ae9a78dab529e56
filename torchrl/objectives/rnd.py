"""Random network distillation: Burda et al., 2018, https://arxiv.org/abs/1810.12894."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn

from torchrl._core.errors import describe
from torchrl._core.keys import read_next
from torchrl._core.legacy import old_keywords
from torchrl.objectives.common import LossModule
from torchrl.objectives.networks import Unsized, check_network, frozen_copy, is_lazy


class RNDLoss(LossModule):
    r"""A predictor learns a random network on what has been seen; where it errs is new.

    .. math:: L = \operatorname{mean}_k \big(f_k(s') - \hat f_k(s')\big)^2

    Args:
        predictor_network: Reads an observation, writes features ``[*B, K]``; a plain ``nn.Module``
            is called with the observation.
        target_network: The same under the same name, random; a frozen copy is kept.
        obs_rms: A map from observations to normalised ones, such as a running normaliser.
        obs_clip: Limit of normalised observations.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        update_fraction: Share of the samples, drawn at each call, that count.

    Reads: ``next.observation``.
    Returns: ``loss_predictor``.

    Source: Burda et al., 2018, https://arxiv.org/abs/1810.12894, section 2.2; the fraction is that
        of the authors' code.

    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import MLP
    >>> loss = RNDLoss(MLP(3, 16), MLP(3, 16))
    >>> loss(GymEnv("Pendulum-v1").rollout(8))["loss_predictor"].shape
    torch.Size([])
    """

    @dataclass
    class _AcceptedKeys:
        observation: NestedKey = read_next("observation")

    @old_keywords()
    def __init__(
        self,
        predictor_network: TensorDictModuleBase,
        target_network: TensorDictModuleBase,
        *,
        obs_rms: Callable[[Tensor], Tensor] | None = None,
        obs_clip: float = 5.0,
        reduction: str | None = "mean",
        update_fraction: float = 0.25,
    ) -> None:
        super().__init__(reduction=reduction)
        if not 0 < update_fraction <= 1:
            raise ValueError(
                describe(
                    self,
                    "got an update_fraction that is none",
                    expected="more than 0, at most 1",
                    found=update_fraction,
                )
            )
        predictor_network, target_network = (
            TensorDictModule(network, ["observation"], ["features"])
            if isinstance(network, nn.Module) and not hasattr(network, "in_keys")
            else network
            for network in (predictor_network, target_network)
        )
        check_network(self, "predictor_network", predictor_network)
        self.convert_to_functional(predictor_network, "predictor_network")
        check_network(self, "target_network", target_network)
        held = Unsized([target_network], None, is_delayed=False)
        if is_lazy(target_network):
            self._unsized["random_network"] = held
        else:
            self._hold("random_network", held)
        self.tensor_keys.observation = predictor_network.in_keys[0]
        self.obs_rms, self.obs_clip = obs_rms, obs_clip
        self.update_fraction = update_fraction
        self.out_keys = ["loss_predictor"]

    def _hold(self, name: str, held: Unsized) -> None:
        if name == "random_network":
            self.random_network: Any = frozen_copy(held.networks[0])
        else:
            super()._hold(name, held)

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        key, predictor = self.tensor_keys.observation, self.predictor_network
        seen = td.get(("next", key)) if isinstance(key, str) else td.get(("next", *key))
        if self.obs_rms is not None:
            seen = self.obs_rms(seen).clamp(-self.obs_clip, self.obs_clip)
        ndim = min(td.ndim, seen.ndim - 1)
        predicted, wanted = (
            network(TensorDict({network.in_keys[0]: seen}, seen.shape[:ndim]))
            for network in (predictor, self.random_network)
        )
        features = predictor.out_keys[0]
        gap = predicted.get(features) - wanted.get(features)
        error = gap.square().flatten(ndim).mean(-1)  # [*B]
        if self.update_fraction < 1:
            counts = (torch.rand_like(error) < self.update_fraction).to(error.dtype)
            error = error * counts / counts.mean().clamp_min(1 / error.numel())
        return {"loss_predictor": error}
