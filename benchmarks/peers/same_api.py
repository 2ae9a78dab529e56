"""Another library with this API, for :mod:`peers.beside`: run by the Python of its environment.

python same_api.py
"""

from __future__ import annotations

import sys
import time
import warnings

import torch
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn

from torchrl.collectors import Collector
from torchrl.envs import Compose, GymEnv, RewardSum, StepCounter, TransformedEnv
from torchrl.modules import ProbabilisticActor, TanhNormal


def pendulum(frames: int) -> Collector:
    """Return a collector: tanh-normal actor, log-probabilities, two transforms."""
    torch.manual_seed(0)
    env = TransformedEnv(GymEnv("Pendulum-v1"), Compose(StepCounter(), RewardSum()))
    network = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    actor = ProbabilisticActor(
        TensorDictModule(nn.Sequential(network, NormalParamExtractor()), ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=env.action_spec,
        distribution_class=TanhNormal,
        distribution_kwargs={"low": -2.0, "high": 2.0},
        return_log_prob=True,
    )
    return Collector(env, actor, frames_per_batch=frames, total_frames=-1)


def main() -> None:
    """Collect a batch for each line of the input, the first of which says how large; time it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    frames = int(sys.stdin.readline())
    batches = iter(pendulum(frames))
    while True:
        start = time.process_time()
        next(batches)
        print(time.process_time() - start, flush=True)
        if not sys.stdin.readline():
            return


if __name__ == "__main__":
    main()
