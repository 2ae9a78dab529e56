"""The house rules that a machine can check."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = ("torchrl", "examples", "benchmarks", "tutorials", "docs")
FILES = sorted(path for place in PLACES for path in (ROOT / place).rglob("*.py"))
MAX_FILE, MAX_CLASS, MAX_FUNCTION, MAX_ARGS = 600, 400, 80, 12

# Signatures that users of the API rely on, by file and function, with the reason.
LONG_SIGNATURES = {
    ("torchrl/modules/models/mlp.py", "__init__"): "MLP: every layer's class and arguments",
    ("torchrl/modules/models/conv.py", "__init__"): "ConvNet: every layer's class and arguments",
    ("torchrl/modules/tensordict_module/probabilistic.py", "__init__"): "options of a draw",
    ("torchrl/modules/tensordict_module/exploration.py", "__init__"): "OU: the process, two decays",
    ("torchrl/envs/common.py", "rollout"): "EnvBase.rollout: the options of a rollout",
    ("torchrl/collectors/single.py", "__init__"): "Collector: environment, policy, batch, devices",
    ("torchrl/objectives/ppo.py", "__init__"): "PPOLoss: the coefficients of its three terms",
    ("torchrl/objectives/value/gae.py", "__init__"): "GAE: estimator options",
}

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def definitions(path):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, Definition)]


def num_args(node):
    args = node.args
    named = len(args.posonlyargs) + len(args.args) + len(args.kwonlyargs)
    first = [arg.arg for arg in (*args.posonlyargs, *args.args)][:1]
    return named - (first in (["self"], ["cls"]))


def is_documented_elsewhere(node):
    """Magic methods, hooks and overloads are documented by their class, base and implementation."""
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    return node.name.startswith("_") or bool(decorators & {"overload", "typing.overload"})


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_sizes(path):
    problems = []
    if (n := len(path.read_text().splitlines())) > MAX_FILE:
        problems.append(f"file has {n} lines > {MAX_FILE}")
    for node in definitions(path):
        limit = MAX_CLASS if isinstance(node, ast.ClassDef) else MAX_FUNCTION
        if (n := node.end_lineno - node.lineno + 1) > limit:
            problems.append(f"{node.name} has {n} lines > {limit}")
    assert not problems, "; ".join(problems)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_arguments(path):
    problems = [
        f"{node.name} takes {num_args(node)} arguments > {MAX_ARGS}"
        for node in definitions(path)
        if not isinstance(node, ast.ClassDef)
        and num_args(node) > MAX_ARGS
        and (name_of(path), node.name) not in LONG_SIGNATURES
    ]
    assert not problems, "; ".join(problems)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_docstrings(path):
    text = path.read_text()
    tree = ast.parse(text)
    missing = [
        node.name
        for node in tree.body
        if isinstance(node, Definition)
        and not is_documented_elsewhere(node)
        and not ast.get_docstring(node)
    ]
    assert text.startswith(('"""', 'r"""')), "the first line is not a docstring"
    assert len(ast.get_docstring(tree) or "") > 10, "the module's docstring says nothing"
    assert not missing, f"no docstring: {missing}"


def test_every_exception_is_needed():
    found = {
        (name_of(path), node.name)
        for path in FILES
        for node in definitions(path)
        if not isinstance(node, ast.ClassDef) and num_args(node) > MAX_ARGS
    }
    assert set(LONG_SIGNATURES) <= found
