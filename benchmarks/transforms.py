"""What four transforms add to the cost of random steps, as a ratio; process time, one thread.

python benchmarks/transforms.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import gymnasium
import torch
from keep import Row, keep

from torchrl.envs import (
    Compose,
    DoubleToFloat,
    EnvBase,
    GymEnv,
    GymWrapper,
    ObservationNorm,
    RewardSum,
    StepCounter,
    TransformedEnv,
)

STEPS = 200
TARGETS = {"one CartPole": 0.25, "eight CartPoles": 0.15}


def one() -> EnvBase:
    """Return one CartPole."""
    return GymEnv("CartPole-v1")


def eight() -> EnvBase:
    """Return eight CartPoles that step together."""
    options = {"autoreset_mode": "Disabled"}
    return GymWrapper(gymnasium.make_vec("CartPole-v1", 8, vectorization_mode="sync", vector_kwargs=options))


def with_transforms(env: EnvBase) -> EnvBase:
    """Return the environment seen through the four transforms that everybody uses."""
    norm = ObservationNorm(0.0, 1.0, in_keys=["observation"])
    return TransformedEnv(env, Compose(StepCounter(), RewardSum(), norm, DoubleToFloat()))


def seconds(env: EnvBase) -> float:
    """Return the processor time of a random rollout."""
    start = time.process_time()
    env.rollout(STEPS, break_when_any_done=False)
    return time.process_time() - start


def added(make: Callable[[], EnvBase], repeat: int = 25) -> tuple[float, float, float]:
    """Return seconds a step without and with the transforms, and the ratio of what they add.

    The two are measured in turns, so that a busy machine slows both.
    """
    plain, seen = make(), with_transforms(make())
    seconds(plain), seconds(seen)
    pairs = [(seconds(plain), seconds(seen)) for _ in range(repeat)]
    ratio = statistics.median(b / a for a, b in pairs) - 1
    return min(a for a, _ in pairs) / STEPS, min(b for _, b in pairs) / STEPS, ratio


def main() -> None:
    """Print a table."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name, make in (("one CartPole", one), ("eight CartPoles", eight)):
        plain, seen, ratio = added(make)
        print(
            f"{name:16} {plain * 1e6:7.1f} us a step, with transforms {seen * 1e6:7.1f} us: "
            f"{ratio:+.0%} (target {TARGETS[name]:+.0%})"
        )
        rows.append({"random steps": name, "us": plain * 1e6, "with transforms": seen * 1e6, "ratio": 1 + ratio})
    keep("transforms", rows)


if __name__ == "__main__":
    main()
