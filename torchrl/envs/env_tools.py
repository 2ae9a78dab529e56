"""What one does with an environment beside stepping it: list its actions, find its specs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase

from torchrl._core.errors import MissingKeyError, describe, nearest
from torchrl._core.keys import as_keys, leaf_keys
from torchrl._core.mdp import DONE_NAMES, last_name
from torchrl._core.policy_output import with_output
from torchrl.data import Composite, make_composite_from_td
from torchrl.envs.hook_wrappers import Compiled
from torchrl.envs.spec_access import INPUTS, flag_spec

if TYPE_CHECKING:
    from torchrl.envs.batched_envs import ParallelEnv
    from torchrl.envs.common import EnvBase

Keys = NestedKey | Sequence[NestedKey]


class EnvTools:
    """Mixed into :class:`~torchrl.envs.EnvBase`."""

    # --- a finite set of actions -----------------------------------------------------------------

    def all_actions(self: Any, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Return every action that can be taken now, ``[N, *B]``; masks leave out what cannot.

        Args:
            tensordict: Handed to a reset first, if given.

        Raises:
            SpecError: if there are infinitely many.

        >>> from torchrl.envs import GymEnv
        >>> GymEnv("CartPole-v1").all_actions()["action"]
        tensor([[1, 0],
                [0, 1]])
        """
        if tensordict is not None:
            self.reset(tensordict)
        return self.full_action_spec.enumerate(use_mask=True)

    def cardinality(self: Any, tensordict: TensorDictBase | None = None) -> float:
        """Return the number of actions, those under a mask counted; infinite for a continuous one.

        Args:
            tensordict: Handed to a reset first, if given.
        """
        if tensordict is not None:
            self.reset(tensordict)
        return self.full_action_spec.cardinality()

    # --- specs -----------------------------------------------------------------------------------

    def check_env_specs(self: Any, *args: Any, **kwargs: Any) -> None:
        """Compare what the environment does with its specs; see :func:`~.check_env_specs`."""
        from torchrl.envs.check import check_env_specs  # noqa: PLC0415 - it derives from us

        check_env_specs(self, *args, **kwargs)

    def auto_specs_(
        self: Any,
        policy: Callable[[TensorDictBase], TensorDictBase],
        *,
        tensordict: TensorDictBase | None = None,
        action_key: Keys = "action",
        done_key: Keys | None = None,
        observation_key: Keys | None = None,
        reward_key: Keys = "reward",
    ) -> EnvBase:
        """Give the environment the specs that one reset and one step suggest; return it.

        Shapes and dtypes are known then, bounds are not.

        Args:
            policy: Writes the actions, ``td -> td``.
            tensordict: Handed to the reset.
            action_key: The actions.
            done_key: The end flags; every ``done``, ``terminated`` and ``truncated`` if ``None``.
            observation_key: The observations; all that a reset or a step writes beside flags and
                rewards if ``None``. What is left of a root is a state.
            reward_key: The rewards.

        Raises:
            MissingKeyError: if an entry that is named here is not written.

        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.envs import EnvBase
        >>> class Count(EnvBase):
        ...     def _reset(self, td):
        ...         return TensorDict(count=torch.zeros(1))
        ...     def _step(self, td):
        ...         count = td["count"] + td["move"]
        ...         return TensorDict(count=count, reward=count, done=count > 3)
        ...     def _set_seed(self, seed): ...
        >>> env = Count().auto_specs_(lambda td: td.set("move", torch.ones(1)), action_key="move")
        >>> env.action_keys, env.observation_keys, env.rollout(3).shape
        (['move'], ['count'], torch.Size([3]))
        """
        root = self._reset(tensordict)
        acting = root.copy()
        acting = with_output(acting, policy(acting), policy)
        following = self._step(acting)
        actions, rewards = as_keys(action_key), as_keys(reward_key)
        written = leaf_keys(following)
        if done_key is None:
            flags = [key for key in written if last_name(key) in DONE_NAMES]
        else:
            flags = as_keys(done_key)
        told = {*actions, *rewards, *flags}
        if observation_key is None:
            observations = [key for key in written if key not in told]
        else:
            observations = as_keys(observation_key)
        states = [key for key in leaf_keys(root) if key not in {*told, *observations}]
        done = Composite(shape=self.batch_size, device=self.device)
        for key in flags:
            done[key] = flag_spec(_entry(self, following, key).shape, self.device)
        self._set_specs(
            {
                "action": _specs_of(self, acting, actions),
                "state": _specs_of(self, root, states),
                "observation": _specs_of(self, following, observations),
                "reward": _specs_of(self, following, rewards),
                "done": done,
            }
        )
        return self

    def fake_tensordict(self: Any) -> TensorDictBase:
        """Return a step of zeros, with every entry that a real step has."""
        return fake_step(self._get_specs(), self.batch_size, self.device)

    # --- the same, elsewhere ---------------------------------------------------------------------

    def cpu(self: Any) -> EnvBase:
        """Move the environment to the CPU; return it."""
        return self.to("cpu")

    def cuda(self: Any, device: int | None = None) -> EnvBase:
        """Move the environment to a CUDA device, the current one if ``None``; return it."""
        return self.to("cuda" if device is None else f"cuda:{device}")

    @classmethod
    def make_parallel(
        cls, create_env_fn: Any, *, num_envs: int = 1, **parallel_kwargs: Any
    ) -> ParallelEnv:
        """Return a :class:`~torchrl.envs.ParallelEnv` of ``num_envs`` environments.

        Args:
            create_env_fn: Builds one.
            num_envs: How many, each in a worker.
            parallel_kwargs: Those of :class:`~torchrl.envs.ParallelEnv`.
        """
        from torchrl.envs.batched_envs import ParallelEnv  # noqa: PLC0415 - it derives from us

        return ParallelEnv(num_envs, create_env_fn, **parallel_kwargs)

    def append_transform(self: Any, transform: Any) -> EnvBase:
        """Return this environment seen through ``transform``."""
        from torchrl.envs.transforms.env import TransformedEnv  # noqa: PLC0415 - it derives from us

        return TransformedEnv(self, transform)

    @classmethod
    def register_gym(
        cls, id: str, *, entry_point: Callable[..., EnvBase] | None = None, **options: Any
    ) -> None:
        """Register this class under a name of gymnasium.

        Args:
            id: The name.
            entry_point: Builds the environment; the class does if ``None``.
            options: As in :func:`torchrl.envs.libs.gym.register_gym`: ``transform``, ``info_keys``,
                ``max_episode_steps`` and so on; all others are keywords of the environment.
        """
        from torchrl.envs.libs.gym.register import register_gym  # noqa: PLC0415 - it needs us

        register_gym(cls if entry_point is None else entry_point, id, **options)

    # --- compilation -----------------------------------------------------------------------------

    def compile(self: Any, **kwargs: Any) -> EnvBase:
        """Compile what the environment computes in a step and a reset; return the environment.

        For environments written in torch. A copy in another process is compiled there.

        Args:
            kwargs: Those of :func:`torch.compile`.
        """
        for hook in ("_step", "_reset"):
            self.__dict__[hook] = Compiled(self, hook, kwargs)
        return self

    def eager(self: Any) -> EnvBase:
        """Undo :meth:`compile`; return the environment."""
        for hook in ("_step", "_reset"):
            if isinstance(compiled := self.__dict__.get(hook), Compiled):
                self.__dict__.pop(hook)
                if compiled.before is not None:
                    self.__dict__[hook] = compiled.before
        return self

    # --- who collects ----------------------------------------------------------------------------

    _collector: Callable[[], Any] | None = None

    def register_collector(self: Any, collector: Any) -> None:
        """Let the environment and its transforms find the collector that drives it."""
        self.__dict__["_collector"] = _Reference(collector)

    @property
    def collector(self) -> Any:
        """The collector that drives this environment, ``None`` if there is none."""
        return None if self._collector is None else self._collector()


class _Reference(weakref.ref):
    """A reference that a copy of its holder, here or in another process, does not share."""

    def __reduce__(self) -> tuple:
        return type(None), ()


def fake_step(
    specs: dict[str, Composite], batch_size: torch.Size, device: torch.device | None
) -> TensorDictBase:
    """Return a step of zeros of the five groups of specs."""
    root = TensorDict({}, batch_size, device=device)
    following = root.copy()
    for group in (*INPUTS, "observation", "done"):
        root.update(specs[group].zero())
    for group in ("observation", "reward", "done"):
        following.update(specs[group].zero())
    return root.set("next", following)


def _entry(env: Any, record: Any, key: NestedKey) -> Any:
    value = record.get(key, None)
    if value is None:
        found = leaf_keys(record)
        raise MissingKeyError(
            describe(
                env,
                "is named in auto_specs_() but not written",
                key=key,
                expected="an entry of that name",
                found=found,
                hint=nearest(key, found),
            )
        )
    return value


def _specs_of(env: Any, record: Any, keys: Sequence[NestedKey]) -> Composite:
    for key in keys:
        _entry(env, record, key)
    spec = make_composite_from_td(record.select(*keys), unsqueeze_null_shapes=False)
    spec.shape = env.batch_size
    return spec
