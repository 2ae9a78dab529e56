"""Cart-pole in plain torch, batched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.records.flat_record import FlatRecord
from torchrl.data import Categorical, Composite, OneHot, TensorSpec, Unbounded
from torchrl.envs.base import EnvBase
from torchrl.envs.specs import flag_specs

GRAVITY, MASS_CART, MASS_POLE, HALF_LENGTH, FORCE, DT = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
MAX_POSITION, MAX_ANGLE = 2.4, 12 * math.pi / 180
_MASS, _MOMENT = MASS_CART + MASS_POLE, MASS_POLE * HALF_LENGTH


class CartPoleEnv(EnvBase):
    """Keep a pole upright by pushing its cart left and right.

    A batch costs hardly more than one pole. The state is in the record, so any root can be stepped.

    Args:
        batch_size: Number of poles, ``[*B]``.
        max_steps: Truncate an episode after this many steps.
        categorical_action_encoding: Actions are integers instead of one-hot vectors.
        seed: Seed of the first states.
        device: Device of the computation.

    Reads: ``action [*B, 2]`` (left, right), ``observation [*B, 4]`` and ``step_count [*B, 1]``.
    Writes: ``observation`` (position in m, m/s, angle in radians, radians/s), ``step_count``,
        ``reward [*B, 1]`` (one a step), ``terminated``, ``truncated`` and ``done`` ``[*B, 1]``.

    Raises:
        ValueError: if ``max_steps`` is not positive.

    Source: Barto, Sutton and Anderson, 1983; constants and limits of gymnasium's CartPole-v1.

    >>> env = CartPoleEnv(batch_size=[1000], seed=0)
    >>> env.rollout(20, break_when_any_done=False)["next", "reward"].sum()
    tensor(20000.)
    """

    supports_flat_records = True

    def __init__(
        self,
        batch_size: Sequence[int] = (),
        *,
        max_steps: int = 500,
        categorical_action_encoding: bool = False,
        seed: int | None = None,
        device: torch.device | str | int | None = None,
    ) -> None:
        check_devices(self, device=device)
        if max_steps < 1:
            raise ValueError(f"CartPoleEnv: max_steps must be at least 1, found {max_steps}.")
        super().__init__(device=device, batch_size=torch.Size(batch_size))
        self.max_steps, self._categorical = max_steps, categorical_action_encoding
        batch, where = self.batch_size, self.device or torch.device("cpu")
        self.observation_spec = Composite(
            observation=Unbounded((*batch, 4), device=where),
            step_count=Unbounded((*batch, 1), dtype=torch.int64, device=where),
            shape=batch,
        )
        self.state_spec = self.observation_spec.clone()
        action: TensorSpec = OneHot(2, (*batch, 2), dtype=torch.int64, device=where)
        if categorical_action_encoding:
            action = Categorical(2, shape=batch, dtype=torch.int64, device=where)
        self.action_spec = action
        self.reward_spec = Unbounded((*batch, 1), device=where)
        self.done_spec = flag_specs(batch, where)
        self._generator = torch.Generator(where)
        self.set_seed(int(torch.randint(2**31, ())) if seed is None else seed)

    def _set_seed(self, seed: int | None) -> None:
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def _record(self, like: object, **entries: Tensor) -> Any:
        if isinstance(like, FlatRecord):
            return FlatRecord(entries)
        return TensorDict(entries, self.batch_size, device=self.device)

    def _reset(  # type: ignore[override]  # takes no options
        self, tensordict: TensorDictBase | None
    ) -> TensorDictBase:
        shape = (*self.batch_size, 4)
        noise = torch.rand(shape, generator=self._generator, device=self._generator.device)
        count = torch.zeros((*shape[:-1], 1), dtype=torch.int64, device=noise.device)
        return self._record(tensordict, observation=(2 * noise - 1) * 0.05, step_count=count)

    def _set_state(self, tensordict: TensorDictBase) -> TensorDictBase:
        observation, count = tensordict.get("observation"), tensordict.get("step_count", None)
        if count is None:
            count = torch.zeros_like(observation[..., :1], dtype=torch.int64)
        return self._record(tensordict, observation=observation, step_count=count)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = tensordict.get("action")
        right = action if self._categorical else action.argmax(-1)  # [*B]
        observation = dynamics(tensordict.get("observation"), right)
        count = tensordict.get("step_count") + 1
        far = observation[..., :1].abs() > MAX_POSITION
        terminated = far | (observation[..., 2:3].abs() > MAX_ANGLE)
        truncated = count >= self.max_steps
        return self._record(
            tensordict,
            observation=observation,
            step_count=count,
            reward=torch.ones_like(observation[..., :1]),
            terminated=terminated,
            truncated=truncated,
            done=terminated | truncated,
        )


def dynamics(state: Tensor, right: Tensor) -> Tensor:
    """Return the state after one push.

    Args:
        state: Position, velocity, angle, angular velocity, ``[*B, 4]``.
        right: Whether to push right, ``[*B]``.
    """
    x, x_dot, theta, theta_dot = state.unbind(-1)
    force = (2 * right - 1) * FORCE
    sin, cos = theta.sin(), theta.cos()
    pull = (force + _MOMENT * theta_dot**2 * sin) / _MASS
    inertia = HALF_LENGTH * (4 / 3 - MASS_POLE * cos**2 / _MASS)
    theta_acc = (GRAVITY * sin - cos * pull) / inertia
    x_acc = pull - _MOMENT * theta_acc * cos / _MASS
    moved = (x + DT * x_dot, x_dot + DT * x_acc, theta + DT * theta_dot, theta_dot + DT * theta_acc)
    return torch.stack(moved, -1)
