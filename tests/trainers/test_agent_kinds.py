"""Agents of each kind of observation and action: files, predictions from numpy, programs, films."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.trainers.algorithms import tasks
from torchrl.trainers import Agent
from torchrl.trainers.algorithms.environments import make_film_env
from torchrl.trainers.export import AgentFunction

NORMALIZED = {"normalize_observations": True}
LSTM = {"recurrent": "lstm"}
KINDS = {
    "masked, normalised, gru": ("ppo", tasks.masked, {**NORMALIZED, "recurrent": "gru"}),
    "pixels": ("qr_dqn", tasks.picture, {"num_cells": 0}),
    "flags": ("dqn", tasks.small_picture, {"num_cells": 0, "rainbow": True}),
    "dict, normalised": ("impala", tasks.several_observations, NORMALIZED),
    "dict, continuous, normalised, lstm": ("ppo", tasks.several_observations_continuous, {**NORMALIZED, **LSTM}),
    "dict, continuous": ("crossq", tasks.several_observations_continuous, {}),
    "several choices, normalised": ("a2c", tasks.several_choices, NORMALIZED),
    "several choices, q-values": ("dqn", tasks.several_choices, {}),
    "switches, normalised, lstm": ("ppo", tasks.switches, {**NORMALIZED, **LSTM}),
}
N = 4


def entries(agent):
    """Return a batch of observations by name, as numpy has them; masks have a legal choice."""
    torch.manual_seed(1)
    found = {}
    for key, spec in agent.specs.raw.items(True, True):
        value = spec.rand((N,))
        if key == "action_mask":
            value[:, 0] = True
        found[key] = value.numpy()
    return found


@pytest.fixture(scope="module")
def agents():
    found = {}
    for kind, (name, task, settings) in KINDS.items():
        trainer = tasks.build(name, task, total_frames=64, **settings)
        trainer.train()
        found[kind] = Agent.from_trainer(trainer, trainer.config, task)
    return found


def test_a_fresh_process_predicts_the_same(agents, tmp_path):
    for kind, agent in agents.items():
        torch.save([*entries(agent).items()], tmp_path / f"{kind}.in")
        agent.save(tmp_path / f"{kind}.agent")
    program = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from torchrl.trainers import Agent\n"
        "for path in Path(sys.argv[1]).glob('*.agent'):\n"
        "    obs = dict(torch.load(path.with_suffix('.in'), weights_only=False))\n"
        "    agent = Agent.load(path)\n"
        "    action, state = agent.predict(obs)\n"
        "    torch.save([action, agent.predict(obs, state=state)[0]], path.with_suffix('.out'))\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True)
    for kind, agent in agents.items():
        action, state = agent.predict(entries(agent))
        found = torch.load(tmp_path / f"{kind}.out", weights_only=False)
        for expected, value in zip((action, agent.predict(entries(agent), state=state)[0]), found, strict=True):
            assert value.dtype == expected.dtype
            np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_one_observation_and_a_batch(kind, agents):
    agent = agents[kind]
    batch, states = agent.predict(entries(agent))
    for i in range(N):
        one = {key: value[i] for key, value in entries(agent).items()}
        action, state = agent.predict(one)
        np.testing.assert_allclose(action, batch[i], rtol=1e-4, atol=1e-5)
        if state is not None:
            again, _ = agent.predict(one, state=state)
            np.testing.assert_allclose(again, agent.predict(entries(agent), state=states)[0][i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_programs_agree_with_predict(kind, agents, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    agent = agents[kind]
    function = AgentFunction(agent)
    observed = entries(agent)
    inputs = [torch.as_tensor(observed[key]) for key in agent.observation_keys]
    if agent.state_spec is not None:
        states = agent.state_spec.zero((N,))
        inputs += [torch.ones(N, 1, dtype=torch.bool), *(states[key] for key in function.state_keys)]
    session = onnxruntime.InferenceSession(str(agent.export("onnx", tmp_path / "a")))
    program = torch.export.load(agent.export("torch", tmp_path / "a")).module()
    for _ in range(2):  # steps of an episode
        found = [each.numpy() for each in program(*inputs)]
        names = {name: each.numpy() for name, each in zip(function.input_names, inputs, strict=True)}
        names = {each.name: names[each.name] for each in session.get_inputs()}  # a mask may be of no use to a policy
        results = session.run(None, names)
        for a, b in zip(found, results, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)
        if agent.state_spec is None:
            np.testing.assert_allclose(found[0], agent.predict(observed)[0], rtol=1e-5, atol=1e-5)
            break
        state = None if inputs[len(observed)].all() else states
        action, states = agent.predict(observed, state=state)
        np.testing.assert_allclose(found[0], action, rtol=1e-5, atol=1e-5)
        for value, key in zip(found[1:], agent.memory_keys, strict=True):
            np.testing.assert_allclose(value, states[key].numpy(), rtol=1e-5, atol=1e-5)
        inputs = [*inputs[: len(observed)], torch.zeros(N, 1, dtype=torch.bool), *map(torch.as_tensor, found[1:])]


def test_films_of_atari_games_show_the_screen_in_colour(tmp_path):
    """Not the small gray pictures that the policy reads."""
    pytest.importorskip("ale_py")
    iio = pytest.importorskip("imageio.v3")
    trainer = tasks.build("dqn", "ALE/Pong-v5", total_frames=64, num_envs=1)
    agent = Agent.from_trainer(trainer, trainer.config, "ALE/Pong-v5")
    trainer.shutdown()
    film = iio.imread(agent.record(tmp_path / "film.gif", max_steps=3))
    assert film.shape[-3:] == (210, 160, 3)
    ground = film[0, 100, 80].tolist()
    assert ground[0] > 100 > ground[2], "brown"


def test_tasks_of_minatar_are_filmed_in_a_fresh_process(monkeypatch):
    pytest.importorskip("minatar")
    called = []
    monkeypatch.setattr("torchrl.trainers.algorithms.environments.register_minatar", lambda: called.append(1))
    with pytest.raises(Exception, match="MinAtar"):
        make_film_env("MinAtar/Nothing-v0")
    assert called
