"""The library stays small and typed: each measure may shrink, and its limit with it.

``python tests/test_code_measures.py`` prints the measures.
"""

import functools
import re
import sys
from pathlib import Path

import pytest
from tensordict.nn import TensorDictModule

from torchrl.envs import CartPoleEnv
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor, QValueActor, ValueOperator
from torchrl.objectives import ClipPPOLoss, DQNLoss
from torchrl.objectives.value import GAE

SOURCE = Path(__file__).parents[1] / "torchrl"
# What was reached; to become 300, 58 000 and 20.
LIMITS = {"files": 412, "lines": 90_250, "Any per 1000 lines": 20}


@functools.cache
def measures():
    """Return the number of files and lines, and how often ``Any`` is written in 1000 lines."""
    texts = [path.read_text() for path in SOURCE.rglob("*.py")]
    lines = sum(len(text.splitlines()) for text in texts)
    found = sum(len(re.findall(r"\bAny\b", text)) for text in texts)
    return {"files": len(texts), "lines": lines, "Any per 1000 lines": 1000 * found / lines}


@pytest.mark.parametrize("name", LIMITS)
def test_measures_do_not_grow(name):
    assert measures()[name] <= LIMITS[name]


# Files and functions that one call of a loss passes through: what a reader of it must open.
PATHS = {"DQNLoss": (8, 30), "ClipPPOLoss": (9, 35)}


def path_of(call):
    """Return how many files and functions of the library a call passes through, after two calls before it."""
    found = set()

    def profile(frame, event, arg):
        if event == "call" and frame.f_code.co_filename.startswith(f"{SOURCE}/"):
            found.add((frame.f_code.co_filename, frame.f_code.co_qualname))

    call(), call()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return len({file for file, _ in found}), len(found)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="code has no qualified names")
@pytest.mark.parametrize("name", PATHS)
def test_a_loss_is_read_in_a_few_files(name):
    env = CartPoleEnv()
    if name == "DQNLoss":
        loss = DQNLoss(QValueActor(MLP(4, 2, num_cells=[64]), spec=env.action_spec), delay_value=False)
        batch = env.rollout(30, break_when_any_done=False)
    else:
        logits = TensorDictModule(MLP(4, 2, num_cells=[64]), ["observation"], ["logits"])
        options = {"distribution_class": OneHotCategorical, "return_log_prob": True}
        actor = ProbabilisticActor(logits, ["logits"], spec=env.action_spec, **options)
        critic = ValueOperator(MLP(4, 1, num_cells=[64]))
        loss = ClipPPOLoss(actor, critic)
        batch = env.rollout(30, actor, break_when_any_done=False).detach()
        GAE(gamma=0.99, lmbda=0.95, value_network=critic)(batch)
    files, functions = path_of(lambda: loss(batch))
    assert files <= PATHS[name][0]
    assert functions <= PATHS[name][1]


if __name__ == "__main__":
    for name, value in measures().items():
        print(f"{name}: {value:.1f}, limit {LIMITS[name]}")
