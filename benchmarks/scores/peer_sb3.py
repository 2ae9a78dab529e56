"""A run of the tables of scores by Stable-Baselines3: the same settings, frames and evaluations.

Run by the Python of its own environment: python peer_sb3.py '{"algorithm": "ppo", ...}'
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecNormalize, sync_envs_normalization

EPISODES, EVALUATIONS = 100, 20
ACTIVATIONS = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}


class Evaluations(EvalCallback):
    """Counts the seconds of its evaluations, which play one episode after the other."""

    seconds = 0.0

    def _on_step(self) -> bool:
        start = time.monotonic()
        goes_on = super()._on_step()
        self.seconds += time.monotonic() - start
        return goes_on


def make(given: dict[str, Any], env: Any) -> Any:
    """Return the model with the settings of one of ours."""
    network = {"net_arch": [given["num_cells"]] * given["depth"], "activation_fn": ACTIVATIONS[given["activation"]]}
    common = {"gamma": given["gamma"], "policy_kwargs": network, "seed": given["seed"], "device": "cpu"}
    if given["algorithm"] == "ppo":
        rate = given["lr"]
        return PPO(
            "MlpPolicy",
            env,
            learning_rate=(lambda left: left * rate) if given["anneal_lr"] else rate,
            n_steps=given["frames_per_batch"] // given["num_envs"],
            batch_size=given["minibatch_size"],
            n_epochs=given["num_epochs"],
            gae_lambda=given["lmbda"],
            clip_range=given["clip_epsilon"],
            ent_coef=given["entropy_coeff"],
            vf_coef=given["critic_coeff"],
            max_grad_norm=given["max_grad_norm"],
            **common,
        )
    steps = given["frames_per_batch"] // given["num_envs"]
    common |= {
        "learning_rate": given["lr_critic"],
        "buffer_size": given["buffer_size"],
        "learning_starts": given["learning_starts"],
        "batch_size": given["batch_size"],
        "tau": given["tau"],
        "train_freq": steps,
        "gradient_steps": round(steps * given["updates_per_frame"]),
    }
    if given["algorithm"] == "sac":
        return SAC("MlpPolicy", env, **common)
    ones = np.ones(env.action_space.shape)  # noise is added to actions in [-1, 1]
    noise = NormalActionNoise(0 * ones, given["exploration_noise"] * ones)
    return TD3("MlpPolicy", env, action_noise=noise, policy_delay=given["policy_delay"], **common)


def main(text: str) -> None:
    """Train with the settings that are given as JSON; print the result as JSON."""
    given = json.loads(text)
    torch.set_num_threads(1)
    frames = given["total_frames"]
    normalise = {"norm_obs": given["normalize_observations"], "norm_reward": given["normalize_rewards"]}
    env, test = (make_vec_env(given["task"], n, seed=given["seed"] + i) for i, n in enumerate((given["num_envs"], 1)))
    if any(normalise.values()):
        env = VecNormalize(env, gamma=given["gamma"], **normalise)
        test = VecNormalize(test, training=False, norm_obs=normalise["norm_obs"], norm_reward=False)
    model = make(given, env)
    every = max(1, frames // EVALUATIONS // given["num_envs"])
    with tempfile.TemporaryDirectory() as home:
        evaluations = Evaluations(test, n_eval_episodes=10, eval_freq=every, log_path=home, verbose=0, warn=False)
        start = time.monotonic()
        model.learn(frames, callback=evaluations)
        seconds = time.monotonic() - start - evaluations.seconds
    if isinstance(test, VecNormalize):
        sync_envs_normalization(env, test)
    returns, _ = evaluate_policy(model, test, EPISODES, return_episode_rewards=True, warn=False)
    points = zip(evaluations.evaluations_timesteps, evaluations.evaluations_results, strict=True)
    result = {
        **{name: given[name] for name in ("algorithm", "task", "seed")},
        "frames": frames,
        "seconds": round(seconds, 1),
        "last": {"mean": round(float(np.mean(returns)), 2), "std": round(float(np.std(returns)), 2)},
        "evaluations": [(int(step), round(float(np.mean(found)), 2)) for step, found in points],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
