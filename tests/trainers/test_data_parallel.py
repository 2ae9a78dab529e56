"""A trainer on two ranks: gradients of both, logs and files of rank 0 alone."""

import pytest
import torch

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymEnv
from torchrl.modules import MLP, QValueActor
from torchrl.objectives import DQNLoss
from torchrl.trainers import Trainer

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def make_trainer(tmp_path, **options):
    env = GymEnv("CartPole-v1")
    policy = QValueActor(MLP(4, 2, num_cells=[8]), spec=env.action_spec)
    loss = DQNLoss(policy, delay_value=False)
    return Trainer(
        collector=Collector(env, policy, frames_per_batch=20, total_frames=200),
        total_frames=200,
        loss_module=loss,
        optimizer=torch.optim.SGD(loss.parameters(), lr=0.01),
        replay_buffer=TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=10),
        progress_bar=False,
        seed=3,
        **options,
    )


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.loss_module.parameters()])


def test_ranks_stay_alike_and_see_different_data(tmp_path, on_two_ranks):
    def run(rank):
        torch.manual_seed(rank)  # other weights at first
        path = tmp_path / f"saved{rank}"
        trainer = make_trainer(tmp_path, learner_backend="ddp", save_trainer_file=path, save_trainer_interval=100)
        start = weights(trainer)
        trainer.train()
        return start, weights(trainer), trainer.collector.next(), path.exists(), trainer.num_optim_steps

    first, second = on_two_ranks(run)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], first[1])
    assert first[4] == second[4] == 10
    assert (first[3], second[3]) == (True, False)


def test_a_rank_that_stops_stops_all(tmp_path, on_two_ranks):
    def run(rank):
        trainer = make_trainer(tmp_path, learner_backend="ddp")
        if rank == 0:
            trainer.register_op("post_steps", lambda: trainer.collected_frames >= 60 and trainer.request_stop("enough"))
        trainer.train()
        return trainer.collected_frames

    assert on_two_ranks(run) == [60, 60]


def test_without_a_group(tmp_path):
    with pytest.raises(RuntimeError, match="init_process_group"):
        make_trainer(tmp_path, learner_backend="ddp")
