"""Stable-Baselines3, for :mod:`peers.beside`: run by the Python of its own environment.

python sb3.py ppo|sac
"""

from __future__ import annotations

import sys
import time

import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env


def main(name: str) -> None:
    """Train for as many frames as each line of the input says; answer with the seconds."""
    torch.set_num_threads(1)
    if name == "ppo":
        env = make_vec_env("CartPole-v1", 8, seed=0)
        model = PPO("MlpPolicy", env, n_steps=128, batch_size=256, n_epochs=4, device="cpu", seed=0)
    else:
        model = SAC("MlpPolicy", "Pendulum-v1", learning_starts=100, device="cpu", seed=0)
        model.learn(100)
    for line in sys.stdin:
        start = time.process_time()
        model.learn(int(line), reset_num_timesteps=False)
        print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
