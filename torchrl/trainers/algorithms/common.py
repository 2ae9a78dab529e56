"""`AlgorithmTrainer`: what the trainers of all algorithms log and update, and how they are built in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch.optim.lr_scheduler import LRScheduler

from torchrl._core.errors import SpecError, describe
from torchrl.collectors import BaseCollector
from torchrl.data import Binary, Categorical, Composite, MultiCategorical, MultiOneHot, OneHot, ReplayBuffer, TensorSpec
from torchrl.envs import EnvBase
from torchrl.objectives import LossModule
from torchrl.trainers.algorithms.config import AlgorithmConfig, with_settings
from torchrl.trainers.algorithms.defaults import tuned_settings
from torchrl.trainers.algorithms.environments import Task, make_env, seed_everything
from torchrl.trainers.hooks.logging import LogEpisodes, LogScalar
from torchrl.trainers.hooks.optimization import LRSchedulerHook, UpdateWeights
from torchrl.trainers.q_values import LogQValue, critic_name
from torchrl.trainers.trainer import Trainer

if TYPE_CHECKING:
    from typing_extensions import Self  # of the typing module from Python 3.11 on


class AlgorithmTrainer(Trainer):
    """Base of the trainers of algorithms: what they log, weights of the collector, learning rates.

    Args:
        collector: The collector.
        loss_module: The loss.
        lr_scheduler: Stepped after each batch, if given.
        enable_logging: Log the entries below, and returns and lengths of episodes.
        log_rewards: Log the mean of ``next.<reward_key>``.
        log_actions: Log the mean of ``action_key``.
        log_observations: Log the mean of ``observation_key``.
        weight_update_map: Of :class:`~torchrl.trainers.UpdateWeights`.
        done_key, terminated_key, reward_key: Entries under ``next`` that the loss reads, if they are not its
            defaults.
        episode_reward_key: Sum of rewards under ``next``, as :class:`~torchrl.envs.RewardSum` writes it.
        action_key, observation_key: Entries that are logged.
        **kwargs: Of :class:`~torchrl.trainers.Trainer`.

    Attributes:
        config: The settings, of a trainer that :meth:`from_env` has built.

    Logs: ``reward``; of the episodes that ended ``episode_return`` and ``episode_length``; of a loss that values
        actions ``q_value``, see :class:`~torchrl.trainers.LogQValue`.

    Hooks:
        algorithm: Class attribute, name of the algorithm on the command line.
        action_kinds: Class attribute, the :func:`action_kind` of the environments that it fits.
        config_class: Class attribute, the settings of the algorithm.
        make_policy: ``(env, config) -> policy`` without exploration, static; ``env`` may be anything that has
            the specs of one, such as those that an :class:`~torchrl.trainers.Agent` keeps.
        from_config: ``(env, config, **options) -> trainer``, static; builds networks, loss, optimizer,
            collector and buffer.

    >>> from torchrl.trainers.algorithms import DQNTrainer
    >>> trainer = DQNTrainer.from_env("CartPole-v1", total_frames=200, num_cells=16)
    >>> trainer.config.total_frames
    200
    """

    algorithm: ClassVar[str] = ""
    action_kinds: ClassVar[tuple[str, ...]] = ()
    config: AlgorithmConfig
    config_class: ClassVar[type[AlgorithmConfig]] = AlgorithmConfig
    make_policy: ClassVar[Callable[..., TensorDictModuleBase]]
    from_config: ClassVar[Callable[..., Trainer]]

    def __init__(
        self,
        *,
        collector: BaseCollector,
        loss_module: LossModule,
        lr_scheduler: LRScheduler | None = None,
        enable_logging: bool = True,
        log_rewards: bool = True,
        log_actions: bool = True,
        log_observations: bool = False,
        weight_update_map: Mapping[str, str] | None = None,
        done_key: NestedKey = "done",
        terminated_key: NestedKey = "terminated",
        reward_key: NestedKey = "reward",
        episode_reward_key: NestedKey = "episode_reward",
        action_key: NestedKey = "action",
        observation_key: NestedKey = "observation",
        **kwargs: Any,
    ) -> None:
        super().__init__(collector=collector, loss_module=loss_module, **kwargs)
        read = {"done": done_key, "terminated": terminated_key, "reward": reward_key}
        self.read_keys = {name: key for name, key in read.items() if key != name}
        if self.read_keys:
            loss_module.set_keys(**self.read_keys)
        if enable_logging:
            # Batches that the collector stores itself are logged from the samples.
            stage = "pre_steps_log" if self.sees_batches else "post_optim_log"
            LogEpisodes(episode_reward_key, done_key).register(self)
            chosen = {("next", reward_key): log_rewards, action_key: log_actions, observation_key: log_observations}
            for key in (key for key, wanted in chosen.items() if wanted):
                self.register_op(stage, partial(_log_if_present, LogScalar(key)))
            if critic_name(loss_module) is not None:
                LogQValue(self).register(self)
        if isinstance(collector, BaseCollector):  # not the reader of a dataset
            UpdateWeights(collector, weight_update_map=weight_update_map, trainer=self).register(self)
        self.lr_scheduler = lr_scheduler
        if lr_scheduler is not None:
            LRSchedulerHook(lr_scheduler).register(self)

    @classmethod
    def from_env(cls, env: Task, config: AlgorithmConfig | None = None, **settings: Any) -> Self:
        """Build networks, loss, optimizer, collector and buffer for an environment.

        Python, numpy and torch are seeded first, so that equal settings give equal parameters.

        Args:
            env: Name of a gymnasium task, function that builds an environment, or an environment.
            config: Settings; if ``None``, those of the table for a task of this name, or the
                defaults of the algorithm.
            **settings: Settings in place of those, and arguments of the trainer, such as ``logger``. The
                ``dataset`` of an algorithm that learns from one may be a replay buffer.

        Raises:
            UnexpectedKeyError: for an unknown setting.
            SpecError: if the algorithm has no policy for the action space.

        >>> from torchrl.trainers.algorithms import PPOTrainer
        >>> trainer = PPOTrainer.from_env("CartPole-v1", total_frames=4096, progress_bar=False)
        >>> trainer.loss_module.__class__.__name__
        'ClipPPOLoss'
        """
        own = {field.name for field in fields(cls.config_class)}
        options = {name: settings.pop(name) for name in TRAINER_OPTIONS - own if name in settings}
        if "dataset" in own and isinstance(settings.get("dataset"), ReplayBuffer):
            options["dataset"] = settings.pop("dataset")
        if config is None:
            config, settings = cls.config_class(), {**tuned_settings(cls.algorithm, env), **settings}
        chosen = settings.get("num_envs", config.num_envs)
        if isinstance(env, EnvBase) and chosen in (1, cls.config_class().num_envs):  # it is taken as it is
            settings = {**settings, "num_envs": env.batch_size.numel()}
        config = with_settings(config, settings)
        seed_everything(config.seed)
        made = make_env(env, config)
        cls.check_action_space(made)
        trainer = cls.from_config(made, config, **options)
        if not isinstance(trainer, cls):
            raise TypeError(describe(cls.__name__, "from_config built another trainer", found=type(trainer).__name__))
        trainer.config = config
        return trainer

    @classmethod
    def check_action_space(cls, env: EnvBase) -> None:
        """Raise SpecError, naming algorithms that fit, if the algorithm has no policy for the action space."""
        kind = action_kind(env.action_spec_unbatched)
        if kind not in cls.action_kinds:
            fit = sorted(each.algorithm for each in _trainers(AlgorithmTrainer) if kind in each.action_kinds)
            expected, hint = " or ".join(cls.action_kinds), f"These fit: {', '.join(fit)}."
            raise SpecError(
                describe(cls.algorithm, "does not fit", expected=f"{expected} actions", found=kind, hint=hint)
            )

    @property
    def env(self) -> EnvBase:
        """The environment that data is collected from."""
        collector: Any = self.collector
        return collector.env

    @property
    def policy(self) -> TensorDictModuleBase:
        """The trained policy, without exploration."""
        for name in ("actor_network", "value_network"):
            if hasattr(self.loss_module, name):
                return getattr(self.loss_module, name)
        raise AttributeError(describe(self, "the loss has no policy", found=type(self.loss_module).__name__))


# Arguments of trainers that may be given with settings to from_env().
TRAINER_OPTIONS = {
    "logger", "progress_bar", "save_trainer_interval", "log_interval", "save_trainer_file", "checkpoint",
    "checkpoint_rotation", "checkpoint_metadata", "enable_logging", "log_rewards", "log_actions",
    "log_observations", "log_timings", "auto_log_optim_steps", "async_collection",
}  # fmt: skip


# What action_kind() returns, in the tables of algorithms.
ANY_ACTION = ("discrete", "multi-discrete", "binary", "continuous")


def action_kind(spec: TensorSpec) -> str:
    """Return what kind of actions a spec describes: one of ``ANY_ACTION``, or ``"several"`` entries.

    Args:
        spec: The spec of the action.

    >>> action_kind(OneHot(3)), action_kind(MultiCategorical([3, 2]))
    ('discrete', 'multi-discrete')
    """
    if isinstance(spec, Composite):
        return "several"
    if isinstance(spec, Binary):
        return "binary"
    if isinstance(spec, MultiOneHot) or (isinstance(spec, Categorical | MultiCategorical) and spec.shape):
        return "multi-discrete"
    return "discrete" if isinstance(spec, OneHot | Categorical | MultiCategorical) else "continuous"


def _trainers(kind: type[AlgorithmTrainer]) -> Iterator[type[AlgorithmTrainer]]:
    """Yield the trainers of algorithms that are derived from a class."""
    for each in kind.__subclasses__():
        if "config_class" in vars(each):
            yield each
        yield from _trainers(each)


def _log_if_present(hook: LogScalar, batch: TensorDictBase) -> dict[str, Any] | None:
    """Log an entry; nothing of a batch without it, such as that of groups of agents."""
    return None if batch.get(hook.key, None) is None else hook(batch)
