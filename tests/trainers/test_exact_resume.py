"""A run that goes on from a file in the middle of episodes ends with the numbers of one that was not interrupted."""

import logging
import shutil

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictSequential

import torchrl
from torchrl._core.errors import UntrustedFileError
from torchrl._core.safe_load import load_file
from torchrl.collectors import Collector, MultiSyncCollector
from torchrl.data import LazyTensorStorage, TensorDictPrioritizedReplayBuffer
from torchrl.envs import Compose, GymEnv, GymWrapper, ParallelEnv, StepCounter, TransformedEnv, VecNorm
from torchrl.modules import MLP, EGreedyModule, QValueActor
from torchrl.objectives import DQNLoss, SoftUpdate
from torchrl.trainers import Trainer, UpdateWeights


class Counter(gym.Env):
    """Rewards depend on a state that cannot be saved, and on a generator."""

    observation_space, action_space = gym.spaces.Box(-9, 9, (4,)), gym.spaces.Discrete(2)

    def __init__(self):
        self.steps = iter(())

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = iter(self.np_random.normal(size=(13, 4)).astype(np.float32))
        return next(self.steps), {}

    def step(self, action):
        last = np.zeros(4, np.float32)
        observation = next(self.steps, last)
        return observation, float(observation[0] + action), observation is last, False, {}


def cart_pole():
    return GymEnv("CartPole-v1")


def normalised():
    return TransformedEnv(cart_pole(), Compose(VecNorm(in_keys=["observation"]), StepCounter(17)))


def counter():
    return GymWrapper(Counter())


def in_workers(make, policy, **options):
    return MultiSyncCollector([make, make], policy, **options)


def in_four(make, policy, **options):
    return Collector(ParallelEnv(2, [make] * 4), policy, **options)


def alone(make, policy, **options):
    return Collector(make(), policy, **options)


def make_trainer(make, collect, file, options=None):
    torch.manual_seed(3)
    spec = cart_pole().action_spec
    q_network = QValueActor(MLP(4, 2, num_cells=[8]), spec=spec)
    loss = DQNLoss(q_network, delay_value=True)
    policy = TensorDictSequential(q_network, EGreedyModule(spec, annealing_num_steps=100))
    options = dict(options or {})
    buffer = TensorDictPrioritizedReplayBuffer(
        alpha=0.7, beta=0.5, storage=LazyTensorStorage(200), batch_size=8, prefetch=options.pop("prefetch", None)
    )
    trainer = Trainer(
        collector=collect(make, policy, frames_per_batch=20, total_frames=160, **options),
        total_frames=160,
        optim_steps_per_batch=2,
        loss_module=loss,
        optimizer=torch.optim.Adam(loss.parameters(), lr=0.01),
        replay_buffer=buffer,
        target_net_updater=SoftUpdate(loss, tau=0.1),
        save_trainer_file=file,
        save_trainer_interval=40,
        progress_bar=False,
        seed=4,
    )
    UpdateWeights(update_weights_interval=1).register(trainer)
    return trainer


def leaves(value, path=""):
    """Return the leaves of a nested state by their paths."""
    if isinstance(value, TensorDictBase):
        value = value.to_dict()
    if isinstance(value, dict):
        return {k: v for name, part in value.items() for k, v in leaves(part, f"{path}/{name}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, part in enumerate(value) for k, v in leaves(part, f"{path}/{i}").items()}
    return {path: value}


def is_equal(one, other):
    if isinstance(one, torch.Tensor | np.ndarray):
        return np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True)
    return one == other


CASES = {
    "CartPole": (cart_pole, alone, {}),
    "whole trajectories": (cart_pole, alone, {"trajs_per_batch": 2}),
    "prefetch": (cart_pole, alone, {"prefetch": 2}),
    "statistics": (normalised, alone, {}),
    "two workers": (cart_pole, in_workers, {}),
    "statistics in workers": (normalised, in_workers, {"track_policy_version": True}),
    "four in two workers": (cart_pole, in_four, {}),
    "cannot be saved": (counter, alone, {}),
    "cannot be saved, in workers": (counter, in_workers, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_goes_on_as_if_it_had_not_been_interrupted(name, tmp_path):
    make, collect, options = CASES[name]
    file, kept = tmp_path / "run.pt", tmp_path / "kept.pt"
    straight = make_trainer(make, collect, file, options)

    def keep(batch):  # before these frames are saved
        if 80 <= straight.collected_frames < 120 and file.exists():
            shutil.copy(file, kept)

    straight.register_op("pre_steps_log", keep)
    straight.train()
    expected = leaves(straight.state_dict())
    resumed = make_trainer(make, collect, tmp_path / "other.pt", options).load_from_file(kept)
    assert 0 < resumed.collected_frames < 160
    resumed.train()
    found = leaves(resumed.state_dict())
    assert found.keys() == expected.keys()
    wrong = [path for path in expected if "_space/" not in path and not is_equal(found[path], expected[path])]
    assert not wrong  # spaces draw seeds that nobody set


def test_new_episodes_at_each_save_are_told_of(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "torchrl"):
        make_trainer(counter, alone, tmp_path / "run.pt").train()
    (first, *_) = [record.message for record in caplog.records if "new episodes" in record.message]
    assert "new episodes start at each save. GymWrapper: cannot be saved in the middle" in first
    assert "_env.steps" in first


def test_metrics_and_evaluations_are_those_of_a_run_that_was_not_stopped(tmp_path):
    options = {
        "total_frames": 1024, "save_interval": 256, "eval_interval": 256, "eval_episodes": 2, "final_episodes": 2,
        "video": False, "progress_bar": False, "seed": 1,
    }  # fmt: skip
    torchrl.train("ppo", "CartPole-v1", log_dir=str(tmp_path / "straight"), **options)
    stop = lambda trainer: trainer.collected_frames < 512
    torchrl.train("ppo", "CartPole-v1", log_dir=str(tmp_path / "stopped"), callbacks=[stop], **options)
    torchrl.resume(next((tmp_path / "stopped").iterdir()))
    tables = []
    for name in ("straight", "stopped"):
        files = sorted((tmp_path / name).rglob("*.csv"))
        clocks = ("fps", "time", "seconds")
        tables.append(
            {file.name: file.read_text() for file in files if not any(clock in file.name for clock in clocks)}
        )
    assert tables[0]
    assert tables[0] == tables[1]


def test_a_file_that_holds_objects_needs_trust(tmp_path):
    file = tmp_path / "run.pt"
    trainer = make_trainer(cart_pole, alone, file)
    trainer.save_trainer(force_save=True)
    state = load_file(file)
    state["state"]["more"] = stop_watch
    torch.save(state, file)
    with pytest.raises(UntrustedFileError, match="trust=True"):
        trainer.load_from_file(file)
    trainer.load_from_file(file, trust=True)


def stop_watch():
    """A function, which can only be pickled."""
