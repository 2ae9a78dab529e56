"""Running statistics that travel with the record, and those that exist before any data."""

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import ShapeError
from torchrl.envs import Compose, EnvCreator, StepCounter, TransformedEnv, VecNorm, VecNormV2
from torchrl.testing.env import assert_same, make_seeded
from torchrl.testing.transform import World

KEYS = ["observation", ("agents", "state"), "reward"]
ON = {"break_when_any_done": False}


@pytest.mark.parametrize("batch_size", [(), (3,)])
@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_travelling_statistics_normalise_as_those_that_stay(batch_size, decay):
    def rollout(stateful):
        norm = VecNormV2(KEYS, decay=decay, stateful=stateful)
        return make_seeded(lambda: TransformedEnv(World(batch_size), norm)).rollout(15, **ON)

    travelling, staying = rollout(False), rollout(True)
    assert_same(travelling.select(*staying.keys(True, True)), staying)
    shape = (*batch_size, 15, 2, 4)
    assert travelling["next", "agents", "state_loc"].shape == shape
    count = travelling["next", "reward_count"].flatten(len(batch_size))
    assert torch.equal(count, torch.arange(1, 16).expand(*batch_size, 15))


def test_travelling_statistics_leave_no_state():
    norm = VecNormV2(["observation"], stateful=False)
    env = TransformedEnv(World((2,)), norm)
    batch = env.rollout(4)
    assert not norm.state_dict()
    with pytest.raises(RuntimeError, match="has its statistics in records"):
        _ = norm.loc
    last = batch[:, -1]["next"].clone()
    raw = norm.denorm(last)["observation"]
    scale = last["observation_var"].sqrt().clamp_min(norm.eps)
    expected = batch[:, -1]["next", "observation"] * scale + last["observation_loc"]
    torch.testing.assert_close(raw, expected.float())
    going_on = env.rollout(3, auto_reset=False, tensordict=env.step_mdp(batch[:, -1]))
    # A reset, three steps, for the row that had ended another reset, a step.
    assert going_on["next", "observation_count"][:, 0].flatten().tolist() == [6, 5]


def test_frozen_travelling_statistics_stay_as_they_are():
    norm = VecNormV2(["observation"], stateful=False).freeze()
    batch = TransformedEnv(World((2,)), norm).rollout(3)
    assert (batch["next", "observation_count"] == 0).all()


def test_statistics_exist_before_any_data():
    norm = VecNorm(["a", "b"], shapes=[(3,), (2, 2)])
    assert norm.loc["a"].shape == (3,)
    assert norm.scale["b"].shape == (2, 2)
    td = norm(TensorDict(a=torch.randn(5, 3), b=torch.randn(5, 2, 2), batch_size=[5]))
    torch.testing.assert_close(td["a"].mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    assert norm.state_dict()["a_count"] == 5


def test_one_for_all_rows_or_one_for_each():
    for new_api, shape in ((None, (3,)), (True, (4, 3))):
        norm = VecNorm(["observation"], new_api=new_api)
        TransformedEnv(World((4,)), norm).rollout(2)
        assert norm.loc["observation"].shape == shape


def test_statistics_of_another_shape_are_refused():
    norm = VecNorm(["a"], shapes=[(3,)])
    with pytest.raises(ShapeError, match=r"shape of its statistics; expected \[\*, 3\], found \(5, 4\)"):
        norm(TensorDict(a=torch.zeros(5, 4), batch_size=[5]))
    with pytest.raises(ValueError, match="need stateful=True"):
        VecNormV2(["a"], stateful=False, reduce_batch_dims=True)
    with pytest.raises(ValueError, match="above 0 and at most 1, found 2"):
        VecNormV2(["a"], decay=2)


@pytest.mark.parametrize("wrap", [lambda t: t, Compose, lambda t: Compose(StepCounter(), Compose(t))])
def test_clones_follow_the_statistics_and_deep_copies_only_those_that_are_shared(wrap):
    make = lambda: TransformedEnv(World(), wrap(VecNorm(["observation"], decay=1.0)))
    for env in (EnvCreator(make)(), make()):
        clone = env.transform.clone()
        evaluation = TransformedEnv(World(), clone)
        evaluation.eval()
        env.rollout(2)
        evaluation.rollout(2)  # adds nothing in evaluation mode
        state = evaluation.state_dict()
        counts = [int(value) for key, value in state.items() if key.endswith("count")]
        assert counts == [3]


def test_copies_that_are_frozen_follow_no_more():
    env = EnvCreator(lambda: TransformedEnv(World(), VecNorm(["observation"])))()
    env.rollout(2)
    frozen, fixed = env.transform.frozen_copy(), env.transform.to_observation_norm()
    loc = env.transform.loc["observation"].clone()
    env.rollout(2)
    assert not torch.equal(env.transform.loc["observation"], loc)
    assert torch.equal(frozen.loc["observation"], loc)
    assert torch.equal(fixed.loc, loc.float())
