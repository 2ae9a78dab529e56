"""The trainer runs its stages in order, counts, logs, stops, and learns what a plain loop does."""

import pytest
import torch
from tensordict import TensorDict

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import CartPoleEnv
from torchrl.modules import MLP, QValueActor
from torchrl.objectives import DQNLoss, SoftUpdate
from torchrl.record import CSVLogger
from torchrl.trainers import CountFramesLog, LogScalar, OptimizationStepper, OptimizerHook, ReplayBufferTrainer, Trainer
from torchrl.trainers.stages import STAGES


def make_loss(env, delay=False):
    policy = QValueActor(MLP(4, 2, num_cells=[8]), spec=env.action_spec)
    return DQNLoss(policy, delay_value=delay)


def make_trainer(total=60, per_batch=20, loss=None, with_optimizer=True, **kwargs):
    """A trainer of a small Q-network on one cart pole."""
    collector_kwargs = {
        name: kwargs.pop(name) for name in ("init_random_frames", "split_trajs", "reset_at_each_iter") if name in kwargs
    }
    env = CartPoleEnv(seed=0)
    loss = make_loss(env) if loss is None else loss
    collector = Collector(env, loss.value_network, frames_per_batch=per_batch, total_frames=total, **collector_kwargs)
    if with_optimizer:
        kwargs.setdefault("optimizer", torch.optim.SGD(loss.parameters(), lr=0.1))
    return Trainer(collector=collector, total_frames=total, loss_module=loss, progress_bar=False, **kwargs)


def test_stages_run_in_order():
    trainer = make_trainer(total=20, num_epochs=2, optim_steps_per_batch=2, with_optimizer=False)
    seen = []

    def note(stage):
        def op(*args):
            seen.append(stage)
            return args[-1] if STAGES[stage] == "changes" and stage != "optimizer" else None

        return op

    for stage in STAGES:
        if stage != "optimizer":
            trainer.register_op(stage, note(stage))
    optimizer = OptimizerHook(torch.optim.SGD(trainer.loss_module.parameters(), lr=0.1))
    trainer.register_op("optimizer", lambda *args: (seen.append("optimizer"), optimizer(*args))[1])
    trainer.train()

    step = ["process_optim_batch", "post_loss", "process_loss", "optimizer"]
    step += ["optimizer_step", "post_optim", "post_optim_log"]
    epoch = ["pre_epoch_log", "pre_epoch", *step, *step, "post_epoch_log", "post_epoch"]
    batch = ["batch_process", "pre_steps_log", "pre_optim_steps", *epoch, *epoch]
    batch += ["post_optim_complete_log", "post_steps", "post_steps_log"]
    assert seen == ["setup", *batch, "shutdown"]


def test_learns_what_a_loop_written_by_hand_learns():
    def parts():
        torch.manual_seed(3)
        env = CartPoleEnv(seed=0)
        loss = make_loss(env, delay=True)
        buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=16)
        optimizer = torch.optim.Adam(loss.parameters(), lr=0.01)
        target = SoftUpdate(loss, tau=0.1)
        collector = Collector(env, loss.value_network, frames_per_batch=20, total_frames=100)
        return collector, loss, buffer, optimizer, target

    collector, loss, buffer, optimizer, target = parts()
    for batch in collector:
        buffer.extend(batch)
        for _ in range(3):
            optimizer.zero_grad()
            loss(buffer.sample())["loss"].backward()
            torch.nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
            optimizer.step()
            target.step()
    by_hand = loss.state_dict()

    collector, loss, buffer, optimizer, target = parts()
    trainer = Trainer(
        collector=collector,
        total_frames=100,
        optim_steps_per_batch=3,
        loss_module=loss,
        optimizer=optimizer,
        replay_buffer=buffer,
        target_net_updater=target,
        clip_norm=0.5,
        progress_bar=False,
    )
    trainer.train()
    torch.testing.assert_close(dict(loss.state_dict()), dict(by_hand), rtol=0, atol=0)
    assert (trainer.collected_frames, trainer.num_optim_steps) == (100, 15)


def test_frames_are_those_of_the_simulator_and_padding_is_none():
    trainer = make_trainer(total=100, per_batch=50, split_trajs=True, frame_skip=4, batch_size=8)
    trainer.total_frames = 400
    sizes = []
    trainer.register_op("pre_steps_log", lambda batch: sizes.append(batch.numel()))
    CountFramesLog(frame_skip=4).register(trainer)
    trainer.train()
    assert trainer.collected_frames == trainer.metrics["n_frames"] == 400
    assert sum(sizes) > 100  # padding among them


def test_random_frames_are_not_learned_from():
    trainer = make_trainer(total=60, init_random_frames=40)
    trainer.train()
    assert trainer.num_optim_steps == 2  # after 40 and 60 frames


def test_ends_where_it_is_told_to():
    trainer = make_trainer(total=60)
    trainer.register_op("post_steps", trainer.request_stop)
    trainer.train()
    assert trainer.collected_frames == 20
    trainer = make_trainer(total=60)
    trainer.total_frames = 40
    trainer.train()
    assert trainer.collected_frames == 40
    assert trainer.collector.is_closed


def test_a_failing_hook_still_shuts_the_collector_down():
    trainer = make_trainer()
    trainer.register_op("post_steps", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert trainer.collector.is_closed


def test_numbers_are_logged_once_an_interval(tmp_path):
    logger = CSVLogger("run", tmp_path)
    trainer = make_trainer(total=100, logger=logger, log_interval=40)
    LogScalar(logname="r", include_std=False).register(trainer)
    trainer.train()
    lines = (tmp_path / "run/scalars/r.csv").read_text().split()
    assert lines == ["20,1.0", "60,1.0", "100,1.0"]
    assert (tmp_path / "run/scalars/loss.csv").exists()
    assert trainer.metrics["optim_steps"] == 5


def test_losses_are_logged_as_means_over_steps():
    trainer = make_trainer(total=20, optim_steps_per_batch=4)
    each = []
    trainer.register_op("process_loss", lambda sub, losses: (each.append(losses["loss"].item()), losses)[1])
    trainer.train()
    assert trainer.metrics["loss"].item() == pytest.approx(sum(each) / 4)
    trainer = make_trainer(total=20, auto_log_optim_steps=False)
    trainer.train()
    assert trainer.metrics == {}


def test_timings_are_logged():
    trainer = make_trainer(total=40, log_timings=True)
    trainer.train()
    assert 0 < trainer.metrics["time/collect"] < 60
    assert 0 < trainer.metrics["time/optimise"] < 60


def test_the_bar_shows_what_it_is_given(capsys):
    trainer = make_trainer()
    trainer.progress_bar = True
    LogScalar(logname="reward", log_pbar=True).register(trainer)
    trainer.train()
    shown = capsys.readouterr().err
    assert "reward 1" in shown
    assert "100%" in shown
    assert "60.0 " in shown


def test_a_stepper_does_the_whole_step():
    class SignDescent(OptimizationStepper):
        def step(self, trainer, sub_batch):
            losses = trainer.compute_losses(sub_batch)
            weights = list(trainer.loss_module.parameters())
            gradients = torch.autograd.grad(losses["loss"], weights)
            with torch.no_grad():
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight -= 0.5 * gradient.sign()
            return losses

    loss = make_loss(CartPoleEnv())
    before = [weight.clone() for weight in loss.parameters()]
    trainer = make_trainer(20, loss=loss, with_optimizer=False, optimization_stepper=SignDescent())
    trainer.train()
    for old, new in zip(before, loss.parameters(), strict=True):
        moved = (old - new).abs()
        assert (torch.isclose(moved, torch.tensor(0.5)) | (moved == 0)).all()
        assert moved.any()


def make_filling_trainer(total, per_batch=10, policy=None, samples=True, **kwargs):
    """A trainer whose collector fills the buffer itself."""
    env = CartPoleEnv(seed=0)
    loss = make_loss(env)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1000), batch_size=4)
    collector = Collector(
        env, policy or loss.value_network, frames_per_batch=per_batch, total_frames=total, replay_buffer=buffer
    )
    return Trainer(
        collector=collector,
        total_frames=total,
        loss_module=loss,
        optimizer=torch.optim.SGD(loss.parameters(), lr=0.1),
        replay_buffer=buffer if samples else None,
        progress_bar=False,
        **kwargs,
    )


def test_a_collector_may_fill_the_buffer_itself():
    trainer = make_filling_trainer(30)
    trainer.train()
    assert (trainer.collected_frames, trainer.num_optim_steps) == (30, 3)
    assert len(trainer.collector.replay_buffer) == 30


@pytest.mark.slow
def test_collects_in_the_background():
    trainer = make_filling_trainer(300, async_collection=True)
    trainer.register_op("post_optim_log", LogScalar(logname="r"))
    trainer.train()
    assert trainer.collected_frames == len(trainer.collector.replay_buffer) == 300
    assert trainer.num_optim_steps > 0
    assert trainer.metrics["r"] == 1
    assert trainer.collector.is_closed


def test_what_ends_background_collection_is_raised():
    def fails(td):
        raise OSError("no power")

    trainer = make_filling_trainer(300, policy=fails, async_collection=True)
    with pytest.raises(OSError, match="no power"):
        trainer.train()


# --- mistakes ------------------------------------------------------------------------------------


def test_a_stage_that_is_not_there_gets_its_neighbour():
    with pytest.raises(ValueError, match=r"no stage 'post_step'.*Did you mean 'post_steps'\?"):
        make_trainer().register_op("post_step", print)
    with pytest.raises(TypeError, match=r"registered at 'setup' must be callable; found int"):
        make_trainer().register_op("setup", 3)


def test_what_returns_nothing_is_named():
    trainer = make_trainer()
    trainer.register_op("batch_process", lambda batch: None)
    with pytest.raises(TypeError, match=r"<lambda> of 'batch_process' returned nothing.*changed"):
        trainer.train()
    trainer = make_trainer()
    trainer.register_op("post_steps_log", lambda batch: 3)
    with pytest.raises(TypeError, match=r"'post_steps_log' must return numbers by name.*int"):
        trainer.train()


def test_parts_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match=r"nothing would be optimised.*Pass optimizer"):
        make_trainer(with_optimizer=False).train()
    with pytest.raises(ValueError, match=r"no epoch would ever end.*iterate=True"):
        make_trainer(optim_steps_per_batch=None).train()
    with pytest.raises(ValueError, match=r"async_collection needs a collector that fills a buffer"):
        make_trainer(async_collection=True)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(10), batch_size=4)
    trainer = make_trainer(optim_steps_per_batch=None)
    ReplayBufferTrainer(buffer).register(trainer)
    with pytest.raises(ValueError, match=r"no epoch would ever end"):
        trainer.train()


def test_hooks_that_need_batches_are_refused_where_there_are_none():
    trainer = make_filling_trainer(10)
    LogScalar().register(trainer)
    with pytest.raises(ValueError, match=r"'pre_steps_log' need batches.*'post_optim_log'"):
        trainer.train()
    with pytest.raises(ValueError, match=r"nothing to learn from.*Pass replay_buffer"):
        make_filling_trainer(10, samples=False).train()


def test_a_loss_without_terms_is_told_what_is_expected():
    trainer = make_trainer()
    trainer.register_op("process_loss", lambda sub, losses: TensorDict(error=losses["loss"]))
    with pytest.raises(ValueError, match=r"nothing to minimise.*start with 'loss'.*\['error'\]"):
        trainer.train()


def test_a_stop_has_a_reason(caplog):
    trainer = make_trainer(total=100)
    trainer.register_op("post_steps", lambda: trainer.request_stop("solved"))
    with caplog.at_level("INFO", logger="torchrl"):
        trainer.train()
    assert (trainer.collected_frames, trainer.stop_reason) == (20, "solved")
    assert "stops after 20 frames: solved" in caplog.text


def test_losses_without_hooks_and_seeds():
    trainer = make_trainer(total=20, seed=3)
    state = torch.get_rng_state()
    torch.rand(3)
    trainer.set_seed()
    assert torch.equal(torch.get_rng_state(), state)
    trainer.register_op("process_loss", lambda sub_batch, losses: losses.apply(lambda x: x + 1))
    (batch,) = trainer.collector
    torch.testing.assert_close(trainer.compute_loss(batch)["loss"], trainer.loss_module(batch)["loss"])
    torch.testing.assert_close(trainer.compute_losses(batch)["loss"], trainer.loss_module(batch)["loss"] + 1)
    trainer.collector.shutdown()


def test_the_learner_is_local():
    trainer = make_trainer(learner_backend="local", learner_backend_options={}, learner_poll_interval=0.2)
    assert trainer._source.poll_interval == 0.2
    for options in ({"learner_backend": "process"}, {"learner_backend_options": {"devices": 2}}):
        with pytest.raises(ValueError, match="has no such learner_backend"):
            make_trainer(**options)
