"""Contract checks of transforms pass for correct transforms in any environment, and say what to change in others."""

import pytest
import torch
from tensordict import TensorDict

from torchrl.data import Bounded, Categorical, Composite, LazyTensorStorage, ReplayBuffer, Unbounded
from torchrl.envs import Compose, EnvBase, InitTracker, ObservationNorm, RewardSum, StepCounter, Transform
from torchrl.testing import ContractError, check_env, check_transform
from torchrl.testing.report import run_checks
from torchrl.testing.transform import CHECKS, World


class Noisy(EnvBase):
    """Four rows that draw their noise from one generator in every step and reset."""

    def __init__(self):
        super().__init__(batch_size=[4])
        self.observation_spec = Composite(position=Unbounded((4, 1)), shape=[4])
        self.action_spec = Bounded(-1, 1, (4, 1))
        self.reward_spec = Unbounded((4, 1))
        self.generator = torch.Generator()

    def _noise(self, *shape):
        return 0.3 * torch.randn(*shape, generator=self.generator)

    def _reset(self, td):
        position = self._noise(4, 1)
        if td is not None and (rows := td.get("_reset", None)) is not None:
            position = torch.where(rows, position, td["position"])
        return TensorDict(position=position, batch_size=[4])

    def _step(self, td):
        position = td["position"] + td["action"] + self._noise(4, 1)
        return TensorDict(position=position, reward=-position.abs(), terminated=position.abs() > 3, batch_size=[4])

    def _set_seed(self, seed):
        self.generator.manual_seed(seed)


class Empty(Transform):
    """Changes nothing."""


class PreviousObservation(Transform):
    """Adds the observation of the step before."""

    def __init__(self, key="observation"):
        super().__init__()
        self.key = key

    def _reset(self, td, td_reset):
        return td_reset.set("previous", torch.zeros_like(td_reset[self.key]))

    def _step(self, td, next_td):
        return next_td.set("previous", td[self.key])

    def transform_specs(self, specs):
        specs["observation"]["previous"] = Unbounded(specs["observation"][self.key].shape)
        return specs


class Average(Transform):
    """Adds a moving average, which it keeps in the data."""

    def __init__(self, key="observation"):
        super().__init__()
        self.key = key

    def _reset(self, td, td_reset):
        return td_reset.set("average", td_reset[self.key].clone())

    def _step(self, td, next_td):
        return next_td.set("average", 0.5 * (td["average"] + next_td[self.key]))

    def transform_specs(self, specs):
        specs["observation"]["average"] = Unbounded(specs["observation"][self.key].shape)
        return specs


class AverageInAnAttribute(Average):
    """Keeps it in an attribute."""

    def _reset(self, td, td_reset):
        self.average = td_reset[self.key].clone()
        return td_reset.set("average", self.average)

    def _step(self, td, next_td):
        self.average = 0.5 * (self.average + next_td[self.key])
        return next_td.set("average", self.average)


CORRECT = {
    "nothing": Empty,
    "an empty subclass": type("Mine", (StepCounter,), {}),
    "step counter": StepCounter,
    "return": RewardSum,
    "first step": InitTracker,
    "in place": lambda: ObservationNorm(1.0, 2.0, ["position"]),
    "previous": lambda: PreviousObservation("position"),
    "average": lambda: Average("position"),
    "several": lambda: Compose(StepCounter(), Average("position"), ObservationNorm(1.0, 2.0, ["position"])),
}


def test_the_environment_passes():
    check_env(Noisy)


@pytest.mark.parametrize("make", CORRECT.values(), ids=CORRECT)
def test_rows_may_share_a_random_generator(make):
    run_checks(CHECKS, make, Noisy)


@pytest.mark.parametrize("make_env", [Noisy, lambda: World((4,))], ids=["shared generator", "world"])
def test_memory_in_an_attribute_is_found_with_a_remedy(make_env):
    key = "position" if make_env is Noisy else "observation"
    with pytest.raises(ContractError) as caught:
        run_checks(CHECKS, lambda: AverageInAnAttribute(key), make_env)
    failed = caught.value.failed
    assert {"state_is_carried_over", "partial_reset_leaves_memory_alone"} <= failed.keys()
    for error in failed.values():
        assert "average" in str(error)
        assert "is an entry of the data, which _reset(td, td_reset) writes" in str(error)


class ContinuesTheLastEpisode(Average):
    """Starts from the average of the last episode, where there is one."""

    def _reset(self, td, td_reset):
        earlier = None if td is None else td.get("average", None)
        return td_reset.set("average", td_reset[self.key].clone() if earlier is None else earlier)


class IgnoresPartialResets(Average):
    """Starts anew only if all rows do."""

    def _reset(self, td, td_reset):
        is_partial = td is not None and "_reset" in td and not td["_reset"].all()
        return td_reset.set("average", td["average"] if is_partial else td_reset[self.key].clone())


@pytest.mark.parametrize(
    ("kind", "batch"), [(ContinuesTheLastEpisode, ()), (ContinuesTheLastEpisode, (4,)), (IgnoresPartialResets, (4,))]
)
def test_memory_of_the_last_episode_is_found_with_a_remedy(kind, batch):
    with pytest.raises(ContractError) as caught:
        run_checks(CHECKS, kind, lambda: World(batch))
    assert list(caught.value.failed) == ["reset_rows_start_anew"]
    assert "_reset(td, td_reset) starts from td_reset" in str(caught.value.failed["reset_rows_start_anew"])


class Ends(Transform):
    """Truncates episodes far from the origin."""

    def __init__(self, pops):
        super().__init__()
        self.pops = pops

    def _step(self, td, next_td):
        truncated = next_td["observation"].abs().sum(-1, True) > 1
        if (earlier := next_td.get("truncated", None)) is not None:
            truncated = truncated | earlier
        next_td.set("truncated", truncated)
        if self.pops:
            next_td.pop("done")
        return next_td

    def transform_specs(self, specs):
        shape = specs["done"]["done"].shape
        specs["done"]["truncated"] = Categorical(2, shape=shape, dtype=torch.bool)
        return specs


def test_a_transform_that_ends_episodes():
    check_transform(lambda: Ends(pops=True))
    with pytest.raises(ContractError, match=r'in a transform .*next_td\.pop\("done"\)'):
        check_transform(lambda: Ends(pops=False))


def test_a_transform_of_steps_refuses_single_records():
    for transform in (PreviousObservation(), Compose(PreviousObservation())):
        buffer = ReplayBuffer(storage=LazyTensorStorage(4), transform=transform, batch_size=2)
        buffer.extend(TensorDict(observation=torch.zeros(4, 3), batch_size=[4]))
        with pytest.raises(NotImplementedError, match=r"PreviousObservation: .*follows_steps = False"):
            buffer.sample()


def test_a_transform_of_steps_that_declares_it_serves_single_records():
    transform = type("Serves", (PreviousObservation,), {"follows_steps": False})()
    td = TensorDict(observation=torch.zeros(4, 3), batch_size=[4])
    assert transform(td) is td
    assert Empty()(td) is td
