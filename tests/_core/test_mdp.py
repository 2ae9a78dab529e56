"""One step of a decision process to the next, against dicts and loops written by hand."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict

from torchrl._core.errors import MissingKeyError
from torchrl._core.mdp import complete_done, last_name, step_mdp, terminated_or_truncated

OPTIONS = ["keep_other", "exclude_reward", "exclude_done", "exclude_action"]
NAMES = ["observation", "reward", "done", "terminated", "truncated", "action", "hidden"]


def step_by_hand(root, next_root, keep_other, exclude_reward, exclude_done, exclude_action):
    """Say what the next root holds, entry by entry, as ``{last name: where it came from}``."""
    flags = {"done", "terminated", "truncated"}
    out = {}
    for name in root:
        if name in flags or name == "reward":
            continue  # these describe the step that is over
        if name == "action":
            if not exclude_action:
                out[name] = "root"
        elif keep_other:
            out[name] = "root"
    for name in next_root:
        dropped = (
            (name == "reward" and exclude_reward)
            or (name in flags and exclude_done)
            or (name == "action" and exclude_action)
        )
        if not dropped:
            out[name] = "next"
    return out


def nest(names, value, group):
    td = TensorDict(batch_size=[2])
    for name in names:
        td.set((group, name) if group else name, torch.full((2, 1), value))
    return td


class TestStepMDP:
    @pytest.mark.parametrize("group", [None, "agents"])
    @given(
        root=st.sets(st.sampled_from(NAMES)),
        next_root=st.sets(st.sampled_from(NAMES)),
        options=st.tuples(*[st.booleans()] * 4),
    )
    def test_equals_the_rules_entry_by_entry(self, group, root, next_root, options):
        td = nest(root, 0.0, group).set("next", nest(next_root, 1.0, group))
        before = td.clone()
        keys = {f"{name}_keys": (group, name) if group else name for name in ["reward", "done", "action"]}
        out = step_mdp(td, **dict(zip(OPTIONS, options, strict=True)), **keys)
        found = {last_name(key): "next" if out[key].all() else "root" for key in out.keys(True, True)}
        assert found == step_by_hand(root, next_root, *options)
        assert set(td.keys(True, True)) == set(before.keys(True, True))
        assert all((td[key] == before[key]).all() for key in before.keys(True, True))

    def test_the_defaults_are_those_of_a_policy_loop(self):
        td = nest(NAMES, 0.0, None).set("next", nest(NAMES, 1.0, None))
        out = step_mdp(td)
        assert set(out.keys()) == {"observation", "done", "terminated", "truncated", "hidden"}
        assert out.batch_size == td.batch_size
        assert "next" not in out

    def test_shares_tensors_with_its_input(self):
        td = nest(["hidden"], 0.0, None).set("next", nest(["observation"], 1.0, None))
        out = step_mdp(td)
        assert out["hidden"].data_ptr() == td["hidden"].data_ptr()
        assert out["observation"].data_ptr() == td["next", "observation"].data_ptr()

    def test_several_rewards_and_actions(self):
        td = TensorDict(
            a=dict(action=0, memory=0),
            b=dict(action=0),
            next=dict(a=dict(reward=1, done=1, observation=1), b=dict(reward=1, done=1)),
        )
        out = step_mdp(
            td,
            reward_keys=[("a", "reward"), ("b", "reward")],
            done_keys=[("a", "done"), ("b", "done")],
            action_keys=[("a", "action"), ("b", "action")],
        )
        leaves = {("a", "memory"), ("a", "observation"), ("a", "done"), ("b", "done")}
        assert set(out.keys(True, True)) == leaves

    def test_writes_into_what_it_is_given(self):
        td = nest(["hidden"], 0.0, None).set("next", nest(["observation"], 1.0, None))
        place = nest(["observation", "kept"], 5.0, None)
        assert step_mdp(td, place) is place
        values = {key: place[key].unique().item() for key in place.keys()}  # noqa: SIM118
        assert values == {"observation": 1.0, "hidden": 0.0, "kept": 5.0}

    def test_says_what_is_missing(self):
        words = r"step_mdp: entry 'next' is read but absent; found \['a'\]. Pass what env\.step\(\)"
        with pytest.raises(MissingKeyError, match=words):
            step_mdp(TensorDict(a=1))


FLAG = {name: torch.tensor([name == "yes"]) for name in ["yes", "no"]} | {"absent": None}


class TestCompleteDone:
    @pytest.mark.parametrize(("done", "terminated", "truncated"), list(itertools.product(FLAG, repeat=3)))
    def test_every_combination(self, done, terminated, truncated):
        """Absent flags follow from those at hand; ``done`` alone is the end of the future."""
        if (done, terminated, truncated) == ("absent",) * 3:
            return
        flags = [FLAG[done], FLAG[terminated], FLAG[truncated]]
        if done != "absent" and terminated == "absent" and truncated != "absent":
            with pytest.raises(ValueError, match="write 'terminated' too"):
                complete_done(*flags)
            return
        out = complete_done(*flags)
        if done != "absent":
            assert out["done"] is FLAG[done]
        else:
            assert out["done"].item() == ("yes" in (terminated, truncated))
        wanted = terminated if terminated != "absent" else done if done != "absent" else "no"
        assert out["terminated"].item() == (wanted == "yes")
        assert ("truncated" in out) == (truncated != "absent")
        assert out.get("truncated") is FLAG[truncated]

    def test_never_shares_what_it_makes(self):
        truncated = torch.tensor([True, False])
        out = complete_done(None, None, truncated)
        out["terminated"].fill_(True)
        assert truncated.tolist() == [True, False]


def any_level(**flags):
    return TensorDict({k: torch.tensor(v).unsqueeze(-1) for k, v in flags.items()}, [2])


class TestTerminatedOrTruncated:
    @given(st.lists(st.tuples(*[st.booleans()] * 3), min_size=2, max_size=2))
    def test_is_the_or_of_a_level(self, rows):
        done, terminated, truncated = (list(column) for column in zip(*rows, strict=True))
        td = any_level(done=done, terminated=terminated, truncated=truncated)
        expected = [any(row) for row in rows]
        assert terminated_or_truncated(td) is any(expected)
        if any(expected):
            assert td["_reset"].squeeze(-1).tolist() == expected
        else:
            assert "_reset" not in td

    def test_what_ends_the_whole_ends_every_part(self):
        td = any_level(done=[True, False])
        td["agents"] = TensorDict(
            done=torch.tensor([[[False], [False], [False]], [[False], [True], [False]]]), batch_size=[2, 3]
        )
        assert terminated_or_truncated(td)
        assert td["_reset"].squeeze(-1).tolist() == [True, False]
        assert td["agents", "_reset"].squeeze(-1).tolist() == [[True] * 3, [False, True, False]]

    def test_a_part_does_not_end_the_whole(self):
        td = any_level(done=[False, False])
        td["agents"] = any_level(terminated=[False, True])
        assert terminated_or_truncated(td)
        assert not td["_reset"].any()
        assert td["agents", "_reset"].squeeze(-1).tolist() == [False, True]

    def test_can_write_false_elsewhere_or_nothing(self):
        td = any_level(done=[False, False])
        assert not terminated_or_truncated(td, write_full_false=True, key="ended")
        assert td["ended"].squeeze(-1).tolist() == [False, False]
        td = any_level(done=[True, False])
        assert terminated_or_truncated(td, key=None)
        assert set(td.keys()) == {"done"}

    def test_looks_at_the_levels_of_the_spec_only(self):
        td = any_level(done=[False, False])
        td["agents"] = any_level(done=[True, True])
        spec = any_level(done=[False, False])  # any mapping with nested keys will do
        assert not terminated_or_truncated(td, full_done_spec=spec)
        assert terminated_or_truncated(td)

    def test_does_not_look_at_the_next_step(self):
        td = any_level(done=[False, False]).set("next", any_level(done=[True, True]))
        assert not terminated_or_truncated(td)

    def test_writes_a_flag_of_its_own(self):
        td = any_level(done=[True, False])
        terminated_or_truncated(td)
        td["_reset"].fill_(False)
        assert td["done"].squeeze(-1).tolist() == [True, False]
