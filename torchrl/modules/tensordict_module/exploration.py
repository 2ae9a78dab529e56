"""Noise on actions: modules that stand behind a policy and disturb what it chose.

They act where the exploration type is ``RANDOM`` or not set, and pass the action on where it is
any other. ``*B`` batch dimensions, ``A`` the shape of an action.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl._core.errors import ShapeError, SpecError, describe
from torchrl._core.exploration import is_exploring
from torchrl._core.keys import require
from torchrl._core.legacy import old_names
from torchrl._core.plan import Record
from torchrl.data import Categorical, Composite, TensorSpec
from torchrl.modules._legacy import EXPLORATION, elsewhere
from torchrl.modules.tensordict_module.calls import RecordModule, choose
from torchrl.modules.tensordict_module.choices import ActionSpace

Device = torch.device | str | None
__getattr__ = old_names(__name__, elsewhere(EXPLORATION))


class ExplorationModule(RecordModule):
    """Reads an action and writes it back disturbed.

    Args:
        spec: Spec of the action, or a composite that holds it; may be set later.
        action_key: Where the action is.

    Hooks:
        _explore: ``record``, the action in it is to be replaced.
    """

    def __init__(self, spec: TensorSpec | None, action_key: NestedKey) -> None:
        super().__init__()
        self.action_key = action_key
        keys: Any = [action_key]
        self.in_keys = self.out_keys = keys
        self._leaf: TensorSpec | None = None
        self.spec = spec

    @property
    def spec(self) -> Composite | None:
        """A composite with the spec of the action, if it is known."""
        return None if self._leaf is None else Composite().set(self.action_key, self._leaf)

    @spec.setter
    def spec(self, spec: TensorSpec | None) -> None:
        self._leaf = spec.get(self.action_key) if isinstance(spec, Composite) else spec

    @property
    def action_spec(self) -> TensorSpec:
        """The spec of the action.

        Raises:
            SpecError: if it is not known.
        """
        if self._leaf is None:
            raise SpecError(
                describe(
                    self,
                    "explores within a spec that it does not have",
                    key=self.action_key,
                    hint="Give it the action spec, or set its attribute 'spec'.",
                )
            )
        return self._leaf

    def _run(self, td: Record) -> None:
        """Disturb the action, if exploration is on."""
        if is_exploring():
            self._explore(td)

    @abstractmethod
    def _explore(self, td: Record) -> None: ...

    def _action(self, td: Record) -> Tensor:
        action = td.get(self.action_key)
        if action is None:
            require(td, [self.action_key], self, "Put the policy before this module.")
        return action


class Annealed(nn.Module):
    """What modules share that have a number which falls on a line to where it stays.

    The number is a buffer; where it started and where it stays are two more, ``<name>_init`` and
    ``<name>_end``.
    """

    annealed: str

    def _anneal(self, name: str, start: float, end: float, num_steps: int, device: Device) -> None:
        if start < end:
            raise ValueError(
                describe(
                    self,
                    f"anneals {name} downwards",
                    expected=f"{name}_end <= {name}_init",
                    found=(end, start),
                )
            )
        self.annealed, self.annealing_num_steps = name, num_steps
        for part, value in ((f"{name}_init", start), (f"{name}_end", end), (name, start)):
            self.register_buffer(part, torch.tensor(float(value), device=device))

    def step(self, frames: int = 1) -> None:
        """Move on by so many frames.

        Args:
            frames: Number of frames that were collected, in the unit of ``annealing_num_steps``.
        """
        name = self.annealed
        value, start, end = (getattr(self, n) for n in (name, f"{name}_init", f"{name}_end"))
        value.copy_(torch.maximum(end, value - (start - end) * (frames / self.annealing_num_steps)))


class EGreedyModule(Annealed, ExplorationModule):
    """Replaces each action, with probability ``eps``, by one drawn from its spec.

    Args:
        spec: Spec of the action, or a composite that holds it.
        eps_init: Probability at the start.
        eps_end: Probability in the end.
        annealing_num_steps: Frames from the one to the other.
        action_key: Where the action is.
        action_mask_key: Where the mask ``[*B, N]`` of allowed actions is, if there is one.
        device: Where the probabilities live.

    Reads: ``action [*B, A]``. Writes: ``action``; one coin for each of ``*B``.

    Raises:
        ValueError: if ``eps_end > eps_init``.
        SpecError: at a call, if the spec is not known.
        ValueError: at a call, if the mask allows nothing in a row that is not ``done``.

    Source: Mnih et al., 2015, https://doi.org/10.1038/nature14236.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import OneHot
    >>> module = EGreedyModule(OneHot(4), annealing_num_steps=100)
    >>> module(TensorDict(action=torch.tensor([True, False, False, False])))["action"].sum()
    tensor(1)
    >>> module.step(50)
    >>> module.eps
    tensor(0.5500)
    """

    entrywise = True
    eps: Tensor

    def __init__(
        self,
        spec: TensorSpec | None,
        eps_init: float = 1.0,
        eps_end: float = 0.1,
        annealing_num_steps: int = 1000,
        *,
        action_key: NestedKey = "action",
        action_mask_key: NestedKey | None = None,
        device: Device = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(spec, action_key)
        self._anneal("eps", eps_init, eps_end, annealing_num_steps, device)
        self.action_mask_key = action_mask_key
        if action_mask_key is not None:
            keys: Any = [action_key, action_mask_key]
            self.in_keys = keys

    def _explore(self, td: Record) -> None:
        action, spec = self._action(td), self.action_spec
        event_ndim = 0 if isinstance(spec, Categorical) else min(1, action.ndim)
        batch = action.shape[: action.ndim - event_ndim]
        explores = torch.rand(batch, device=action.device) < self.eps.to(action.device)  # [*B]
        # Where it is free to look, draw only what is used; a graph or a GPU would have to wait.
        if action.device.type == "cpu" and not torch.compiler.is_compiling() and not explores.any():
            return
        drawn = self._draw(td, action, spec).to(action.device, action.dtype)
        td.set(self.action_key, torch.where(explores[(...,) + (None,) * event_ndim], drawn, action))

    def _draw(self, td: Record, action: Tensor, spec: TensorSpec) -> Tensor:
        if self.action_mask_key is None:
            return spec.rand(_leading(self, action, spec))
        mask = td.get(self.action_mask_key)
        if mask is None:
            require(td, self.in_keys, self, "Add an ActionMask to the environment.")
        space = ActionSpace.of(spec)
        return choose(td, [self.action_mask_key], lambda: space.random(mask.bool()))


def _leading(owner: object, action: Tensor, spec: TensorSpec) -> torch.Size:
    """Return the dimensions of an action that come before those of its spec."""
    cut = action.ndim - len(spec.shape)
    if cut < 0 or action.shape[cut:] != spec.shape:
        raise ShapeError(
            describe(
                owner,
                "has a shape that its spec does not",
                key=getattr(owner, "action_key", None),
                expected=[*"*", *spec.shape],
                found=list(action.shape),
                hint="Fix the output of the policy, or the spec.",
            )
        )
    return action.shape[:cut]


class AdditiveGaussianModule(Annealed, ExplorationModule):
    """Adds Gaussian noise to an action and brings it back into its spec.

    Args:
        spec: Spec of the action, or a composite that holds it.
        sigma_init: Factor of the noise at the start.
        sigma_end: Factor in the end.
        annealing_num_steps: Frames from the one to the other.
        mean: Mean of the noise, before the factor, in units of the action.
        std: Standard deviation of the noise, before the factor.
        action_key: Where the action is.
        safe: Bring the action into its spec also where exploration is off.
        device: Where the factors live.

    Reads: ``action [*B, A]``. Writes: ``action``.

    Raises:
        ValueError: if ``sigma_end > sigma_init``.
        SpecError: at a call, if the spec is not known.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import Bounded
    >>> module = AdditiveGaussianModule(Bounded(-1, 1, (3,)))
    >>> bool((module(TensorDict(action=torch.ones(5, 3)))["action"].abs() <= 1).all())
    True
    """

    entrywise = True
    sigma: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        spec: TensorSpec | None = None,
        sigma_init: float = 1.0,
        sigma_end: float = 0.1,
        annealing_num_steps: int = 1000,
        mean: float = 0.0,
        std: float = 1.0,
        *,
        action_key: NestedKey = "action",
        safe: bool = False,
        device: Device = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(spec, action_key)
        self._anneal("sigma", sigma_init, sigma_end, annealing_num_steps, device)
        self.register_buffer("mean", torch.tensor(float(mean), device=device))
        self.register_buffer("std", torch.tensor(float(std), device=device))
        self.safe = safe

    def _run(self, td: Record) -> None:
        if is_exploring():
            self._explore(td)
        elif self.safe:
            td.set(self.action_key, self.action_spec.project(self._action(td)))

    def _explore(self, td: Record) -> None:
        action = self._action(td)
        noise = torch.randn_like(action) * self.std.to(action) + self.mean.to(action)
        noisy = action + self.sigma.to(action) * noise
        td.set(self.action_key, self.action_spec.project(noisy))


class OrnsteinUhlenbeckProcessModule(Annealed, ExplorationModule):
    r"""Adds noise that is correlated in time to an action.

    .. math:: n_t = n_{t-1} + \theta (\mu - n_{t-1}) dt + \sigma_t \sqrt{dt} \, W_t, \qquad
        a \leftarrow \mathrm{project}(a + \epsilon n_t)

    Args:
        spec: Spec of the action, or a composite that holds it.
        eps_init: Factor of the noise at the start.
        eps_end: Factor in the end.
        annealing_num_steps: Frames from the one to the other.
        theta: How strongly the noise is drawn to ``mu``.
        mu: Mean of the noise in the long run.
        sigma: Scale of its random part.
        dt: Step of time.
        x0: Noise at the start of an episode.
        sigma_min: Where ``sigma`` goes in the course of an episode; ``None`` keeps it.
        n_steps_annealing: Steps of an episode in which it gets there.
        action_key: Where the action is.
        is_init_key: Where the flag of an episode's first step is.
        safe: Bring the action into its spec also where exploration is off.
        device: Where the factors live.

    Reads: ``action [*B, A]``, ``is_init [*B, 1]``, ``_ou_prev_noise``, ``_ou_steps``.
    Writes: ``action``, ``_ou_prev_noise [*B, A]``, ``_ou_steps [*B, 1]``.

    Raises:
        ValueError: if ``eps_end > eps_init``.
        SpecError: at a call, if the spec is not known.

    Source: Uhlenbeck and Ornstein, 1930; Lillicrap et al., 2015, https://arxiv.org/abs/1509.02971.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import Bounded
    >>> module = OrnsteinUhlenbeckProcessModule(Bounded(-1, 1, (3,)))
    >>> td = module(TensorDict(action=torch.zeros(3), is_init=torch.tensor([True])))
    >>> sorted(td.keys())
    ['_ou_prev_noise', '_ou_steps', 'action', 'is_init']
    """

    entrywise = True
    eps: Tensor

    def __init__(
        self,
        spec: TensorSpec | None,
        eps_init: float = 1.0,
        eps_end: float = 0.1,
        annealing_num_steps: int = 1000,
        theta: float = 0.15,
        mu: float = 0.0,
        sigma: float = 0.2,
        dt: float = 0.01,
        x0: float | Tensor | None = None,
        sigma_min: float | None = None,
        n_steps_annealing: int = 1000,
        *,
        action_key: NestedKey = "action",
        is_init_key: NestedKey = "is_init",
        safe: bool = True,
        device: Device = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(spec, action_key)
        self._anneal("eps", eps_init, eps_end, annealing_num_steps, device)
        self.theta, self.mu, self.sigma, self.dt = theta, mu, sigma, dt
        self.sigma_min, self.n_steps_annealing = sigma_min, n_steps_annealing
        start = torch.as_tensor(0.0 if x0 is None else x0, device=device)
        self.register_buffer("x0", start)
        self.is_init_key = self.init_key = is_init_key
        self.safe = safe
        self.noise_key, self.steps_key = "_ou_prev_noise", "_ou_steps"
        reads: Any = [action_key, is_init_key]
        writes: Any = [action_key, self.noise_key, self.steps_key]
        self.in_keys, self.out_keys = reads, writes
        self._has_warned = False

    x0: Tensor

    def _run(self, td: Record) -> None:
        if is_exploring():
            self._explore(td)
        elif self.safe:
            td.set(self.action_key, self.action_spec.project(self._action(td)))

    def _explore(self, td: Record) -> None:
        action = self._action(td)
        noise, steps = self._advanced(td, action)
        td.set(self.noise_key, noise)
        td.set(self.steps_key, steps)
        noisy = action + self.eps.to(action) * noise
        td.set(self.action_key, self.action_spec.project(noisy))

    def _advanced(self, td: Record, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noise ``[*B, A]`` and the step count ``[*B, 1]`` of this step."""
        noise, steps = td.get(self.noise_key), td.get(self.steps_key)
        start = self.x0.to(action).expand(action.shape)
        if noise is None or steps is None or noise.shape != action.shape:
            noise = start
            steps = torch.zeros((*action.shape[:-1], 1), dtype=torch.int64, device=action.device)
        is_init = td.get(self.is_init_key)
        if is_init is not None:
            is_init = _as_column(is_init, action)
            noise, steps = torch.where(is_init, start, noise), steps.masked_fill(is_init, 0)
        else:
            self._warn_no_init()
        drift = self.theta * (self.mu - noise) * self.dt
        spread = self._sigma(steps).to(action) * self.dt**0.5
        return noise + drift + spread * torch.randn_like(action), steps + 1

    def _sigma(self, steps: Tensor) -> Tensor:
        if self.sigma_min is None:
            return torch.as_tensor(self.sigma)
        share = (steps / self.n_steps_annealing).clamp(max=1.0)
        return self.sigma + (self.sigma_min - self.sigma) * share  # [*B, 1]

    def _warn_no_init(self) -> None:
        if self._has_warned or torch.compiler.is_compiling():
            return
        self._has_warned = True
        warnings.warn(
            describe(
                self,
                "is absent, so the noise goes on across episodes",
                key=self.is_init_key,
                hint="Add InitTracker() to the environment.",
            ),
            stacklevel=2,
        )


def _as_column(flag: Tensor, action: Tensor) -> Tensor:
    """Return a flag ``[*B, 1]`` of an environment, aligned with actions ``[*B, *G, A]``."""
    return flag.reshape(*flag.shape[:-1], *(1,) * (action.ndim - flag.ndim), 1)


def set_exploration_modules_spec_from_env(policy: nn.Module, env: Any) -> None:
    """Give the exploration modules within ``policy`` that have no spec that of an environment.

    Args:
        policy: Any module.
        env: Anything with a ``full_action_spec``.

    Raises:
        KeyError: if the environment has no action of a module's name.
    """
    for module in _without_spec(policy):
        module.spec = env.full_action_spec.get(module.action_key)


def _without_spec(policy: nn.Module) -> Iterator[ExplorationModule]:
    for module in policy.modules():
        if isinstance(module, ExplorationModule) and module.spec is None:
            yield module
