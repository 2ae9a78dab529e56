"""Scalar mathematics: distances, squashings and their inverses, two-hot codes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchrl._core import math as m
from torchrl._core.errors import ShapeError
from torchrl.objectives import distance_loss

numbers = st.floats(-1e3, 1e3, allow_nan=False, width=32)
BINS = torch.tensor([-4.0, -1.0, 0.0, 0.5, 3.0], dtype=torch.float64)


@given(numbers)
def test_squashings_have_inverses(x):
    x = torch.tensor(x, dtype=torch.float64)
    torch.testing.assert_close(m.symexp(m.symlog(x)), x, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(m.symlog(m.symexp(x / 100)), x / 100, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(m.signed_parabolic(m.signed_hyperbolic(x)), x, atol=1e-5, rtol=1e-5)


def test_squashings_are_odd_and_rise():
    x = torch.linspace(-50, 50, 101)
    for function in (m.symlog, m.symexp, m.signed_hyperbolic, m.signed_parabolic):
        y = function(x / 10)
        torch.testing.assert_close(y, -y.flip(0))
        assert (y.diff() > 0).all()


@given(st.lists(numbers, min_size=1, max_size=5))
def test_two_hot_codes_have_the_number_as_their_mean(xs):
    x = torch.tensor(xs, dtype=torch.float64)
    code = m.two_hot_encode(x, BINS)
    torch.testing.assert_close(code.sum(-1), torch.ones_like(x))
    assert (code >= 0).all()
    assert ((code > 0).sum(-1) <= 2).all()
    torch.testing.assert_close((code * BINS).sum(-1), x.clamp(-4, 3))


def test_two_hot_decoding_and_loss():
    x = torch.tensor([-2.0, 0.25, 3.0], dtype=torch.float64)
    logits = (m.two_hot_encode(x, BINS) + 1e-12).log()
    torch.testing.assert_close(m.two_hot_decode(logits, BINS), x, atol=1e-6, rtol=1e-6)
    code = m.two_hot_encode(x, BINS)
    entropy = torch.special.entr(code).sum(-1)
    torch.testing.assert_close(m.two_hot_cross_entropy(logits, x, BINS), entropy)


def test_distances():
    a, b = torch.tensor([0.0, 3.0, -0.5]), torch.tensor([1.0, 1.0, 0.0])
    assert distance_loss(a, b, "l1").tolist() == [1.0, 2.0, 0.5]
    assert distance_loss(a, b, "l2").tolist() == [1.0, 4.0, 0.25]
    assert distance_loss(a, b, "smooth_l1").tolist() == [0.5, 1.5, 0.125]
    assert distance_loss(a, b.unsqueeze(-1), "l1", strict_shape=False).tolist() == [1, 2, 0.5]
    with pytest.raises(ShapeError, match=r"distance_loss.*expected \[3\], found \[3, 1\]"):
        distance_loss(a, b.unsqueeze(-1), "l1")
    with pytest.raises(ValueError, match=r"one of \['l1', 'l2', 'smooth_l1'\], found 'huber'"):
        distance_loss(a, b, "huber")
