"""Evaluations: whole episodes, here and in a thread."""

import threading

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl._core.errors import MissingKeyError
from torchrl.collectors import Evaluator
from torchrl.data import Composite, Unbounded
from torchrl.envs import GymEnv, SerialEnv, TransformedEnv
from torchrl.modules import EGreedyModule
from torchrl.record import VideoRecorder
from torchrl.testing.mocks import CountingEnv


def linear(value=None):
    policy = TensorDictModule(nn.Linear(2, 1), in_keys=["observation"], out_keys=["action"])
    if value is not None:
        nn.init.zeros_(policy.module.weight)
        nn.init.constant_(policy.module.bias, value)
    return policy


def actions(rollouts):
    return {"actions": torch.cat([r["action"].reshape(-1) for r in rollouts]).unique().tolist()}


@pytest.fixture
def evaluator():
    made = Evaluator(CountingEnv(horizon=3), linear(0.0), num_trajectories=2, metrics_fn=actions)
    yield made
    made.shutdown()


def test_rows_count_with_one_episode_each():
    """Rows whose episodes take 2, 3 and 4 steps; by hand, from the same environments alone."""
    makers = [lambda n=n: CountingEnv(horizon=n) for n in (2, 3, 4)]
    alone = [make().rollout(10, linear(0.5)) for make in makers]
    expected = [episode["next", "reward"].sum() for episode in alone]
    evaluator = Evaluator(SerialEnv(3, makers), linear(0.5), num_trajectories=3)
    found = evaluator.evaluate(step=5)
    assert found["eval/episode_length"] == 3.0
    torch.testing.assert_close(found["eval/reward"], torch.stack(expected).mean().item())
    assert found["eval/step"] == 5
    assert found["eval/fps"] > 0
    evaluator.num_trajectories = 4  # 2, 3, 4, 2
    assert evaluator.evaluate()["eval/episode_length"] == 11 / 4
    evaluator.shutdown()
    evaluator.shutdown()
    assert evaluator.env.is_closed


def test_long_episodes_are_given_up():
    evaluator = Evaluator(lambda: GymEnv("Pendulum-v1"), num_trajectories=1, max_steps=7)
    assert evaluator.evaluate()["eval/episode_length"] == 7.0
    evaluator.shutdown()


def test_the_policy_does_not_explore():
    env = GymEnv("CartPole-v1")
    greedy = TensorDictModule(
        lambda x: torch.tensor([0, 1]).expand(*x.shape[:-1], 2), ["observation"], ["action"]
    )
    explores = EGreedyModule(env.action_spec, eps_init=1.0, eps_end=1.0)
    found = [
        Evaluator(
            env,
            lambda td: explores(greedy(td)),
            num_trajectories=2,
            exploration_type=how,
            metrics_fn=lambda rs: {"left": sum(r["action"][..., 0].sum().item() for r in rs)},
        ).evaluate()["left"]
        for how in ("deterministic", "random")
    ]
    assert found[0] == 0
    assert found[1] > 0


def test_weights(evaluator):
    assert evaluator.evaluate()["actions"] == [0.0]
    assert evaluator.evaluate(linear(1.0))["actions"] == [1.0]
    assert evaluator.evaluate(linear(2.0).state_dict())["actions"] == [2.0]
    assert evaluator.evaluate()["actions"] == [0.0]
    nn.init.constant_(evaluator._given.module.bias, 3.0)
    assert evaluator.evaluate()["actions"] == [3.0]
    plain = Evaluator(CountingEnv(horizon=3), lambda td: td.set("action", torch.zeros(1)))
    assert plain.evaluate()["eval/episode_length"] == 3.0
    with pytest.raises(TypeError, match="Evaluator: has a policy without weights to set; found fu"):
        plain.evaluate(linear())


def test_a_thread_takes_the_weights_as_they_are_when_it_is_asked(evaluator):
    told, gate = [], threading.Event()
    evaluator.on_result = lambda metrics: (gate.wait(20), told.append(metrics))
    assert evaluator.poll() is None
    assert evaluator.wait() is None
    assert evaluator.trigger_eval(step=1)
    nn.init.constant_(evaluator._given.module.bias, 5.0)
    assert evaluator.poll() is None
    assert not evaluator.trigger_eval(step=2)
    with pytest.raises(TimeoutError):
        evaluator.wait(0.01)
    evaluator.busy_policy = "error"
    with pytest.raises(RuntimeError, match="Evaluator: it is busy"):
        evaluator.trigger_eval()
    gate.set()
    found = evaluator.wait(20)
    assert (found["actions"], found["eval/step"]) == ([0.0], 1)
    assert told == [found]
    assert evaluator.poll() is None
    evaluator.busy_policy = "wait"
    assert evaluator.trigger_eval()
    assert evaluator.trigger_eval()
    assert evaluator.wait()["actions"] == [5.0]


def test_an_error_in_the_thread_is_raised_where_one_asks(evaluator):
    def broken(metrics):
        raise ZeroDivisionError("no result")

    evaluator.on_result = broken
    assert evaluator.trigger_eval()
    with pytest.raises(ZeroDivisionError, match="no result"):
        evaluator.wait()
    evaluator.on_result = None
    assert evaluator.evaluate()["eval/episode_length"] == 3.0


def test_weights_must_be_those_of_the_policy(evaluator):
    with pytest.raises(MissingKeyError, match=r"'module.bias' is missing among the weights"):
        evaluator.evaluate({"module.weight": torch.zeros(1, 2)})


class Pictured(CountingEnv):
    """Shows itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        pixels = Unbounded((4, 4, 3), dtype=torch.uint8)
        self.observation_spec = Composite(**self.observation_spec, pixels=pixels)

    def _add(self, record):
        return record.set("pixels", torch.zeros(4, 4, 3, dtype=torch.uint8))

    def _reset(self, tensordict=None, **kwargs):
        return self._add(super()._reset(tensordict, **kwargs))

    def _step(self, tensordict):
        return self._add(super()._step(tensordict))


@pytest.mark.parametrize("wanted", [True, False])
def test_videos_are_written_once_an_evaluation(wanted):
    class Notebook:
        videos = ()

        def log_video(self, name, video, step, fps=None):
            self.videos = (*self.videos, (name, len(video), step))

    recorder = VideoRecorder(logger := Notebook(), "policy")
    env = TransformedEnv(Pictured(horizon=3), recorder)
    evaluator = Evaluator(env, num_trajectories=2, dump_video=wanted)
    evaluator.evaluate(step=10)
    assert logger.videos == ((("policy", 8, 10),) if wanted else ())


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match=r"busy_policy one of .* found 10, 'queue'"):
        Evaluator(CountingEnv(), busy_policy="queue")
    with pytest.raises(TypeError, match="either a policy or a policy_factory"):
        Evaluator(CountingEnv(), linear(), policy_factory=linear)
