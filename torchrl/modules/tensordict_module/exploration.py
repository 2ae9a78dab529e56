"""Exploration modules: noise that is added to the action of a policy, or replaces it.

They act where the exploration type is ``RANDOM`` or not set; where it is any other, the action is
left as it is. ``*B`` batch dimensions, ``A`` the shape of an action.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl._core.errors import MissingSpecError, ShapeError, describe
from torchrl._core.exploration import is_exploring
from torchrl._core.keys import require
from torchrl._core.legacy import old_names
from torchrl._core.records.flat_record import Record
from torchrl.data import Categorical, Composite, TensorSpec
from torchrl.modules._legacy import EXPLORATION, elsewhere
from torchrl.modules.tensordict_module.action_space import ActionSpace
from torchrl.modules.tensordict_module.common import RecordModule, choose
from torchrl.modules.tensordict_module.sequence import SafeSequential

Device = torch.device | str | None
__getattr__ = old_names(__name__, elsewhere(EXPLORATION))


class ExplorationModule(RecordModule):
    """Base class of modules that read an action and write it with exploration.

    Args:
        spec: Spec of the action, or a composite that holds it; may be set later. A composite that
            names the action without a spec leaves noise unbounded.
        action_key: Key of the action.

    Hooks:
        _explore: ``record -> None``; replaces the action in it.

    >>> from tensordict import TensorDict
    >>> from torchrl.envs import ExplorationType, set_exploration_type
    >>> class Shift(ExplorationModule):
    ...     def _explore(self, td):
    ...         td.set(self.action_key, td.get(self.action_key) + 1)
    >>> shift = Shift(None, "action")
    >>> with set_exploration_type(ExplorationType.RANDOM):
    ...     shift(TensorDict(action=torch.zeros(2)))["action"]
    tensor([1., 1.])
    >>> with set_exploration_type(ExplorationType.DETERMINISTIC):
    ...     shift(TensorDict(action=torch.zeros(2)))["action"]
    tensor([0., 0.])
    """

    def __init__(self, spec: TensorSpec | None, action_key: NestedKey) -> None:
        super().__init__()
        self.action_key = action_key
        self.in_keys = self.out_keys = [action_key]
        self._leaf: TensorSpec | None = None
        self.spec = spec

    @property
    def spec(self) -> Composite | None:
        """A composite with the spec of the action, if there is one."""
        return None if self._leaf is None else Composite().set(self.action_key, self._leaf)

    @spec.setter
    def spec(self, spec: TensorSpec | None) -> None:
        self._leaf = spec.get(self.action_key) if isinstance(spec, Composite) else spec
        names = spec.keys(include_nested=True) if isinstance(spec, Composite) else ()
        self._is_unbounded = self._leaf is None and self.action_key in names

    @property
    def action_spec(self) -> TensorSpec:
        """The spec of the action.

        Raises:
            MissingSpecError: if there is none.
        """
        if self._leaf is None:
            raise MissingSpecError(
                describe(
                    self,
                    "has no spec to explore within",
                    key=self.action_key,
                    hint="Give it the action spec, or set its attribute 'spec'.",
                )
            )
        return self._leaf

    def _run(self, td: Record) -> None:
        """Replace the action, if exploration is on."""
        if not is_exploring():
            return
        try:
            self._explore(td)
        except (AttributeError, KeyError, TypeError):
            if "is_init" in self.in_keys:
                require(td, ["is_init"], self, "Append InitTracker() to the environment.")
            raise

    @abstractmethod
    def _explore(self, td: Record) -> None: ...

    def _add_noise(self, td: Record, action: Tensor, noise: Tensor) -> None:
        """Write the action with noise, projected on the spec; of whole numbers, rounded before."""
        noisy = action + noise
        if not action.is_floating_point():
            info = torch.iinfo(torch.uint8 if action.dtype is torch.bool else action.dtype)
            top = 1 if action.dtype is torch.bool else info.max
            noisy = noisy.round().clamp(info.min, top).to(action.dtype)
        td.set(self.action_key, self._projected(noisy))

    def _projected(self, action: Tensor) -> Tensor:
        """Return the action within the bounds of its spec.

        Raises:
            MissingSpecError: if there is no spec.
        """
        return action if self._is_unbounded else self.action_spec.project(action)

    def _action(self, td: Record) -> Tensor:
        action = td.get(self.action_key)
        if action is None:
            require(td, [self.action_key], self, "Put the policy before this module.")
        return action


def _as_float(action: Tensor) -> Tensor:
    """Return an action as floats, to draw noise like it."""
    return action if action.is_floating_point() else action.float()


class Annealed(nn.Module):
    """Mixin of modules with a number that is annealed linearly.

    The number is the buffer ``<name>``; its first and last value are ``<name>_init`` and
    ``<name>_end``.
    """

    annealed: str

    def _anneal(self, name: str, start: float, end: float, num_steps: int, device: Device) -> None:
        if start < end:
            raise ValueError(
                describe(self, f"anneals {name} downwards", expected=f"{name}_end <= {name}_init", found=(end, start))
            )
        self.annealed, self.annealing_num_steps = name, num_steps
        for part, value in ((f"{name}_init", start), (f"{name}_end", end), (name, start)):
            self.register_buffer(part, torch.tensor(float(value), device=device))

    def step(self, frames: int = 1) -> None:
        """Anneal by a number of frames.

        Args:
            frames: Number of frames that were collected, in the unit of ``annealing_num_steps``.
        """
        name = self.annealed
        value, start, end = (getattr(self, n) for n in (name, f"{name}_init", f"{name}_end"))
        value.copy_(torch.maximum(end, value - (start - end) * (frames / self.annealing_num_steps)))


class EGreedyModule(Annealed, ExplorationModule):
    """Epsilon-greedy: replace each action, with probability ``eps``, by one drawn from its spec.

    Args:
        spec: Spec of the action, or a composite that holds it.
        eps_init: Probability at the start.
        eps_end: Probability at the end.
        annealing_num_steps: Frames from the first to the last value.
        action_key: Key of the action.
        action_mask_key: Key of the mask ``[*B, N]`` of allowed actions, if there is one.
        device: Where the probabilities live.

    Reads: ``action [*B, A]``. Writes: ``action``; one draw of the probability for each of ``*B``.

    Raises:
        ValueError: if ``eps_end > eps_init``.
        MissingSpecError: at a call, if there is no spec.
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

    supports_flat_records = True
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
            self.in_keys = [action_key, action_mask_key]

    def _explore(self, td: Record) -> None:
        action, spec = self._action(td), self.action_spec
        event_ndim = 0 if isinstance(spec, Categorical) else min(1, action.ndim)
        batch = action.shape[: action.ndim - event_ndim]
        explores = torch.rand(batch, device=action.device) < self.eps.to(action.device)  # [*B]
        # On a CPU, draw only what is used; a graph or a GPU would have to synchronise.
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
    """Add Gaussian noise to an action, and project it on its spec.

    Args:
        spec: Spec of the action, or a composite that holds it.
        sigma_init: Factor of the noise at the start.
        sigma_end: Factor at the end.
        annealing_num_steps: Frames from the first to the last value.
        mean: Mean of the noise, before the factor, in units of the action.
        std: Standard deviation of the noise, before the factor.
        action_key: Key of the action.
        safe: Project the action on its spec also where exploration is off.
        device: Where the factors live.

    Reads: ``action [*B, A]``. Writes: ``action``.

    Raises:
        ValueError: if ``sigma_end > sigma_init``.
        MissingSpecError: if there is no spec.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import Bounded
    >>> module = AdditiveGaussianModule(Bounded(-1, 1, (3,)))
    >>> bool((module(TensorDict(action=torch.ones(5, 3)))["action"].abs() <= 1).all())
    True
    """

    supports_flat_records = True
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
        _ = self._is_unbounded or self.action_spec  # raises if there is none
        self._anneal("sigma", sigma_init, sigma_end, annealing_num_steps, device)
        self.register_buffer("mean", torch.tensor(float(mean), device=device))
        self.register_buffer("std", torch.tensor(float(std), device=device))
        self.safe = safe

    def _run(self, td: Record) -> None:
        if is_exploring():
            self._explore(td)
        elif self.safe:
            td.set(self.action_key, self._projected(self._action(td)))

    def _explore(self, td: Record) -> None:
        action = self._action(td)
        like = _as_float(action)
        noise = torch.randn_like(like) * self.std.to(like) + self.mean.to(like)
        self._add_noise(td, action, self.sigma.to(like) * noise)


class OrnsteinUhlenbeckProcessModule(Annealed, ExplorationModule):
    r"""Ornstein-Uhlenbeck process: add noise that is correlated in time to an action.

    .. math:: n_t = n_{t-1} + \theta (\mu - n_{t-1}) dt + \sigma_t \sqrt{dt} \, W_t, \qquad
        a \leftarrow \mathrm{project}(a + \epsilon n_t)

    Args:
        spec: Spec of the action, or a composite that holds it.
        eps_init: Factor of the noise at the start.
        eps_end: Factor at the end.
        annealing_num_steps: Frames from the first to the last value.
        theta: Rate at which the noise reverts to ``mu``.
        mu: Mean of the noise in the long run.
        sigma: Scale of its random part.
        dt: Time of one step.
        x0: Noise at the start of an episode.
        sigma_min: Value of ``sigma`` late in an episode; ``None`` for no annealing.
        n_steps_annealing: Steps of an episode until ``sigma_min`` is reached.
        action_key: Key of the action.
        is_init_key: Key of the flag of first steps of episodes.
        safe: Project the action on its spec also where exploration is off.
        device: Where the factors live.

    Reads: ``action [*B, A]``, ``is_init [*B, 1]``, ``_ou_prev_noise``, ``_ou_steps``.
    Writes: ``action``, ``_ou_prev_noise [*B, A]``, ``_ou_steps [*B, 1]``.

    Raises:
        ValueError: if ``eps_end > eps_init``.
        MissingSpecError: if there is no spec.

    Source: Uhlenbeck and Ornstein, 1930; Lillicrap et al., 2015, https://arxiv.org/abs/1509.02971.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import Bounded
    >>> module = OrnsteinUhlenbeckProcessModule(Bounded(-1, 1, (3,)))
    >>> td = module(TensorDict(action=torch.zeros(3), is_init=torch.tensor([True])))
    >>> sorted(td.keys())
    ['_ou_prev_noise', '_ou_steps', 'action', 'is_init']
    """

    supports_flat_records = True
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
        _ = self._is_unbounded or self.action_spec  # raises if there is none
        self._anneal("eps", eps_init, eps_end, annealing_num_steps, device)
        self.theta, self.mu, self.sigma, self.dt = theta, mu, sigma, dt
        self.sigma_min, self.n_steps_annealing = sigma_min, n_steps_annealing
        start = torch.as_tensor(0.0 if x0 is None else x0, device=device)
        self.register_buffer("x0", start)
        self.is_init_key = self.init_key = is_init_key
        self.safe = safe
        self.noise_key, self.steps_key = "_ou_prev_noise", "_ou_steps"
        self.in_keys, self.out_keys = [action_key, is_init_key], [action_key, self.noise_key, self.steps_key]
        self._has_warned = False

    x0: Tensor

    def _run(self, td: Record) -> None:
        if is_exploring():
            self._explore(td)
        elif self.safe:
            td.set(self.action_key, self._projected(self._action(td)))

    def _explore(self, td: Record) -> None:
        action = self._action(td)
        noise, steps = self._advanced(td, action)
        td.set(self.noise_key, noise)
        td.set(self.steps_key, steps)
        self._add_noise(td, action, self.eps.to(noise) * noise)

    def _advanced(self, td: Record, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noise ``[*B, A]`` and the step count ``[*B, 1]`` of this step."""
        noise, steps = td.get(self.noise_key), td.get(self.steps_key)
        start = self.x0.to(_as_float(action)).expand(action.shape)
        if noise is None or steps is None or noise.shape != action.shape:
            noise = start
            steps = torch.zeros((*action.shape[:-1], 1), dtype=torch.int64, device=action.device)
        is_init = td.get(self.is_init_key)
        if is_init is not None:  # [*B, 1], for actions [*B, *G, A]
            is_init = is_init.reshape(*is_init.shape[:-1], *(1,) * (action.ndim - is_init.ndim), 1)
            noise, steps = torch.where(is_init, start, noise), steps.masked_fill(is_init, 0)
        else:
            self._warn_no_init()
        drift = self.theta * (self.mu - noise) * self.dt
        spread = self._sigma(steps).to(noise) * self.dt**0.5
        return noise + drift + spread * torch.randn_like(noise), steps + 1

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
                "is absent, so the noise continues across episodes",
                key=self.is_init_key,
                hint="Add InitTracker() to the environment.",
            ),
            stacklevel=2,
        )


def set_exploration_modules_spec_from_env(policy: nn.Module, env: Any) -> None:
    """Give exploration modules without a spec the action spec of an environment.

    Args:
        policy: Any module.
        env: Anything with a ``full_action_spec``.

    Raises:
        KeyError: if the environment has no action of a module's name.

    >>> from torchrl.envs import GymEnv
    >>> module = EGreedyModule(spec=None)
    >>> set_exploration_modules_spec_from_env(module, GymEnv("CartPole-v1"))
    >>> module.action_spec.shape
    torch.Size([2])
    """
    for module in policy.modules():
        if isinstance(module, ExplorationModule) and module.spec is None:
            module.spec = env.full_action_spec.get(module.action_key)


class _ExplorationWrapper(SafeSequential):
    """A policy followed by an exploration module, which has the policy's spec.

    Hooks:
        module_class: The exploration module.
    """

    module_class: ClassVar[type]

    def __init__(
        self,
        policy: TensorDictModuleBase,
        *,
        action_key: NestedKey = "action",
        spec: TensorSpec | None = None,
        **kwargs: Any,
    ) -> None:
        if spec is None:
            spec = getattr(policy, "spec", None)
        exploration = self.module_class(spec, action_key=action_key, **kwargs)
        super().__init__(policy, exploration)

    @property
    def policy(self) -> Any:
        """The policy without exploration."""
        return self.module[0]

    @property
    def exploration_module(self) -> Any:
        """The exploration module."""
        return self.module[1]

    def step(self, frames: int = 1) -> None:
        """Anneal the exploration by a number of frames."""
        self.exploration_module.step(frames)


class EGreedyWrapper(_ExplorationWrapper):
    """A policy with epsilon-greedy exploration.

    Args:
        policy: The policy, which writes the action.
        action_key: Key of the action.
        spec: Spec of the action; the policy's by default.
        **kwargs: Of :class:`EGreedyModule`.

    Reads: what the policy reads. Writes: what the policy writes.

    >>> import torch
    >>> from torchrl.data import OneHot
    >>> from torchrl.modules import QValueActor
    >>> explorer = EGreedyWrapper(QValueActor(torch.nn.Linear(3, 2), spec=OneHot(2)))
    >>> explorer.step(1000)
    >>> explorer.eps
    tensor(0.1000)
    """

    supports_flat_records = True
    module_class = EGreedyModule

    @property
    def eps(self) -> Any:
        """Probability of a random action."""
        return self.exploration_module.eps


class AdditiveGaussianWrapper(_ExplorationWrapper):
    """A policy with Gaussian noise on its actions.

    Args:
        policy: The policy, which writes the action.
        action_key: Key of the action.
        spec: Spec of the action; the policy's by default.
        **kwargs: Of :class:`AdditiveGaussianModule`; ``safe`` is on by default.

    Reads: what the policy reads. Writes: what the policy writes.

    >>> import torch
    >>> from torchrl.data import Bounded
    >>> from torchrl.modules import Actor
    >>> policy = Actor(torch.nn.Linear(3, 2), spec=Bounded(-1, 1, (2,)))
    >>> AdditiveGaussianWrapper(policy).sigma
    tensor(1.)
    """

    supports_flat_records = True
    module_class = AdditiveGaussianModule

    def __init__(self, policy: TensorDictModuleBase, **kwargs: Any) -> None:
        super().__init__(policy, **{"safe": True, **kwargs})

    @property
    def sigma(self) -> Any:
        """Factor of the noise."""
        return self.exploration_module.sigma


class OrnsteinUhlenbeckProcessWrapper(_ExplorationWrapper):
    """A policy with noise that is correlated in time on its actions.

    Args:
        policy: The policy, which writes the action.
        action_key: Key of the action.
        spec: Spec of the action; the policy's by default.
        **kwargs: Of :class:`OrnsteinUhlenbeckProcessModule`.

    Reads: what the policy reads, ``is_init``. Writes: what the policy writes, the noise.

    >>> import torch
    >>> from torchrl.data import Bounded
    >>> from torchrl.modules import Actor
    >>> policy = Actor(torch.nn.Linear(3, 2), spec=Bounded(-1, 1, (2,)))
    >>> OrnsteinUhlenbeckProcessWrapper(policy).out_keys
    ['action', '_ou_prev_noise', '_ou_steps']
    """

    supports_flat_records = True
    module_class = OrnsteinUhlenbeckProcessModule

    @property
    def eps(self) -> Any:
        """Factor of the noise."""
        return self.exploration_module.eps
