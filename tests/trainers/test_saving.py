"""A run that is broken off and resumed is the run that was not."""

import random

import numpy as np
import pytest
import torch
from tensordict.nn import TensorDictSequential

from torchrl._core.errors import MissingKeyError, UnexpectedKeyError
from torchrl._core.safe_load import load_file
from torchrl.checkpoint import Checkpoint, CheckpointRotation
from torchrl.collectors import Collector, MultiAsyncCollector, MultiSyncCollector
from torchrl.data import LazyTensorStorage, PrioritizedSampler, TensorDictReplayBuffer
from torchrl.envs import CartPoleEnv
from torchrl.modules import MLP, EGreedyModule, QValueActor
from torchrl.objectives import DQNLoss, HardUpdate
from torchrl.trainers import (
    CountFramesLog,
    EarlyStopping,
    LRSchedulerHook,
    RewardNormalizer,
    Trainer,
    TrainerHookBase,
    UpdateWeights,
)

HOOKS = {"normalizer", "frames", "scheduler", "stopping", "weights"}


def make_trainer(file=None, total=200, seed=None, hooks=HOOKS, collect=Collector, **options):
    """Everything with a state: exploration that anneals, priorities, schedules, targets."""
    env = CartPoleEnv()
    env._generator = torch.default_generator  # so that its state is saved with that of torch
    q_network = QValueActor(MLP(4, 2, num_cells=[8]), spec=env.action_spec)
    policy = TensorDictSequential(q_network, EGreedyModule(env.action_spec))
    loss = DQNLoss(q_network, delay_value=True)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.01)
    options = {"save_trainer_interval": 40, **options}
    trainer = Trainer(
        collector=collect(
            env if collect is Collector else [CartPoleEnv, CartPoleEnv],
            policy,
            frames_per_batch=20,
            total_frames=total,
            reset_at_each_iter=True,
        ),
        total_frames=total,
        optim_steps_per_batch=2,
        loss_module=loss,
        optimizer=optimizer,
        replay_buffer=TensorDictReplayBuffer(
            storage=LazyTensorStorage(100), sampler=PrioritizedSampler(100, alpha=0.7, beta=0.5), batch_size=8
        ),
        target_net_updater=HardUpdate(loss, value_network_update_interval=3),
        save_trainer_file=file,
        progress_bar=False,
        seed=seed,
        **options,
    )
    if "normalizer" in hooks:
        RewardNormalizer().register(trainer)
    if "frames" in hooks:
        CountFramesLog(frame_skip=1).register(trainer)
    if "scheduler" in hooks:
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        LRSchedulerHook(scheduler).register(trainer)
    if "stopping" in hooks:
        EarlyStopping(monitor="n_frames").register(trainer)
    if "weights" in hooks:
        UpdateWeights(update_weights_interval=3).register(trainer)
    return trainer


def flat(state, prefix=""):
    """Return every leaf of a nested state by its path."""
    if isinstance(state, dict):
        items = state.items()
    elif isinstance(state, list | tuple):
        items = enumerate(state)
    else:
        return {prefix: state}
    found = {}
    for name, value in items:
        found.update(flat(value, f"{prefix}/{name}"))
    return found


def assert_same(one, other):
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor | np.ndarray) or hasattr(value, "batch_size"):
            same = torch.equal(torch.as_tensor(value), torch.as_tensor(other[name]))
        else:
            same = value == other[name] or value is other[name]
        assert same, name


def test_a_resumed_run_is_the_one_that_was_not_broken_off(tmp_path):
    torch.manual_seed(1)
    whole = make_trainer()
    whole.train()

    torch.manual_seed(1)
    broken = make_trainer(tmp_path / "run.pt")
    broken.register_op("post_steps", lambda: broken.collected_frames == 120 and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        broken.train()

    torch.manual_seed(99)
    torch.rand(17), np.random.rand(3), random.random()
    resumed = make_trainer(tmp_path / "run.pt").load_from_file(tmp_path / "run.pt")
    assert resumed.collected_frames == 80
    resumed.train()
    assert resumed.collected_frames == whole.collected_frames == 200
    assert_same(resumed.state_dict(), whole.state_dict())


def test_the_end_is_saved_and_a_finished_run_stays_finished(tmp_path):
    first = make_trainer(tmp_path / "run.pt", total=60)
    first.train()
    again = make_trainer(tmp_path / "run.pt", total=60).load_from_file(tmp_path / "run.pt")
    again.train()
    assert again.num_optim_steps == first.num_optim_steps == 6


@pytest.mark.parametrize("collect", [MultiSyncCollector, MultiAsyncCollector])
def test_the_state_is_there_when_workers_are_gone(tmp_path, collect):
    trainer = make_trainer(tmp_path / "run.pt", total=80, collect=collect)
    trainer.train()
    state = trainer.state_dict()["collector"]
    assert state["frames"] >= 80
    assert {"worker0", "worker1"} < set(state)
    again = make_trainer(total=160, collect=collect)
    again.load_state_dict(trainer.state_dict())
    again.train()
    assert again.collected_frames >= 160


def test_environments_go_on_with_other_seeds_where_episodes_were_not_saved(tmp_path):
    trainer = make_trainer(tmp_path / "run.pt", total=40, seed=5)
    trainer.train()
    state = load_file(tmp_path / "run.pt")
    del state["collector"]["episodes"]  # as files of earlier releases are
    torch.save(state, tmp_path / "run.pt")
    seeds = []
    again = make_trainer(tmp_path / "run.pt", total=40, seed=5)
    again.collector.set_seed = seeds.append
    again.load_from_file(tmp_path / "run.pt")
    assert seeds == [45]


def test_the_same_parts_are_needed(tmp_path):
    make_trainer(tmp_path / "run.pt", total=20).train()
    more = make_trainer(hooks=HOOKS)
    CountFramesLog(frame_skip=2).register(more)
    with pytest.raises(MissingKeyError, match=r"the save lacks \['count_frames_log_1'\]"):
        more.load_from_file(tmp_path / "run.pt")
    less = make_trainer(hooks=HOOKS - {"frames"})
    with pytest.raises(UnexpectedKeyError, match=r"\['count_frames_log'\], which are not reg"):
        less.load_from_file(tmp_path / "run.pt")
    assert less.collected_frames == 0


def test_names_of_parts_are_their_own():
    trainer = make_trainer()
    trainer.register_module("net", torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"the name 'net' is taken"):
        trainer.register_module("net", torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match=r"cannot save 'three'; expected state_dict\(\)"):
        trainer.register_module("three", 3)


def test_a_save_that_is_cut_short_leaves_the_last_one(tmp_path):
    trainer = make_trainer(tmp_path / "run.pt")
    trainer.save_trainer(force_save=True)
    first = (tmp_path / "run.pt").read_bytes()
    trainer.optimizer.state["open"] = (each for each in ())  # cannot be pickled
    with pytest.raises((TypeError, AttributeError)):
        trainer.save_trainer(force_save=True)
    assert (tmp_path / "run.pt").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


class Plain(TrainerHookBase):
    """A hook without a state."""

    stage, name = "batch_process", "plain"

    def __call__(self, batch):
        return batch


def test_every_hook_has_an_entry_in_the_state():
    trainer = make_trainer()
    for _ in range(2):
        Plain().register(trainer)
    trainer.collected_frames = 7
    state = trainer.state_dict()
    assert {"plain", "plain_1", "optimizer", "count_frames_log", "loss_module", "collector"} <= set(state)
    assert state["state"]["collected_frames"] == 7
    other = make_trainer()  # hooks without a state may be missing
    other.load_state_dict(state)
    assert other.collected_frames == 7
    with pytest.raises(ValueError, match="the name 'state' is taken"):
        trainer.register_module("state", trainer.optimizer)
    assert trainer.free_name("collector") == "collector_1"


def test_states_of_the_first_layout_are_loaded():
    trainer = make_trainer(total=40)
    trainer.train()
    new = trainer.state_dict()
    kept = ("collector", "loss_module", "metrics", "random")
    old = {name: new[name] for name in kept}
    old["counts"] = (new["state"]["collected_frames"], new["state"]["num_optim_steps"])
    old["modules"] = {name: state for name, state in new.items() if name not in (*kept, "state")}
    again = make_trainer(total=40)
    again.load_state_dict(old)
    assert_same(again.state_dict(), new)


@pytest.mark.parametrize("format", ["directory", "archive"])
def test_a_run_is_saved_through_a_checkpoint_and_resumed(tmp_path, format):
    """Without code, with metadata, into a file and a rotation of the last ones."""
    noted = []

    def note(trainer):
        noted.append(trainer.collected_frames)
        return {"frames": trainer.collected_frames}

    def make(total, **kwargs):
        checkpoint = Checkpoint(format=format, settings={"lr": 0.5})
        rotation = CheckpointRotation(tmp_path / "kept", keep_last=2)
        return make_trainer(total=total, checkpoint=checkpoint, checkpoint_rotation=rotation, **kwargs)

    torch.manual_seed(1)
    whole = make_trainer(total=80)
    torch.manual_seed(2)
    whole.train()
    torch.manual_seed(1)
    first = make(40, checkpoint_metadata=note, save_trainer_interval=20, file=tmp_path / "run")
    torch.manual_seed(2)
    first.train()
    assert noted[-1] == 40
    assert Checkpoint.is_checkpoint(tmp_path / "run")
    assert not Checkpoint.is_checkpoint(tmp_path / "other")
    manifest = Checkpoint.manifest(tmp_path / "run")
    assert (manifest["metadata"], set(manifest["components"])) == ({"frames": 40}, {"settings", "trainer"})
    assert [path.name for path in first.checkpoint_rotation.paths()] == ["checkpoint_20", "checkpoint_40"]
    resumed = make(80)
    resumed.load_from_file(first.checkpoint_rotation.latest())
    assert resumed.collected_frames == 40
    plain = make_trainer(total=80)
    plain.load_from_file(tmp_path / "run", components=["trainer"])
    assert_same(plain.state_dict(), resumed.state_dict())
    resumed.train()
    assert_same(dict(resumed.loss_module.state_dict()), dict(whole.loss_module.state_dict()))


def test_what_checkpoints_need():
    for options in ({"checkpoint_rotation": CheckpointRotation("runs", keep_last=1)}, {"checkpoint_metadata": {}}):
        with pytest.raises(ValueError, match="has no checkpoint to rotate or describe"):
            make_trainer(**options)
