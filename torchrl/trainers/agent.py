"""`Agent`: a trained policy that takes observations and returns actions as its environment has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl._core.devices import is_present
from torchrl._core.errors import DeviceError, MissingKeyError, ShapeError, describe, nearest
from torchrl._core.exploration import ExplorationType, set_exploration_type
from torchrl._core.files import naming
from torchrl._core.returns import reward2go
from torchrl.checkpoint import Checkpoint
from torchrl.data import Composite, TensorSpec
from torchrl.data.tensor_specs.plain import spec_from_plain, spec_to_plain
from torchrl.envs import Compose, EnvBase, InitTracker, RewardSum, StepCounter, Transform, TransformedEnv, VecNormV2
from torchrl.modules import DecisionTransformerPolicy
from torchrl.modules.utils import get_primers_from_module
from torchrl.record import PixelRenderTransform
from torchrl.record.experiment import EVAL_SEED
from torchrl.record.loggers.base import encode_movie
from torchrl.trainers.algorithms import ALGORITHMS, AlgorithmConfig, AlgorithmTrainer, with_settings
from torchrl.trainers.algorithms.environments import (
    Task,
    isolated_seeds,
    make_base_env,
    make_film_env,
    observation_transforms,
)
from torchrl.trainers.export import export

Observation = Any  # an array, a number, or a mapping of them by name
FORMAT = 1  # of agents' files
ROWS = 20  # episodes that are played at once


class Evaluation(NamedTuple):
    """Returns and lengths of episodes.

    ``discounted`` is the mean over the steps of each episode of :func:`discounted_returns`, if the algorithm has a
    discount below one.

    >>> Evaluation(torch.tensor([1.0, 3.0]), torch.tensor([10, 20])).mean
    2.0
    """

    returns: Tensor  # [N]
    lengths: Tensor  # [N]
    discounted: Tensor | None = None  # [N]

    @property
    def mean(self) -> float:
        """The mean return."""
        return self.returns.mean().item()

    @property
    def std(self) -> float:
        """The standard deviation of the returns, zero for one episode."""
        return self.returns.std(correction=0).item()

    @property
    def discounted_mean(self) -> float | None:
        """The mean over all steps of the discounted return from there on, what a critic is to predict."""
        if self.discounted is None:
            return None
        return ((self.discounted * self.lengths).sum() / self.lengths.sum()).item()

    def __str__(self) -> str:
        steps = self.lengths.float().mean().item()
        return f"return {self.mean:.1f} ± {self.std:.1f} over {len(self.returns)} episodes of {steps:.0f} steps"


def discounted_returns(episodes: TensorDictBase, gamma: float, reward_key: NestedKey = "reward") -> Tensor:
    """Return the discounted sum of rewards from each step on, ``[*B, T, 1]``, zero behind the end of an episode.

    Where an episode was cut rather than terminated, the rewards are taken to go on as until there: the sum is
    divided by ``1 - gamma ** n`` of the ``n`` steps that it has.

    Args:
        episodes: One episode in each row, ``[*B, T]``, behind which steps may follow.
        gamma: Discount factor, less than one.
        reward_key: Name of the reward.

    Reads: under ``next`` the reward, ``done``, ``terminated`` and ``step_count``, all ``[*B, T, 1]``.

    Source: van Hasselt et al., 2016, https://arxiv.org/abs/1509.06461, section "Results on overoptimism".

    >>> steps = {"reward": torch.ones(2, 1), "step_count": torch.tensor([[1], [2]])}
    >>> flags = {name: torch.tensor([[False], [name == "done"]]) for name in ("done", "terminated")}
    >>> discounted_returns(TensorDict(next=TensorDict({**steps, **flags}, [2]), batch_size=[2]), gamma=0.5).flatten()
    tensor([2., 2.])
    """
    after = episodes["next"]
    reward, count = after[reward_key].float(), after["step_count"]  # [*B, T, 1]
    length = count.amax(-2, keepdim=True)  # [*B, 1, 1]
    steps = torch.arange(reward.shape[-2], device=reward.device).unsqueeze(-1)  # [T, 1]
    left = (length - steps).clamp_min(0)  # [*B, T, 1]
    found = reward2go(reward * (left > 0), after["done"], gamma)  # [*B, T, 1]
    is_cut = ~(after["terminated"] & (left == 1)).any(-2, keepdim=True)  # [*B, 1, 1]
    return torch.where(left > 0, found / torch.where(is_cut, 1 - gamma**left, 1.0), 0.0)


class PolicySpecs:
    """What a policy is built from, in place of an environment: the specs of one copy of it.

    Args:
        raw: Observations of the task itself.
        observation: Observations after the transforms.
        action: Actions.
        action_key: Key of the action.
        device: Where the policy is.

    >>> from torchrl.envs import GymEnv
    >>> env = GymEnv("CartPole-v1", num_envs=2)
    >>> PolicySpecs.of(env, env).action_spec.shape
    torch.Size([2])
    """

    batch_size, ndim = torch.Size(()), 0

    def __init__(
        self, raw: Composite, observation: Composite, action: TensorSpec, action_key: NestedKey, device: Any = None
    ) -> None:
        self.raw, self.observation_spec, self.action_spec = raw, observation, action
        self.action_spec_unbatched, self.observation_spec_unbatched = action, observation
        self.action_key, self.device = action_key, None if device is None else torch.device(device)

    @classmethod
    def of(cls, base: EnvBase, env: EnvBase) -> PolicySpecs:
        """Return those of an environment and of the task that it transforms."""
        raw = base.observation_spec_unbatched.clone()
        for name in {"end-of-life", "lives"} & {*raw.keys()}:  # of Atari games in training
            del raw[name]
        return cls(
            raw, env.observation_spec_unbatched.clone(), env.action_spec_unbatched.clone(), env.action_key, env.device
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the specs as plain data."""
        key = [self.action_key] if isinstance(self.action_key, str) else list(self.action_key)
        parts = {"raw": self.raw, "observation": self.observation_spec, "action": self.action_spec}
        return {"action_key": key, **{name: spec_to_plain(spec) for name, spec in parts.items()}}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], device: Any) -> PolicySpecs:
        """Undo :meth:`to_plain`."""
        key = plain["action_key"]
        raw, observation, action = (
            spec_from_plain(plain[name]).to(device) for name in ("raw", "observation", "action")
        )
        assert isinstance(raw, Composite)
        assert isinstance(observation, Composite)
        return cls(raw, observation, action, key[0] if len(key) == 1 else tuple(key), device)


class Agent:
    """A policy with the transforms of its observations: predicts, plays, is saved, loaded and exported.

    :func:`torchrl.train` returns one.

    Args:
        algorithm: Name of the algorithm, as in :data:`~torchrl.trainers.algorithms.ALGORITHMS`.
        config: Its settings.
        specs: Specs of one copy of the environment.
        policy: The policy, without exploration.
        transforms: What is done to observations before the policy sees them.
        task: The environment: its name, or a function that builds it.

    Attributes:
        policy: The policy, a tensordict module; reads transformed observations.
        transforms: The transforms, with statistics that no longer change.
        config: The settings.
        state_spec: The state of a recurrent policy, ``None`` without memory.

    >>> import torchrl
    >>> agent = torchrl.train("ppo", "CartPole-v1", total_frames=512, log_dir="", progress_bar=False)
    >>> action, state = agent.predict([0.0, 0.0, 0.0, 0.0])
    >>> action in (0, 1), state is None
    (True, True)
    """

    def __init__(
        self,
        algorithm: str,
        config: AlgorithmConfig,
        specs: PolicySpecs,
        policy: TensorDictModuleBase,
        transforms: Iterable[Transform] = (),
        task: Task | None = None,
    ) -> None:
        self.algorithm, self.config, self.specs = algorithm, config, specs
        self.policy, self.task = policy, task
        self.transforms = Compose(*transforms)
        self.observation_keys = list(specs.raw.keys(True, True))
        primers = get_primers_from_module(policy, warn=False)
        self.state_spec: Composite | None = None  # with the last reward, for a policy that is told it
        told = (part for part in policy.modules() if isinstance(part, DecisionTransformerPolicy))
        self._conditioned = next(told, None)
        if primers is not None:
            parts = primers if isinstance(primers, Compose) else [primers]
            self.state_spec = Composite()
            for part in parts:
                self.state_spec.update(part.primers)
        names = () if self.state_spec is None else self.state_spec.keys(True, True)
        given = None if self._conditioned is None else self._conditioned.last_reward_key
        self.memory_keys: list[NestedKey] = [key for key in names if key != given]  # which the policy writes

    def __repr__(self) -> str:
        is_name = self.task is None or isinstance(self.task, str)
        task = self.task if is_name else getattr(self.task, "__name__", type(self.task).__name__)
        return f"{type(self).__name__}({self.algorithm!r}, {task!r}, {self.config})"

    @classmethod
    def from_trainer(cls, trainer: AlgorithmTrainer, config: AlgorithmConfig, task: Task | None = None) -> Agent:
        """Return a copy of the policy of a trainer, with the statistics of its environment as they are.

        Args:
            trainer: The trainer, built by :meth:`~torchrl.trainers.algorithms.AlgorithmTrainer.from_env`.
            config: Its settings.
            task: The environment, for :meth:`evaluate` and :meth:`record`.
        """
        name = trainer.algorithm
        env: Any = trainer.env
        specs = PolicySpecs.of(env.base_env, env)
        with isolated_seeds(config.seed):  # new networks draw their weights
            policy = ALGORITHMS[name].make_policy(specs, config).to(config.device)
        policy.load_state_dict(trainer.policy.state_dict())
        count = len(observation_transforms(specs.raw, config))
        transforms = [
            part.frozen_copy() if isinstance(part, VecNormV2) else part.clone() for part in list(env.transform)[:count]
        ]
        return cls(name, config, specs, policy, transforms, task)

    @property
    def desired_return(self) -> float | None:
        """The return of an episode that the policy is to reach, which may be set; ``None`` if it is told none.

        Raises:
            ValueError: when it is set, for such a policy.
        """
        return None if self._conditioned is None else self._conditioned.desired_return

    @desired_return.setter
    def desired_return(self, value: float) -> None:
        if self._conditioned is None:
            raise ValueError(describe(self, "has a policy that is told no return to reach", found=self.algorithm))
        self._conditioned.desired_return = value

    # --- acting ----------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(
        self, obs: Observation, deterministic: bool = True, state: TensorDictBase | None = None, reward: Any = None
    ) -> tuple[Any, TensorDictBase | None]:
        """Return the action for an observation, and the state of a recurrent policy.

        Args:
            obs: One observation, or a batch of them along a new first dimension: an array, or a mapping
                of arrays by name (nested, or with tuples as names) if there are several.
            deterministic: The most likely action, rather than a random one.
            state: What the last call returned; ``None`` at the first step of an episode.
            reward: That of the last step, a number or ``[N]`` of a batch: for a policy that is told the return to
                reach (``decision_transformer``), at all steps but the first, and for no other.

        Returns: the action as the environment has it, an ``int`` for a single discrete choice, an array with
            a first dimension for a batch; and the state, ``None`` for a policy without memory.

        Raises:
            MissingKeyError: if an observation is absent.
            ShapeError: for a shape that is neither that of an observation nor of a batch.
            ValueError: for a reward where the policy has no use for it, or none where it needs it.
        """
        record, is_batch = self._record(obs)
        if reward is not None or self._conditioned is not None:
            self._check_reward(reward, state)
        if self.state_spec is not None:
            self._add_state(record, state)
            if reward is not None:
                self._add_reward(record, reward)
        with set_exploration_type(ExplorationType.DETERMINISTIC if deterministic else ExplorationType.RANDOM):
            record = self.policy(self.transforms(record))
        action = self.specs.action_spec.to_numpy(record[self.specs.action_key])
        if not is_batch and getattr(action, "ndim", None) == 0:
            action = action.item()
        if self.state_spec is None:
            return action, None
        return action, record["next"].select(*self.memory_keys)

    def _check_reward(self, reward: Any, state: TensorDictBase | None) -> None:
        """Raise ValueError unless a reward is given where, and only where, the policy needs it."""
        if self._conditioned is None:
            raise ValueError(describe(self, "is told no return to reach, so it has no use for a reward"))
        if (state is None) != (reward is None):
            expected, found = ("no reward", "one") if state is None else ("the reward of the last step", "none")
            hint = "At all steps but the first of an episode pass both state and reward."
            raise ValueError(
                describe(self, "counts what is left of the return", expected=expected, found=found, hint=hint)
            )

    def _add_reward(self, record: TensorDict, reward: Any) -> None:
        assert self._conditioned is not None
        value = reward if isinstance(reward, Tensor) else torch.as_tensor(np.asarray(reward))
        if value.numel() != record.numel():
            raise ShapeError(
                describe(self, "needs one reward a row", expected=list(record.shape), found=list(value.shape))
            )
        value = value.reshape(*record.shape, 1).to(torch.get_default_dtype())
        record.set(self._conditioned.last_reward_key, value.to(self.specs.device))

    def _record(self, obs: Observation) -> tuple[TensorDict, bool]:
        """Return observations as a tensordict ``[]`` or ``[N]``, and whether they are a batch."""
        if isinstance(obs, TensorDictBase):
            entries: dict[Any, Any] = dict(obs.items(True, True))
        elif isinstance(obs, Mapping):
            entries = dict(_leaves(obs))
        elif len(self.observation_keys) == 1:
            entries = {self.observation_keys[0]: obs}
        else:
            expected = f"a mapping with {self.observation_keys}"
            raise MissingKeyError(describe(self, "needs several observations", expected=expected, found="one"))
        found: dict[NestedKey, Tensor] = {}
        for key, spec in self.specs.raw.items(True, True):
            if key not in entries:
                hint = nearest(str(key), [str(name) for name in entries])
                raise MissingKeyError(describe(self, "an observation is absent", key=key, hint=hint))
            value = entries[key]
            value = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
            found[key] = _as_observation(self, key, value.to(self.specs.device), spec)
        batches = {value.shape[: value.ndim - self.specs.raw[key].ndim] for key, value in found.items()}
        if len(batches) > 1:
            raise ShapeError(describe(self, "got batches of several sizes", found=sorted(map(list, batches))))
        record = TensorDict(found, batches.pop(), device=self.specs.device)
        return record, record.ndim == 1

    def _add_state(self, record: TensorDict, state: TensorDictBase | None) -> None:
        """Add the state of a recurrent policy: that of the last step, or zeros."""
        assert self.state_spec is not None
        first = torch.full((*record.shape, 1), state is None, device=record.device)
        record.set("is_init", first)
        if state is not None and state.batch_size != record.batch_size:
            expected, found = list(record.batch_size), list(state.batch_size)
            raise ShapeError(describe(self, "got the state of another batch", expected=expected, found=found))
        record.update(self.state_spec.zero(record.batch_size) if state is None else state)

    # --- playing ---------------------------------------------------------------------------------

    def evaluate(
        self,
        num_episodes: int = 100,
        env: Task | None = None,
        *,
        deterministic: bool = True,
        seed: int | None = None,
        max_steps: int = 100_000,
    ) -> Evaluation:
        """Play episodes; return their returns and lengths.

        The random generators are left as they were.

        Args:
            num_episodes: Number of episodes.
            env: The environment, if not the one of training; one that is given as such has
                ``num_episodes`` rows.
            deterministic: Take the most likely actions, rather than random ones.
            seed: Of the episodes; if ``None``, one that is far from the seed of training.
            max_steps: Steps after which an episode is cut.
        """
        task = self._task(env)
        seed = self.config.seed + EVAL_SEED if seed is None else seed
        kind = ExplorationType.DETERMINISTIC if deterministic else ExplorationType.RANDOM
        gamma = getattr(self.config, "gamma", 1.0)
        returns, lengths, discounted = [], [], []
        with isolated_seeds(seed), set_exploration_type(kind), torch.no_grad():
            for first in range(0, num_episodes, ROWS):
                rows = min(ROWS, num_episodes - first)
                test = self.make_env(make_base_env(task, rows, str(self.config.device)), seed + first)
                episodes = test.rollout(max_steps, self.policy, break_when_all_done=True)
                if not isinstance(task, EnvBase):
                    test.close()
                returns.append(episodes["next", "episode_reward"][..., -1, 0].reshape(-1))
                lengths.append(episodes["next", "step_count"][..., -1, 0].reshape(-1))
                if gamma < 1:
                    values = discounted_returns(episodes, gamma, test.reward_key)  # [..., T, 1]
                    discounted.append(values.sum((-2, -1)).reshape(-1) / lengths[-1])
        found = torch.cat(returns).cpu(), torch.cat(lengths).cpu()
        return Evaluation(*found, torch.cat(discounted).cpu() if discounted else None)

    def make_env(self, base: EnvBase, seed: int) -> TransformedEnv:
        """Return an environment with the transforms of the agent around a task, for its policy.

        Writes: ``episode_reward`` and ``step_count`` of the task's own rewards and steps, once an
            episode has ended those of that episode.
        """
        parts = [*(part.clone() for part in self.transforms), RewardSum(), StepCounter()]
        if self.state_spec is not None:
            primers = get_primers_from_module(self.policy)
            assert primers is not None
            parts += [InitTracker(), primers]
        env = TransformedEnv(base, Compose(*parts))
        env.set_seed(seed)
        return env

    def record(self, path: str | Path, env: Task | None = None, *, max_steps: int = 500, seed: int = 0) -> Path:
        """Play an episode and write it as a film, as a person sees the task.

        Args:
            path: A file ``.mp4`` or ``.gif``.
            env: The environment, if not the one of training; a function must build one that writes its
                picture ``[H, W, 3]`` under ``pixels``.
            max_steps: Steps after which the episode is cut.
            seed: Of the episode.

        Raises:
            ImportError: without the extra ``rendering``.
            MissingKeyError: if the environment writes no pictures.
            ValueError: for a file of another kind.
        """
        path, task = Path(path), self._task(env)
        if path.suffix not in (".mp4", ".gif"):
            raise ValueError(describe(self, "writes no such film", expected="a file .mp4 or .gif", found=str(path)))
        with isolated_seeds(seed), set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
            key, fps = "pixels", 30
            if isinstance(task, str):  # the policy may read pixels of its own, such as those of Atari games
                key, fps = "film", 15 if task.startswith("ALE/") else 30
                base: EnvBase = TransformedEnv(make_film_env(task), PixelRenderTransform([key]))
            else:
                base = task if isinstance(task, EnvBase) else task()
            if key not in list(base.observation_spec.keys()):
                hint = "Build the environment with from_pixels=True, pixels_only=False."
                raise MissingKeyError(describe(self, "cannot film this environment", key=key, hint=hint))
            test = self.make_env(base.to(self.config.device), seed)
            pictures = test.rollout(max_steps, self.policy)[key]
            if not isinstance(task, EnvBase):
                test.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_movie(pictures.cpu(), path.suffix, fps, needed_by=self))
        return path

    def _task(self, env: Task | None) -> Task:
        task = self.task if env is None else env
        if task is None:
            raise ValueError(describe(self, "has no environment to play in", hint="Pass env."))
        return task

    # --- files -----------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the agent to a file of text and tensors: weights, statistics, specs, settings."""
        state = {
            "format": FORMAT,
            "algorithm": self.algorithm,
            "task": self.task if isinstance(self.task, str) else None,
            "settings": asdict(self.config),
            "specs": self.specs.to_plain(),
            "policy": self.policy.state_dict(),
            "transforms": self.transforms.state_dict(),
        }
        return Checkpoint(format="archive", agent=state).save(path)

    def export(self, format: str, path: str | Path) -> Path:
        """Write the deterministic policy as a program that needs no code of this library.

        What goes in and comes out is told by :class:`~torchrl.trainers.export.AgentFunction`; the batch size
        is free. Normalisation and recurrent state are inside.

        Args:
            format: ``"onnx"``, or ``"torch"`` for :func:`torch.export.load`.
            path: The file; with ``.onnx`` or ``.pt2`` if it has no suffix.

        Raises:
            ImportError: for ``"onnx"`` without the extra ``export``.
        """
        return export(self, format, path)

    @classmethod
    def load(cls, path: str | Path, *, device: str | None = None, task: Task | None = None) -> Agent:
        """Read what :meth:`save` wrote; no code of the file is run.

        Args:
            path: The file.
            device: Device of the policy; that of training if ``None``, or the CPU if this machine lacks it.
            task: The environment, for an agent of an environment without a name.

        Raises:
            FileNotFoundError: if there is none.
            DeviceError: for a device that this machine lacks.
            DamagedFileError: if it has changed since it was written, or holds no agent.
            ValueError: for a file of a later release.
        """
        if device is not None and not is_present(device):
            raise DeviceError(describe("Agent", "this machine has no such device", found=device))
        with naming(Path(path)):
            found: Any = Checkpoint(agent={}).load(path, map_location=device or "cpu").values["agent"]
            if found["format"] <= FORMAT:
                return cls._from_file(found, device, task)
        raise ValueError(
            describe("Agent", f"{path} is of a later release", expected=f"format {FORMAT}", found=found["format"])
        )

    @classmethod
    def _from_file(cls, found: Any, device: str | None, task: Task | None) -> Agent:
        kind = ALGORITHMS[found["algorithm"]]
        if device is None:
            device = found["settings"]["device"] if is_present(found["settings"]["device"]) else "cpu"
        config = with_settings(kind.config_class(), {**found["settings"], "device": device})
        specs = PolicySpecs.from_plain(found["specs"], config.device)
        with isolated_seeds(config.seed):
            policy = kind.make_policy(specs, config).to(config.device)
        policy.load_state_dict(found["policy"])
        transforms = observation_transforms(specs.raw, config)
        agent = cls(found["algorithm"], config, specs, policy, transforms, task or found["task"])
        agent.transforms.load_state_dict(found["transforms"])
        for part in agent.transforms:
            if isinstance(part, VecNormV2):
                part.freeze()
        return agent


def _leaves(entries: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterable[tuple[NestedKey, Any]]:
    """Yield the entries of nested mappings, as a tensordict names them."""
    for name, value in entries.items():
        key = (*above, *name) if isinstance(name, tuple) else (*above, name)
        if isinstance(value, Mapping):
            yield from _leaves(value, key)
        else:
            yield key if len(key) > 1 else key[0], value


def _as_observation(agent: Agent, key: NestedKey, value: Tensor, spec: TensorSpec) -> Tensor:
    """Return a value ``[*S]`` or ``[N, *S]`` in the dtype of the spec; numbers of categories become one-hot."""
    extra = value.ndim - spec.ndim
    if extra in (0, 1) and value.shape[extra:] == spec.shape:
        return value.to(spec.dtype)
    if spec.domain == "discrete" and value.ndim in (spec.ndim - 1, spec.ndim):
        return spec.expand(*value.shape, *spec.shape).encode(value) if value.ndim else spec.encode(value)
    expected = f"{list(spec.shape)}, or a batch of these along a first dimension"
    raise ShapeError(describe(agent, "got another observation", key=key, expected=expected, found=list(value.shape)))
