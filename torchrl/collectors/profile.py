"""Where the time of a collector goes."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torchrl.collectors.recipes import layers
from torchrl.envs.rollout import PreparedPolicy

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


class Stopwatch:
    """Adds up how long calls take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function``, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return timed

    def on_policy(self, prepared: PreparedPolicy) -> PreparedPolicy:
        """Return a policy, timed."""
        prepared = copy.copy(prepared)
        if prepared.on_entries is not None:
            prepared.on_entries = self.around(prepared.on_entries)
        prepared.on_tensordict = self.around(prepared.on_tensordict)
        return prepared

    @contextmanager
    def on(self, owner: Any, *methods: str) -> Iterator[None]:
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
    profile, crew = Profile(), collector._crew
    whole, waiting = Stopwatch(), Stopwatch()
    with collector._between_batches():
        crew.call_all("start_profile")
    with whole.on(collector, "rollout"), waiting.on(crew, "wait"):
        yield profile
    with collector._between_batches():
        profile.workers = crew.call_all("stop_profile")
    profile.seconds = {"waiting": waiting.seconds, "stacking": whole.seconds - waiting.seconds}
