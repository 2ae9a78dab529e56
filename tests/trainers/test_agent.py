"""Agents: acting from numpy, files, films, programs."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict

import torchrl
from torchrl._core.errors import DeviceError, MissingKeyError, ShapeError
from torchrl.envs import GymEnv, set_exploration_type
from torchrl.testing.mocks import MaskedEnv
from torchrl.trainers import Agent
from torchrl.trainers.export import AgentFunction

QUIET = {"log_dir": "", "progress_bar": False, "final_episodes": 0, "eval_interval": 10**9, "num_threads": 0}
SMALL = {"total_frames": 128, "frames_per_batch": 64, "num_envs": 1, "minibatch_size": 32, "num_epochs": 1}
CASES = {
    "ppo": ("ppo", "CartPole-v1", {**SMALL, "normalize_observations": True}),
    "ppo, continuous": ("ppo", "Pendulum-v1", {**SMALL, "normalize_observations": True}),
    "ppo, lstm": ("ppo", "CartPole-v1", {**SMALL, "recurrent": "lstm"}),
    "ppo, gru": ("ppo", "Pendulum-v1", {**SMALL, "recurrent": "gru"}),
    "dqn": ("dqn", "CartPole-v1", {"total_frames": 128, "frames_per_batch": 64, "learning_starts": 64}),
    "sac": ("sac", "Pendulum-v1", {"total_frames": 60, "learning_starts": 55, "num_cells": 16}),
}


@pytest.fixture(scope="module", params=CASES)
def agent(request):
    algorithm, task, settings = CASES[request.param]
    return torchrl.train(algorithm, task, **QUIET, **settings)


def observations(agent, n=3):
    """Return observations ``[n, *S]`` as numpy has them."""
    torch.manual_seed(1)
    return agent.specs.raw["observation"].rand((n,)).numpy()


def test_it_is_shown_with_its_settings(agent):
    assert repr(agent).startswith(f"Agent({agent.algorithm!r}, {agent.task!r}, ")
    assert "total_frames=" in repr(agent)


def test_one_observation_and_a_batch(agent):
    batch = observations(agent)
    actions, state = agent.predict(batch)
    one, one_state = agent.predict(batch[0])
    np.testing.assert_allclose(actions[0], one, rtol=1e-5)
    assert (state is None) == (one_state is None) == (agent.state_spec is None)
    task = GymEnv(agent.task)
    assert task._env.action_space.contains(one if isinstance(one, np.ndarray) else int(one))
    if isinstance(task._env.action_space, spaces.Discrete):
        assert type(one) is int
    assert agent.predict(torch.as_tensor(batch))[0].tolist() == actions.tolist()
    assert agent.predict({"observation": batch})[0].tolist() == actions.tolist()
    assert agent.predict(TensorDict(observation=torch.as_tensor(batch), batch_size=[3]))[0].tolist() == actions.tolist()


def test_acts_as_the_policy_in_its_environment(agent):
    """A loop by hand over gymnasium, with predict, plays the episode that a rollout plays."""
    import gymnasium

    env = gymnasium.make(agent.task)
    obs, _ = env.reset(seed=3)
    state, rewards = None, []
    for _ in range(30):
        action, state = agent.predict(obs, state=state)
        obs, reward, terminated, truncated, _ = env.step(action)
        rewards.append(reward)
        if terminated or truncated:
            break
    test = agent.make_env(GymEnv(agent.task), seed=0)
    test.base_env.set_seed(3, static_seed=True)
    with set_exploration_type("deterministic"), torch.no_grad():
        played = test.rollout(len(rewards), agent.policy)
    np.testing.assert_allclose(played["next", "reward"].flatten().numpy(), rewards, rtol=1e-3, atol=1e-4)


def test_random_actions_differ(agent):
    batch = observations(agent, 64)
    torch.manual_seed(0)
    drawn = [agent.predict(batch, deterministic=False)[0] for _ in range(2)]
    if agent.algorithm == "dqn":  # greedy without exploration
        assert (drawn[0] == drawn[1]).all()
    else:
        assert (drawn[0] != drawn[1]).any()


def test_observations_that_do_not_fit_are_refused(agent):
    with pytest.raises(ShapeError, match="got another observation"):
        agent.predict(np.zeros((2, 3, 4, 5)))
    with pytest.raises(MissingKeyError, match="an observation is absent"):
        agent.predict({"observatoin": observations(agent)})
    if agent.state_spec is not None:
        _, state = agent.predict(observations(agent, 2))
        with pytest.raises(ShapeError, match="another batch"):
            agent.predict(observations(agent, 3), state=state)


def test_a_fresh_process_predicts_the_same(agent, tmp_path):
    """The file is read without the code of training, and without running code of the file."""
    path, batch = agent.save(tmp_path / "a.agent"), observations(agent)
    np.save(tmp_path / "obs.npy", batch)
    program = (
        "import json, sys, numpy as np\n"
        "from torchrl.trainers import Agent\n"
        "agent = Agent.load(sys.argv[1])\n"
        "action, state = agent.predict(np.load(sys.argv[2]))\n"
        "again, _ = agent.predict(np.load(sys.argv[2]), state=state)\n"
        "print(json.dumps([agent.task, action.tolist(), again.tolist()]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path, tmp_path / "obs.npy"], capture_output=True, text=True, check=True
    )
    task, action, again = json.loads(done.stdout)
    expected, state = agent.predict(batch)
    assert task == agent.task
    np.testing.assert_allclose(action, expected, rtol=1e-6)
    np.testing.assert_allclose(again, agent.predict(batch, state=state)[0], rtol=1e-6)


def test_a_loaded_agent_goes_on_being_saved(agent, tmp_path):
    twice = Agent.load(Agent.load(agent.save(tmp_path / "a.agent")).save(tmp_path / "b.agent"))
    assert twice.config == agent.config
    for name, value in agent.policy.state_dict().items():
        torch.testing.assert_close(twice.policy.state_dict()[name], value)
    np.testing.assert_allclose(twice.predict(observations(agent))[0], agent.predict(observations(agent))[0])


def test_an_agent_of_a_device_that_is_not_there_is_loaded_on_the_cpu(agent, tmp_path, monkeypatch):
    monkeypatch.setattr(agent.config, "device", "cuda:99")
    path = agent.save(tmp_path / "a.agent")
    loaded = Agent.load(path)
    assert loaded.config.device == "cpu"
    np.testing.assert_array_equal(loaded.predict(observations(agent))[0], agent.predict(observations(agent))[0])
    with pytest.raises(DeviceError, match="this machine has no such device"):
        Agent.load(path, device="cuda:99")


def test_files_of_later_releases_and_damaged_ones_are_refused(agent, tmp_path, monkeypatch):
    monkeypatch.setattr("torchrl.trainers.agent.FORMAT", 2)
    path = agent.save(tmp_path / "a.agent")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="of a later release"):
        Agent.load(path)
    path = agent.save(tmp_path / "b.agent")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(Exception, match=r"b\.agent"):
        Agent.load(path)


def test_evaluations_leave_the_random_generators_alone(agent):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = agent.evaluate(3, max_steps=200), agent.evaluate(3, max_steps=200)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.returns, second.returns)
    assert first.lengths.tolist() == second.lengths.tolist()
    assert len(first.returns) == 3
    other = agent.evaluate(20, seed=7, max_steps=200)
    assert not torch.equal(other.returns, agent.evaluate(20, seed=8, max_steps=200).returns)


def test_programs_agree_with_the_agent(agent, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("torch"), "propagate", True)
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    function = AgentFunction(agent)
    program = torch.export.load(agent.export("torch", tmp_path / "a")).module()
    session = onnxruntime.InferenceSession(str(agent.export("onnx", tmp_path / "a")))
    assert not [each for each in caplog.messages if "torchvision" in each]
    assert {path.name for path in tmp_path.iterdir()} == {"a.onnx", "a.pt2"}  # weights are in the program
    assert [each.name for each in session.get_inputs()] == function.input_names
    for n in (1, 5):
        inputs = [torch.as_tensor(observations(agent, n))]
        if agent.state_spec is not None:
            states = agent.state_spec.zero((n,))
            first = torch.arange(n)[:, None] % 2 == 1
            inputs += [first, *(torch.randn_like(states[key]) for key in function.state_keys)]
        with torch.no_grad():
            wanted = function(*inputs)
            found = program(*inputs)
        names = {name: each.numpy() for name, each in zip(function.input_names, inputs, strict=True)}
        for a, b, c in zip(wanted, found, session.run(None, names), strict=True):
            torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(c, a.numpy(), rtol=1e-5, atol=1e-5)


def test_masks_hold_in_programs(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    agent = torchrl.train("ppo", MaskedEnv, **QUIET, **SMALL)
    count, mask = torch.arange(8.0)[:, None], torch.arange(4) == torch.arange(8)[:, None] % 4  # one legal choice each
    actions, _ = agent.predict({"count": count, "action_mask": mask})
    assert actions.tolist() == (torch.arange(8) % 4).tolist()
    session = onnxruntime.InferenceSession(str(agent.export("onnx", tmp_path / "a")))
    entries = {"count": count, "action_mask": mask}
    found = session.run(None, {each.name: entries[each.name].numpy() for each in session.get_inputs()})
    assert found[0].tolist() == actions.tolist()
    program = torch.export.load(agent.export("torch", tmp_path / "a")).module()
    assert program(*(entries[key] for key in agent.observation_keys))[0].tolist() == actions.tolist()


def test_programs_act_as_predict_does(agent):
    batch = observations(agent)
    inputs = [torch.as_tensor(batch)]
    if agent.state_spec is not None:
        inputs += [torch.ones(3, 1, dtype=torch.bool), *agent.state_spec.zero((3,)).values(True, True)]
    with torch.no_grad():
        actions = AgentFunction(agent)(*inputs)[0]
    np.testing.assert_allclose(actions.numpy(), agent.predict(batch)[0], rtol=1e-5, atol=1e-6)


def test_formats_are_named(agent, tmp_path):
    with pytest.raises(ValueError, match="no such format"):
        agent.export("tflite", tmp_path / "a")
