"""`DecisionTransformerPolicy`: a Decision Transformer that acts, with the last steps as its state.

``*B`` batch, ``T`` time, ``K`` steps of the context, ``S`` features of an observation, ``A`` numbers of an action.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from torchrl._core.errors import describe
from torchrl._core.keys import next_key, require
from torchrl._core.recurrence import recurrent_mode
from torchrl.data import Categorical, Composite, TensorSpec, Unbounded
from torchrl.modules.tensordict_module.common import on_tensordict
from torchrl.modules.utils import make_primer

if TYPE_CHECKING:
    from torchrl.envs.transforms import TensorDictPrimer


class DecisionTransformerPolicy(TensorDictModuleBase):
    """A policy that is told which return to reach, and keeps the last ``K`` steps as its state.

    One step at a time by default; whole sequences, in training, under :class:`set_recurrent_mode`. At the first step
    of an episode the return to go is ``desired_return``; it falls by each reward, which the primer of
    :meth:`make_tensordict_primer` passes to the next step.

    A context of fewer than ``K`` steps is padded at its end: as attention is causal, no step sees the padding. The
    positions of steps are those within the context. Dropout is for sequences alone.

    Args:
        encoder: From observations to features ``[*B, S]``.
        network: From features, actions and returns to go of ``T`` steps to the numbers of the head,
            ``[*B, T, P]``: a :class:`~torchrl.modules.DTActor`.
        head: Reads ``param_key`` and writes the action; ``None`` if these numbers are the action.
        observation_keys: What the encoder reads.
        action_spec: Spec of one action.
        num_features: ``S``.
        context: ``K``.
        desired_return: The return of an episode to reach.
        return_scale: Returns are divided by it before the network sees them.
        param_key: Where the numbers of the head are written.
        action_key: Where the action is written.

    Reads: the observations, what the head reads, ``is_init [*B, 1]``, the state: ``context_observation [*B, K, S]``,
        ``context_action [*B, K, A]``, ``context_return [*B, K, 1]``, ``context_length [*B, 1]`` (zeros if absent), and
        ``last_reward [*B, 1]``. Of sequences: the observations, the actions, and ``return_to_go [*B, T, 1]``.
    Writes: the numbers of the head, the action, and the state under ``"next"``; of sequences no state.

    Raises:
        MissingKeyError: at a call, if an observation, ``is_init``, or of sequences another entry is absent.

    Source: Chen et al., 2021, https://arxiv.org/abs/2106.01345, algorithm 1.

    >>> from torchrl.envs import CartPoleEnv, Compose, InitTracker, TransformedEnv
    >>> from torchrl.modules import make_decision_transformer
    >>> policy = make_decision_transformer(CartPoleEnv(), context=5)
    >>> policy.desired_return = 200.0
    >>> env = TransformedEnv(CartPoleEnv(), Compose(InitTracker(), policy.make_tensordict_primer()))
    >>> env.rollout(3, policy)["context_return"][-1].flatten().tolist()
    [200.0, 199.0, 0.0, 0.0, 0.0]
    """

    state_names = ("context_observation", "context_action", "context_return", "context_length")
    in_keys: list[NestedKey]  # type: ignore[override]  # keys of any depth
    out_keys: list[NestedKey]  # type: ignore[override]
    _desired_return: Tensor
    _return_scale: Tensor
    _places: Tensor
    return_key, last_reward_key, init_key = "return_to_go", "last_reward", "is_init"

    def __init__(
        self,
        encoder: nn.Module,
        network: nn.Module,
        head: TensorDictModuleBase | None,
        *,
        observation_keys: Sequence[NestedKey],
        action_spec: TensorSpec,
        num_features: int,
        context: int,
        desired_return: float = 0.0,
        return_scale: float = 1.0,
        param_key: NestedKey = "action",
        action_key: NestedKey = "action",
    ) -> None:
        super().__init__()
        if context < 1 or return_scale <= 0:
            expected, found = "context >= 1 and return_scale > 0", (context, return_scale)
            raise ValueError(describe(self, "has impossible sizes", expected=expected, found=found))
        self.encoder, self.network, self.head = encoder, network, head
        self.observation_keys, self.param_key, self.action_key = list(observation_keys), param_key, action_key
        self.action_spec, self.num_features, self.context = action_spec, num_features, context
        device = next(network.parameters()).device
        self.register_buffer("_desired_return", torch.tensor(float(desired_return), device=device))
        self.register_buffer("_return_scale", torch.tensor(float(return_scale), device=device))
        self.register_buffer("_places", torch.arange(context, device=device), persistent=False)
        others = [] if head is None else [key for key in head.in_keys if key != param_key]
        self.in_keys = [*self.observation_keys, *others, *self.state_names, self.last_reward_key, self.init_key]
        self.out_keys = [*dict.fromkeys([param_key, action_key]), *map(next_key, self.state_names)]

    @property
    def desired_return(self) -> float:
        """The return of an episode to reach."""
        return self._desired_return.item()

    @desired_return.setter
    def desired_return(self, value: float) -> None:
        self._desired_return.fill_(float(value))

    @property
    def return_scale(self) -> float:
        """What returns are divided by."""
        return self._return_scale.item()

    @return_scale.setter
    def return_scale(self, value: float) -> None:
        self._return_scale.fill_(float(value))

    @property
    def recurrent_mode(self) -> bool:
        """Whether a call takes whole sequences at the moment."""
        return bool(recurrent_mode())

    @property
    def sequence_keys(self) -> list[NestedKey]:
        """What is read of sequences."""
        others = [] if self.head is None else [key for key in self.head.in_keys if key != self.param_key]
        return [*self.observation_keys, *others, self.action_key, self.return_key]

    @property
    def num_actions(self) -> int:
        """The numbers of an action as the network sees it, ``A``."""
        return action_size(self.action_spec)

    @property
    def state_spec(self) -> Composite:
        """Spec of the state of one environment, and of the last reward, which a primer writes."""
        size = self.context
        shapes = [(size, self.num_features), (size, self.num_actions), (size, 1)]
        *names, count = self.state_names
        spec = Composite({name: Unbounded(shape) for name, shape in zip(names, shapes, strict=True)})
        spec.set(count, Unbounded((1,), dtype=torch.int64))
        return spec.set(self.last_reward_key, Unbounded((1,)))

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """Return the transform that writes the state at resets of an environment, and the reward of each step."""
        return make_primer(self.state_spec, last_reward_key=self.last_reward_key)

    @on_tensordict
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the next action, or those of sequences."""
        require(tensordict, self.observation_keys, self)
        if self.recurrent_mode:
            return self._sequence(tensordict)
        if not self.network.training:
            return self._step(tensordict)
        self.network.eval()
        try:
            return self._step(tensordict)
        finally:
            self.network.train()

    def _sequence(self, td: TensorDictBase) -> TensorDictBase:
        """Write actions for sequences ``[*B, T]``."""
        require(td, [self.action_key, self.return_key], self)
        features = self.encoder(*(td.get(key) for key in self.observation_keys))  # [*B, T, S]
        actions = self._as_input(td.get(self.action_key), features.shape[:-1])  # [*B, T, A]
        out = self.network(features, actions, td.get(self.return_key) / self._return_scale)  # [*B, T, P]
        return self._write(td, out)

    def _step(self, td: TensorDictBase) -> TensorDictBase:
        """Write one action, and the state that is one step longer."""
        require(td, [self.init_key], self, "Append InitTracker() to the environment, or write it.")
        new = self.encoder(*(td.get(key) for key in self.observation_keys))  # [*B, S]
        lead = new.shape[:-1]
        seen, done, wanted, length, reward = self._state(td, new)
        is_first = td.get(self.init_key).reshape(*lead, 1)
        length = length.masked_fill(is_first, 0)  # [*B, 1]
        last = (length - 1).clamp_min(0).unsqueeze(-1)  # [*B, 1, 1]
        to_go = torch.where(is_first, self._desired_return, wanted.gather(-2, last).squeeze(-1) - reward)  # [*B, 1]

        # The context with this step: one place on, or in the place of the oldest step
        is_full = (length >= self.context).unsqueeze(-1)  # [*B, 1, 1]
        place = length.clamp_max(self.context - 1)  # [*B, 1]
        here = torch.eq(self._places, place).unsqueeze(-1)  # [*B, K, 1]
        kept = [
            torch.where(is_full, part.roll(-1, -2), part).masked_fill(is_first.unsqueeze(-1), 0.0)
            for part in (seen, done, wanted)
        ]
        seen = torch.where(here, new.unsqueeze(-2), kept[0])  # [*B, K, S]
        wanted = torch.where(here, to_go.unsqueeze(-2), kept[2])  # [*B, K, 1]
        out = self.network(seen, kept[1], wanted / self._return_scale)  # [*B, K, P]
        index = place.unsqueeze(-1).expand(*lead, 1, out.shape[-1])
        td = self._write(td, out.gather(-2, index).squeeze(-2))
        action = self._as_input(td.get(self.action_key), lead).unsqueeze(-2)  # [*B, 1, A]
        after = (seen, torch.where(here, action, kept[1]), wanted, (length + 1).clamp_max(self.context))
        for key, value in zip(self.state_names, after, strict=True):
            td.set(next_key(key), value)
        return td

    def _state(self, td: TensorDictBase, like: Tensor) -> list[Tensor]:
        """Return the state and the last reward; write zeros for what is absent, as a primer does."""
        if any(td.get(key, None) is None for key in (*self.state_names, self.last_reward_key)):
            for key, spec in self.state_spec.items():
                if td.get(key, None) is None:
                    td.set(key, like.new_zeros((*like.shape[:-1], *spec.shape), dtype=spec.dtype))
        return [td.get(key) for key in (*self.state_names, self.last_reward_key)]

    def _write(self, td: TensorDictBase, out: Tensor) -> TensorDictBase:
        if self.param_key == self.action_key:
            out = out.reshape(*out.shape[:-1], *self.action_spec.shape)
        td.set(self.param_key, out)
        return td if self.head is None else self.head(td)

    def _as_input(self, action: Tensor, lead: Sequence[int]) -> Tensor:
        """Return actions as the network sees them, ``[*lead, A]``."""
        if isinstance(self.action_spec, Categorical):
            action = nn.functional.one_hot(action.reshape(lead), self.num_actions)
        return action.reshape(*lead, -1).to(self._desired_return.dtype)


def action_size(spec: TensorSpec) -> int:
    """Return how many numbers an action has, that of a choice being one-hot.

    >>> action_size(Categorical(3)), action_size(Unbounded((2, 2)))
    (3, 4)
    """
    return spec.space.n if isinstance(spec, Categorical) else spec.shape.numel()
