"""Evaluations: whole episodes, here, in a thread and in a process."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

import torchrl.collectors.evaluator
from torchrl._core.errors import MissingKeyError, WorkerError
from torchrl.collectors import Evaluator
from torchrl.collectors.evaluation_runner import returns_and_lengths
from torchrl.data import Composite, Unbounded
from torchrl.envs import GymEnv, ParallelEnv, SerialEnv, TransformedEnv
from torchrl.modules import EGreedyModule
from torchrl.record import VideoRecorder
from torchrl.testing.mocks import CountingEnv


def linear(value=None):
    policy = TensorDictModule(nn.Linear(2, 1), in_keys=["observation"], out_keys=["action"])
    if value is not None:
        nn.init.zeros_(policy.module.weight)
        nn.init.constant_(policy.module.bias, value)
    return policy


def set_bias(policy, value):
    nn.init.constant_(policy.module.bias, value)


def actions(rollouts):
    return {"actions": torch.cat([r["action"].reshape(-1) for r in rollouts]).unique().tolist()}


@pytest.fixture(params=["thread", "process"])
def backend(request):
    return request.param


@pytest.fixture
def policy():
    return linear(0.0)


@pytest.fixture
def make(backend, policy, started):
    """Evaluators of three steps, two times; none is left at the end."""
    made = []

    def build(env=lambda: CountingEnv(horizon=3), policy=policy, **kwargs):
        options = {"num_trajectories": 2, "metrics_fn": actions, "backend": backend, **kwargs}
        made.append(Evaluator(env, policy, **options))
        return made[-1]

    yield build
    for evaluator in made:
        evaluator.shutdown()
        evaluator.shutdown()


@pytest.fixture
def evaluator(make):
    return make(CountingEnv(horizon=3))


def children():
    """Return the processes that this thread has started and that are not gone."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return {int(child) for child in file.read().split()}


def supervisors():
    """Return those of them that only see to it that workers end with this process."""
    return {pid for pid in children() if b"orphans.py" in Path(f"/proc/{pid}/cmdline").read_bytes()}


@pytest.fixture(autouse=True)
def started():
    """Return the workers that the test has started; nothing is left at its end."""
    before = children()
    yield lambda: children() - supervisors() - before
    assert children() <= before


def test_rows_count_with_one_episode_each(make):
    """Rows whose episodes take 2, 3 and 4 steps; by hand, from the same environments alone."""
    makers = [lambda n=n: CountingEnv(horizon=n) for n in (2, 3, 4)]
    alone = [make().rollout(10, linear(0.5)) for make in makers]
    expected = [episode["next", "reward"].sum() for episode in alone]
    env = SerialEnv(3, makers)
    evaluator = make(env, linear(0.5), num_trajectories=3)
    found = evaluator.evaluate(step=5)
    assert found["eval/episode_length"] == 3.0
    torch.testing.assert_close(found["eval/reward"], torch.stack(expected).mean().item())
    assert found["eval/step"] == 5
    assert found["eval/fps"] > 0
    four = make(env, linear(0.5), num_trajectories=4)  # 2, 3, 4, 2
    assert four.evaluate()["eval/episode_length"] == 11 / 4


def test_the_environment_is_closed():
    evaluator = Evaluator(env := CountingEnv(horizon=3))
    assert not env.is_closed
    evaluator.shutdown()
    evaluator.shutdown()
    assert env.is_closed


def test_long_episodes_are_given_up():
    evaluator = Evaluator(lambda: GymEnv("Pendulum-v1"), num_trajectories=1, max_steps=7)
    assert evaluator.evaluate()["eval/episode_length"] == 7.0
    evaluator.shutdown()


def test_the_policy_does_not_explore():
    env = GymEnv("CartPole-v1")
    greedy = TensorDictModule(lambda x: torch.tensor([0, 1]).expand(*x.shape[:-1], 2), ["observation"], ["action"])
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


def test_weights(make, evaluator, policy):
    assert evaluator.evaluate()["actions"] == [0.0]
    assert evaluator.evaluate(linear(1.0))["actions"] == [1.0]
    assert evaluator.evaluate(linear(2.0).state_dict())["actions"] == [2.0]
    assert evaluator.evaluate()["actions"] == [0.0]
    set_bias(policy, 3.0)
    assert evaluator.evaluate()["actions"] == [3.0]
    plain = make(policy=lambda td: td.set("action", torch.zeros(1)))
    assert plain.evaluate()["eval/episode_length"] == 3.0
    with pytest.raises(TypeError, match="Evaluator: has a policy without weights to set"):
        plain.evaluate(linear())


def test_the_weights_that_a_factory_made_are_those_without_others(make):
    evaluator = make(policy=None, policy_factory=lambda: linear(4.0))
    assert evaluator.evaluate()["actions"] == [4.0]
    assert evaluator.evaluate(linear(1.0))["actions"] == [1.0]
    assert evaluator.evaluate()["actions"] == [4.0]


def test_weights_are_taken_as_they_are_when_one_is_triggered(evaluator, policy):
    told, gate = [], threading.Event()
    evaluator.on_result = lambda metrics: (gate.wait(20), told.append(metrics))
    assert evaluator.poll() is None
    assert evaluator.wait() is None
    assert evaluator.trigger_eval(step=1)
    set_bias(policy, 5.0)
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
    with pytest.raises(ValueError, match=r"backend must be one of .* found 'mpi'"):
        Evaluator(CountingEnv(), backend="mpi")
    with pytest.raises(ValueError, match=r"mp_start_method is an argument of backend='process'"):
        Evaluator(CountingEnv(), mp_start_method="fork")
    with pytest.raises(TypeError, match="either a policy or a policy_factory"):
        Evaluator(CountingEnv(), linear(), policy_factory=linear)


# --- in a process --------------------------------------------------------------------------------


def seeded():
    env = GymEnv("CartPole-v1")
    env.set_seed(3)
    return env


def balance():
    """Push to the side to which the pole falls, not always."""
    torch.manual_seed(1)
    policy = TensorDictModule(nn.Linear(4, 1), ["observation"], ["lean"])
    return nn.Sequential(policy, TensorDictModule(one_hot, ["lean"], ["action"]))


def one_hot(lean):
    return torch.cat([lean <= 0, lean > 0], -1).long()


@pytest.mark.parametrize("env", [seeded, seeded()], ids=["built there", "a copy"])
def test_a_process_finds_what_a_thread_finds(env):
    found = []
    for backend in ("process", "thread"):
        evaluator = Evaluator(env, balance(), num_trajectories=4, backend=backend)
        found.append([evaluator.evaluate(step=i) for i in range(2)])
        evaluator.shutdown()
    for metrics in (*found[0], *found[1]):
        assert metrics.pop("eval/fps") > 0
    assert found[0] == found[1]
    assert found[0][0]["eval/reward_std"] > 0
    assert found[0][0]["eval/reward"] != found[0][1]["eval/reward"]


def test_a_process_has_workers_of_its_own(policy, started):
    """They go with it, and those of the environment that it was given go on."""
    env = ParallelEnv(2, lambda: CountingEnv(horizon=3))
    env.reset()
    workers = started()
    assert len(workers) == 2
    evaluator = Evaluator(env, policy, num_trajectories=4, backend="process")
    assert evaluator.evaluate()["eval/episode_length"] == 3.0
    evaluator.shutdown()
    assert started() == workers
    assert env.rollout(10)["next", "done"][:, -1].all()
    env.close()


def test_what_runs_where(make, backend, started):
    """The order of what is built, and the process in which things are called."""
    order, results = [], []

    def say(word, result=None):
        order.append(word)
        return result

    evaluator = make(
        lambda: say("env", CountingEnv(horizon=3)),
        None,
        policy_factory=lambda: say("policy", linear(0.0)),
        init_fn=lambda: say("init"),
        metrics_fn=lambda _: {"order": order, "pid": os.getpid()},
        on_result=lambda metrics: results.append((os.getpid(), metrics["pid"])),
    )
    assert evaluator.evaluate()["order"] == ["init", "env", "policy"]
    assert evaluator.trigger_eval()
    evaluator.wait()
    there = os.getpid() if backend == "thread" else started().pop()
    assert results == [(os.getpid(), there)] * 2


@pytest.mark.slow
def test_a_spawned_process_gets_functions_and_modules_by_value(policy, started):
    evaluator = Evaluator(
        lambda: CountingEnv(horizon=3),
        policy,
        metrics_fn=lambda rollouts: {"actions": rollouts[0]["action"].unique().tolist()},
        backend="process",
        mp_start_method="spawn",
    )
    set_bias(policy, 2.0)
    assert evaluator.evaluate()["actions"] == [2.0]
    os.kill(evaluator._runner.pool.workers[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="its process was killed by SIGKILL"):
        evaluator.evaluate()
    evaluator.shutdown()
    assert not started()


class Stumbling(CountingEnv):
    """Fails when it is told to go back."""

    def _step(self, tensordict):
        if tensordict["action"] < 0:
            raise ArithmeticError("the wheel came off")
        return super()._step(tensordict)


def test_an_error_in_a_process_arrives_with_its_traceback_and_is_not_its_end(started):
    evaluator = Evaluator(Stumbling(horizon=3), policy := linear(-1.0), backend="process")
    for ask in (evaluator.evaluate, lambda: evaluator.trigger_eval() and evaluator.wait()):
        with pytest.raises(WorkerError) as error:
            ask()
        text = str(error.value)
        assert "Evaluator: its process failed: ArithmeticError: the wheel came off" in text
        assert 'raise ArithmeticError("the wheel came off")' in text
    set_bias(policy, 1.0)
    assert evaluator.evaluate()["eval/episode_length"] == 3.0
    evaluator.shutdown()
    assert not started()


def test_an_answer_that_cannot_be_pickled_is_an_error(policy):
    evaluator = Evaluator(
        CountingEnv(horizon=3), policy, metrics_fn=lambda _: {"lock": threading.Lock()}, backend="process"
    )
    with pytest.raises(WorkerError, match=r"its process failed: TypeError: cannot pickle '.*lock'"):
        evaluator.evaluate()
    evaluator.shutdown()


def test_what_cannot_be_built_leaves_no_process(started):
    with pytest.raises(WorkerError, match="its process failed: ZeroDivisionError"):
        Evaluator(lambda: 1 / 0, backend="process")
    assert not started()


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_process_that_is_killed_is_told_of_at_once(when, started):
    class Stuck(CountingEnv):
        def _step(self, tensordict):
            time.sleep(60)

    evaluator = Evaluator(Stuck if when == "during" else CountingEnv, backend="process")
    (process,) = started()
    if when == "before":
        os.kill(process, signal.SIGKILL)
    assert evaluator.trigger_eval()
    if when == "during":
        assert evaluator.poll() is None
        os.kill(process, signal.SIGKILL)
    with pytest.raises(WorkerError, match="Evaluator: its process was killed by SIGKILL"):
        evaluator.wait(20)
    assert not started()
    with pytest.raises(RuntimeError, match="its process has ended; build a new one"):
        evaluator.evaluate()
    evaluator.shutdown()


@pytest.fixture
def interruptible():
    """Hear SIGINT, which what runs behind a shell may have been told to ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_caller_that_is_interrupted_does_not_take_an_old_answer_for_a_new_one(started):
    class Interrupting(CountingEnv):
        def _step(self, tensordict):
            os.kill(os.getppid(), signal.SIGINT)
            time.sleep(60)

    evaluator = Evaluator(Interrupting, backend="process")
    with pytest.raises(KeyboardInterrupt):
        evaluator.evaluate()
    assert not started()
    with pytest.raises(RuntimeError, match="its process has ended"):
        evaluator.evaluate()


def test_a_process_ends_with_its_evaluator(started):
    evaluator = Evaluator(CountingEnv, backend="process")
    assert len(started()) == 1
    del evaluator
    assert not started()


class Hanging(CountingEnv):
    """Hangs in its second step."""

    def _step(self, tensordict):
        if self.count:
            time.sleep(60)
        return super()._step(tensordict)


def test_an_evaluation_in_a_process_has_a_time_limit(started):
    evaluator = Evaluator(Hanging, backend="process", timeout=0.5)
    with pytest.raises(WorkerError, match=r"within 0.5 s and was killed(.|\n)*in _step"):
        evaluator.evaluate()
    assert not started()
    evaluator.shutdown()


def test_shutdown_ends_an_evaluation_that_takes_too_long(started):
    evaluator = Evaluator(Hanging, backend="process", shutdown_timeout=0.3)
    evaluator.trigger_eval()
    start = time.monotonic()
    with pytest.warns(UserWarning, match="raise shutdown_timeout"):
        evaluator.shutdown()
    assert time.monotonic() - start < 8
    assert not started()
    with pytest.raises(WorkerError):
        evaluator.wait()


class Marking(CountingEnv):
    """Leaves a file when an episode begins."""

    def __init__(self, path, **kwargs):
        super().__init__(**kwargs)
        self.path = Path(path)

    def _reset(self, tensordict=None):
        self.path.touch()
        return super()._reset(tensordict)


def test_the_end_of_the_program_comes_before_an_evaluation_that_has_just_been_triggered(started, tmp_path, monkeypatch):
    monkeypatch.setattr(torchrl.collectors.evaluator, "DELAY", 60)
    evaluator = Evaluator(partial(Marking, str(tmp_path / "begun")), backend="process")
    evaluator.trigger_eval()
    time.sleep(0.3)  # a busy machine
    evaluator._finalizer()  # as the interpreter calls it at its end
    assert not started()
    assert not (tmp_path / "begun").exists()
    with pytest.raises(WorkerError):
        evaluator.wait()


@pytest.mark.parametrize("ask", ["wait", "poll", "shutdown", "nobody"])
def test_a_triggered_evaluation_runs_whoever_asks_for_it(ask, started):
    evaluator = Evaluator(CountingEnv, backend="process", num_trajectories=1, max_steps=2)
    evaluator.trigger_eval()
    if ask == "poll":
        while not evaluator.poll():
            time.sleep(0.01)
    elif ask == "nobody":
        assert evaluator._running.result(20)["eval/episode_length"] == 2
    else:
        getattr(evaluator, ask)()
    evaluator.shutdown()
    if ask == "shutdown":
        assert evaluator.wait()["eval/episode_length"] == 2


@pytest.mark.parametrize("name", ["timeout", "shutdown_timeout"])
def test_threads_have_no_time_limit(name):
    with pytest.raises(ValueError, match=f"{name} is an argument of backend='process'"):
        Evaluator(CountingEnv(), **{name: 1.0})


@pytest.mark.parametrize("after", [float("nan"), float("inf"), -float("inf")])
def test_what_follows_the_first_episode_does_not_count_whatever_it_is(after):
    reward = torch.ones(2, 3, 1)
    reward[0, 2:] = reward[1, 1:] = after
    done = torch.tensor([[0, 1, 0], [1, 0, 1]]).bool().unsqueeze(-1)
    steps = TensorDict(reward=reward, done=done, batch_size=[2, 3])
    returns, lengths = returns_and_lengths(steps, "reward", "done")
    assert returns.tolist() == [2.0, 1.0]
    assert lengths.tolist() == [2, 1]
