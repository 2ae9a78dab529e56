"""Environments in plain torch."""

from torchrl.envs.custom.cartpole import CartPoleEnv
from torchrl.envs.custom.pendulum import PendulumEnv
from torchrl.envs.custom.tictactoe import TicTacToeEnv

__all__ = ["CartPoleEnv", "PendulumEnv", "TicTacToeEnv"]
