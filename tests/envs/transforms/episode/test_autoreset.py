"""Environments that begin a new episode by themselves look like those that wait."""

import pytest
import torch
from tensordict import TensorDict

from torchrl.data import Composite, Unbounded
from torchrl.envs import AutoResetEnv, AutoResetTransform, StepCounter, TransformedEnv, VecGymEnvTransform
from torchrl.testing.transform import World


class Restless(World):
    """Begins anew within the step that ends an episode; ``final`` shows what was last, if asked."""

    shows_final = False

    def _step(self, tensordict):
        out = super()._step(tensordict)
        last = out["observation"].clone()
        if out["done"].any():
            fresh = super()._reset(TensorDict(_reset=out["done"], batch_size=self.batch_size))
            for key in fresh.keys(True, True):
                out.set(key, fresh.get(key))
        if self.shows_final:
            out["final", "observation"] = last
        return out

    def _reset(self, tensordict, **kwargs):
        self.asked = getattr(self, "asked", 0) + 1
        root = super()._reset(tensordict, **kwargs)
        if self.shows_final:
            root["final", "observation"] = torch.zeros_like(root["observation"])
        return root


class Telling(Restless):
    shows_final = True

    def __init__(self, batch_size):
        super().__init__(batch_size)
        spec = self.observation_spec.clone().unlock_()
        spec["final"] = Composite(observation=Unbounded((*self.batch_size, 3)), shape=self.batch_size)
        self.observation_spec = spec


class Late(World):
    """Begins anew in the step after the one that ends an episode."""

    def _reset(self, tensordict, **kwargs):
        self.asked = getattr(self, "asked", 0) + 1
        self.over = torch.zeros(*self.batch_size, 1, dtype=torch.bool)
        return super()._reset(tensordict, **kwargs)

    def _step(self, tensordict):
        asked = tensordict.get("_step", None)
        moving = torch.ones_like(self.over) if asked is None else asked
        anew = self.over & moving
        stepping = tensordict.copy().set("_step", moving & ~self.over)
        out = super()._step(stepping)
        if anew.any():
            fresh = super()._reset(TensorDict(_reset=anew, batch_size=self.batch_size))
            for key in fresh.keys(True, True):
                out.set(key, fresh.get(key))
            for key in ("done", "terminated", "truncated"):
                out.set(key, out[key] & ~anew)
        self.over = torch.where(moving, out["done"], self.over)
        return out


def check_moves(batch):
    """A World moves predictably: each step follows from the root before it."""
    push = batch["action"].mean(-1, True)
    moved = (0.9 * batch["observation"] + push).roll(1, -1)
    torch.testing.assert_close(batch["next", "observation"], moved)


def test_an_environment_that_resets_itself_looks_like_one_that_waits():
    for batch_size in ((), (4,)):
        base = Restless(batch_size)
        env = TransformedEnv(base, AutoResetTransform())
        batch = env.rollout(20, break_when_any_done=False)
        assert base.asked == 1
        ends = batch["next", "done"].squeeze(-1)
        assert ends.any()
        assert batch["next", "observation"][ends].isnan().all()
        assert batch["observation"].isfinite().all()
        assert (batch["next", "pixels"][ends] == 0).all()
        check_moves(batch[~ends])


@pytest.mark.parametrize("batch_size", [(), (4,)])
def test_the_last_observation_comes_from_beside(batch_size):
    base = Telling(batch_size)
    env = TransformedEnv(base, VecGymEnvTransform())
    batch = env.rollout(20, break_when_any_done=False)
    assert base.asked == 1
    ends = batch["next", "done"].squeeze(-1)
    assert ends.any()
    assert "final" not in batch
    assert "final" not in batch["next"]
    assert "final" not in env.observation_spec
    check_moves(batch)
    # What it does not show beside is not known.
    assert batch["next", "double"][ends].isnan().all()
    assert (batch["next", "pixels"][ends] == 0).all()


@pytest.mark.parametrize("batch_size", [(), (4,)])
def test_an_environment_that_begins_anew_a_step_late(batch_size):
    base = Late(batch_size)
    env = TransformedEnv(base, VecGymEnvTransform(native_autoreset=True))
    batch = env.rollout(20, break_when_any_done=False)
    assert base.asked == 1
    assert batch["next", "done"].any()
    check_moves(batch)
    root = env.step_mdp(batch[..., -1])
    rows = torch.ones(*batch_size, 1, dtype=torch.bool)
    env.reset(root.set("_reset", rows))
    assert base.asked == 2  # rows that had not ended are reset in earnest


def test_it_is_told_in_one_call():
    env = AutoResetEnv(Restless((2,)), StepCounter())
    batch = env.rollout(12, break_when_any_done=False)
    assert env.base_env.asked == 1
    counts, ends = batch["step_count"].squeeze(-1), batch["next", "done"].squeeze(-1)
    assert counts[0, ends[0]].unique().tolist() == [2]
    assert counts[1, ends[1]].unique().tolist() == [3]
