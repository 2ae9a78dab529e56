"""Helpers of training scripts, which they import from ``torchrl._utils``."""

import time

import pytest
import torch
from torch import nn

import torchrl
from torchrl import _utils
from torchrl._core.script_tools import implement_for
from torchrl.envs import Compose, PendulumEnv, RewardSum, StepCounter, TransformedEnv


@pytest.fixture(autouse=True)
def _no_timers():
    torchrl.timeit.erase()
    yield
    torchrl.timeit.erase()


@pytest.mark.parametrize(("word", "value"), [("Yes", True), ("ON", True), (" t ", True), ("n", False), ("off", False)])
def test_words_and_environment_variables(monkeypatch, word, value):
    monkeypatch.setenv("A_SWITCH", word)
    assert _utils.strtobool(word) is _utils.get_binary_env_var("A_SWITCH") is value


def test_words_without_a_truth_value_are_refused(monkeypatch):
    monkeypatch.setenv("A_SWITCH", "perhaps")
    for read in (lambda: _utils.strtobool("perhaps"), lambda: _utils.get_binary_env_var("A_SWITCH")):
        with pytest.raises(ValueError, match="'perhaps' is not a truth value; expected one of"):
            read()
    monkeypatch.delenv("A_SWITCH")
    assert _utils.get_binary_env_var("A_SWITCH") is False
    assert _utils.get_binary_env_var("A_SWITCH", True) is True


def test_the_same_names_are_found_in_both_places():
    for name in torchrl.__all__:
        if name in _utils.__all__:
            assert getattr(_utils, name) is getattr(torchrl, name)
    assert _utils.torchrl_logger is torchrl.logger
    assert {type(_utils.VERBOSE), type(_utils.RL_WARNINGS)} == {bool}


@pytest.mark.parametrize("as_decorator", [False, True])
def test_compilation_after_a_warm_up(monkeypatch, as_decorator):
    """Also of a module, and with any options of torch.compile."""
    options, compiled_calls = [], []

    def compile(model, **kwargs):
        options.append(kwargs)

        def run(*args):
            compiled_calls.append(1)
            return model(*args)

        return run

    monkeypatch.setattr(torch, "compile", compile)
    net = nn.Linear(2, 1)
    function = (lambda x: net(x)) if as_decorator else net
    make = torchrl.compile_with_warmup
    fast = make(warmup=2, mode="default")(function) if as_decorator else make(function, warmup=2, mode="default")
    x = torch.ones(2)
    for done in range(4):
        assert torch.equal(fast(x), net(x))
        assert len(compiled_calls) == max(0, done - 1)
    assert options == [{"mode": "default"}]
    with pytest.raises(ValueError, match="warmup >= 0"):
        make(function, warmup=-1)


class Greeter:
    @implement_for("torch", None, "1.0")
    def greet(self):
        return "old"

    @implement_for("torch", "1.0", "1000")
    def greet(self):  # noqa: F811
        return "new"

    @implement_for("torch", "1000")
    def greet(self):  # noqa: F811
        return "future"

    @implement_for(lambda: torch, "1.0", class_method=True, compilable=True)
    def name(cls):
        return cls.__name__


def test_methods_by_version():
    assert Greeter().greet() == "new"
    assert Greeter.name() == "Greeter"


def test_a_version_may_be_forced():
    first = implement_for("torch", None, "0.1")

    @first
    def side():
        return "left"

    @implement_for("torch", "0.1")
    def side():  # noqa: F811
        return "right"

    assert side() == "right"
    first.module_set()
    assert side() == "left"
    implement_for.reset()
    assert side() == "right"


def test_versions_that_are_not_installed():
    @implement_for("torch", "1000")
    def never():
        return 0

    with pytest.raises(ModuleNotFoundError, match=r"never has no implementation for the installed version of torch"):
        never()


@pytest.mark.parametrize(
    ("version", "low", "high", "inside"),
    [
        ("2.10.0+cpu", "2.9", "2.11", True),
        ("2.0", "2.0.0", None, True),
        ("1.9.9", "2", None, False),
        ("2.0rc1", None, "2.0", False),
        ("3", None, None, True),
    ],
)
def test_versions_are_compared_by_their_numbers(version, low, high, inside):
    assert implement_for.check_version(version, low, high) is inside


@pytest.mark.parametrize("mode", [False, True])
def test_nested_transformed_environments(mode):
    """Unwrapped or not, they have the same specs and give the same steps."""
    made = TransformedEnv(PendulumEnv(), Compose(RewardSum()))
    with torchrl.set_auto_unwrap_transformed_env(mode):
        env = TransformedEnv(made, StepCounter())
    assert isinstance(env.base_env, TransformedEnv) is not mode
    plain, steps = TransformedEnv(made, StepCounter()), []
    for each in (env, plain):
        torch.manual_seed(0)
        each.set_seed(0)
        steps.append(each.rollout(4))
    assert (steps[0] == steps[1]).all()
    assert made.transform.container is made


def test_the_mode_of_nesting_until_the_next_change():
    before = torchrl.auto_unwrap_transformed_env(allow_none=True)
    assert torchrl.auto_unwrap_transformed_env() is bool(before)
    with torchrl.set_auto_unwrap_transformed_env(False):  # the block ends the change
        torchrl.set_auto_unwrap_transformed_env(True).set()
        assert torchrl.auto_unwrap_transformed_env() is True
    assert torchrl.auto_unwrap_transformed_env(allow_none=True) is before


def test_timers_without_a_block():
    timer = torchrl.timeit("outer").start()
    torchrl.timeit.mark_start("inner")
    time.sleep(0.002)
    torchrl.timeit.mark_end("inner")
    assert timer.elapsed() >= torchrl.timeit.todict()["inner"] >= 0.002
    timer.stop()
    assert torchrl.timeit.laps["outer"].count == 1
    for stop in (timer.stop, timer.elapsed, lambda: torchrl.timeit.mark_end("other")):
        with pytest.raises(RuntimeError, match="is not running"):
            stop()
    assert set(torchrl.timeit.laps) == {"outer", "inner"}


@pytest.mark.parametrize("erase", [False, True])
def test_tables_in_a_loop(capsys, erase):
    for _ in range(9):
        with torchrl.timeit("step"):
            pass
        torchrl.timeit.printevery(num_prints=3, total_count=9, prefix="t", erase=erase)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" calls")[0].split()[-1] for line in lines] == (["3", "3", "3"] if erase else ["3", "6", "9"])


@pytest.mark.parametrize("enabled", [False, True])
def test_timers_are_ranges_of_the_profiler(enabled):
    torchrl.set_profiling_enabled(enabled)
    try:
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities) as profile, torchrl.timeit("optimise"):
            torch.ones(2).sum()
    finally:
        torchrl.set_profiling_enabled(False)
    assert ("optimise" in {event.key for event in profile.key_averages()}) is enabled


def test_seeds_and_devices():
    seeds = [3]
    for _ in range(20):
        seeds.append(_utils.seed_generator(seeds[-1]))
    assert len(set(seeds)) == 21
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert torch.zeros(1, device=torchrl.get_available_device()).device == torchrl.get_available_device()
