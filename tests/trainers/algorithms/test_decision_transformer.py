"""The Decision Transformer of the one-line trainer: its batches, its loss, its agents."""

import json
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule

import torchrl
from tests.trainers.algorithms.tasks import build, masked, several_observations_continuous
from torchrl._core.errors import MissingKeyError, ShapeError
from torchrl.cli.script import make_script
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.data.datasets import write_dataset
from torchrl.envs import GymEnv, set_exploration_type
from torchrl.objectives import DTLoss
from torchrl.trainers import Agent, RunConfig
from torchrl.trainers.algorithms import ALGORITHMS, OfflineConfig, SequenceReader, make_env, with_settings
from torchrl.trainers.algorithms.defaults import tuned_settings
from torchrl.trainers.export import AgentFunction

NAME = "decision_transformer"
QUIET = {"log_dir": "", "progress_bar": False, "final_episodes": 0, "eval_interval": 10**9, "num_threads": 0}
SMALL = {"total_frames": 6, "batch_size": 8, "context": 5, "num_cells": 8, "depth": 2, "num_heads": 2}
TASKS = ["CartPole-v1", "Pendulum-v1"]


def recorded(task, steps=450):
    torch.manual_seed(0)
    env = GymEnv(task)
    env.set_seed(0)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(steps))
    buffer.extend(env.rollout(steps, break_when_any_done=False))
    return buffer


@pytest.fixture(scope="module", params=TASKS)
def agent(request):
    return torchrl.train(NAME, request.param, dataset=recorded(request.param), **QUIET, **SMALL)


def episodes(*lengths, cut=0):
    """Return a buffer of episodes whose rewards are 1, 2, 3, ...; one more of ``cut`` steps has not ended."""
    steps = torch.arange(sum(lengths) + cut)
    done = torch.zeros(len(steps), 1, dtype=torch.bool)
    done[torch.tensor(lengths, dtype=torch.int64).cumsum(0) - 1] = True
    observation = steps[:, None].expand(-1, 4) * 1.0
    following = {"observation": observation + 1, "reward": steps[:, None] + 1.0, "done": done, "terminated": done}
    data = TensorDict({"observation": observation, "action": steps % 2, "next": following}, batch_size=[len(steps)])
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100))
    buffer.extend(data)
    return buffer


def reader(buffer, steps=4, batch=500):
    return SequenceReader(make_env("CartPole-v1", OfflineConfig()), buffer, OfflineConfig(batch_size=batch), steps)


def test_batches_are_parts_of_episodes_with_padding():
    found = reader(episodes(3, 6)).sample()
    assert found.batch_size == (500, 4)
    to_go = [6, 5, 3, 39, 35, 30, 24, 17, 9]
    starts = set()
    for row in found:
        first = int(row["observation"][0, 0])
        starts.add(first)
        stop = min(first + 4, 3 if first < 3 else 9)
        mask = row["collector", "mask"]
        assert mask.tolist() == [True] * (stop - first) + [False] * (4 - stop + first)
        assert row["observation"][mask][:, 0].tolist() == list(range(first, stop))
        assert row["action"][mask].argmax(-1).tolist() == [step % 2 for step in range(first, stop)]
        assert row["return_to_go"][mask, 0].tolist() == to_go[first:stop]
    assert starts == set(range(9))
    assert "next" not in found


def test_all_steps_are_equally_likely_starts():
    torch.manual_seed(0)
    first = reader(episodes(1, 7), batch=8000).sample()["observation"][:, 0, 0]
    assert first.long().bincount(minlength=8).sub(1000).abs().max() < 150  # five standard deviations


def test_returns_of_whole_episodes():
    found = reader(episodes(3, 6, cut=9))
    assert found.episode_returns.tolist() == [6.0, 39.0]  # what is left to reach in the last one is not known
    assert found.largest_return == 39.0
    assert len(found.steps) == 9
    assert reader(episodes(cut=3)).episode_returns.tolist() == [6.0]  # there is nothing else


def test_a_dataset_without_rewards_is_refused():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(9))
    buffer.extend(episodes(3)[:].exclude(("next", "reward")))
    with pytest.raises(MissingKeyError, match="reward"):
        reader(buffer)


def test_the_cursor_of_a_full_buffer_starts_an_episode():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(6))
    buffer.extend(episodes(4)[:])
    buffer.extend(episodes(4)[:])  # overwrites the first two steps
    assert reader(buffer).episode_returns.tolist() == [7.0, 10.0]


def test_the_loss_of_choices_is_a_cross_entropy_without_padding():
    trainer = build(NAME, "CartPole-v1", dropout=0.0)
    batch = trainer.collector.sample()
    policy = trainer.policy
    action, mask = batch["action"], batch["collector", "mask"]
    assert not mask.all()
    logits = policy.network(batch["observation"], action.float(), batch["return_to_go"] / policy.return_scale)
    expected = -(logits.log_softmax(-1) * action).sum(-1)[mask].mean()
    torch.testing.assert_close(trainer.loss_module(batch)["loss"], expected)
    batch["observation"][~mask], batch["return_to_go"][~mask] = torch.nan, torch.inf
    torch.testing.assert_close(trainer.loss_module(batch)["loss"], expected)


def test_the_loss_of_numbers_is_their_squared_distance_without_padding():
    trainer = build(NAME, "Pendulum-v1", dropout=0.0)
    batch = trainer.collector.sample()
    policy, action, mask = trainer.policy, batch["action"], batch["collector", "mask"]
    out = policy.network(batch["observation"], action, batch["return_to_go"] / policy.return_scale)
    expected = (2 * out.tanh() - action)[mask].square().mean()
    torch.testing.assert_close(trainer.loss_module(batch)["loss"], expected)


def test_numbers_of_choices_have_the_loss_of_one_hot_choices():
    td = TensorDict(logits=torch.randn(3, 4, 2), action=torch.randint(2, (3, 4)), batch_size=[3, 4])
    loss = DTLoss(TensorDictModule(torch.nn.Identity(), ["logits"], ["logits"]), loss_function="cross_entropy")
    loss.set_keys(action_pred="logits")
    number = loss(td)["loss"]
    expected = torch.nn.functional.cross_entropy(td["logits"].flatten(0, 1), td["action"].flatten())
    torch.testing.assert_close(number, expected)
    td["action"] = torch.nn.functional.one_hot(td["action"], 2)
    torch.testing.assert_close(loss(td)["loss"], expected)


def test_settings_of_the_returns():
    buffer = episodes(3, 6)
    trainer = ALGORITHMS[NAME].from_env("CartPole-v1", dataset=buffer, progress_bar=False, **SMALL)
    assert (trainer.policy.desired_return, trainer.policy.return_scale) == (39.0, 39.0)
    chosen = {"desired_return": 7.0, "return_scale": 2.0}
    trainer = ALGORITHMS[NAME].from_env("CartPole-v1", dataset=buffer, progress_bar=False, **SMALL, **chosen)
    assert (trainer.policy.desired_return, trainer.policy.return_scale) == (7.0, 2.0)


def test_the_learning_rate_rises():
    trainer = build(NAME, "CartPole-v1", total_frames=20, warmup=0.5, lr=1.0)
    seen = []
    trainer.register_op("post_optim", lambda: seen.append(trainer.optimizer.param_groups[0]["lr"]))
    trainer.train()
    np.testing.assert_allclose(seen, [min(1.0, step / 10) for step in range(1, 21)], rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context": 0}, "context is too small"),
        ({"num_heads": 3}, "shared by the heads"),
        ({"activation": "tanh"}, "relu"),
        ({"return_scale": 0.0}, "return_scale"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        with_settings(ALGORITHMS[NAME].config_class(), settings)


@pytest.mark.parametrize("env", [masked, several_observations_continuous])
def test_masks_and_pictures(env):
    trainer = build(NAME, env)
    trainer.train()
    agent = Agent.from_trainer(trainer, trainer.config, env)
    played = agent.evaluate(2, max_steps=20)
    if env is masked:
        assert torch.equal(played.returns, played.lengths.float())  # the reward of a legal action is 1


def noisy_cartpole(steps=3_000):
    """Return whole episodes of ten policies that keep the pole up, but for more and more random actions."""
    torch.manual_seed(0)
    env = GymEnv("CartPole-v1", num_envs=10)
    env.set_seed(0)
    noise, spec = torch.linspace(0.1, 1.0, 10), env.action_spec_unbatched

    def act(td):
        obs = td["observation"]
        good, drawn = (obs[:, 2] + 0.5 * obs[:, 3] > 0).long(), torch.randint(2, (10,))
        return td.set("action", spec.encode(torch.where(torch.rand(10) < noise, drawn, good)))

    rows = env.rollout(steps // 10, act, break_when_any_done=False).unbind(0)
    ends = [row["next", "done"].squeeze(-1).nonzero().flatten().tolist() for row in rows]
    whole = torch.cat([row[: end[-1] + 1] for row, end in zip(rows, ends, strict=True) if end])
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(len(whole)))
    buffer.extend(whole)
    return buffer


def test_reaches_a_return_far_above_the_mean_of_the_data_and_a_lower_one_if_told_so():
    data = noisy_cartpole()
    mean = len(data) / len(data.query())  # 55
    settings = {"total_frames": 200, "lr": 3e-3, "num_cells": 32, "depth": 1, "context": 4, "dropout": 0.0}
    agent = torchrl.train(NAME, "CartPole-v1", dataset=data, **QUIET, **settings)
    best = agent.evaluate(10, max_steps=200).mean
    agent.desired_return = 10.0
    told_less = agent.evaluate(10, max_steps=200).mean
    assert best > 2.5 * mean  # reached: 200, the longest episode here
    assert told_less < 0.75 * best


# --- agents --------------------------------------------------------------------------------------


def play(agent, steps=30):
    """Return observations, actions and rewards of an episode over gymnasium, by predict."""
    import gymnasium

    env = gymnasium.make(agent.task)
    obs, _ = env.reset(seed=3)
    state = reward = None
    seen = []
    for _ in range(steps):
        action, state = agent.predict(obs, state=state, reward=reward)
        after, reward, terminated, truncated, _ = env.step(action)
        seen.append((obs, action, reward))
        obs = after
        if terminated or truncated:
            break
    return seen


def test_predict_acts_as_the_policy_in_its_environment(agent):
    seen = play(agent)
    test = agent.make_env(GymEnv(agent.task), seed=0)
    test.base_env.set_seed(3, static_seed=True)
    with set_exploration_type("deterministic"), torch.no_grad():
        played = test.rollout(len(seen), agent.policy)
    np.testing.assert_allclose(
        played["next", "reward"].flatten().numpy(), [each[2] for each in seen], rtol=1e-3, atol=1e-4
    )
    assert len(seen) > SMALL["context"]


def test_batches_of_predictions(agent):
    torch.manual_seed(1)
    batch = agent.specs.raw["observation"].rand((3,)).clamp(-1, 1).numpy()
    actions, state = agent.predict(batch)
    again, after = agent.predict(batch, state=state, reward=[1.0, 2.0, 3.0])
    assert len(actions) == len(again) == 3
    for row, reward in enumerate([1.0, 2.0, 3.0]):
        _, one = agent.predict(batch[row])
        action, one = agent.predict(batch[row], state=one, reward=reward)
        np.testing.assert_allclose(action, again[row], rtol=1e-4, atol=1e-5)
        expected = [agent.desired_return, agent.desired_return - reward]
        np.testing.assert_allclose(after["context_return"][row, :2, 0], expected)
        np.testing.assert_allclose(one["context_return"][:2, 0], expected)


def test_a_reward_belongs_to_all_steps_but_the_first(agent):
    obs = agent.specs.raw["observation"].zero().numpy()
    _, state = agent.predict(obs)
    with pytest.raises(ValueError, match="expected the reward of the last step"):
        agent.predict(obs, state=state)
    with pytest.raises(ValueError, match="expected no reward"):
        agent.predict(obs, reward=1.0)
    with pytest.raises(ShapeError, match="one reward a row"):
        agent.predict(obs, state=state, reward=[1.0, 2.0])


def test_agents_that_are_told_no_return_refuse_rewards():
    trainer = build("bc", "CartPole-v1")
    agent = Agent.from_trainer(trainer, trainer.config)
    assert agent.desired_return is None
    with pytest.raises(ValueError, match="no use for a reward"):
        agent.predict(np.zeros(4), reward=1.0)
    with pytest.raises(ValueError, match="told no return"):
        agent.desired_return = 1.0


def test_the_return_to_reach_is_kept_in_the_file(agent, tmp_path):
    before = agent.desired_return
    try:
        agent.desired_return = 42.0
        loaded = Agent.load(agent.save(tmp_path / "a.agent"))
        assert loaded.desired_return == loaded.policy.desired_return == 42.0
        env = loaded.make_env(GymEnv(agent.task), seed=0)
        assert env.rollout(2, loaded.policy)["next", "context_return"][0, 0].item() == 42.0
    finally:
        agent.desired_return = before


@pytest.mark.parametrize("agent", ["Pendulum-v1"], indirect=True)
def test_a_fresh_process_predicts_the_same(agent, tmp_path):
    path = agent.save(tmp_path / "a.agent")
    program = (
        "import json, sys\n"
        "from torchrl.trainers import Agent\n"
        "agent, state, reward, found = Agent.load(sys.argv[1]), None, None, []\n"
        "for obs, reward_after in json.load(open(sys.argv[2])):\n"
        "    action, state = agent.predict(obs, state=state, reward=reward)\n"
        "    found.append(action if isinstance(action, int) else action.tolist())\n"
        "    reward = reward_after\n"
        "print(json.dumps(found))\n"
    )
    seen = play(agent, 12)
    (tmp_path / "seen.json").write_text(json.dumps([(obs.tolist(), float(reward)) for obs, _, reward in seen]))
    done = subprocess.run(
        [sys.executable, "-c", program, path, tmp_path / "seen.json"], capture_output=True, text=True, check=True
    )
    np.testing.assert_allclose(json.loads(done.stdout), [each[1] for each in seen], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("agent", "format"), [*zip(TASKS, ["onnx", "torch"], strict=True)], indirect=["agent"])
def test_exported_programs_act_as_the_agent(agent, format, tmp_path):
    names = AgentFunction(agent).input_names
    assert names[-1] == "last_reward"
    if format == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        session = onnxruntime.InferenceSession(str(agent.export("onnx", tmp_path / "a")))

        def run(inputs):
            return session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
    else:
        program = torch.export.load(agent.export("torch", tmp_path / "a")).module()

        def run(inputs):
            return [value.detach().numpy() for value in program(*inputs)]

    seen = play(agent, 12)
    state = [agent.state_spec[key].zero((3,)) for key in agent.memory_keys]
    reward = 0.0
    for step, (obs, action, after) in enumerate(seen):
        row = torch.as_tensor(obs).expand(3, -1).contiguous()
        inputs = [row, torch.full((3, 1), step == 0), *state, torch.full((3, 1), float(reward))]
        found, *state = run(inputs)
        state = [torch.as_tensor(value) for value in state]
        np.testing.assert_allclose(found[1], action, rtol=1e-4, atol=1e-4)
        reward = after


def test_the_script_gives_the_parameters_of_the_function(tmp_path, monkeypatch):
    data = str(write_dataset(tmp_path / "data", [recorded("CartPole-v1", 200)[:].exclude("index")], 200))
    agent = torchrl.train(NAME, "CartPole-v1", dataset=data, **QUIET, **SMALL)
    settings = {**tuned_settings(NAME, "CartPole-v1"), **SMALL, "dataset": data}
    config = with_settings(ALGORITHMS[NAME].config_class(), settings)
    (tmp_path / "script.py").write_text(make_script(NAME, "CartPole-v1", config, RunConfig(final_episodes=2)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["script.py"])
    threads = torch.get_num_threads()
    try:
        runpy.run_path("script.py", run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    (saved,) = tmp_path.glob("runs/*/policy.pt")
    found, expected = torch.load(saved), agent.policy.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
