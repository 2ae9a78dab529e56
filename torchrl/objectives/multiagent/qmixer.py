"""Q-learning on a mixture of the agents' values: Rashid et al., 2018, https://arxiv.org/abs/1803.11485.

``n`` agents of ``N`` actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core.keys import next_key, write
from torchrl._core.keys import read as read_root
from torchrl._core.records.policies import outputs, take, value_of
from torchrl._core.recurrence import branch_mode
from torchrl.data import TensorSpec
from torchrl.modules.tensordict_module.action_space import resolve
from torchrl.modules.tensordict_module.qvalue import choice_of
from torchrl.objectives.off_policy import CriticKeys, CriticLoss

AGENTS = "agents"


@dataclass
class QMixerKeys(CriticKeys):
    """Names of the entries of mixed Q-learning."""

    action: NestedKey = read_root((AGENTS, "action"))
    advantage: NestedKey = write("advantage")
    value_target: NestedKey = write("value_target")
    action_value: NestedKey = write((AGENTS, "action_value"))
    local_value: NestedKey = write((AGENTS, "chosen_action_value"))
    global_value: NestedKey = write("chosen_action_value")


class QMixerLoss(CriticLoss):
    r"""Q-learning on the value of a team, mixed from the values of its agents (QMIX, VDN).

    .. math:: L = d\big(f(Q_1(s, a_1), \ldots, Q_n(s, a_n); s),\
        r + \gamma (1 - e) \bar f(\max_a \bar Q_1(s', a), \ldots; s')\big)

    Args:
        local_value_network: Reads what each agent sees, writes ``agents.action_value [*B, n, N]``.
        mixer_network: Reads ``agents.chosen_action_value [*B, n, 1]`` and, maybe, the state; writes
            ``chosen_action_value [*B, 1]``. It must not fall in any agent's value.
        loss_function: ``"l1"``, ``"l2"`` or ``"smooth_l1"``.
        delay_value: Take the target from frozen copies of both networks.
        action_space: ``"one_hot"``, ``"categorical"`` or a spec, if the network does not say.
        options: Arguments of :class:`~torchrl.objectives.off_policy.CriticLoss`.

    Reads: ``agents.action``, ``next.reward [*B, 1]``, ``next.terminated [*B, 1]`` (or
        ``next.done``), the inputs of the local network and the state, now and next.
    Writes: ``td_error [*B, 1]``, the squared error, as priority.
    Returns: ``loss``.

    Source: Rashid et al., 2018, https://arxiv.org/abs/1803.11485, eq. 6; as a sum, Sunehag et al.,
        2017, https://arxiv.org/abs/1706.05296.

    >>> from tensordict.nn import TensorDictModule
    >>> from torchrl.modules import VDNMixer
    >>> from torchrl.testing.networks import mixing_networks, team
    >>> local, _ = mixing_networks()  # values of 4 actions for each of 2 agents
    >>> keys = [("agents", "chosen_action_value")]
    >>> mixer = TensorDictModule(VDNMixer(2), keys, ["chosen_action_value"])
    >>> loss = QMixerLoss(local, mixer, action_space="one_hot")
    >>> loss(team())["loss"].shape
    torch.Size([])
    """

    _AcceptedKeys = QMixerKeys
    network_inputs: Mapping[str, str] = {"local_value_network": "root next", "mixer_network": "root next"}

    def __init__(
        self,
        local_value_network: TensorDictModuleBase,
        mixer_network: TensorDictModuleBase,
        *,
        loss_function: str = "l2",
        delay_value: bool = True,
        action_space: str | TensorSpec | None = None,
        **options: Any,
    ) -> None:
        super().__init__(loss_function=loss_function, **options)
        self.convert_to_functional(local_value_network, "local_value_network", create_target_params=delay_value)
        self.convert_to_functional(mixer_network, "mixer_network", create_target_params=delay_value)
        self.delay_value, choice = delay_value, choice_of(local_value_network)
        space = getattr(local_value_network, "action_space", getattr(choice, "action_space", None))
        if action_space is not None or space is None:
            space, _ = resolve(self, action_space, None, None, self.tensor_keys.action)
        self.action_space = space
        self.out_keys = ["loss"]

    def collect_in_keys(self) -> list[NestedKey]:
        local = self.tensor_keys.local_value  # made inside, for the mixer
        return [key for key in super().collect_in_keys() if key not in (local, next_key(local))]

    def _size_networks(self, td: TensorDictBase) -> None:
        keys = self.tensor_keys
        with torch.no_grad():
            values = take(self.local_value_network, td, keys.action_value)
        taken = self.action_space.value_of(values, td.get(keys.action))
        super()._size_networks(td.copy().set(keys.local_value, taken))

    def losses(self, td: TensorDictBase) -> dict[str, Tensor]:
        keys, space = self.tensor_keys, self.action_space
        values = take(self.local_value_network, td, keys.action_value)  # [*B, n, N]
        taken = self._mix(self.mixer_network, td, space.value_of(values, td.get(keys.action)))
        with torch.no_grad():
            ahead = self._at_next(td, self._next_value)  # [*B]
            target = self._bootstrap(td, ahead.unsqueeze(-1))
        self._prioritise(td, (taken.detach() - target).square().unsqueeze(-1))
        return {"loss": self._weigh(td, self._errors(taken, target))}

    def _next_value(self, next_root: TensorDictBase) -> Tensor:
        """Return the value ``[*B]`` of the best next actions of all agents."""
        keys = self.tensor_keys
        written = outputs(self.target("local_value_network"), next_root)
        best = written.get(keys.local_value, None)  # minds masks
        if best is None:
            best = self.action_space.best(written.get(keys.action_value))[1]  # [*B, n, 1]
        if self._may_remember and branch_mode() is not None:  # a mixer remembers what was done
            values, action = written.get(keys.action_value), next_root.get(keys.action)
            taken = self.action_space.value_of(values, action)
            rows = next_root.copy().set(keys.local_value, taken)
            best = self._beside_taken(rows, {keys.local_value: best})[keys.local_value]
        return self._mix(self.target("mixer_network"), next_root, best)

    def _mix(self, mixer: Any, td: TensorDictBase, values: Tensor) -> Tensor:
        """Return the value of the team ``[*B]``."""
        keys = self.tensor_keys
        return value_of(mixer, td, keys.global_value, {keys.local_value: values})
