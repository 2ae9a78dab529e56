"""Errors: typed, caught as what they are, with a message that reads as a sentence."""

import pickle

import pytest

from torchrl._core import errors
from torchrl._core.errors import TorchRLError, describe, nearest

KINDS = [
    (errors.MissingKeyError, KeyError),
    (errors.UnexpectedKeyError, KeyError),
    (errors.CountError, ValueError),
    (errors.CountError, RuntimeError),
    (errors.MissingFlagError, RuntimeError),
    (errors.ShapeError, ValueError),
    (errors.DTypeError, TypeError),
    (errors.SpecError, ValueError),
    (errors.SpecError, AssertionError),
    (errors.SpecShapeError, errors.ShapeError),
    (errors.SpecDTypeError, errors.DTypeError),
    (errors.SpecKeyError, errors.MissingKeyError),
    (errors.ShapeRuntimeError, RuntimeError),
    (errors.ShapeIndexError, IndexError),
    (errors.StackError, RuntimeError),
    (errors.MissingSpecError, RuntimeError),
    (errors.BatchSizeError, RuntimeError),
    (errors.ResetError, RuntimeError),
    (errors.SimulatorStateError, RuntimeError),
    (errors.WorkerError, RuntimeError),
    (errors.DeviceError, RuntimeError),
    (errors.DamagedFileError, RuntimeError),
    (errors.UntrustedFileError, RuntimeError),
]


def test_every_error_is_listed_here():
    defined = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, TorchRLError)}
    assert defined == {ours for ours, _ in KINDS} | {TorchRLError}


@pytest.mark.parametrize(("ours", "builtin"), KINDS)
def test_is_caught_as_ours_and_as_the_builtin(ours, builtin):
    for kind in (TorchRLError, builtin):
        with pytest.raises(kind, match=r"^a plain message$"):
            raise ours("a plain message")


@pytest.mark.parametrize(("ours", "builtin"), KINDS)
def test_travels_between_processes(ours, builtin):
    error = pickle.loads(pickle.dumps(ours("a plain message")))
    assert type(error) is ours
    assert str(error) == "a plain message"


class Reader:
    pass


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "Reader: is broken."),
        ({"key": "a"}, "Reader: entry 'a' is broken."),
        ({"key": ("next", "a")}, "Reader: entry ('next', 'a') is broken."),
        ({"expected": 1}, "Reader: is broken; expected 1."),
        ({"found": 0}, "Reader: is broken; found 0."),
        ({"expected": False, "found": ""}, "Reader: is broken; expected False, found ."),
        ({"hint": "Fix it."}, "Reader: is broken. Fix it."),
        (
            {"key": "a", "expected": [1], "found": [2], "hint": "Reshape it."},
            "Reader: entry 'a' is broken; expected [1], found [2]. Reshape it.",
        ),
    ],
)
def test_describe_leaves_out_what_is_not_given(parts, message):
    assert describe(Reader(), "is broken", **parts) == message
    assert describe("Reader", "is broken", **parts) == message


@pytest.mark.parametrize(
    ("name", "names", "sentence"),
    [
        ("acton", ["observation", "action"], "Did you mean 'action'?"),
        (("next", "rewrd"), [("next", "reward")], "Did you mean ('next', 'reward')?"),
        ("action", ["observation"], ""),
        ("action", [], ""),
    ],
)
def test_nearest_helps_or_is_silent(name, names, sentence):
    assert nearest(name, names) == sentence
