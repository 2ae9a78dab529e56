"""A loss and transforms of one's own, written against the base classes."""

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential, dispatch
from tensordict.utils import NestedKey

from torchrl.collectors import SyncDataCollector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer, UnboundedContinuousTensorSpec
from torchrl.envs import Compose, GymEnv, ObservationTransform, Transform, TransformedEnv, check_env_specs
from torchrl.envs.transforms.transforms import _apply_to_composite
from torchrl.modules import MLP, EGreedyModule, QValueActor
from torchrl.objectives import LossModule, SoftUpdate
from torchrl.objectives.utils import ValueEstimators, default_value_kwargs, distance_loss
from torchrl.objectives.value import TD0Estimator, TDLambdaEstimator


class SinTransform(ObservationTransform):
    """Replaces an entry by its sine."""

    def _apply_transform(self, obs: torch.Tensor) -> torch.Tensor:
        return obs.sin()

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return self._call(tensordict_reset)

    @_apply_to_composite
    def transform_observation_spec(self, observation_spec):
        return UnboundedContinuousTensorSpec(
            shape=observation_spec.shape, dtype=observation_spec.dtype, device=observation_spec.device
        )


class AddNoise(Transform):
    """Writes a noisy copy of the observation and says so in the specs."""

    def __init__(self, sigma=0.0):
        super().__init__(in_keys=["observation"], out_keys=["noisy"])
        self.register_buffer("sigma", torch.as_tensor(sigma))

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        obs = next_tensordict.get("observation")
        next_tensordict.set("noisy", obs + self.sigma * torch.randn_like(obs))
        return next_tensordict

    def _reset(self, tensordict, tensordict_reset):
        return self._call(tensordict_reset)

    def forward(self, tensordict):
        return self._call(tensordict)

    def transform_output_spec(self, output_spec):
        output_spec["full_observation_spec", "noisy"] = output_spec["full_observation_spec", "observation"].clone()
        return output_spec


class MyDQNLoss(LossModule):
    """Double Q-learning with an own spread penalty."""

    @dataclass
    class _AcceptedKeys:
        advantage: NestedKey = "advantage"
        value_target: NestedKey = "value_target"
        value: NestedKey = "chosen_action_value"
        action_value: NestedKey = "action_value"
        action: NestedKey = "action"
        priority: NestedKey = "td_error"
        reward: NestedKey = "reward"
        done: NestedKey = "done"
        terminated: NestedKey = "terminated"

    default_keys = _AcceptedKeys()
    default_value_estimator = ValueEstimators.TD0
    out_keys = ["loss", "loss_spread"]
    value_network: TensorDictModule
    value_network_params: TensorDict
    target_value_network_params: TensorDict

    def __init__(self, value_network, *, loss_function="l2", delay_value=True, gamma=None):
        super().__init__()
        self._in_keys = None
        self.delay_value = delay_value
        self.convert_to_functional(value_network, "value_network", create_target_params=self.delay_value)
        self.value_network_in_keys = value_network.in_keys
        self.loss_function = loss_function
        if gamma is not None:
            raise TypeError("pass gamma to make_value_estimator")

    def _forward_value_estimator_keys(self, **kwargs) -> None:
        if self._value_estimator is not None:
            self._value_estimator.set_keys(
                advantage=self.tensor_keys.advantage,
                value_target=self.tensor_keys.value_target,
                value=self.tensor_keys.value,
                reward=self.tensor_keys.reward,
                done=self.tensor_keys.done,
                terminated=self.tensor_keys.terminated,
            )

    def make_value_estimator(self, value_type: ValueEstimators = None, **hyperparams):
        if value_type is None:
            value_type = self.default_value_estimator
        self.value_type = value_type
        hp = dict(default_value_kwargs(value_type))
        hp.update(hyperparams)
        if value_type is ValueEstimators.TD0:
            self._value_estimator = TD0Estimator(**hp, value_network=self.value_network)
        elif value_type is ValueEstimators.TDLambda:
            self._value_estimator = TDLambdaEstimator(**hp, value_network=self.value_network)
        else:
            raise NotImplementedError(value_type)
        self._value_estimator.set_keys(
            advantage=self.tensor_keys.advantage,
            value_target=self.tensor_keys.value_target,
            value=self.tensor_keys.value,
            reward=self.tensor_keys.reward,
            done=self.tensor_keys.done,
            terminated=self.tensor_keys.terminated,
        )

    @property
    def in_keys(self):
        return [
            self.tensor_keys.action,
            *self.value_network_in_keys,
            ("next", self.tensor_keys.reward),
            ("next", self.tensor_keys.done),
            ("next", self.tensor_keys.terminated),
            *[("next", key) for key in self.value_network_in_keys],
        ]

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        td_copy = tensordict.clone(False)
        with self.value_network_params.to_module(self.value_network):
            self.value_network(td_copy)
        action = tensordict.get(self.tensor_keys.action)
        q_values = td_copy.get(self.tensor_keys.action_value)
        chosen = (q_values * action).sum(-1)
        with torch.no_grad():
            target = self.value_estimator.value_estimate(
                td_copy.clone(False), target_params=self.target_value_network_params
            ).squeeze(-1)
        with torch.no_grad():
            priority = (chosen - target).pow(2)
        tensordict.set(self.tensor_keys.priority, priority.unsqueeze(-1), inplace=True)
        return TensorDict(
            loss=distance_loss(chosen, target, self.loss_function).mean(), loss_spread=1e-4 * q_values.var(-1).mean()
        )


def main(total_frames=4000, frames_per_batch=100):
    torch.manual_seed(0)
    env = TransformedEnv(GymEnv("CartPole-v1"), Compose(AddNoise(), SinTransform(in_keys=["noisy"], out_keys=["sin"])))
    env.set_seed(0)
    check_env_specs(env)
    assert set(env.observation_spec.keys()) >= {"observation", "noisy", "sin"}
    net = QValueActor(MLP(8, 2, num_cells=[64]), in_keys=["sin", "noisy"], spec=env.action_spec)
    explore = EGreedyModule(env.action_spec, eps_init=0.5, eps_end=0.05, annealing_num_steps=2000)
    loss = MyDQNLoss(net)
    loss.make_value_estimator(gamma=0.98)
    updater = SoftUpdate(loss, eps=0.98)
    optim = torch.optim.Adam(loss.parameters(), lr=1e-3)
    names = [name for name, _ in loss.named_parameters()]
    assert names
    assert all(name.startswith("value_network_params") for name in names), names
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(5000), batch_size=64)
    collector = SyncDataCollector(
        env,
        TensorDictSequential(net, explore),
        frames_per_batch=frames_per_batch,
        total_frames=total_frames,
        init_random_frames=200,
    )
    lengths = []
    for data in collector:
        explore.step(data.numel())
        buffer.extend(data)
        lengths.append(data.numel() / max(1, int(data["next", "done"].sum())))
        for _ in range(50):
            sample = buffer.sample()
            out = loss(sample)
            sum(v for k, v in out.items() if k.startswith("loss")).backward()
            optim.step()
            optim.zero_grad()
            updater.step()
        assert sample["td_error"].shape == (64, 1)
    collector.shutdown()
    # The same loss, called with keywords.
    flat = {"_".join(k) if isinstance(k, tuple) else k: sample[k] for k in loss.in_keys}
    by_keywords = loss(**flat)
    torch.testing.assert_close(by_keywords[0], loss(sample)["loss"])
    return lengths


if __name__ == "__main__":
    lengths = main()
    assert sum(lengths[-5:]) > 2 * sum(lengths[:5]), lengths
