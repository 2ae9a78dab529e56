"""EnvBase: specs, reset, step, and from one step to the next."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import LazyStackedTensorDict, NonTensorStack, TensorDict

from torchrl._core.errors import DTypeError, MissingKeyError, ResetError, ShapeError
from torchrl.data import Composite, Unbounded
from torchrl.envs import EnvBase, StepCounter, TransformedEnv, check_env_specs, step_mdp
from torchrl.envs.base import next_seed
from torchrl.testing.env import assert_same
from torchrl.testing.mocks import CountingEnv, FlagsEnv, LyingEnv, MultiAgentEnv, NestedEnv, StatelessEnv, TextEnv

NO, YES = [False], [True]


def stepped(env, steps=1):
    """A root in the middle of an episode."""
    root = env.reset()
    for _ in range(steps):
        root = env.step_mdp(env.step(env.rand_action(root)))
    return root


# --- seeds ---------------------------------------------------------------------------------------


def test_seeds_follow_a_known_chain():
    env = CountingEnv()
    assert env.set_seed(0) == next_seed(0) == 795726461
    assert env.set_seed(7, static_seed=True) == 7
    assert env.set_seed(None) is None
    assert env.set_seed(np.int64(0)) == env.set_seed(torch.tensor(0)) == 795726461
    assert len({next_seed(seed) for seed in range(100)}) == 100


# --- reset ---------------------------------------------------------------------------------------


def test_reset_returns_a_root_with_every_flag_down():
    root = CountingEnv(cut=4, batch_size=[2]).reset()
    assert set(root.keys()) == {"observation", "done", "terminated", "truncated"}
    assert not any(root[name].any() for name in ("done", "terminated", "truncated"))
    assert root.batch_size == (2,)


def test_reset_updates_and_returns_what_it_is_given():
    env = CountingEnv()
    td = TensorDict(action=torch.ones(1), mine=torch.ones(3), observation=torch.full((2,), 9.0))
    assert env.reset(td) is td
    assert td["observation"][0] == 0
    assert td["action"] == 1
    assert td["mine"].sum() == 3


def masks(env):
    shape = env.full_done_spec["done"].shape
    return st.lists(st.booleans(), min_size=shape.numel(), max_size=shape.numel()).map(
        lambda rows: torch.tensor(rows).reshape(shape)
    )


@settings(max_examples=25, deadline=None)
@given(st.data())
@pytest.mark.parametrize(
    "make",
    [
        lambda: CountingEnv(9, batch_size=[4]),
        lambda: CountingEnv(9, batch_size=[2, 2]),
        lambda: TransformedEnv(CountingEnv(9, batch_size=[3]), StepCounter()),
        lambda: TextEnv(9, batch_size=[3]),
        lambda: NestedEnv(9, batch_size=[3]),
    ],
)
def test_a_partial_reset_touches_the_masked_rows_alone(make, data):
    env = make()
    root = stepped(env, 2)
    before = root.clone()
    mask = data.draw(masks(env))
    after = env.reset(root.set("_reset", mask))
    assert after is root
    assert "_reset" not in root
    rows = mask.squeeze(-1)
    fresh = {key: root.get(key) for key in env.observation_keys if key != "text"}
    for key, value in fresh.items():
        assert torch.equal(value[~rows], before.get(key)[~rows])
        first = value[rows][..., 0]  # the count, or nothing but it
        assert (first == 0).all()
    if "text" in root:
        words, old = root["text"], before["text"]
        for row, word, was in zip(rows.tolist(), words, old, strict=True):
            assert word == ("0" if row else was)
    assert torch.equal(root["done"], torch.zeros_like(mask))


def test_the_documented_example_of_a_partial_reset():
    env = TransformedEnv(CountingEnv(9, batch_size=[3]), StepCounter())
    root = stepped(env)
    assert root["step_count"].flatten().tolist() == [1, 1, 1]
    root["_reset"] = torch.tensor([YES, NO, YES])
    assert env.reset(root)["step_count"].flatten().tolist() == [0, 1, 0]


def test_a_mask_without_rows_resets_nothing():
    env = CountingEnv(9, batch_size=[2])
    root = stepped(env)
    before = root.clone()
    env.reset(root.set("_reset", torch.zeros(2, 1, dtype=torch.bool)))
    assert_same(root, before)


def test_rows_that_are_kept_must_be_in_the_input():
    env = CountingEnv(batch_size=[2])
    env.reset()
    lone = TensorDict(_reset=torch.tensor([YES, NO]), batch_size=[2])
    with pytest.raises(ResetError, match=r"'observation' is needed by the rows that are not reset.*step_mdp"):
        env.reset(lone)


def test_a_mask_of_another_shape_is_refused():
    env = CountingEnv(batch_size=[2])
    root = stepped(env).set("_reset", torch.tensor([True, False]))
    with pytest.raises(ShapeError, match=r"'_reset' has another shape .*expected \(2, 1\), found \(2,\)"):
        env.reset(root)


def test_a_mask_at_the_root_overrides_those_below():
    env = MultiAgentEnv(num_agents=2, batch_size=[2])
    root = stepped(env)
    root["_reset"] = torch.tensor([YES, NO])
    root["agents", "_reset"] = torch.tensor([[NO, NO], [YES, YES]])
    env.reset(root)
    assert root["agents", "observation"].flatten(1).tolist() == [[0, 0], [1, 1]]
    assert root["state"].flatten().tolist() == [0, 1]
    assert "_reset" not in root
    assert ("agents", "_reset") not in root.keys(True)


def test_masks_of_agents_reset_agents():
    env = MultiAgentEnv(num_agents=2, root_done=False, batch_size=[2])
    root = stepped(env)
    root["agents", "_reset"] = torch.tensor([[NO, YES], [NO, NO]])
    env.reset(root)
    assert root["agents", "observation"].flatten(1).tolist() == [[1, 0], [1, 1]]
    assert root["state"].flatten().tolist() == [0, 1]


def test_an_agent_that_is_done_waits_for_the_row_where_the_root_has_a_flag():
    env = MultiAgentEnv(num_agents=3)
    batch = env.rollout(6, break_when_any_done=False)
    assert batch["next", "agents", "done"][:4].squeeze(-1).tolist() == [
        [False, False, False],
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    assert batch["next", "done"].flatten().tolist() == [False, False, False, True, False, False]
    assert batch["agents", "observation"][:, 0, 0].tolist() == [0, 1, 2, 3, 0, 1]


def test_agents_without_a_flag_at_the_root_begin_anew_one_by_one():
    env = MultiAgentEnv(num_agents=2, root_done=False)
    batch = env.rollout(6, break_when_any_done=False)
    assert batch["agents", "observation"].squeeze(-1).T.tolist() == [[0, 1, 0, 1, 0, 1], [0, 1, 2, 0, 1, 2]]


def test_an_episode_may_not_begin_at_its_end():
    with pytest.raises(ResetError, match=r"'done' is true after reset\(\).*allow_done_after_reset"):
        LyingEnv("done").reset()
    assert LyingEnv("done", allow_done_after_reset=True).reset()["done"]


def test_a_hook_may_not_return_what_it_was_given():
    env = LyingEnv("same_reset")
    with pytest.raises(ResetError, match=r"returned from _reset\(\) the tensordict it was given"):
        env.reset(TensorDict())
    env = LyingEnv("same_step")
    with pytest.raises(ResetError, match=r"returned from _step\(\) the tensordict it was given"):
        env.rand_step(env.reset())


@pytest.mark.parametrize("wrong", [None, {}, torch.zeros(2), (torch.zeros(2), 0.0, False, {})])
@pytest.mark.parametrize("hook", ["_reset", "_step"])
def test_a_hook_returns_a_tensordict(hook, wrong):
    env = CountingEnv()
    setattr(env, hook, lambda td: wrong)
    words = rf"returned from {hook}\(\) something.*found {type(wrong).__name__}.*TensorDict\("
    with pytest.raises(TypeError, match=words):
        env.rollout(2)


def test_who_hands_in_an_action_or_a_seed_alone_is_told_how_it_goes():
    env = CountingEnv()
    with pytest.raises(TypeError, match=r"step\(\) takes a tensordict.*found Tensor.*root.set"):
        env.step(torch.zeros(1))
    with pytest.raises(TypeError, match=r"reset\(\) takes a tensordict.*found int.*set_seed"):
        env.reset(0)


def test_a_step_that_returns_next_itself_is_told_so():
    env = CountingEnv()
    env._step = lambda td: TensorDict(next=TensorDict(observation=td["observation"], reward=0.0))
    with pytest.raises(MissingKeyError, match=r"caller of _step\(\) puts them under 'next'"):
        env.rollout(2)


@pytest.mark.parametrize("batch_size", [(), (3,)])
def test_specs_may_come_before_the_constructor_of_the_base(batch_size):
    class Hasty(CountingEnv):
        def __init__(self):
            self.observation_spec = Composite(observation=Unbounded((*batch_size, 2)))
            self.action_spec = Unbounded((*batch_size, 1))
            self.reward_spec = Unbounded(batch_size)
            EnvBase.__init__(self, batch_size=batch_size)
            self.max_steps, self.count = 5, torch.zeros(*batch_size, 1)

    env = Hasty()
    assert env.full_observation_spec.shape == batch_size
    assert env.reward_spec.shape == (*batch_size, 1)
    assert env.is_spec_locked
    assert env.observation_spec.is_locked

    class Narrow(Hasty):
        def __init__(self):
            self.observation_spec = Unbounded((2,))
            EnvBase.__init__(self, batch_size=[7])

    with pytest.raises(ShapeError, match="without the environment's batch size"):
        Narrow()


def test_a_root_of_another_batch_size_is_refused():
    with pytest.raises(ShapeError, match=r"returned from _reset\(\) a tensordict of another batch size.*\(2,\)"):
        LyingEnv("batch", batch_size=[2]).reset()


def test_set_state():
    env = StatelessEnv()
    td = TensorDict(position=torch.full((5, 1), 0.5), batch_size=[5])
    assert env.reset(td.clone())["position"].unique().numel() == 5
    root = env.reset(td, set_state=True)
    assert (root["position"] == 0.5).all()
    assert root["done"].shape == (5, 1)
    with pytest.raises(ResetError, match="cannot set a state without a tensordict"):
        env.reset(set_state=True)
    with pytest.raises(ResetError, match=r"cannot restore a state.*_set_state"):
        CountingEnv().reset(TensorDict(), set_state=True)
    start = TensorDict(position=torch.full((1,), 1.9))
    batch = env.rollout(1, lambda td: td.set("action", torch.ones(1)), tensordict=start,
                        set_state=True)  # fmt: skip
    assert batch["next", "position"].item() == pytest.approx(2.9)
    assert batch["next", "terminated"].item()


# --- step ----------------------------------------------------------------------------------------


def test_step_writes_next_and_returns_what_it_was_given():
    env = CountingEnv(cut=9)
    root = env.rand_action(env.reset())
    assert env.step(root) is root
    assert set(root["next"].keys()) == {"observation", "reward", "done", "terminated", "truncated"}
    assert root["observation"][0] == 0
    assert root["next", "observation"][0] == 1
    again = env.step(env.rand_action(root))
    assert again["next", "observation"][0] == 2


def test_what_stands_under_next_stays_unless_the_environment_writes_it():
    env = CountingEnv()
    root = env.rand_action(env.reset())
    root["next", "hidden"] = torch.ones(4)
    root["next", "reward"] = torch.full((1,), 77.0)
    step = env.step(root)
    assert step["next", "hidden"].sum() == 4
    assert step["next", "reward"] != 77
    assert env.step_mdp(step)["hidden"].sum() == 4


@pytest.mark.parametrize("trail", [(1,), ()])
def test_rows_left_out_of_a_step_keep_their_values(trail):
    env = CountingEnv(9, batch_size=[3])
    root = stepped(env)
    root["_step"] = torch.tensor([YES, NO, YES]).reshape(3, *trail)
    step = env.step(env.rand_action(root))
    assert "_step" not in step
    assert step["next", "observation"][:, 0].tolist() == [2, 1, 2]
    assert torch.equal(step["next", "observation"][1], step["observation"][1])
    assert step["next", "reward"][1] == 0
    env = TextEnv(9, batch_size=[2])
    root = stepped(env).set("_step", torch.tensor([NO, YES]))
    assert list(env.step(env.rand_action(root))["next", "text"]) == ["1", "2"]
    wide = env.reset().set("_step", torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ShapeError, match=r"'_step' is no mask .*expected \(2, 1\), found \(2, 2\)"):
        env.step(env.rand_action(wide))


@pytest.mark.parametrize(
    ("flags", "spec", "expected"),
    [
        ({"done": True}, ["done"], {"done": True, "terminated": True}),
        ({"terminated": True}, ["done"], {"done": True, "terminated": True}),
        ({"truncated": True}, ["done", "truncated"],
         {"done": True, "terminated": False, "truncated": True}),
        ({"terminated": False, "truncated": True}, ["done", "truncated"],
         {"done": True, "terminated": False, "truncated": True}),
        ({"terminated": True}, ["done", "truncated"],
         {"done": True, "terminated": True, "truncated": False}),
        ({"done": True}, ["done", "truncated"],
         {"done": True, "terminated": True, "truncated": False}),
        ({"done": True, "terminated": False}, ["done"], {"done": True, "terminated": False}),
    ],
)  # fmt: skip
def test_missing_flags_are_completed(flags, spec, expected):
    env = FlagsEnv(flags, spec)
    next_root = env.rand_step(env.reset())["next"]
    found = {name: next_root[name].item() for name in ("done", "terminated", "truncated")
             if name in next_root}  # fmt: skip
    assert found == expected


def test_done_and_truncated_leave_open_what_terminated_is():
    env = FlagsEnv({"done": True, "truncated": True}, ["done", "truncated"])
    with pytest.raises(ValueError, match="without 'terminated' leave open"):
        env.rand_step(env.reset())


@pytest.mark.parametrize("spec", [["done"], ["done", "truncated"]])
def test_flags_that_a_step_leaves_out_are_false(spec):
    env = FlagsEnv({}, spec)
    batch = env.rollout(3)
    assert batch.shape == (3,)
    assert not any(batch["next", name].any() for name in ("terminated", *spec))
    check_env_specs(env)


def test_rewards_get_the_shape_of_their_spec():
    class Flat(CountingEnv):
        def _step(self, tensordict):
            out = super()._step(tensordict)
            return out.set("reward", out["reward"].squeeze(-1)).set("done", out["terminated"][..., 0])

    env = Flat(batch_size=[2])
    next_root = env.rand_step(env.reset())["next"]
    assert next_root["reward"].shape == next_root["done"].shape == (2, 1)


@pytest.mark.parametrize("how", ["step", "rollout"])
@pytest.mark.parametrize(
    ("lie", "error", "words"),
    [
        ("float64", DTypeError,
         r"LyingEnv: entry 'observation' has another dtype than observation_spec promises; "
         r"expected torch.float32, found torch.float64. .*DoubleToFloat"),
        ("shape", ShapeError,
         r"LyingEnv: entry 'observation' has another shape than observation_spec promises; "
         r"expected \(2,\), found \(1,\). Return that shape, or fix observation_spec"),
        ("reward", MissingKeyError,
         r"LyingEnv: entry 'reward' is not in what _step\(\) returned; .*"
         r"found .*'observation'.*Return 'reward' from the environment"),
        ("reward_shape", ShapeError,
         r"LyingEnv: entry 'reward' has another shape than reward_spec promises; "
         r"expected \(1,\), found \(2,\)"),
    ],
)  # fmt: skip
def test_an_environment_that_breaks_its_specs_is_refused(lie, error, words, how):
    env = LyingEnv(lie)
    with pytest.raises(error, match=words):
        env.rollout(3) if how == "rollout" else env.rand_step(env.reset())


def test_a_flag_of_another_dtype_is_not_told_to_become_a_float():
    class Float(CountingEnv):
        def _step(self, tensordict):
            out = super()._step(tensordict)
            return out.set("terminated", out["terminated"].float())

    with pytest.raises(DTypeError, match=r"expected torch\.bool, found torch\.float32") as error:
        Float().rollout(3)
    assert "DoubleToFloat" not in str(error.value)


def test_later_steps_are_trusted_unless_asked():
    assert LyingEnv("late").rollout(3)["next", "observation"].shape == (3, 2)
    with pytest.raises(DTypeError, match="'observation' has another dtype"):
        LyingEnv("late", run_type_checks=True).rollout(3)


@pytest.mark.parametrize("shape", [(2,), (), (1, 1)])
def test_an_action_of_another_shape_is_refused(shape):
    env = CountingEnv()
    root = env.reset().set("action", torch.zeros(shape))
    with pytest.raises(
        ShapeError,
        match=r"'action' has another shape than action_spec promises; expected \(1,\), "
        r"found.*policy's last layer",
    ):
        env.step(root)
    assert "next" not in root


def test_a_missing_action_is_refused():
    env = CountingEnv()
    root = env.reset().set("acton", torch.zeros(1))
    with pytest.raises(MissingKeyError, match=r"'action' was not written .*Did you mean 'acton'"):
        env.step(root)


def test_a_record_of_another_batch_size_is_refused():
    env = CountingEnv(batch_size=[2])
    with pytest.raises(ShapeError, match=r"given a tensordict of another .*\(2,\), found \(3,\)"):
        env.step(TensorDict(action=torch.zeros(3, 1), batch_size=[3]))


def test_records_may_have_any_batch_size_where_it_is_free():
    env = StatelessEnv()
    for batch in ([], [3], [2, 3]):
        root = env.reset(TensorDict(batch_size=batch))
        step = env.rand_step(root)
        assert step.batch_size == torch.Size(batch)
        assert step["next", "reward"].shape == step["next", "done"].shape == (*batch, 1)
        rolled = env.rollout(5, tensordict=TensorDict(batch_size=batch), break_when_any_done=False)
        assert rolled.shape == (*batch, 5)
        assert rolled.names[-1] == "time"


# --- from step to step ---------------------------------------------------------------------------


def test_step_mdp_keeps_the_action_and_leaves_the_reward():
    env = CountingEnv(cut=9)
    step = env.rand_step(env.reset())
    step["extra"], step["_private"] = torch.ones(1), torch.ones(1)
    root = env.step_mdp(step)
    assert set(root.keys()) == {
        "observation", "done", "terminated", "truncated", "action", "extra", "_private",
    }  # fmt: skip
    expected = step_mdp(step, exclude_action=False)
    assert_same(root, expected)


def test_a_reward_that_is_also_a_state_stays():
    class Remembering(CountingEnv):
        def __init__(self):
            super().__init__()
            self.state_spec = Composite(reward=Unbounded((1,)))

    env = Remembering()
    root = env.step_mdp(env.rand_step(env.reset()))
    assert "reward" in root


def test_steps_never_share_nested_records():
    env = CountingEnv()
    step = env.rand_step(env.reset().set("memory", TensorDict(h=torch.zeros(1))))
    step["next", "deep"] = TensorDict(x=torch.zeros(1))
    for root in (env.step_mdp(step), step_mdp(step)):
        root["memory", "h"] = torch.ones(1)
        root["deep", "x"] = torch.ones(1)
        assert step["memory", "h"] == 0
        assert step["next", "deep", "x"] == 0


def test_a_record_that_held_but_a_reward_is_left_behind_with_it():
    class Scored(CountingEnv):
        def __init__(self):
            super().__init__(9)
            self.reward_spec = Composite(deep=Composite(score=Composite(reward=Unbounded((1,)))))

        def _step(self, tensordict):
            out = super()._step(tensordict)
            return out.set(("deep", "score", "reward"), out.pop("reward"))

    env = Scored()
    step = env.rand_step(env.reset())
    assert "deep" not in env.step_mdp(step)
    assert "deep" not in step_mdp(step, reward_keys=[("deep", "score", "reward")])
    assert not isinstance(env.rollout(3), LazyStackedTensorDict)


def test_step_and_maybe_reset_keeps_the_last_observation():
    env = CountingEnv(horizon=1, batch_size=[2])
    root = env.rand_action(env.reset())
    step, next_root = env.step_and_maybe_reset(root)
    assert step is root
    assert step["next", "observation"][:, 0].tolist() == [1, 1]
    assert step["next", "done"].flatten().tolist() == [True, False]
    assert next_root["observation"][:, 0].tolist() == [0, 1]
    assert not next_root["done"].any()
    step, next_root = env.step_and_maybe_reset(env.rand_action(next_root))
    assert step["next", "observation"][:, 0].tolist() == [1, 2]
    assert next_root["observation"][:, 0].tolist() == [0, 0]


def test_maybe_reset_does_nothing_while_episodes_go_on():
    env = CountingEnv(9, batch_size=[2])
    root = stepped(env)
    before = root.clone()
    assert env.maybe_reset(root) is root
    assert_same(root, before)


def test_any_done_writes_masks_where_an_episode_has_ended():
    env = CountingEnv(horizon=1, batch_size=[2])
    root = env.step_mdp(env.rand_step(env.reset()))
    assert env.any_done(root)
    assert root["_reset"].flatten().tolist() == [True, False]
    root = stepped(CountingEnv(9, batch_size=[2]))
    assert not env.any_done(root)
    assert "_reset" not in root


def test_random_steps():
    env = CountingEnv()
    assert set(env.rand_action().keys()) == {"action"}
    root = env.reset()
    assert env.rand_action(root) is root
    assert env.action_spec.is_in(root["action"])
    assert env.rand_step(root) is root
    assert "next" in env.rand_step()
    assert CountingEnv(batch_size=[2]).rand_action().batch_size == (2,)
    agents = MultiAgentEnv().rand_action()
    assert agents["agents", "action"].sum(-1).eq(1).all()


# --- the rest ------------------------------------------------------------------------------------


def test_close():
    env = CountingEnv()
    env.close()
    assert env.is_closed
    env.close()
    with pytest.raises(RuntimeError, match="CountingEnv is closed already"):
        env.close(raise_if_closed=True)


def test_what_hooks_return_is_brought_to_the_device():
    class Careless(CountingEnv):
        def _reset(self, *args, **kwargs):
            return super()._reset(*args, **kwargs).clear_device_()

        def _step(self, *args, **kwargs):
            return super()._step(*args, **kwargs).clear_device_()

    env = Careless(device="cpu")
    root = env.reset()
    assert root.device == env.rand_step(root)["next"].device == torch.device("cpu")
    assert env.rollout(3).device == torch.device("cpu")
    assert CountingEnv().rollout(3).device is None


def test_cpu_and_cuda_are_places():
    env = CountingEnv().cpu()
    assert env.device == torch.device("cpu")
    assert env.rollout(2).device == torch.device("cpu")
    moved = []
    env.to = moved.append
    env.cuda(), env.cuda(1)
    assert moved == ["cuda", "cuda:1"]


def test_to():
    env = CountingEnv(batch_size=[2])
    assert env.device is None
    assert env.to("cpu") is env
    assert env.device == torch.device("cpu")
    assert env.full_observation_spec.device == torch.device("cpu")
    assert env.rollout(2).device == torch.device("cpu")
    assert env.to("meta").action_spec.device == torch.device("meta")


def test_append_transform_leaves_the_environment_as_it_is():
    env = CountingEnv()
    seen = env.append_transform(StepCounter())
    assert isinstance(seen, TransformedEnv)
    assert seen.base_env is env
    assert "step_count" not in env.observation_keys


def test_non_tensors_in_rows():
    env = TextEnv(batch_size=[2])
    batch = env.rollout(4, break_when_any_done=False)
    assert isinstance(batch.get("text"), NonTensorStack)
    assert [list(row) for row in batch["text"]] == [["0", "1", "2", "0"], ["0", "1", "2", "3"]]
