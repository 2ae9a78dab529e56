"""Invertible maps that keep large values within reach of a network."""

from torchrl._core.math import signed_hyperbolic, signed_parabolic, symexp, symlog

__all__ = ["signed_hyperbolic", "signed_parabolic", "symexp", "symlog"]
