"""Private attributes of torch and tensordict are used in one file, ``torch_private.py``."""

import ast
from pathlib import Path

import tensordict
import tensordict.nn
import torch
from tensordict import TensorDict, TensorDictParams
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from tensordict.nn.distributions import Delta
from torch import nn
from torch.autograd import profiler
from torch.nn.modules import module

SOURCE = Path(__file__).parents[3] / "torchrl"
ALLOWED = "_core/records/torch_private.py"
# Files that still have some; this list only shrinks.
KNOWN = {"data/replay_buffers/storages/schema.py", "testing/networks.py"}
# Of torch and of ours: an access is counted unless it is to an attribute of ``self``.
SHARED = {"_buffers", "_modules", "_parameters", "_version"}
# A distribution without the constructor of its base class sets the attributes of that class.
SET_BY_US = {("modules/distributions/discrete.py", "_num_events")}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def foreign():
    """Return the private attributes of objects of torch and tensordict."""
    network = TensorDictModule(nn.Linear(1, 1), ["a"], ["param"])
    draw = ProbabilisticTensorDictModule(["param"], ["b"], distribution_class=Delta)
    objects = [
        *(torch, tensordict, tensordict.nn, profiler, module, torch.zeros(1)),
        *(nn.Linear(1, 1), nn.LSTM(1, 1), nn.Sequential(nn.Linear(1, 1))),
        *(network, draw, TensorDictSequential(network)),
        ProbabilisticTensorDictSequential(network, draw),
        *(TensorDict({}), TensorDictParams(TensorDict(a=torch.zeros(1)))),
        *(torch.distributions.Normal(0.0, 1.0), torch.distributions.Categorical(torch.ones(2))),
    ]
    return {name for item in objects for name in dir(item) if is_private(name)}


def trees():
    return {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}


def defined(tree):
    """Yield the names that a file defines or assigns to ``self``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def accesses(tree):
    """Yield line, name, and whether it is an attribute of ``self``, of private attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = node.value
            is_super = isinstance(owner, ast.Call) and getattr(owner.func, "id", "") == "super"
            is_own = is_super or (isinstance(owner, ast.Name) and owner.id in ("self", "cls"))
            yield node.lineno, node.attr, is_own
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(str(name.value)):
                yield node.lineno, name.value, False


def uses():
    """Return the uses of private attributes of torch and tensordict, by file."""
    files = trees()
    own = {name for tree in files.values() for name in defined(tree)} - SHARED
    names = foreign() - own
    found = {}
    for file, tree in files.items():
        for line, name, is_own in accesses(tree):
            if name not in names or (is_own and name in SHARED) or (file, name) in SET_BY_US:
                continue
            if file != ALLOWED:
                found.setdefault(file, []).append(f"{file}:{line}: {name}")
    return found


def test_private_attributes_are_used_in_one_file():
    problems = [line for file, lines in uses().items() if file not in KNOWN for line in lines]
    assert not problems, "\n".join(problems)


def test_planted_uses_are_found():
    tree = ast.parse("x._foreach_lerp_; self._buffers; getattr(x, '_kwargs')")
    assert list(accesses(tree)) == [(1, "_foreach_lerp_", False), (1, "_buffers", True), (1, "_kwargs", False)]
    assert {"_foreach_lerp_", "_buffers", "_flat_weights", "_param_td"} <= foreign()
