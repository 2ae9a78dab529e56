"""Targets are normalised, and the network goes on saying what it said."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from torchrl._core.errors import ShapeError
from torchrl.envs import PopArt, TransformedEnv
from torchrl.testing.transform import World


def batch(mean, size=64):
    targets = mean + 10 * torch.randn(size, 1, dtype=torch.float64)
    return TensorDict(value_target=targets, batch_size=[size])


def test_statistics_are_weighted_moments_of_the_batches():
    beta, popart = 0.2, PopArt(["value_target"], beta=0.2)
    weights, means, squares = [], [], []
    for t in range(5):
        data = batch(100.0 * t)
        targets = data["value_target"].clone()
        out = popart(data)["value_target"]
        weights = [w * (1 - beta) for w in weights] + [beta]
        means.append(targets.mean())
        squares.append(targets.square().mean())
        total = sum(weights)
        mean = sum(w * m for w, m in zip(weights, means, strict=True)) / total
        square = sum(w * s for w, s in zip(weights, squares, strict=True)) / total
        deviation = (square - mean**2).sqrt()
        torch.testing.assert_close(out, (targets - mean) / deviation)
        torch.testing.assert_close(popart.denormalize(out), targets)


def test_the_network_says_what_it_said():
    layer, x = nn.Linear(3, 1).double(), torch.randn(5, 3, dtype=torch.float64)
    popart = PopArt(["value_target"], layer, beta=0.5)
    before = popart.denormalize(layer(x))
    for mean in (1000.0, -3.0, 0.0):
        popart(batch(mean))
        torch.testing.assert_close(popart.denormalize(layer(x)), before)
    assert not any("layer" in name for name, _ in popart.named_parameters())


def test_it_stands_still_in_evaluation_and_comes_back():
    popart = PopArt(["value_target"], beta=0.5)
    popart(batch(50.0))
    popart.eval()
    loc = popart.loc.clone()
    popart(batch(0.0))
    assert torch.equal(popart.loc, loc)
    other = PopArt(["value_target"])
    other.load_state_dict(popart.state_dict())
    data = batch(0.0)
    assert torch.equal(other.eval()(data.clone())["value_target"], popart(data)["value_target"])


def test_what_is_refused():
    for layer in (nn.Linear(2, 3), nn.Linear(2, 1, bias=False)):
        with pytest.raises(ShapeError, match="a layer of one output, with a bias"):
            PopArt(["x"], layer)
    with pytest.raises(ValueError, match="beta must be above 0"):
        PopArt(["x"], beta=0.0)
    with pytest.raises(ValueError, match="append it to a replay buffer"):
        TransformedEnv(World(), PopArt(["observation"]))
