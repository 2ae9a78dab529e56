"""PPO on CartPole as one writes it without a library: the floor of :mod:`whole_loop`."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn
from torch.nn.functional import mse_loss


def network(outputs: int) -> nn.Sequential:
    """Return 64 x 64 tanh units on the four observations."""
    layers = [nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)]
    return nn.Sequential(*layers)


class PPOByHand:
    """Knows the environment, the networks and the shapes; checks and reports nothing.

    Args:
        num_envs: Number of environments ``N``.
        steps: Steps of each in a batch, ``T``.
        epochs: How often a batch is gone through.
        minibatches: In how many parts.
    """

    def __init__(self, num_envs: int, steps: int, epochs: int, minibatches: int) -> None:
        torch.manual_seed(0)
        makers = [lambda: gymnasium.make("CartPole-v1")] * num_envs
        self.env = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
        self.observation, _ = self.env.reset(seed=0)
        self.shape, self.epochs = (steps, num_envs), epochs
        self.size = steps * num_envs // minibatches
        self.actor, self.critic = network(2), network(1)
        self.parameters = [*self.actor.parameters(), *self.critic.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=3e-4, eps=1e-5)

    def train(self, frames: int) -> None:
        """Collect and learn, batch after batch."""
        for _ in range(frames // (self.shape[0] * self.shape[1])):
            columns = self.collect()
            for _ in range(self.epochs):
                for rows in torch.randperm(len(columns[0])).split(self.size):
                    self.update(*(column[rows] for column in columns))

    @torch.no_grad()
    def collect(self) -> list[Tensor]:
        """Return observation, action, its log-probability, advantage, return: ``[T * N]`` each."""
        observation = np.empty((*self.shape, 4), np.float32)
        after = np.empty_like(observation)
        action = np.empty(self.shape, np.int64)
        score, reward = np.empty(self.shape, np.float32), np.empty(self.shape, np.float32)
        terminated, done = np.empty(self.shape, bool), np.empty(self.shape, bool)
        for t in range(self.shape[0]):
            observation[t] = self.observation
            log_probs = self.actor(torch.from_numpy(observation[t])).log_softmax(-1)
            chosen = (log_probs.exp() / torch.empty_like(log_probs).exponential_()).argmax(-1, True)
            score[t] = log_probs.gather(-1, chosen).squeeze(-1).numpy()
            action[t] = chosen.squeeze(-1).numpy()
            self.observation, reward[t], terminated[t], truncated, info = self.env.step(action[t])
            done[t], after[t] = terminated[t] | truncated, self.observation
            for row in np.flatnonzero(done[t]):
                after[t, row] = info["final_obs"][row]
        value = self.critic(torch.from_numpy(observation)).squeeze(-1).numpy()
        following = self.critic(torch.from_numpy(after)).squeeze(-1).numpy()
        advantage = self.advantage(reward, value, following, terminated, done)
        columns = [action, score, advantage, advantage + value]
        flat = [torch.from_numpy(column).flatten() for column in columns]
        return [torch.from_numpy(observation).flatten(0, 1), *flat]

    @staticmethod
    def advantage(
        reward: np.ndarray, value: np.ndarray, following: np.ndarray, terminated: np.ndarray, done: np.ndarray
    ) -> np.ndarray:
        """Return generalised advantages ``[T, N]``."""
        error = reward + 0.99 * ~terminated * following - value
        decay = (0.99 * 0.95) * ~done
        advantage, last = np.empty_like(value), np.zeros_like(value[0])
        for t in range(len(value) - 1, -1, -1):
            advantage[t] = last = error[t] + decay[t] * last
        return advantage

    def update(self, observation: Tensor, action: Tensor, score: Tensor, advantage: Tensor, goal: Tensor) -> None:
        """Take one step of Adam."""
        advantage = (advantage - advantage.mean()) / advantage.std()
        log_probs = self.actor(observation).log_softmax(-1)
        ratio = (log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1) - score).exp()
        gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        error = mse_loss(self.critic(observation).squeeze(-1), goal)
        self.optimizer.zero_grad()
        (0.5 * error - gain.mean()).backward()
        nn.utils.clip_grad_norm_(self.parameters, 0.5)
        self.optimizer.step()
