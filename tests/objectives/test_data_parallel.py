"""Losses in ``DistributedDataParallel``: two ranks have the gradients of one process on their joint batch."""

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchrl.envs import GymEnv
from torchrl.modules import (
    MLP,
    NormalParamExtractor,
    OneHotCategorical,
    ProbabilisticActor,
    QValueActor,
    TanhNormal,
    ValueOperator,
)
from torchrl.objectives import ClipPPOLoss, DQNLoss, SACLoss, SoftUpdate
from torchrl.objectives.value import GAE

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    # Python warns of forks of a process with threads; pytest and torch have some.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def dqn():
    env = GymEnv("CartPole-v1")
    env.set_seed(0)
    loss = DQNLoss(QValueActor(MLP(4, 2, num_cells=[16]), spec=env.action_spec))
    return loss, env.rollout(32, break_when_any_done=False), SoftUpdate(loss, tau=0.1)


def ppo():
    env = GymEnv("CartPole-v1")
    env.set_seed(0)
    actor = ProbabilisticActor(
        TensorDictModule(MLP(4, 2, num_cells=[16]), ["observation"], ["logits"]),
        ["logits"],
        spec=env.action_spec,
        distribution_class=OneHotCategorical,
        return_log_prob=True,
    )
    critic = ValueOperator(MLP(4, 1, num_cells=[16]), ["observation"])
    loss = ClipPPOLoss(actor, critic)
    batch = env.rollout(32, actor, break_when_any_done=False).detach()
    GAE(gamma=0.99, lmbda=0.95, value_network=critic)(batch)
    for parameter in loss.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return loss, batch, None


def sac():
    env = GymEnv("Pendulum-v1")
    env.set_seed(0)
    net = nn.Sequential(MLP(3, 2, num_cells=[16]), NormalParamExtractor())
    actor = ProbabilisticActor(
        TensorDictModule(net, ["observation"], ["loc", "scale"]),
        ["loc", "scale"],
        spec=env.action_spec,
        distribution_class=TanhNormal,
    )
    critic = ValueOperator(MLP(4, 1, num_cells=[16]), ["observation", "action"])
    loss = SACLoss(actor, critic, action_spec=env.action_spec)
    return loss, env.rollout(32, break_when_any_done=False), SoftUpdate(loss, tau=0.1)


def gradients(loss, call, batch, seed):
    """Return the gradient of each parameter; actions that are drawn depend on the seed."""
    torch.manual_seed(seed)
    call(batch).backward()
    return {name: p.grad.clone() for name, p in loss.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("make", [dqn, ppo, sac])
def test_gradients_of_two_ranks(make, on_two_ranks):
    loss, batch, updater = make()
    halves = [half.contiguous() for half in batch.chunk(2)]

    def steps(rank):
        parallel = DistributedDataParallel(loss)
        optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
        found = []
        for i in range(3):
            optimizer.zero_grad()
            found.append(gradients(loss, parallel, halves[rank], seed=10 * i + rank))
            optimizer.step()
            if updater is not None:
                updater.step()
        return found

    first, second = on_two_ranks(steps)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    for i in range(3):
        optimizer.zero_grad()
        if make is sac:  # which draws actions: those of each half are drawn alike
            for rank, half in enumerate(halves):
                gradients(loss, lambda td: loss(td).apply(lambda x: x / 2), half, seed=10 * i + rank)
            joint = {name: p.grad.clone() for name, p in loss.named_parameters() if p.grad is not None}
        else:
            joint = gradients(loss, loss, batch, seed=0)
        optimizer.step()
        if updater is not None:
            updater.step()
        assert joint.keys() == first[i].keys()
        for name in joint:
            torch.testing.assert_close(first[i][name], joint[name], atol=1e-6, rtol=0)
            assert torch.equal(first[i][name], second[i][name])


def test_terms_with_optimizers_of_their_own(on_two_ranks):
    loss, batch, _ = sac()
    halves = [half.contiguous() for half in batch.chunk(2)]

    def step(rank):
        parallel = DistributedDataParallel(loss)
        torch.manual_seed(rank)
        losses = parallel(halves[rank])
        for name in ("loss_actor", "loss_qvalue", "loss_alpha"):
            losses[name].backward(retain_graph=True)
        return {name: p.grad.clone() for name, p in loss.named_parameters() if p.grad is not None}

    first, second = on_two_ranks(step)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_parameters_are_sharded(on_two_ranks):
    loss, batch, _ = dqn()

    def step(rank):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        for network in loss.modules():
            if isinstance(network, MLP):  # the parts that return tensors
                fully_shard(network, mesh=init_device_mesh("cpu", (2,)))
        loss(batch[rank::2].contiguous()).backward()
        return {name: p.grad.full_tensor() for name, p in loss.named_parameters() if p.grad is not None}

    first, _ = on_two_ranks(step)
    joint = gradients(loss, loss, batch, seed=0)
    for name in joint:
        torch.testing.assert_close(first[name], joint[name], atol=1e-6, rtol=0)
