"""A Decision Transformer that acts: its context is the one that a list of past steps gives."""

from functools import partial

import pytest
import torch
from tensordict import TensorDict
from torch.nn.functional import one_hot

from torchrl._core.errors import MissingKeyError, SpecError
from torchrl.collectors import Collector
from torchrl.data import Binary, Categorical
from torchrl.envs import (
    CartPoleEnv,
    Compose,
    GymEnv,
    InitTracker,
    SerialEnv,
    TransformedEnv,
    check_env_specs,
    set_exploration_type,
)
from torchrl.modules import make_decision_transformer, set_recurrent_mode
from torchrl.modules.utils import get_primers_from_module
from torchrl.testing.mocks import MaskedEnv

K, DESIRED, SCALE = 4, 30.0, 10.0


def short_cartpole():
    return CartPoleEnv(max_steps=7)


def integer_cartpole():
    return CartPoleEnv(max_steps=7, categorical_action_encoding=True)


ENVS = {
    "one": short_cartpole,
    "serial": lambda: SerialEnv(3, short_cartpole),
    "batched": lambda: CartPoleEnv(batch_size=[2, 2], max_steps=7),
    "integers": lambda: SerialEnv(2, integer_cartpole),
    "continuous": lambda: SerialEnv(2, partial(GymEnv, "Pendulum-v1")),
    "gymnasium": lambda: GymEnv("CartPole-v1", num_envs=2),
}


def make_policy(env, **options):
    torch.manual_seed(0)
    sizes = {"context": K, "num_cells": 8, "num_layers": 2, "num_heads": 2, "desired_return": DESIRED}
    return make_decision_transformer(env, **{**sizes, "return_scale": SCALE, **options})


def with_needs(env, policy):
    return TransformedEnv(env, Compose(InitTracker(), get_primers_from_module(policy)))


def params_by_hand(policy, observations, actions, rewards):
    """Return what the network makes of the last K steps; all but the last action are known."""
    to_go = [DESIRED]
    for reward in rewards:
        to_go.append(to_go[-1] - reward)
    seen = torch.stack(observations)[-K:]
    done = torch.stack([*actions, torch.zeros_like(actions[0]) if actions else torch.zeros(policy.num_actions)])[-K:]
    wanted = torch.tensor(to_go)[-K:, None] / SCALE
    return policy.network(seen[None], done[None].float(), wanted[None])[0, -1]


def shown(action, policy):
    """Return an action as the network sees it."""
    if isinstance(policy.action_spec, Categorical):
        return one_hot(action.reshape(()), 2).float()
    return action.float()


@pytest.mark.parametrize("name", ENVS)
def test_rollouts_have_the_context_of_a_list_of_steps(name):
    """In batches too, whose rows start over at different steps."""
    env = ENVS[name]()
    policy = make_policy(env)
    env = with_needs(env, policy)
    env.set_seed(0)
    with torch.no_grad(), set_exploration_type("random"):
        played = env.rollout(30, policy, break_when_any_done=False)
    policy.eval()
    starts = 0
    for row in played.reshape(-1, 30):
        observations, actions, rewards = [], [], []
        for step in row:
            if step["is_init"]:
                observations, actions, rewards = [], [], []
                starts += 1
            observations.append(step["observation"])
            expected = params_by_hand(policy, observations, actions, rewards)
            if policy.head is None or policy.param_key == "action":
                expected = 2 * expected.tanh()  # within Pendulum's bounds
            torch.testing.assert_close(step[policy.param_key], expected, rtol=1e-4, atol=1e-5)
            actions.append(shown(step["action"], policy))
            rewards.append(step["next", "reward"].item())
            assert step["next", "context_length"] == min(K, len(actions))
    assert starts > len(played.reshape(-1, 30)) or name == "continuous"


def test_sequences_and_single_steps_agree():
    env = GymEnv("Pendulum-v1")
    policy = make_policy(env)
    env = with_needs(env, policy)
    with torch.no_grad():
        played = env.rollout(K, policy)
        batch = played.select("observation", "action").set("return_to_go", played["next", "context_return"][-1])
        policy.eval()
        with set_recurrent_mode():
            out = policy(batch.clone().unsqueeze(0))
    torch.testing.assert_close(out["action"][0], played["action"], rtol=1e-4, atol=1e-5)
    assert "next" not in out


def test_dropout_is_for_sequences_alone():
    policy = make_policy(CartPoleEnv(), dropout=0.5)
    td = TensorDict(observation=torch.ones(3, 4), is_init=torch.ones(3, 1).bool(), batch_size=[3])
    first, second = policy(td.clone()), policy(td.clone())
    assert torch.equal(first["logits"], second["logits"])
    assert policy.network.training
    steps = TensorDict(observation=torch.ones(3, K, 4), action=torch.ones(3, K, 2), return_to_go=torch.ones(3, K, 1))
    steps = steps.auto_batch_size_(2)
    with set_recurrent_mode():
        assert not torch.equal(policy(steps.clone())["logits"], policy(steps.clone())["logits"])


def test_the_return_to_reach_is_set_and_saved():
    policy = make_policy(CartPoleEnv())
    policy.desired_return, policy.return_scale = 12.0, 4.0
    other = make_policy(CartPoleEnv())
    other.load_state_dict(policy.state_dict())
    assert (other.desired_return, other.return_scale) == (12.0, 4.0)
    td = TensorDict(observation=torch.ones(4), is_init=torch.tensor([True]))
    assert other(td)["next", "context_return"].flatten().tolist() == [12.0, 0.0, 0.0, 0.0]


def test_collectors_give_the_policy_what_it_needs():
    policy = make_policy(CartPoleEnv())
    options = {"frames_per_batch": 40, "total_frames": 40, "auto_register_policy_transforms": True}
    collector = Collector(SerialEnv(2, short_cartpole), policy, **options)
    (batch,) = collector
    collector.shutdown()
    first = batch["is_init"].squeeze(-1)
    assert (batch["next", "context_return"][first][:, 0] == DESIRED).all()
    assert first.sum() > 2
    assert (batch["last_reward"][~first] == 1.0).all()
    assert (batch["context_length"] <= K).all()


def test_the_environment_with_its_primer_is_consistent():
    env = SerialEnv(2, short_cartpole)
    check_env_specs(with_needs(env, make_policy(env)))


def test_masked_actions_are_not_taken():
    env = MaskedEnv()
    policy = make_policy(env)
    env = with_needs(env, policy)
    with torch.no_grad(), set_exploration_type("random"):
        played = env.rollout(50, policy, break_when_any_done=False)
    assert (played["next", "reward"] == 1.0).all()  # the reward of a legal action


def test_errors():
    policy = make_policy(CartPoleEnv())
    with pytest.raises(MissingKeyError, match="is_init"):
        policy(TensorDict(observation=torch.ones(4)))
    with set_recurrent_mode(), pytest.raises(MissingKeyError, match="return_to_go"):
        policy(TensorDict(observation=torch.ones(2, 4), action=torch.ones(2, 2), batch_size=[2]))
    with pytest.raises(ValueError, match="context >= 1"):
        make_policy(CartPoleEnv(), context=0)
    env = CartPoleEnv()
    env.action_spec = Binary(3)
    with pytest.raises(SpecError, match="one choice"):
        make_policy(env)


def test_a_first_step_forgets_the_state_that_it_finds():
    policy = make_policy(CartPoleEnv())
    observation = torch.randn(2, 4)
    first = torch.ones(2, 1, dtype=torch.bool)
    fresh = policy(TensorDict(observation=observation, is_init=first, batch_size=[2]))
    td = TensorDict(observation=observation, is_init=torch.tensor([[True], [False]]), batch_size=[2])
    for flag in (first, ~first):
        step = TensorDict(observation=torch.randn(2, 4), is_init=flag, batch_size=[2])
        step.update(td.select(*policy.state_names, strict=False)).set("last_reward", torch.ones(2, 1))
        td.update(policy(step)["next"])
    later = policy(td.set("last_reward", torch.ones(2, 1)))
    for key in (*policy.state_names, "logits"):
        where = key if key == "logits" else ("next", key)
        assert torch.allclose(later[where][0], fresh[where][0])
    assert later["next", "context_return"][:, :3, 0].tolist() == [[DESIRED, 0, 0], [DESIRED, DESIRED - 1, DESIRED - 2]]
