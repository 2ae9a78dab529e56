"""One update of each loss against the same written by hand, and returns against a plain loop.

Run ``python benchmarks/objectives.py``. One thread; the ratio is what counts: time of the library
over time by hand, CPU time, median of interleaved rounds.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from keep import Row, keep
from tensordict import TensorDict
from tensordict.nn import (
    NormalParamExtractor,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import Tensor, nn
from torch.nn import functional as F

from torchrl.modules import QValueActor
from torchrl.objectives import ClipPPOLoss, DQNLoss, SACLoss, SoftUpdate, TD3Loss
from torchrl.objectives.value.functional import generalized_advantage_estimate, td_lambda_return_estimate

GAMMA, LMBDA = 0.99, 0.95


def median_times(functions: list[Callable[[], object]], seconds: float = 0.05, rounds: int = 15):
    """Return the median time of each function, measured in turns."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(rounds):
        for function, measured in zip(functions, times, strict=True):
            count, start = 0, time.process_time()
            while time.process_time() - start < seconds:
                function()
                count += 1
            measured.append((time.process_time() - start) / count)
    return [statistics.median(measured) for measured in times]


def mlp(inputs: int, outputs: int, hidden: int = 64, layer: type[nn.Module] = nn.Tanh):
    return nn.Sequential(
        nn.Linear(inputs, hidden), layer(), nn.Linear(hidden, hidden), layer(), nn.Linear(hidden, outputs)
    )


def independent_normal(loc: Tensor, scale: Tensor) -> torch.distributions.Distribution:
    normal = torch.distributions.Normal(loc, scale, validate_args=False)
    return torch.distributions.Independent(normal, 1, validate_args=False)


def ppo(batch: int = 256, observations: int = 17, actions: int = 6):
    policy = nn.Sequential(mlp(observations, 2 * actions), NormalParamExtractor())
    value = mlp(observations, 1)
    td = TensorDict(
        observation=torch.randn(batch, observations),
        action=torch.randn(batch, actions),
        action_log_prob=torch.randn(batch) - actions,
        advantage=torch.randn(batch, 1),
        value_target=torch.randn(batch, 1),
        batch_size=[batch],
    )
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(policy, ["observation"], ["loc", "scale"]),
        ProbabilisticTensorDictModule(["loc", "scale"], ["action"], distribution_class=independent_normal),
    )
    loss = ClipPPOLoss(actor, TensorDictModule(value, ["observation"], ["state_value"]))
    optimizer = torch.optim.Adam(loss.parameters(), 1e-9)

    def library() -> None:
        out = loss(td)
        total = out["loss_objective"] + out["loss_entropy"] + out["loss_critic"]
        total.backward()
        optimizer.step()
        optimizer.zero_grad()

    def by_hand() -> None:
        loc, scale = policy(td["observation"])
        dist = independent_normal(loc, scale)
        log_ratio = dist.log_prob(td["action"]) - td["action_log_prob"]
        ratio, advantage = log_ratio.exp(), td["advantage"].squeeze(-1)
        gain = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        with torch.no_grad():
            (ratio - 1 - log_ratio).mean()
            ((ratio - 1).abs() > 0.2).float().mean()
        critic = F.smooth_l1_loss(value(td["observation"]), td["value_target"])
        total = -gain - 0.01 * dist.entropy().mean() + critic
        total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return library, by_hand


class Critic(nn.Module):
    """A critic of observation and action, side by side."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.net = mlp(inputs, 1, hidden, nn.ReLU)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        return self.net(torch.cat([observation, action], -1))


def transitions(batch: int, observations: int, action: Tensor) -> TensorDict:
    done = torch.rand(batch, 1) < 0.05
    after = TensorDict(
        observation=torch.randn(batch, observations),
        reward=torch.randn(batch, 1),
        done=done,
        terminated=done,
        batch_size=[batch],
    )
    return TensorDict(observation=torch.randn(batch, observations), action=action, next=after, batch_size=[batch])


def polyak(targets: list[Tensor], online: list[Tensor]) -> None:
    with torch.no_grad():
        torch._foreach_lerp_(targets, online, 0.005)


def dqn(batch: int = 128, observations: int = 4, actions: int = 2):
    net = mlp(observations, actions, layer=nn.ReLU)
    td = transitions(batch, observations, F.one_hot(torch.randint(actions, (batch,)), actions))
    loss = DQNLoss(QValueActor(net, in_keys=["observation"], action_space="one_hot"), gamma=GAMMA)
    updater = SoftUpdate(loss, tau=0.005)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-9)
    frozen = copy.deepcopy(net).requires_grad_(False)

    def library() -> None:
        loss(td)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        updater.step()

    def by_hand() -> None:
        taken = net(td["observation"]).gather(-1, td["action"].argmax(-1, keepdim=True))
        with torch.no_grad():
            after = td["next"]
            ahead = frozen(after["observation"]).amax(-1, keepdim=True)
            target = after["reward"] + GAMMA * ~after["terminated"] * ahead
        F.mse_loss(taken, target).backward()
        optimizer.step()
        optimizer.zero_grad()
        polyak(list(frozen.parameters()), list(net.parameters()))

    return library, by_hand


def td3(batch: int = 256, observations: int = 17, actions: int = 6, hidden: int = 256):
    policy = nn.Sequential(mlp(observations, actions, hidden, nn.ReLU), nn.Tanh())
    critics = [Critic(observations + actions, hidden) for _ in range(2)]
    td = transitions(batch, observations, torch.rand(batch, actions) * 2 - 1)
    loss = TD3Loss(
        TensorDictModule(policy, ["observation"], ["action"]),
        [TensorDictModule(q, ["observation", "action"], ["state_action_value"]) for q in critics],
        bounds=(-1.0, 1.0),
        gamma=GAMMA,
    )
    updater = SoftUpdate(loss, tau=0.005)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-9)
    nets = nn.ModuleList([policy, *critics])
    frozen = copy.deepcopy(nets).requires_grad_(False)
    own = torch.optim.Adam(nets.parameters(), 1e-9)  # the loss has stacked copies of the critics

    def library() -> None:
        out = loss(td)
        (out["loss_actor"] + out["loss_qvalue"]).backward()
        optimizer.step()
        optimizer.zero_grad()
        updater.step()

    def by_hand() -> None:
        obs, after = td["observation"], td["next"]
        with torch.no_grad():
            noise = (torch.randn_like(td["action"]) * 0.2).clamp(-0.5, 0.5)
            action = (frozen[0](after["observation"]) + noise).clamp(-1, 1)
            ahead = torch.min(*(q(after["observation"], action) for q in frozen[1:]))
            target = after["reward"] + GAMMA * ~after["terminated"] * ahead
        error = sum(F.smooth_l1_loss(q(obs, td["action"]), target) for q in critics)
        for p in critics[0].parameters():
            p.requires_grad_(False)
        actor = -critics[0](obs, policy(obs)).mean()
        for p in critics[0].parameters():
            p.requires_grad_(True)
        (error + actor).backward()
        own.step()
        own.zero_grad()
        polyak(list(frozen.parameters()), list(nets.parameters()))

    return library, by_hand


def sac(batch: int = 256, observations: int = 17, actions: int = 6, hidden: int = 256):
    policy = nn.Sequential(mlp(observations, 2 * actions, hidden, nn.ReLU), NormalParamExtractor())
    critics = [Critic(observations + actions, hidden) for _ in range(2)]
    td = transitions(batch, observations, torch.rand(batch, actions) * 2 - 1)
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(policy, ["observation"], ["loc", "scale"]),
        ProbabilisticTensorDictModule(["loc", "scale"], ["action"], distribution_class=independent_normal),
    )
    loss = SACLoss(
        actor,
        [TensorDictModule(q, ["observation", "action"], ["state_action_value"]) for q in critics],
        gamma=GAMMA,
        target_entropy=-float(actions),
    )
    updater = SoftUpdate(loss, tau=0.005)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-9)
    nets = nn.ModuleList(critics)
    frozen, log_alpha = copy.deepcopy(nets).requires_grad_(False), loss.log_alpha
    own = torch.optim.Adam([*policy.parameters(), *nets.parameters(), log_alpha], 1e-9)  # the loss has copies

    def library() -> None:
        out = loss(td)
        (out["loss_actor"] + out["loss_qvalue"] + out["loss_alpha"]).backward()
        optimizer.step()
        optimizer.zero_grad()
        updater.step()

    def by_hand() -> None:
        obs, after, alpha = td["observation"], td["next"], log_alpha.detach().exp()
        with torch.no_grad():
            dist = independent_normal(*policy(after["observation"]))
            action = dist.rsample()
            ahead = torch.min(*(q(after["observation"], action) for q in frozen))
            ahead = ahead - alpha * dist.log_prob(action).unsqueeze(-1)
            target = after["reward"] + GAMMA * ~after["terminated"] * ahead
        error = sum(F.smooth_l1_loss(q(obs, td["action"]), target) for q in critics)
        dist = independent_normal(*policy(obs))
        action = dist.rsample()
        log_prob = dist.log_prob(action)
        for p in nets.parameters():
            p.requires_grad_(False)
        value = torch.min(*(q(obs, action) for q in critics)).squeeze(-1)
        for p in nets.parameters():
            p.requires_grad_(True)
        temperature = -(log_alpha * (log_prob - actions).detach()).mean()
        (error + (alpha * log_prob - value).mean() + temperature).backward()
        own.step()
        own.zero_grad()
        polyak(list(frozen.parameters()), list(nets.parameters()))

    return library, by_hand


UPDATES = {
    "ClipPPOLoss, batch 256": (ppo, 1.25),
    "DQNLoss, batch 128": (dqn, 1.3),
    "TD3Loss, batch 256, 2 x 256": (td3, 1.2),
    "SACLoss, batch 256, 2 x 256": (sac, 1.15),
}


def numpy_loop(values: Tensor, next_values: Tensor, rewards: Tensor, dones: Tensor, ends: Tensor):
    """Generalized advantages as most libraries compute them, over time-major arrays."""
    tensors = (values, next_values, rewards, dones.float(), ends.float())
    value, next_value, reward, done, end = (np.ascontiguousarray(x.squeeze(-1).numpy().T) for x in tensors)
    advantage, last = np.empty_like(reward), np.zeros(reward.shape[1], np.float32)
    for t in range(len(reward) - 1, -1, -1):
        delta = reward[t] + GAMMA * (1 - end[t]) * next_value[t] - value[t]
        last = delta + GAMMA * LMBDA * (1 - done[t]) * last
        advantage[t] = last
    return torch.from_numpy(advantage).T.unsqueeze(-1)


def vectorised_scan(values: Tensor, next_values: Tensor, rewards: Tensor, dones: Tensor, ends):
    """The same as one scan of logarithmic depth along the rows."""
    x = rewards + GAMMA * ~ends * next_values - values
    decay = GAMMA * LMBDA * ~dones
    stride, steps = 1, x.shape[1]
    while stride < steps:
        x = torch.cat([x[:, :-stride] + decay[:, :-stride] * x[:, stride:], x[:, -stride:]], 1)
        decay = torch.cat([decay[:, :-stride] * decay[:, stride:], decay[:, -stride:]], 1)
        stride *= 2
    return x


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'update':<34}{'library':>12}{'by hand':>12}{'ratio':>8}{'goal':>8}")
    updates: list[Row] = []
    for name, (make, goal) in UPDATES.items():
        library, hand = median_times(list(make()))
        updates.append({"update": name, "ms": library * 1e3, "by hand": hand * 1e3, "ratio": library / hand})
        print(f"{name:<34}{library * 1e3:>9.2f} ms{hand * 1e3:>9.2f} ms{library / hand:>8.2f}{goal:>8}")
    print(f"\n{'returns':<18}{'GAE':>12}{'TD(lambda)':>12}{'loop':>12}{'scan':>12}{'ratio':>8}")
    for rows, steps in ((1, 2048), (8, 128), (64, 1000), (256, 2048)):
        value, next_value, reward = torch.randn(3, rows, steps, 1)
        end = torch.rand(rows, steps, 1) < 0.01
        done = end | (torch.rand(rows, steps, 1) < 0.01)
        everything = (value, next_value, reward, done, end)
        gae, tdl, loop, scan = median_times(
            [
                lambda e=everything: generalized_advantage_estimate(GAMMA, LMBDA, *e),
                lambda e=everything: td_lambda_return_estimate(GAMMA, LMBDA, *e[1:]),
                lambda e=everything: numpy_loop(*e),
                lambda e=everything: vectorised_scan(*e),
            ],
            rounds=7,
        )
        best = max(gae, tdl) / min(loop, scan)
        times = "".join(f"{seconds * 1e3:>9.2f} ms" for seconds in (gae, tdl, loop, scan))
        print(f"{rows:>4} x {steps:<11}{times}{best:>8.2f}")
    keep("updates", updates)


if __name__ == "__main__":
    main()
