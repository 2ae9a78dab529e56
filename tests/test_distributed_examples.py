"""Examples on several ranks learn what one process learns; they and those on Ray run."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchrl.envs import Compose, DoubleToFloat, GymEnv, TransformedEnv
from torchrl.objectives.value import GAE

EXAMPLES = Path(__file__).parents[1] / "examples" / "distributed"


@pytest.fixture
def ppo_ddp(monkeypatch):
    spec = importlib.util.spec_from_file_location("ppo_ddp", EXAMPLES / "ppo_ddp.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ppo_ddp", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks of a process with threads
def test_two_ranks_learn_what_one_process_learns(ppo_ddp, on_two_ranks):
    env = TransformedEnv(GymEnv("CartPole-v1"), Compose(DoubleToFloat()))
    env.set_seed(0)
    loss = ppo_ddp.make_loss(env, ppo_ddp.Args())
    batch = env.rollout(64, loss.actor_network, break_when_any_done=False).detach()
    GAE(gamma=0.98, lmbda=0.9, value_network=loss.critic_network)(batch)
    start = {name: value.clone() for name, value in loss.state_dict().items()}

    def learn(losses_of, minibatches):
        loss.load_state_dict(start)
        optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3, eps=1e-5)
        for minibatch in minibatches:
            losses = losses_of(minibatch.clone())
            optimizer.zero_grad()
            losses.backward()
            nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
            optimizer.step()
        return torch.cat([parameter.detach().flatten() for parameter in loss.parameters()])

    shares = [[minibatch.chunk(2)[rank].contiguous() for minibatch in batch.chunk(4) * 3] for rank in (0, 1)]

    def run(rank):
        parallel = DistributedDataParallel(loss)
        return learn(lambda minibatch: parallel(ppo_ddp.normalise(minibatch)), shares[rank])

    first, second = on_two_ranks(run)
    loss.normalize_advantage = True
    joint = learn(loss, batch.chunk(4) * 3)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, joint, atol=1e-5, rtol=0)


@pytest.mark.distributed
@pytest.mark.slow
def test_ppo_ddp_runs(tmp_path):
    options = ["--total_frames", "800", "--num_epochs", "1", "--eval_episodes", "2", "--log_dir", str(tmp_path)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, str(EXAMPLES / "ppo_ddp.py"), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.distributed
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("impala_ray", ["--total_frames", "480"]),
        ("apex_dqn", ["--total_frames", "1500", "--learning_starts", "500", "--updates_per_frame", "0.02"]),
    ],
)
def test_examples_on_ray_run(name, options, tmp_path):
    more = ["--video", "false", "--eval_episodes", "2", "--log_dir", str(tmp_path)]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *options, *more]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "evaluation: " in done.stdout + done.stderr
