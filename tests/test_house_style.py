"""The house rules that a machine can check."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = ("torchrl", "examples", "benchmarks", "tutorials", "docs")
COPIES = (ROOT / "docs/tutorials", ROOT / "docs/_build")  # which the site makes
FILES = sorted(
    path for place in PLACES for path in (ROOT / place).rglob("*.py") if not any(map(path.is_relative_to, COPIES))
)
MAX_FILE, MAX_FUNCTION, MAX_ARGS = 800, 80, 12

# Signatures that users of the API rely on, and why they are long.
LONG_SIGNATURES = {
    "torchrl/collectors/distributed/ranks.py:DistributedCollector.__init__": "how ranks start, when weights are sent",
    "torchrl/collectors/distributed/ray.py:RayCollector.__init__": "those of workers, of actors and of weights",
    "torchrl/collectors/evaluator.py:Evaluator.__init__": "which episodes, what becomes of them",
    "torchrl/collectors/multi.py:MultiCollector.__init__": "those of one collector, and of workers",
    "torchrl/collectors/single.py:Collector.__init__": "three devices, limits, what batches become",
    "torchrl/data/replay_buffers/buffer.py:ReplayBuffer.__init__": "its parts, prefetching",
    "torchrl/data/replay_buffers/samplers/slice.py:SliceSampler.__init__": "where trajectories end",
    "torchrl/envs/batched/base.py:BatchedEnvBase.__init__": "how workers start and share",
    "torchrl/envs/stepping/rollout.py:rollout": "when to stop, what to keep, where from",
    "torchrl/modules/builders.py:make_actor": "network, distribution and initialisation",
    "torchrl/modules/builders.py:make_critic": "network, initialisation, what is valued",
    "torchrl/modules/models/conv.py:_ConvNetBase.__init__": "class and arguments of every layer",
    "torchrl/modules/models/mlp.py:MLP.__init__": "class and arguments of every layer",
    "torchrl/modules/tensordict_module/exploration.py:OrnsteinUhlenbeckProcessModule.__init__": (
        "the parameters of the process and its schedule"
    ),
    "torchrl/modules/tensordict_module/probabilistic.py:SafeProbabilisticModule.__init__": (
        "those of tensordict's module, and specs"
    ),
    "torchrl/modules/tensordict_module/rnn.py:GRUModule.__init__": "those of torch's, and keys",
    "torchrl/modules/tensordict_module/rnn.py:LSTMModule.__init__": "those of torch's, and keys",
    "torchrl/objectives/value/estimators.py:ValueEstimatorBase.__init__": (
        "what all estimators offer, beside their own"
    ),
    "torchrl/trainers/algorithms/common.py:AlgorithmTrainer.__init__": "what is logged, keys",
    "torchrl/trainers/trainer.py:Trainer.__init__": "the parts of the loop, what to keep of it",
    "torchrl/objectives/actor_critic.py:ActorCriticLoss.__init__": "coefficients of three terms",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.ClassDef | Function


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def definitions(path):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, Definition)]


def num_args(node):
    args = node.args
    named = len(args.posonlyargs) + len(args.args) + len(args.kwonlyargs)
    first = [arg.arg for arg in (*args.posonlyargs, *args.args)][:1]
    return named - (first in (["self"], ["cls"]))


def long_signatures(path):
    """Return the functions of a file that take too many arguments, as ``file:Class.method``."""
    tree = ast.parse(path.read_text())
    methods = [
        (f"{owner.name}.", node) for owner in ast.walk(tree) if isinstance(owner, ast.ClassDef) for node in owner.body
    ]
    found = [*methods, *(("", node) for node in tree.body)]
    return {
        f"{name_of(path)}:{owner}{node.name}"
        for owner, node in found
        if isinstance(node, Function) and num_args(node) > MAX_ARGS
    }


def must_be_documented(path, node):
    """Checks and benchmarks say what they do by their names, tutorials in the text around them."""
    place = name_of(path).rpartition("/")[0]
    is_public = isinstance(node, Definition) and not node.name.startswith("_")
    return is_public and place not in ("torchrl/testing", "benchmarks", "benchmarks/peers", "tutorials")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_sizes(path):
    problems = []
    if (n := len(path.read_text().splitlines())) > MAX_FILE:
        problems.append(f"file has {n} lines > {MAX_FILE}")
    for node in definitions(path):
        if isinstance(node, ast.ClassDef):
            continue
        if (n := node.end_lineno - node.lineno + 1) > MAX_FUNCTION:
            problems.append(f"{node.name} has {n} lines > {MAX_FUNCTION}")
    assert not problems, "; ".join(problems)


def test_signatures_are_short_or_listed():
    found = set().union(*map(long_signatures, FILES))
    assert found == set(LONG_SIGNATURES)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_docstrings(path):
    text = path.read_text()
    tree = ast.parse(text)
    missing = [node.name for node in tree.body if must_be_documented(path, node) and not ast.get_docstring(node)]
    assert text.startswith(('"""', 'r"""')), "the first line is not a docstring"
    assert len(ast.get_docstring(tree) or "") > 10, "the module's docstring says nothing"
    assert not missing, f"no docstring: {missing}"
