"""Each hook does its one thing."""

import math

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from torchrl._core.errors import MissingKeyError, ShapeError
from torchrl._core.timing import timeit
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
from torchrl.envs import CartPoleEnv, Compose, TransformedEnv
from torchrl.modules import MLP, QValueActor
from torchrl.objectives import DQNLoss
from torchrl.record import CSVLogger, TensorDictRecorder, VideoRecorder
from torchrl.testing.mocks import CountingEnv
from torchrl.trainers import (
    BatchSubSampler,
    ClearCudaCache,
    CountFramesLog,
    DefaultOptimizationStepper,
    EarlyStopping,
    LogScalar,
    LogTiming,
    LogValidationReward,
    LRSchedulerHook,
    MixedPrecisionOptimizationStepper,
    OptimizerHook,
    ReplayBufferTrainer,
    RewardNormalizer,
    SelectKeys,
    TargetNetUpdaterHook,
    Trainer,
    UpdateWeights,
    UTDRHook,
    ValueEstimatorHook,
    mask_batch,
)
from torchrl.weight_update import SharedMemReceiver, SharedMemSender, layout_of


def padded(*lengths, size=5):
    """Trajectories ``[N, size]`` of these lengths; ``step`` counts from 0 in each."""
    step = torch.arange(size).expand(len(lengths), size).clone()
    mask = step < torch.tensor(lengths).unsqueeze(-1)
    row = torch.arange(len(lengths)).unsqueeze(-1).expand_as(step)
    return TensorDict(
        {
            "step": step,
            "row": row,
            ("next", "reward"): (step + 1.0).unsqueeze(-1) * mask.unsqueeze(-1) + 1e9 * ~mask[..., None],
            ("collector", "mask"): mask,
        },
        step.shape,
    )


def make_trainer(total=40, per_batch=20, random_frames=None, **kwargs):
    env = CartPoleEnv(seed=0)
    loss = DQNLoss(QValueActor(MLP(4, 2, num_cells=[8]), spec=env.action_spec))
    policy = loss.value_network
    collector = Collector(env, policy, frames_per_batch=per_batch, total_frames=total, init_random_frames=random_frames)
    kwargs.setdefault("optimizer", torch.optim.SGD(loss.parameters(), lr=0.1))
    return Trainer(collector=collector, total_frames=total, loss_module=loss, progress_bar=False, **kwargs)


# --- batches -------------------------------------------------------------------------------------


def test_padding_is_left_out():
    batch = padded(5, 2)
    assert mask_batch(batch)["step"].tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert mask_batch(batch.exclude("collector")).shape == (2, 5)


def test_keys_are_selected_and_missing_ones_named():
    batch = SelectKeys(["step", ("next", "reward")])(padded(5))
    assert set(batch.keys(True, True)) == {"step", ("next", "reward")}
    with pytest.raises(MissingKeyError, match=r"SelectKeys: entry 'stp'.*Did you mean 'step'"):
        SelectKeys(["stp"])(padded(5))


def test_steps_are_drawn_without_replacement_and_without_padding():
    drawn = BatchSubSampler(6)(padded(5, 2, 1))
    pairs = list(zip(drawn["row"].tolist(), drawn["step"].tolist(), strict=True))
    assert len(set(pairs)) == 6
    assert set(pairs) <= {(0, i) for i in range(5)} | {(1, 0), (1, 1), (2, 0)}
    assert BatchSubSampler(100)(padded(5, 2, 1)).shape == (8,)


def test_pieces_of_trajectories_lie_inside_them_and_all_are_drawn():
    hook = BatchSubSampler(batch_size=3 * 400, sub_traj_len=3)
    drawn = hook(padded(5, 2, 4))
    assert drawn.shape == (400, 3)
    assert (drawn["step"].diff(dim=1) == 1).all()
    assert (drawn["row"] == drawn["row"][:, :1]).all()
    starts = set(zip(drawn["row"][:, 0].tolist(), drawn["step"][:, 0].tolist(), strict=True))
    assert starts == {(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)}
    counts = torch.bincount(drawn["row"][:, 0], minlength=3)
    assert abs(counts[0].item() / 400 - 3 / 5) < 0.1  # each piece is equally likely


def test_pieces_are_as_short_as_the_shortest_trajectory_in_use():
    assert BatchSubSampler(8, sub_traj_len=4, min_sub_traj_len=2)(padded(5, 2, 1)).shape == (4, 2)


def test_unsplit_batches_are_split_before_pieces_are_drawn():
    done = torch.zeros(10, 1, dtype=torch.bool)
    done[3] = True
    batch = TensorDict({"step": torch.arange(10), ("next", "done"): done}, [10])
    drawn = BatchSubSampler(4 * 50, sub_traj_len=4)(batch)
    assert set(drawn["step"][:, 0].tolist()) == {0, 4, 5, 6}


def test_what_no_trajectory_has_is_refused():
    with pytest.raises(ShapeError, match=r"no trajectory is long enough.*at least 4.*at most 3"):
        BatchSubSampler(8, sub_traj_len=4)(padded(3, 2))
    with pytest.raises(ValueError, match=r"batch_size=2 has no room for a piece of 3 steps"):
        BatchSubSampler(2, sub_traj_len=3)


# --- rewards -------------------------------------------------------------------------------------


def test_rewards_are_normalised_by_a_decaying_mean():
    hook = RewardNormalizer(decay=0.5, scale=2.0)
    batches = [torch.tensor([[1.0], [3.0]]), torch.tensor([[10.0], [20.0]])]
    for reward in batches:
        hook.update_reward_stats(TensorDict({("next", "reward"): reward}, [2]))
    weights, values = torch.tensor([0.5, 0.5, 1, 1]), torch.tensor([1.0, 3, 10, 20])
    mean = (weights * values).sum() / weights.sum()
    variance = (weights * values**2).sum() / weights.sum() - mean**2
    std = (variance * weights.sum() / (weights.sum() - 1)).sqrt()
    batch = TensorDict({("next", "reward"): batches[1]}, [2])
    normal = hook(batch)["next", "reward"]
    torch.testing.assert_close(normal, (batches[1] - mean) / std * 2)
    assert batch["next", "reward"] is batches[1]
    assert hook.log(batch)["reward_mean"] == pytest.approx(mean.item())


def test_padding_says_nothing_about_rewards():
    hook = RewardNormalizer()
    hook.update_reward_stats(padded(2, 1))
    assert hook.mean == pytest.approx(4 / 3)


def test_constant_rewards_do_not_explode():
    hook = RewardNormalizer()
    batch = TensorDict({("next", "reward"): torch.full((4, 1), 7.0)}, [4])
    assert (hook(hook.update_reward_stats(batch))["next", "reward"] == 0).all()


# --- buffers -------------------------------------------------------------------------------------


def test_off_policy_a_batch_is_stored_once():
    buffer = ReplayBuffer(storage=LazyTensorStorage(100))
    trainer = make_trainer(num_epochs=3)
    ReplayBufferTrainer(buffer, batch_size=5).register(trainer)
    trainer.train()
    assert (len(buffer), buffer.write_count) == (40, 40)


def test_on_policy_each_epoch_stores_the_batch_and_visits_all_of_it():
    buffer = ReplayBuffer(storage=LazyTensorStorage(20), sampler=SamplerWithoutReplacement())
    trainer = make_trainer(total=20, optim_steps_per_batch=None, num_epochs=3)
    trainer.register_op("pre_epoch", lambda batch: batch.set("epoch", torch.zeros(20)))
    ReplayBufferTrainer(buffer, batch_size=8, iterate=True).register(trainer)
    seen = []
    trainer.register_op("post_optim_log", lambda sub: seen.append(sub["observation"][:, 0]))
    trainer.train()
    assert [len(rows) for rows in seen] == [8, 8, 4] * 3
    assert buffer.write_count == 60
    for epoch in (seen[:3], seen[3:6], seen[6:]):
        torch.testing.assert_close(torch.cat(epoch).sort().values, torch.cat(seen[:3]).sort().values)
    assert "epoch" in buffer.sample(1)


@pytest.mark.parametrize(
    ("kwargs", "shape"),
    [
        ({"flatten_tensordicts": True}, (7,)),
        ({"max_dims": (4, 6)}, (4, 6)),
        ({"memmap": True, "flatten_tensordicts": True}, (7,)),
    ],
)
def test_what_is_stored(kwargs, shape):
    stored = []
    buffer = ReplayBuffer(storage=LazyTensorStorage(10))
    buffer.extend = stored.append
    batch = padded(5, 2)
    assert ReplayBufferTrainer(buffer, **kwargs).extend(batch) is batch
    assert stored[0].shape == shape
    assert stored[0].is_memmap() == ("memmap" in kwargs)


def test_what_cannot_be_padded_is_refused():
    hook = ReplayBufferTrainer(ReplayBuffer(), max_dims=(1, 9))
    with pytest.raises(ValueError, match=r"cannot be padded; expected one of at most \[1, 9\]"):
        hook.extend(padded(5, 2))
    with pytest.raises(ValueError, match="max_dims, flatten_tensordicts"):
        ReplayBufferTrainer(ReplayBuffer(), max_dims=(1,), flatten_tensordicts=True)


# --- optimisation --------------------------------------------------------------------------------


def weight(value=1.0):
    return nn.Parameter(torch.tensor(value))


def test_optimizers_may_share_the_graph_of_a_loss():
    """The second gradient is taken at the old weights, though the first optimizer comes first."""
    a, b = weight(), weight(2.0)
    trainer = make_trainer(total=20, optimizer=None, clip_norm=6.0)
    OptimizerHook(torch.optim.SGD([a], lr=0.1), ["loss_a"]).register(trainer)
    OptimizerHook(torch.optim.SGD([b], lr=0.1), ["loss_b"]).register(trainer)

    def losses(sub_batch, losses):
        shared = a * b**2
        return TensorDict(loss_a=shared, loss_b=3 * shared, entropy=torch.zeros(()))

    trainer.register_op("process_loss", losses)
    trainer.train()
    assert a.item() == pytest.approx(1 - 0.1 * 4)
    assert b.item() == pytest.approx(2 - 0.1 * 6)  # 12, limited to 6
    assert (trainer.metrics["grad_norm_0"], trainer.metrics["grad_norm_1"]) == (4, 12)


def test_parameters_that_were_frozen_stay():
    a, b = weight(), weight(2.0)
    hook = OptimizerHook(torch.optim.SGD([a, b], lr=0.1))
    a.requires_grad_(False)
    hook(TensorDict(loss=a * b), clip_norm=10.0)
    assert (a.item(), b.item()) == (1.0, pytest.approx(1.9))


def test_parameters_are_frozen_and_released_during_mixed_precision():
    a, b = weight(), weight(2.0)
    a.requires_grad_(False)
    stepper = MixedPrecisionOptimizationStepper(torch.optim.SGD([a, b], lr=0.1), clip_norm=None)

    class Learner:
        def compute_losses(self, sub_batch):
            return TensorDict(loss=a * b)

    stepper.step(Learner(), TensorDict())
    assert (a.item(), b.item()) == (1.0, pytest.approx(1.9))
    a.requires_grad_(True)
    b.requires_grad_(False)
    stepper.step(Learner(), TensorDict())
    assert (a.item(), b.item()) == (pytest.approx(1 - 0.19), pytest.approx(1.9))


def test_gradients_are_limited_by_value():
    a = weight()
    OptimizerHook(torch.optim.SGD([a], lr=0.1))(TensorDict(loss=5 * a), False, 0.5)
    assert a.item() == pytest.approx(0.95)


def test_a_component_that_is_not_there_is_named():
    hook = OptimizerHook(torch.optim.SGD([weight()], lr=0.1), ["loss_actr"])
    with pytest.raises(MissingKeyError, match=r"'loss_actr'.*Did you mean 'loss_actor'"):
        hook(TensorDict(loss_actor=weight() * 1))
    with pytest.raises(ValueError, match="loss_components is empty"):
        OptimizerHook(torch.optim.SGD([weight()], lr=0.1), [])


def test_the_default_stepper_is_the_optimizer_hook():
    torch.manual_seed(0)
    one = make_trainer(optimization_stepper=DefaultOptimizationStepper(), clip_norm=0.1)
    one.train()
    torch.manual_seed(0)
    other = make_trainer(clip_norm=0.1)
    other.train()
    for a, b in zip(one.loss_module.parameters(), other.loss_module.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match=r"the trainer has no optimizer\. Give it one"):
        make_trainer(optimizer=None, optimization_stepper=DefaultOptimizationStepper()).train()


@pytest.mark.parametrize(("interval", "steps"), [("batch", 2), ("epoch", 6), ("optim", 24)])
def test_rates_are_scheduled(interval, steps):
    trainer = make_trainer(num_epochs=3, optim_steps_per_batch=4)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(trainer.optimizer, 0.5)
    LRSchedulerHook(scheduler, interval).register(trainer)
    trainer.train()
    assert trainer.metrics["lr"] == pytest.approx(0.1 * 0.5**steps)
    with pytest.raises(ValueError, match=r"found 'batches'\. Did you mean 'batch'\?"):
        LRSchedulerHook(scheduler, "batches")


def test_rates_hold_while_nothing_is_learned_yet():
    trainer = make_trainer(total=100, random_frames=60)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(trainer.optimizer, 0.5)
    LRSchedulerHook(scheduler).register(trainer)
    trainer.train()
    assert trainer.metrics["lr"] == pytest.approx(0.1 * 0.5**3)  # at 60, 80 and 100 frames


# --- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "interval", "sent"), [("batches", 2, 2), ("optim_steps", 3, 5)])
def test_weights_are_sent_now_and_then(unit, interval, sent):
    trainer = make_trainer(total=100, optim_steps_per_batch=3)
    received = []
    trainer.collector.update_policy_weights_ = received.append
    hook = UpdateWeights(update_weights_interval=interval, policy_weights_getter=lambda: "w", interval_unit=unit)
    hook.register(trainer)
    trainer.train()
    assert received == ["w"] * sent


def test_intervals_of_weights_are_checked():
    with pytest.raises(ValueError, match=r"must be at least 1, found 0"):
        UpdateWeights(update_weights_interval=0)
    with pytest.raises(ValueError, match=r"found 'batch'\. Did you mean 'batches'\?"):
        UpdateWeights(interval_unit="batch")


def test_values_are_estimated_each_epoch():
    calls = []

    def estimator(batch):
        assert not torch.is_grad_enabled()
        calls.append(batch.shape)
        return batch.set("advantage", torch.zeros(*batch.shape, 1))

    trainer = make_trainer(num_epochs=3)
    ValueEstimatorHook(estimator).register(trainer)
    trainer.register_op("post_optim_log", lambda sub: {"sum": sub["advantage"].sum()})
    trainer.train()
    assert calls == [(20,)] * 6


# --- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reduction", "expected"), [("mean", 4 / 3), ("sum", 4), ("min", 1), ("max", 2), ("median", 1)]
)
def test_reductions(reduction, expected):
    numbers = LogScalar(reduction=reduction)(padded(2, 1))
    assert numbers["reward"].item() == pytest.approx(expected)
    assert numbers["reward_std"].item() == pytest.approx(math.sqrt(1 / 3))


def test_scalars_are_named_and_found():
    assert LogScalar(("agents", "x"), include_std=False).logname == "agents/x"
    with pytest.raises(ValueError, match=r"found 'avg'"):
        LogScalar(reduction="avg")
    with pytest.raises(MissingKeyError, match=r"LogScalar: entry 'stap'.*'step'"):
        LogScalar("stap")(padded(1))


def test_updates_for_each_step():
    trainer = make_trainer(total=80, optim_steps_per_batch=3, frame_skip=2)
    UTDRHook(trainer).register(trainer)
    CountFramesLog(frame_skip=2).register(trainer)
    trainer.train()
    assert trainer.metrics["utd_ratio"] == 3 / 20
    assert trainer.metrics["n_frames"] == 80


def test_timings_are_forgotten_on_demand():
    timeit.erase()
    with timeit("a"), timeit("a"):
        pass
    assert list(LogTiming(prefix="t", percall=False, erase=True)(None)) == ["t/a"]
    assert LogTiming()(None) == {}


# --- evaluation ----------------------------------------------------------------------------------


def evaluate(env, **kwargs):
    kwargs = {"record_interval": 1, "record_frames": 100, "policy_exploration": None, **kwargs}
    return LogValidationReward(environment=env, **kwargs)


def test_an_episode_in_each_row_counts_up_to_its_end():
    env = CartPoleEnv(batch_size=[6], seed=1)
    numbers = evaluate(env, frame_skip=2)(None)
    # a reward of one each step: the mean is one, the total is the length of an episode
    assert numbers["r_evaluation"] == 0.5
    assert 9 <= numbers["total_r_evaluation"] < 60
    one = evaluate(CountingEnv(horizon=7), log_keys=[("next", "observation"), ("next", "reward")])
    names = set(one(None))
    assert names == {
        "r_evaluation", "total_r_evaluation", "observation", "total_observation", "log_pbar",
    }  # fmt: skip


def test_rows_that_ended_are_not_counted_again():
    env = CountingEnv(horizon=2, batch_size=[3])  # rows end after 2, 3 and 4 steps
    numbers = evaluate(env, log_keys=[("next", "done")], out_keys={("next", "done"): "ends"}, suffix="slow")(None)
    assert numbers["total_ends_slow"] == 1
    assert numbers["ends_slow"].item() == pytest.approx(3 / 9)


def test_the_policy_is_held_in_evaluation_mode():
    modes = []

    class Watched(nn.Module):
        def forward(self, tensordict):
            modes.append(self.training)
            return tensordict.set("action", torch.zeros(1))

    policy = Watched()
    evaluate(CountingEnv(), policy_exploration=policy)(None)
    assert set(modes) == {False}
    assert policy.training


def test_recorders_write_what_they_saw(tmp_path):
    from torchrl.envs import GymEnv

    logger = CSVLogger("run", tmp_path)
    recorders = Compose(VideoRecorder(logger, "video"), TensorDictRecorder(tmp_path / "records", skip=1))
    env = TransformedEnv(GymEnv("CartPole-v1", from_pixels=True), recorders)
    trainer = make_trainer(total=60)
    evaluate(env, record_interval=2, record_frames=3).register(trainer)
    trainer.train()
    videos = {path.name for path in (tmp_path / "run/videos").iterdir()}
    assert videos == {"video_20.pt", "video_60.pt"}
    assert (tmp_path / "records_20.pt").exists()


def test_what_there_is_to_evaluate_must_be_said():
    with pytest.raises(TypeError, match=r"nothing to evaluate in\. Pass environment"):
        evaluate(None)
    with pytest.raises(ValueError, match=r"record_interval must be at least 1, found 0"):
        evaluate(CountingEnv(), record_interval=0)


# --- ends ----------------------------------------------------------------------------------------


def stops_after(values, **kwargs):
    """Return the frames after which training on batches of 20 frames with these values ends."""
    trainer = make_trainer(total=20 * len(values))
    each = iter(values)
    trainer.register_op("post_steps_log", lambda batch: {"score": next(each)})
    EarlyStopping(monitor="score", **kwargs).register(trainer)
    trainer.train()
    return trainer.collected_frames


def test_training_ends_when_nothing_gets_better():
    values = [1, 2, 2.05, 2, 2, 2, 3, 3]
    assert stops_after(values, patience=60, wait_for=0, min_delta=0.1) == 100
    assert stops_after(values, patience=60, wait_for=0, min_delta=0.01) == 120
    assert stops_after(values, patience=60, wait_for=110, min_delta=0.1) == 120
    assert stops_after([-v for v in values], patience=60, wait_for=0, min_delta=0.1, mode="min") == 100
    assert stops_after(values, patience=200, wait_for=0) == 160


def test_training_ends_when_a_number_is_none():
    assert stops_after([1, math.nan, 1]) == 40
    assert stops_after([1, math.nan, 1], check_finite=False) == 60
    with pytest.raises(ValueError, match=r"'max' or 'min', found 'up'"):
        EarlyStopping(mode="up")


def test_memory_is_given_back_once_in_a_while(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(1))
    trainer = make_trainer(total=100)
    ClearCudaCache(2).register(trainer)
    trainer.train()
    assert len(calls) == 2
    with pytest.raises(ValueError, match="interval must be at least 1, found 0"):
        ClearCudaCache(0)


def test_targets_are_moved_through_their_updater():
    class Counter:
        steps = 0

        def step(self):
            self.steps += 1

        def state_dict(self):
            return {"steps": self.steps}

        def load_state_dict(self, state):
            self.steps = state["steps"]

    trainer, counter = make_trainer(optim_steps_per_batch=3), Counter()
    hook = TargetNetUpdaterHook(counter)
    hook.register(trainer)
    trainer.train()
    assert hook.state_dict() == {"target_params_updater": {"steps": 6}}


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("mixed", [False, True])
def test_gradients_of_several_samples(steps, mixed):
    """Their mean is clipped once and makes one update."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    dtypes = []

    class Learner:
        def compute_losses(self, sub_batch):
            dtypes.append((parameter.unsqueeze(0) @ parameter.unsqueeze(1)).dtype)
            return TensorDict(loss_a=(parameter * sub_batch["x"]).sum(), loss_b=parameter.sum(), other=torch.ones(()))

    stepper = MixedPrecisionOptimizationStepper(
        optimizer, mixed_precision=mixed, gradient_accumulation_steps=steps, clip_norm=2.0
    )
    grads = []
    for i in range(2 * steps):
        x = torch.tensor([float(i), 1.0])
        grads.append(x + 1)
        before = parameter.detach().clone()
        losses = stepper.step(Learner(), TensorDict(x=x))
        is_last = (i + 1) % steps == 0
        assert ("grad_norm" in losses) is is_last
        if is_last:
            mean = torch.stack(grads[-steps:]).mean(0)
            expected = before - mean * min(1, 2.0 / mean.norm())
            torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(parameter, before)
    assert set(dtypes) == {torch.bfloat16 if mixed else torch.float32}
    with pytest.raises(ValueError, match="gradient_accumulation_steps >= 1"):
        MixedPrecisionOptimizationStepper(optimizer, gradient_accumulation_steps=0)


def test_weights_are_found_by_a_path():
    class Receiver:
        def update_policy_weights_(self, weights):
            self.weights = weights

    class Owner:
        loss_module = nn.ModuleDict({"actor": nn.Linear(1, 1)})

        def register_op(self, stage, op): ...
        def register_module(self, name, module): ...
        def free_name(self, name):
            return name

    receiver, owner = Receiver(), Owner()
    for trainer in (owner, None):
        hook = UpdateWeights(receiver, 2, weight_update_map={"policy": "loss_module.actor"}, trainer=trainer)
        hook.register(owner)
        receiver.weights = None
        hook()
        assert receiver.weights is None
        hook()
        assert receiver.weights is owner.loss_module.actor
    actor = nn.Linear(1, 1)
    sender = SharedMemSender(layout_of(actor))
    UpdateWeights(receiver, sender=sender, policy_weights_getter=lambda: owner.loss_module.actor)()
    assert SharedMemReceiver(actor, sender.layout, sender.file).poll()
    assert torch.equal(actor.weight, owner.loss_module.actor.weight)
    sender.close()
    for options, match in (
        ({"weight_update_map": {"critic": "a"}}, r"expected \['policy'\], found \['critic'\]"),
        ({"weight_update_map": {"policy": "a"}, "policy_weights_getter": dict}, "Give one"),
        ({"sender": sender}, "has no weights to send"),
    ):
        with pytest.raises(ValueError, match=match):
            UpdateWeights(receiver, **options)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_rewards_of_a_batch_have_the_spread_of_torch(scale):
    hook, batch = RewardNormalizer(scale=scale), TensorDict({("next", "reward"): torch.randn(9, 1) * 7 + 3}, [9])
    reward = hook.normalize_reward(hook.update_reward_stats(batch))["next", "reward"]
    torch.testing.assert_close(reward.std(), torch.tensor(scale))
    torch.testing.assert_close(reward.mean(), torch.tensor(0.0), rtol=0, atol=1e-5)


def test_the_interval_of_target_updates_is_counted_on_and_old_saves_are_read():
    class Updater:
        steps = 0

        def step(self):
            self.steps += 1

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    hook = TargetNetUpdaterHook(Updater(), interval=2)
    for _ in range(3):
        hook()
    assert hook.target_params_updater.steps == 1
    again = TargetNetUpdaterHook(Updater(), interval=2)
    again.load_state_dict(hook.state_dict())
    again()
    assert again.target_params_updater.steps == 1
    again.load_state_dict({"target_params_updater": {}})
    again()
    assert again.target_params_updater.steps == 1
