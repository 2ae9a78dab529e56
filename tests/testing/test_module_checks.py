"""Contract checks of modules and exploration modules pass for ours and find planted faults."""

import re

import pytest
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential

from torchrl._core.errors import MissingKeyError
from torchrl.data import Bounded, Categorical, OneHot
from torchrl.envs import GymEnv
from torchrl.modules import (
    AdditiveGaussianModule,
    EGreedyModule,
    ExplorationModule,
    OrnsteinUhlenbeckProcessModule,
    SafeModule,
)
from torchrl.testing import ContractError, check_exploration, check_module

BOX = Bounded(-1, 1, (3,))
FLAG = {"is_init": lambda batch: torch.zeros(*batch, 1, dtype=torch.bool)}
MASK = {"mask": lambda batch: torch.ones(*batch, 4, dtype=torch.bool)}
EXPLORATION = {
    "one-hot": (lambda: EGreedyModule(OneHot(4)), {}),
    "categorical": (lambda: EGreedyModule(Categorical(4)), {}),
    "masked": (lambda: EGreedyModule(OneHot(4), action_mask_key="mask"), MASK),
    "Gaussian": (lambda: AdditiveGaussianModule(BOX), {}),
    "correlated": (lambda: OrnsteinUhlenbeckProcessModule(BOX, sigma=5.0), FLAG),
}


@pytest.mark.parametrize("name", EXPLORATION)
def test_exploration_modules_pass(name):
    make, extra = EXPLORATION[name]
    check_exploration(make, extra=extra)


def test_every_exploration_module_is_checked():
    checked = {type(make()) for make, _ in EXPLORATION.values()}
    kinds = set(ExplorationModule.__subclasses__())
    assert {kind for kind in kinds if kind.__module__.startswith("torchrl.")} == checked


class Sticky(ExplorationModule):
    """Repeats, with a probability, the action of the call before."""

    def __init__(self):
        super().__init__(BOX, "action")
        self.last = None

    def _explore(self, td):
        action = td.get("action")
        if self.last is not None and self.last.shape == action.shape:
            action = torch.where(torch.rand(*td.batch_size, 1) < 0.5, self.last, action)
        self.last = action
        td.set("action", action)


class Decayed(ExplorationModule):
    """Adds noise whose width each call multiplies."""

    def __init__(self):
        super().__init__(BOX, "action")
        self.register_buffer("width", torch.tensor(0.5))

    def _explore(self, td):
        action = td.get("action")
        td.set("action", self.action_spec.project(action + self.width * torch.randn_like(action)))
        self.width *= 0.99


@pytest.mark.parametrize("kind", [Sticky, Decayed])
def test_exploration_modules_that_keep_something_between_calls_pass(kind):
    check_exploration(kind)


class Always(ExplorationModule):
    """Adds noise under every exploration type, and leaves the spec."""

    def __init__(self):
        super().__init__(BOX, "action")

    def _explore(self, td):
        td.set("action", td.get("action") + 10 * torch.randn_like(td.get("action")))

    def _run(self, td):
        self._explore(td)


def test_planted_faults_of_exploration_are_found():
    with pytest.raises(ContractError) as caught:
        check_exploration(Always)
    assert list(caught.value.failed) == ["explores_only_under_random", "actions_stay_in_their_spec"]


def linear():
    return SafeModule(torch.nn.Linear(3, 2), ["observation"], ["hidden"])


def test_modules_pass():
    check_module(linear, {"observation": (3,)}, {"hidden": (2,)}, differentiable=("hidden",))


def test_planted_faults_of_modules_are_found():
    with pytest.raises(ContractError) as caught:
        check_module(linear, {"observation": (3,)}, {"hidden": (4,)}, compiles=False)
    assert list(caught.value.failed) == ["keys_and_shapes"]

    def make():
        return TensorDictModule(lambda x: torch.zeros(2), ["observation"], ["hidden"])

    with pytest.raises(ContractError) as caught:
        check_module(make, {"observation": (3,)}, {"hidden": (2,)}, compiles=False)
    assert "keys_and_shapes" in caught.value.failed
    assert "every_in_key_is_needed" in caught.value.failed


class Correlated(ExplorationModule):
    """Adds noise that is correlated in time, kept in the record, and restarts in each episode."""

    def __init__(self, width=0.5):
        super().__init__(BOX, "action")
        self.register_buffer("width", torch.tensor(width))
        self.in_keys, self.out_keys = ["action", "is_init"], ["action", "_noise"]

    def _last(self, td, action):
        last = td.get("_noise", None)
        last = torch.zeros_like(action) if last is None else last
        return torch.where(td.get("is_init"), 0.0, last)

    def _keep(self, td, noise):
        td.set("_noise", noise)

    def _drawn(self, action):
        return torch.randn_like(action)

    def _explore(self, td):
        action = td.get("action")
        noise = 0.9 * self._last(td, action) + self.width * self._drawn(action)
        self._keep(td, noise)
        td.set("action", self.action_spec.project(action + noise))

    def step(self, frames=1):
        self.width.mul_(0.99**frames)


class NeverRestarts(Correlated):
    def _last(self, td, action):
        last = td.get("_noise", None)
        return torch.zeros_like(action) if last is None else last


class InAnAttribute(Correlated):
    """Keeps the noise in an attribute of the module."""

    noise = None

    def _last(self, td, action):
        last = self.noise if self.noise is not None and self.noise.shape == action.shape else torch.zeros_like(action)
        return torch.where(td.get("is_init"), 0.0, last)

    def _keep(self, td, noise):
        self.noise = noise


class OneDraw(Correlated):
    def _drawn(self, action):
        return torch.randn(3).expand_as(action)


class OneDrawAlone(ExplorationModule):
    """Adds one draw to the actions of all rows, without a state."""

    def __init__(self):
        super().__init__(BOX, "action")

    def _explore(self, td):
        action = td.get("action")
        td.set("action", self.action_spec.project(action + 0.1 * torch.randn(3)))


class UnregisteredWidth(Correlated):
    def __init__(self):
        super().__init__()
        self.scale = 1.0

    def step(self, frames=1):
        self.scale *= 0.99**frames


def test_noise_that_is_kept_in_the_record_passes():
    check_exploration(Correlated, extra=FLAG)


@pytest.mark.parametrize(
    ("kind", "check", "words"),
    [
        (NeverRestarts, "restarts_where_is_init", r"start again there, as in torch\.where\(td\['is_init'\]"),
        (InAnAttribute, "state_is_in_the_record", r"td\.set\(key, value\), name it in out_keys"),
        (OneDraw, "rows_are_drawn_alone", r"draw for each"),
        (OneDrawAlone, "rows_are_drawn_alone", r"draw for each"),
        (UnregisteredWidth, "annealing", r"self\.register_buffer"),
    ],
)
def test_planted_faults_of_noise_are_found_with_a_remedy(kind, check, words):
    with pytest.raises(ContractError) as caught:
        check_exploration(kind, extra=FLAG if "is_init" in kind().in_keys else None)
    assert list(caught.value.failed) == [check]
    assert re.search(words, str(caught.value.failed[check]))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ((["action"], ["action", "_noise"]), r"\['is_init'\] are in extra, but not among in_keys"),
        ((["action", "is_init"], ["action"]), r"\['_noise'\] are written, but not among out_keys"),
    ],
)
def test_keys_that_are_not_declared_are_found(keys, words):
    def make():
        module = Correlated()
        module.in_keys, module.out_keys = keys
        return module

    with pytest.raises(ContractError) as caught:
        check_exploration(make, extra=FLAG)
    assert re.search(words, str(caught.value.failed["keys_are_declared"]))


class ReadsWithoutAskingForIt(Correlated):
    def _last(self, td, action):
        return torch.where(td["is_init"], 0.0, td["_noise"])


def test_an_absent_entry_is_an_error_that_names_extra():
    with pytest.raises(ContractError, match=r"is_init.*extra=\{key: lambda batch"):
        check_exploration(ReadsWithoutAskingForIt)
    with pytest.raises(ContractError, match=r"_noise.*td\.get\(key, None\)"):
        check_exploration(ReadsWithoutAskingForIt, extra=FLAG)


class OftenRepeated(ExplorationModule):
    """Repeats the action of the step before with probability one half."""

    def __init__(self, spec):
        super().__init__(spec, "action")
        self.in_keys, self.out_keys = ["action", "is_init"], ["action", "_last_action"]

    def _explore(self, td):
        action, last = td.get("action"), td.get("_last_action", None)
        if last is not None:
            first = td.get("is_init").squeeze(-1)
            repeats = (torch.rand(first.shape) < 0.5) & ~first
            repeats = repeats.reshape(*first.shape, *[1] * self.action_spec.ndim)
            td.set("action", torch.where(repeats, last, action))
        td.set("_last_action", td.get("action"))


@pytest.mark.parametrize(
    "spec", [Bounded(-1, 1, (3,)), Categorical(4), OneHot(4)], ids=["bounded", "number", "one-hot"]
)
def test_exploration_that_changes_nothing_at_the_first_step_passes(spec):
    check_exploration(lambda: OftenRepeated(spec), extra=FLAG)


def test_a_missing_first_step_is_named_with_its_remedy():
    policy = TensorDictSequential(
        TensorDictModule(torch.nn.Linear(3, 1), ["observation"], ["action"]), OftenRepeated(Bounded(-1, 1, (1,)))
    )
    with pytest.raises(MissingKeyError, match=r"OftenRepeated: entry 'is_init'.*InitTracker\(\)"):
        GymEnv("Pendulum-v1").rollout(3, policy)
