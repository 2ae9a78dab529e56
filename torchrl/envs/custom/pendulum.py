"""A pendulum in plain torch: the smallest environment that keeps nothing to itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs.base import EnvBase

PARAMS = {"max_speed": 8.0, "max_torque": 2.0, "dt": 0.05, "g": 10.0, "m": 1.0, "l": 1.0}
_FIRST_ANGLE, _FIRST_SPEED = math.pi, 1.0  # bounds of the first state


class PendulumEnv(EnvBase):
    r"""Swing a pendulum up with a motor that is too weak to lift it, and hold it there.

    .. math:: \dot\theta' = \dot\theta + (\tfrac{3g}{2l} \sin\theta + \tfrac{3}{ml^2} u)\,dt, \quad
        \theta' = \theta + \dot\theta' dt, \quad r = -(\theta^2 + 0.1 \dot\theta^2 + 0.001 u^2)

    The whole state, the physical constants among it, is in the record; any batch size will do, each
    row with constants of its own; and gradients flow from rewards to actions, states and constants.
    Episodes have no end.

    Args:
        td_params: Parameters, as returned by :meth:`gen_params`; used by a reset without any.
        seed: Of the first states.
        device: Where it computes.

    Reads: ``action [*B, 1]`` (torque), ``th [*B]`` (angle from upright, radians), ``thdot [*B]``
        (radians/s) and ``params``.
    Writes: ``th``, ``thdot``, ``params``, ``reward [*B, 1]`` and ``done [*B, 1]``.

    Source: gymnasium's Pendulum-v1. Differs: the angle is kept in ``[-pi, pi)``, and is observed.

    >>> env = PendulumEnv(seed=0)
    >>> td = env.reset(env.gen_params(batch_size=[10]))
    >>> env.rollout(100, auto_reset=False, tensordict=td)["next", "reward"].shape
    torch.Size([10, 100, 1])
    """

    batch_locked = False

    def __init__(
        self,
        td_params: TensorDictBase | None = None,
        seed: int | None = None,
        device: torch.device | str | int | None = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(device=device)
        self._params = self.gen_params() if td_params is None else td_params
        if self.device is not None:
            self._params = self._params.to(self.device)
        self._make_specs(self._params.get("params"))
        self._generator = torch.Generator(self.device or "cpu")
        self.set_seed(int(torch.randint(2**31, ())) if seed is None else seed)

    @staticmethod
    def gen_params(g: float = 10.0, batch_size: Sequence[int] | None = None) -> TensorDictBase:
        """Return the constants, under ``"params"``, for a batch of pendulums.

        Args:
            g: Gravity, m/s^2.
            batch_size: Number of pendulums.

        >>> PendulumEnv.gen_params(batch_size=[3])["params", "m"]
        tensor([1., 1., 1.])
        """
        values = {name: torch.tensor(value) for name, value in {**PARAMS, "g": g}.items()}
        td = TensorDict({"params": TensorDict(values, [])}, [])
        return td.expand(*batch_size).contiguous() if batch_size else td

    def _make_specs(self, params: TensorDictBase) -> None:
        speed, torque = float(params["max_speed"].max()), float(params["max_torque"].max())
        constants = Composite()
        for name in PARAMS:
            constants[name] = Unbounded(())
        self.observation_spec = Composite(
            th=Bounded(-math.pi, math.pi, ()), thdot=Bounded(-speed, speed, ()), params=constants
        )
        self.state_spec = self.observation_spec.clone()
        self.action_spec = Bounded(-torque, torque, (1,))
        self.reward_spec = Unbounded((1,))

    def _set_seed(self, seed: int | None) -> None:
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def _params_for(self, tensordict: TensorDictBase | None) -> TensorDictBase:
        if tensordict is None:
            return self._params.get("params")
        given = tensordict.get("params", None)
        if given is not None:
            return given
        own = self._params.get("params")
        return own if own.batch_size else own.expand(*tensordict.batch_size)

    def _reset(  # type: ignore[override]  # takes no options
        self, tensordict: TensorDictBase | None
    ) -> TensorDictBase:
        params = self._params_for(tensordict)

        def draw(bound: float) -> Tensor:
            noise = torch.rand(params.batch_size, generator=self._generator, device=self.device)
            return (2 * noise - 1) * bound

        return TensorDict(
            {"th": draw(_FIRST_ANGLE), "thdot": draw(_FIRST_SPEED), "params": params},
            params.batch_size,
            device=self.device,
        )

    def _set_state(self, tensordict: TensorDictBase) -> TensorDictBase:
        return TensorDict(
            {
                "th": normal_angle(tensordict.get("th")),
                "thdot": tensordict.get("thdot"),
                "params": self._params_for(tensordict),
            },
            tensordict.batch_size,
            device=self.device,
        )

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        th, thdot, params = (tensordict.get(key) for key in ("th", "thdot", "params"))
        names = ("g", "m", "l", "dt", "max_torque", "max_speed")
        g, m, length, dt, max_torque, max_speed = (params.get(name) for name in names)
        u = tensordict.get("action").squeeze(-1)  # [*B]
        u = torch.minimum(torch.maximum(u, -max_torque), max_torque)
        cost = normal_angle(th) ** 2 + 0.1 * thdot**2 + 0.001 * u**2

        thdot = thdot + (3 * g / (2 * length) * th.sin() + 3 / (m * length**2) * u) * dt
        thdot = torch.minimum(torch.maximum(thdot, -max_speed), max_speed)
        return TensorDict(
            {
                "th": normal_angle(th + thdot * dt),
                "thdot": thdot,
                "params": params,
                "reward": -cost.unsqueeze(-1),
                "done": torch.zeros_like(cost, dtype=torch.bool).unsqueeze(-1),
            },
            tensordict.batch_size,
            device=self.device,
        )


def normal_angle(angle: Tensor) -> Tensor:
    """Return the same angle in ``[-pi, pi)``.

    >>> normal_angle(torch.tensor([0.0, 7.0])).round(decimals=2)
    tensor([0.0000, 0.7200])
    """
    return (angle + math.pi) % (2 * math.pi) - math.pi
