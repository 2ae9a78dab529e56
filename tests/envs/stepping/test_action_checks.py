"""The first action of a policy is held to its spec, and contradicting flags end the episode."""

import re
import warnings

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import TorchRLError
from torchrl.collectors import Collector
from torchrl.data import Binary, Bounded, Categorical, Composite, MultiCategorical, MultiOneHot, OneHot, Unbounded
from torchrl.envs import EnvBase, GymLikeEnv, SerialEnv, StepCounter, TransformedEnv, check_env_specs
from torchrl.envs.check import SpecCheckError
from torchrl.testing.env import check_hooks_leave_other_steps_alone

NAN = float("nan")


class Choose(EnvBase):
    """Takes an action of a spec, under a key."""

    def __init__(self, spec, key="action"):
        super().__init__()
        self.observation_spec = Composite(x=Unbounded((1,)))
        self.full_action_spec = Composite({key: spec})

    def _reset(self, td):
        return TensorDict(x=torch.zeros(1))

    def _step(self, td):
        return TensorDict(x=torch.ones(1), reward=torch.zeros(1), done=torch.zeros(1) > 0)

    def _set_seed(self, seed):
        pass


WRONG = {
    "none": (OneHot(2), torch.tensor([0.0, 0.0])),
    "two": (OneHot(2), torch.tensor([1, 1])),
    "nan one-hot": (OneHot(2), torch.tensor([NAN, 0.0])),
    "half": (OneHot(2), torch.tensor([0.5, 0.5])),
    "one for several": (MultiOneHot([3, 5]), torch.eye(8)[2]),
    "fraction": (Categorical(3), torch.tensor(0.5)),
    "float index": (Categorical(3), torch.tensor(1.0)),
    "too large": (Categorical(3), torch.tensor(3)),
    "negative": (Categorical(3), torch.tensor(-1)),
    "too large, several": (MultiCategorical([3, 5]), torch.tensor([3, 0])),
    "bits": (Binary(2), torch.tensor([2, 0])),
    "nan": (Bounded(-1, 1, (2,)), torch.tensor([NAN, 0.0])),
    "nan, free": (Unbounded((2,)), torch.tensor([NAN, 0.0])),
    "bfloat16": (Bounded(-1, 1, (2,)), torch.zeros(2, dtype=torch.bfloat16)),
}
RIGHT = {
    "one-hot": (OneHot(2), torch.tensor([0, 1])),
    "float one-hot": (OneHot(2), torch.tensor([0.0, 1.0])),
    "bool one-hot": (OneHot(2), torch.tensor([False, True])),
    "several": (MultiOneHot([3, 5]), torch.cat([torch.eye(3)[1], torch.eye(5)[2]])),
    "index": (Categorical(3), torch.tensor(2, dtype=torch.int32)),
    "indices": (MultiCategorical([3, 5]), torch.tensor([2, 4])),
    "numbers": (Bounded(-1, 1, (2,)), torch.ones(2)),
}


def rollout(env, policy):
    env.rollout(2, policy)


def flat_less(env, policy):
    env.rollout(2, policy, lambda *_: None)


def collect(env, policy):
    with Collector(env, policy, frames_per_batch=2, total_frames=2) as collector:
        list(collector)


def step(env, policy):
    env.step(policy(env.reset()))


def after_another(env, policy):
    env.rollout(2)
    env.rollout(2, policy)


@pytest.mark.parametrize("way", [rollout, flat_less, collect, step, after_another])
@pytest.mark.parametrize("key", ["action", ("hand", "move")])
@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_an_action_that_cannot_be_is_refused_by_its_name(case, key, way):
    spec, action = case
    name = "'action'" if key == "action" else r"\('hand', 'move'\)"
    with pytest.raises(TorchRLError, match=f"^Choose: entry {name} .* found"):
        way(Choose(spec, key), lambda td: td.set(key, action))


def test_impossible_actions_are_refused_in_batches_and_under_transforms():
    env = TransformedEnv(SerialEnv(2, lambda: Choose(OneHot(3))), StepCounter())
    with pytest.raises(TorchRLError, match=r"entry 'action' is no action"):
        env.rollout(2, lambda td: td.set("action", torch.zeros(2, 3)))


@pytest.mark.parametrize("case", RIGHT.values(), ids=RIGHT)
def test_actions_of_the_spec_are_accepted(case):
    spec, action = case
    Choose(spec).rollout(3, lambda td: td.set("action", action.clone()))


def test_an_action_out_of_bounds_is_a_warning_once():
    env = Choose(Bounded(-1, 1, (2,)))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        env.rollout(5, lambda td: td.set("action", torch.full((2,), 3.0)))
    assert [str(w.message).partition(";")[0] for w in seen] == [
        "Choose: entry 'action' lies outside of the bounds of the action_spec"
    ]


# --- flags ---------------------------------------------------------------------------------------


class Ends(EnvBase):
    """Counts up; says at the third step by ``flags`` that the episode ended."""

    def __init__(self, flags, named=("done", "terminated"), path=()):
        super().__init__()
        self.flags, self.path = flags, path
        self.observation_spec = Composite(x=Unbounded((1,)))
        self.action_spec = Bounded(-1, 1, (1,))
        if path or "truncated" in named:
            self.done_spec = Composite({(*path, name): Categorical(2, shape=(1,), dtype=torch.bool) for name in named})

    def _reset(self, td):
        return TensorDict(x=torch.zeros(1))

    def _step(self, td):
        last = td["x"] >= 2
        flags = {(*self.path, key): last & value for key, value in self.flags.items()}
        return TensorDict({"x": td["x"] + 1, "reward": torch.zeros(1), **flags})

    def _set_seed(self, seed):
        pass


FLAGS = [
    {"terminated": True, "done": False},
    {"terminated": False, "truncated": True},
    {"terminated": False, "truncated": True, "done": False},
    {"terminated": True, "truncated": False, "done": False},
    {"terminated": False, "done": True},
]
NAMED = [("done", "terminated"), ("done", "terminated", "truncated")]


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("named", NAMED)
@pytest.mark.parametrize("path", [(), ("inner",)])
@pytest.mark.parametrize("around", ["bare", "transformed", "serial"])
def test_an_end_that_one_flag_reports_is_an_end(flags, named, path, around):
    def make():
        return Ends(flags, named, path)

    wrap = {
        "bare": make,
        "transformed": lambda: TransformedEnv(make(), StepCounter()),
        "serial": lambda: SerialEnv(2, make),
    }
    batch = wrap[around]().rollout(6, break_when_any_done=False)
    rows = batch["next", "x"].reshape(-1, 6)
    assert rows.tolist() == [[1, 2, 3, 1, 2, 3]] * len(rows)


CONTRADICTIONS = [
    {"terminated": True, "done": False},
    {"terminated": False, "truncated": True, "done": False},
    {"terminated": False, "truncated": False, "done": True},
]


@pytest.mark.parametrize("flags", CONTRADICTIONS)
@pytest.mark.parametrize("path", [(), ("inner",)])
@pytest.mark.parametrize("around", [lambda env: env, lambda env: TransformedEnv(env, StepCounter())])
def test_checks_find_flags_that_contradict_each_other(flags, path, around):
    def make():
        return around(Ends(flags, NAMED[1], path))

    name = re.escape(repr(("next", *path, "done")))
    with pytest.raises(SpecCheckError, match=f"Ends: entry {name} is .* where the episode was"):
        check_env_specs(make())
    with pytest.raises(AssertionError, match=f"Ends: entry {name} is .* where the episode was"):
        check_hooks_leave_other_steps_alone(make)


@pytest.mark.parametrize("flags", [{"terminated": True}, {"truncated": True}, {"done": True}])
def test_flags_that_follow_from_the_others_may_be_left_out(flags):
    check_env_specs(Ends(flags, NAMED[1]))


def test_frame_skip_stops_at_an_end_that_one_flag_reports():
    class Game(GymLikeEnv):
        def __init__(self, **kwargs):
            self.taken = 0
            super().__init__(**kwargs)

        def _build_env(self):
            return None

        def _make_specs(self, env):
            self.observation_spec = Composite(x=Unbounded((1,)))
            self.action_spec = Bounded(-1, 1, (1,))
            self.done_spec = Ends({}, NAMED[1]).full_done_spec

        def _set_seed(self, seed):
            pass

        def read_obs(self, observation):
            return {"x": torch.full((1,), float(observation))}

        def _call_reset(self, mask, **kwargs):
            self.taken = 0
            return 0, {}

        def _call_step(self, action):
            self.taken += 1
            return self.taken, 1.0, self.taken == 2, False, False, {}

        def _output_transform(self, out):
            return out

    try:
        env = Game(frame_skip=4)
    except TypeError:
        pytest.skip("the hooks of wrappers have other names")
    td = env.rollout(1)
    assert td["next", "x"].tolist() == [[2.0]]
    assert td["next", "done"].all()
