"""Two teams that learn against each other with MADDPG, a buffer and a loss for each."""

import tempfile

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import multiprocessing

from torchrl.collectors import SyncDataCollector
from torchrl.data import LazyMemmapStorage, RandomSampler, ReplayBuffer
from torchrl.envs import RewardSum, TransformedEnv, VmasEnv, check_env_specs
from torchrl.modules import AdditiveGaussianModule, MultiAgentMLP, ProbabilisticActor, TanhDelta
from torchrl.objectives import DDPGLoss, SoftUpdate, ValueEstimators

is_fork = multiprocessing.get_start_method() == "fork"
frames_per_batch, n_iters, n_optimiser_steps, train_batch_size = 250, 4, 5, 64


def main():
    torch.manual_seed(0)
    base_env = VmasEnv(
        scenario="simple_tag",
        num_envs=10,
        continuous_actions=True,
        max_steps=25,
        device="cpu",
        seed=0,
        num_good_agents=1,
        num_adversaries=2,
        num_landmarks=2,
    )
    env = TransformedEnv(
        base_env,
        RewardSum(
            in_keys=base_env.reward_keys,
            out_keys=[(group, "episode_reward") for group in base_env.group_map],
            reset_keys=["_reset"] * len(base_env.group_map.keys()),
        ),
    )
    check_env_specs(env)

    policies, exploration_policies, critics = {}, {}, {}
    for group, agents in env.group_map.items():
        policy_net = MultiAgentMLP(
            n_agent_inputs=env.observation_spec[group, "observation"].shape[-1],
            n_agent_outputs=env.full_action_spec[group, "action"].shape[-1],
            n_agents=len(agents),
            centralised=False,
            share_params=True,
            device="cpu",
            depth=2,
            num_cells=32,
            activation_class=torch.nn.Tanh,
        )
        policy_module = TensorDictModule(policy_net, in_keys=[(group, "observation")], out_keys=[(group, "param")])
        policies[group] = ProbabilisticActor(
            module=policy_module,
            spec=env.full_action_spec[group, "action"],
            in_keys=[(group, "param")],
            out_keys=[(group, "action")],
            distribution_class=TanhDelta,
            distribution_kwargs={
                "low": env.full_action_spec_unbatched[group, "action"].space.low,
                "high": env.full_action_spec_unbatched[group, "action"].space.high,
            },
            return_log_prob=False,
        )
        exploration_policies[group] = TensorDictSequential(
            policies[group],
            AdditiveGaussianModule(
                spec=policies[group].spec,
                annealing_num_steps=frames_per_batch * n_iters // 2,
                action_key=(group, "action"),
                sigma_init=0.9,
                sigma_end=0.1,
            ),
        )
        cat_module = TensorDictModule(
            lambda obs, action: torch.cat([obs, action], dim=-1),
            in_keys=[(group, "observation"), (group, "action")],
            out_keys=[(group, "obs_action")],
        )
        critic_module = TensorDictModule(
            module=MultiAgentMLP(
                n_agent_inputs=env.observation_spec[group, "observation"].shape[-1]
                + env.full_action_spec[group, "action"].shape[-1],
                n_agent_outputs=1,
                n_agents=len(agents),
                centralised=True,
                share_params=True,
                device="cpu",
                depth=2,
                num_cells=32,
                activation_class=torch.nn.Tanh,
            ),
            in_keys=[(group, "obs_action")],
            out_keys=[(group, "state_action_value")],
        )
        critics[group] = TensorDictSequential(cat_module, critic_module)

    reset_td = env.reset()
    for group in env.group_map:
        critics[group](policies[group](reset_td))

    agents_exploration_policy = TensorDictSequential(*exploration_policies.values())
    collector = SyncDataCollector(
        env,
        agents_exploration_policy,
        device="cpu",
        frames_per_batch=frames_per_batch,
        total_frames=frames_per_batch * n_iters,
    )
    scratch_dir = tempfile.TemporaryDirectory()
    replay_buffers, losses, target_updaters, optimisers = {}, {}, {}, {}
    for group in env.group_map:
        replay_buffers[group] = ReplayBuffer(
            storage=LazyMemmapStorage(1000, scratch_dir=f"{scratch_dir.name}/{group}"),
            sampler=RandomSampler(),
            batch_size=train_batch_size,
        )
        loss_module = DDPGLoss(
            actor_network=policies[group], value_network=critics[group], delay_value=True, loss_function="l2"
        )
        loss_module.set_keys(
            state_action_value=(group, "state_action_value"),
            reward=(group, "reward"),
            done=(group, "done"),
            terminated=(group, "terminated"),
        )
        loss_module.make_value_estimator(ValueEstimators.TD0, gamma=0.99)
        losses[group] = loss_module
        target_updaters[group] = SoftUpdate(loss_module, tau=0.005)
        optimisers[group] = {
            "loss_actor": torch.optim.Adam(loss_module.actor_network_params.flatten_keys().values(), lr=1e-3),
            "loss_value": torch.optim.Adam(loss_module.value_network_params.flatten_keys().values(), lr=1e-2),
        }

    value_losses = []
    for batch in collector:
        current_frames = batch.numel()
        for group in env.group_map:
            shape = (*batch.batch_size, *env.full_reward_spec_unbatched[group, "reward"].shape)
            for flag in ("done", "terminated"):
                expanded = batch["next", flag].unsqueeze(-1).expand(shape)
                batch.set(("next", group, flag), expanded)
            group_batch = batch.exclude(
                *[key for other in env.group_map if other != group for key in (other, ("next", other))]
            ).reshape(-1)
            replay_buffers[group].extend(group_batch)
            for _ in range(n_optimiser_steps):
                subdata = replay_buffers[group].sample()
                loss_vals = losses[group](subdata)
                for loss_name in ["loss_actor", "loss_value"]:
                    optimiser = optimisers[group][loss_name]
                    loss_vals[loss_name].backward()
                    params = optimiser.param_groups[0]["params"]
                    torch.nn.utils.clip_grad_norm_(params, 1.0)
                    optimiser.step()
                    optimiser.zero_grad()
                target_updaters[group].step()
            exploration_policies[group][-1].step(current_frames)
            value_losses.append(loss_vals["loss_value"].item())
        collector.update_policy_weights_()
    collector.shutdown()
    env.close()
    scratch_dir.cleanup()
    sigma = exploration_policies["agent"][-1].sigma.item()
    assert abs(sigma - 0.1) < 1e-4, sigma
    return value_losses


if __name__ == "__main__":
    losses = main()
    assert all(loss == loss for loss in losses), losses
