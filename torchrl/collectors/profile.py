"""Profile of a collector: the seconds that it spends in each of its parts."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from torchrl.collectors.env_factories import layers
from torchrl.envs.stepping.rollout import PreparedPolicy

if TYPE_CHECKING:
    from torchrl.collectors.multi import MultiCollector
    from torchrl.collectors.single import Collector


class Profile:
    """Seconds by part, filled when the ``with`` block of ``collector.profile()`` ends.

    Attributes:
        seconds: By part: ``policy``, ``env``, ``transforms`` and ``stacking`` (making records,
            numbering and stacking them), and ``waiting`` (for workers).
        workers: The seconds of each worker, where there are any.

    >>> profile = Profile()
    >>> profile.seconds = {"policy": 1.0, "env": 3.0}
    >>> print(profile)
    policy   25%  1.000 s
    env      75%  3.000 s
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.workers: list[dict[str, float]] = []

    def __str__(self) -> str:
        parts = [("", self.seconds)]
        parts += [(f"worker {i} ", seconds) for i, seconds in enumerate(self.workers)]
        rows = [
            (who + name, seconds, seconds / (sum(group.values()) or 1.0))
            for who, group in parts
            for name, seconds in group.items()
        ]
        width = max((len(name) for name, *_ in rows), default=0)
        return "\n".join(f"{name:{width}s} {share:5.0%}  {s:.3f} s" for name, s, share in rows)


@dataclass
class ProfileConfig:
    """What :meth:`~torchrl.collectors.Collector.enable_profile` records.

    Args:
        workers: Numbers of the workers that are profiled; the first one if ``None``.
        num_rollouts: Batches that are recorded.
        warmup_rollouts: Batches before them that are not.
        save_path: File of the trace, for ``chrome://tracing``; ``{worker_idx}`` in it is replaced by
            the number of the worker, which is appended otherwise.
        activities: ``"cpu"`` and ``"cuda"``; those that there are if ``None``.
        record_shapes: Record the shapes of inputs.
        profile_memory: Record allocations.
        with_stack: Record source lines.
        with_flops: Estimate floating point operations.
        on_trace_ready: Called with the :class:`torch.profiler.profile`, instead of saving.

    >>> import tempfile
    >>> from torchrl.collectors import Collector
    >>> from torchrl.envs import GymEnv
    >>> collector = Collector(GymEnv("CartPole-v1"), frames_per_batch=10, total_frames=20)
    >>> config = ProfileConfig(num_rollouts=1, warmup_rollouts=1, save_path=f"{tempfile.mkdtemp()}/trace.json")
    >>> collector.enable_profile(config)  # the trace of the second batch is written at its end
    """

    workers: Sequence[int] | None = None
    num_rollouts: int = 3
    warmup_rollouts: int = 1
    save_path: str | Path | None = None
    activities: Sequence[str] | None = None
    record_shapes: bool = True
    profile_memory: bool = False
    with_stack: bool = True
    with_flops: bool = False
    on_trace_ready: Callable[[torch.profiler.profile], object] | None = None

    def __post_init__(self) -> None:
        if self.num_rollouts < 1 or self.warmup_rollouts < 0:
            raise ValueError(
                f"ProfileConfig: expected num_rollouts from 1 and warmup_rollouts from 0, found "
                f"{self.num_rollouts} and {self.warmup_rollouts}."
            )
        unknown = {*(self.activities or ())} - {"cpu", "cuda"}
        if unknown:
            raise ValueError(f"ProfileConfig: activities are 'cpu' and 'cuda', found {sorted(unknown)}.")


class RolloutProfiler:
    """Records a few batches of a collector with :mod:`torch.profiler`.

    Args:
        config: What to record.
        worker: Number of the worker; ``None`` in this process.
    """

    def __init__(self, config: ProfileConfig, worker: int | None = None) -> None:
        self.config, self.worker, self.batches = config, worker, 0
        self._records = False
        kinds = {"cpu": torch.profiler.ProfilerActivity.CPU, "cuda": torch.profiler.ProfilerActivity.CUDA}
        names = config.activities or (["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
        self._profile = torch.profiler.profile(
            activities=[kinds[name] for name in names],
            record_shapes=config.record_shapes,
            profile_memory=config.profile_memory,
            with_stack=config.with_stack,
            with_flops=config.with_flops,
        )

    def before_batch(self) -> None:
        """Start to record, after the batches that are not recorded."""
        if self.batches == self.config.warmup_rollouts and not self._records:
            self._records = True
            self._profile.start()

    def after_batch(self) -> bool:
        """Count a batch; return whether it was the last, after saving what was recorded."""
        self.batches += 1
        if self.batches < self.config.warmup_rollouts + self.config.num_rollouts:
            return False
        self.close()
        return True

    def close(self) -> None:
        """Stop, and save what was recorded."""
        if not self._records:
            return
        self._records = False
        self._profile.stop()
        if self.config.on_trace_ready is not None:
            self.config.on_trace_ready(self._profile)
        elif self.config.save_path is not None:
            path = Path(str(self.config.save_path).replace("{worker_idx}", str(self.worker or 0)))
            if self.worker is not None and "{worker_idx}" not in str(self.config.save_path):
                path = path.with_name(f"{path.stem}_{self.worker}{path.suffix}")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._profile.export_chrome_trace(str(path))


class Stopwatch:
    """Adds up the durations of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., object]) -> Callable[..., object]:
        """Return ``function``, timed."""

        def timed(*args: object, **kwargs: object) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return timed

    def on_policy(self, prepared: PreparedPolicy) -> PreparedPolicy:
        """Return a policy, timed."""
        prepared = copy.copy(prepared)
        if prepared.on_flat_record is not None:
            prepared.on_flat_record = self.around(prepared.on_flat_record)
        prepared.on_tensordict = self.around(prepared.on_tensordict)
        return prepared

    @contextmanager
    def on(self, owner: object, *methods: str) -> Iterator[None]:
        """Time some methods of an object."""
        for name in methods:
            owner.__dict__[name] = self.around(getattr(owner, name))
        try:
            yield
        finally:
            for name in methods:
                del owner.__dict__[name]


@contextmanager
def profiled(collector: Collector) -> Iterator[Profile]:
    """Measure a collector for the length of a ``with`` block."""
    profile = Profile()
    policy, whole, outer, inner = (Stopwatch() for _ in range(4))
    env, *_, base = [collector.env, *layers(collector.env)]
    acting, random = collector._acting.prepared, collector._random
    with ExitStack() as stack:
        stack.enter_context(whole.on(collector, "_collect"))
        stack.enter_context(outer.on(env, "_step", "_reset"))
        if base is not env:
            stack.enter_context(inner.on(base, "_step", "_reset"))
        collector._acting.prepared = policy.on_policy(acting)
        collector._random = policy.on_policy(random)
        try:
            yield profile
        finally:
            collector._acting.prepared, collector._random = acting, random
            profile.seconds = {
                "policy": policy.seconds,
                "env": outer.seconds if base is env else inner.seconds,
                "transforms": 0.0 if base is env else outer.seconds - inner.seconds,
                "stacking": whole.seconds - policy.seconds - outer.seconds,
            }


@contextmanager
def profiled_workers(collector: MultiCollector) -> Iterator[Profile]:
    """Measure a collector and its workers for the length of a ``with`` block."""
    profile, pool = Profile(), collector._pool
    whole, waiting = Stopwatch(), Stopwatch()
    with collector._between_batches():
        pool.call_all("start_profile")
    with whole.on(collector, "rollout"), waiting.on(pool, "wait"):
        yield profile
    with collector._between_batches():
        profile.workers = pool.call_all("stop_profile")
    profile.seconds = {"waiting": waiting.seconds, "stacking": whole.seconds - waiting.seconds}
