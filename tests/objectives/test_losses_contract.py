"""Every loss keeps the contract. A new loss joins with one line in ``LOSSES``."""

import functools
import inspect

import pytest
import torch
from tensordict import TensorDict, TensorDictParams
from tensordict.nn import TensorDictModule

import torchrl.objectives as objectives
from tests.objectives.dreams import Models, latents, rows
from torchrl.modules import QValueActor
from torchrl.objectives import (
    A2CLoss,
    BCLoss,
    ClipPPOLoss,
    CQLLoss,
    CrossQLoss,
    DDPGLoss,
    DiscreteCQLLoss,
    DiscreteIQLLoss,
    DiscreteSACLoss,
    DistributionalDQNLoss,
    DQNLoss,
    DTLoss,
    GAILLoss,
    IPPOLoss,
    IQLLoss,
    KLPENPPOLoss,
    LossModule,
    MAPPOLoss,
    OnlineDTLoss,
    PPOLoss,
    QMixerLoss,
    QRDQNLoss,
    REDQLoss,
    ReinforceLoss,
    RNDLoss,
    SACLoss,
    TD3BCLoss,
    TD3Loss,
    TQCLoss,
)
from torchrl.testing import loss as contract
from torchrl.testing.networks import (
    Concat,
    advantage_batch,
    composite_actor,
    critic,
    deterministic_actor,
    discrete_actor,
    distributional_q_network,
    gaussian_actor,
    mixing_networks,
    q_critic,
    q_network,
    quantile_q_network,
    tanh_normal,
    team,
    team_advantages,
    team_networks,
    transitions,
    two_actions,
)


def weighted():
    return transitions().set("priority_weight", torch.linspace(0.1, 1.0, 6).unsqueeze(-1))


def discrete():
    return transitions(3, discrete=True)


def discriminator():
    return TensorDictModule(Concat(5), ["observation", "action"], ["d_logits"])


def q_of_two(out=1):
    return TensorDictModule(Concat(5, out), ["observation", "a", "b"], ["state_action_value"])


def rated_heads():
    """A batch of two heads as it was collected: with their parameters and log-probabilities."""
    td = advantage_batch()
    td["a"], td["b"] = td.pop("action").chunk(2, -1)
    torch.manual_seed(4)
    params = composite_actor()[0](td.select("observation"))["params"]
    return td.set("params", params.detach())


def features():
    return TensorDictModule(Concat(3, 4), ["observation"], ["features"])


def imitation():
    td, other = transitions(), transitions(seed=1)
    td["collector_observation"] = other["observation"]
    td["collector_action"] = other["action"]
    return td


def drawn(make, *size):
    """Always the same batch."""

    def batch():
        torch.manual_seed(0)
        return make(*size)

    return batch


BOUNDS = (-1.0, 1.0)
LOSSES = {
    "dqn": (lambda: DQNLoss(q_network(), action_space="one_hot"), discrete),
    "dqn, double, on policy values": (
        lambda: DQNLoss(
            QValueActor(q_network(), action_space="one_hot"), double_dqn=True, gamma=0.9, loss_function="smooth_l1"
        ),
        discrete,
    ),
    "dqn, not delayed": (lambda: DQNLoss(q_network(), action_space="one_hot", delay_value=False), discrete),
    "c51": (lambda: DistributionalDQNLoss(distributional_q_network(), gamma=0.9), discrete),
    "qr-dqn": (lambda: QRDQNLoss(quantile_q_network(), action_space="one_hot", double_dqn=True), discrete),
    "ddpg": (lambda: DDPGLoss(deterministic_actor(), q_critic()), transitions),
    "ddpg, delayed, weighted": (
        lambda: DDPGLoss(deterministic_actor(), q_critic(), delay_actor=True, separate_losses=True),
        weighted,
    ),
    "td3": (lambda: TD3Loss(deterministic_actor(), q_critic(), bounds=BOUNDS), transitions),
    "td3, not delayed": (
        lambda: TD3Loss(
            deterministic_actor(), [q_critic(), q_critic()], bounds=BOUNDS, delay_actor=False, delay_qvalue=False
        ),
        transitions,
    ),
    "td3+bc": (lambda: TD3BCLoss(deterministic_actor(), q_critic(), bounds=BOUNDS), transitions),
    "sac": (lambda: SACLoss(gaussian_actor(2, tanh_normal), q_critic()), transitions),
    "sac, all options": (
        lambda: SACLoss(
            gaussian_actor(),
            q_critic(),
            delay_actor=True,
            min_alpha=0.5,
            max_alpha=2.0,
            separate_losses=True,
            target_entropy=-3.0,
        ),
        weighted,
    ),
    "sac, first version": (lambda: SACLoss(gaussian_actor(), q_critic(), critic()), transitions),
    "sac, two heads": (lambda: SACLoss(composite_actor(), q_of_two()), two_actions),
    "iql, two heads": (lambda: IQLLoss(composite_actor(), q_of_two(), critic()), two_actions),
    "discrete sac": (
        lambda: DiscreteSACLoss(discrete_actor(), q_network(), action_space="one_hot", num_actions=3),
        discrete,
    ),
    "redq": (lambda: REDQLoss(gaussian_actor(), q_critic(), num_qvalue_nets=3), transitions),
    "crossq": (lambda: CrossQLoss(gaussian_actor(), q_critic()), transitions),
    "iql": (lambda: IQLLoss(gaussian_actor(), q_critic(), critic(), expectile=0.7, temperature=3.0), transitions),
    "discrete iql": (
        lambda: DiscreteIQLLoss(discrete_actor(), q_network(), critic(), action_space="one_hot"),
        discrete,
    ),
    "cql": (lambda: CQLLoss(gaussian_actor(), q_critic(), num_random=3), transitions),
    "cql, all options": (
        lambda: CQLLoss(
            gaussian_actor(),
            q_critic(),
            num_random=3,
            with_lagrange=True,
            lagrange_thresh=1.0,
            max_q_backup=True,
            deterministic_backup=False,
            temperature=0.5,
            min_q_weight=2.0,
        ),
        transitions,
    ),
    "discrete cql": (lambda: DiscreteCQLLoss(q_network(), action_space="one_hot"), discrete),
    "bc": (lambda: BCLoss(gaussian_actor()), transitions),
    "bc, deterministic": (lambda: BCLoss(deterministic_actor()), transitions),
    "dt": (lambda: DTLoss(deterministic_actor()), transitions),
    "online dt": (lambda: OnlineDTLoss(gaussian_actor()), transitions),
    "mappo": (lambda: MAPPOLoss(*team_networks()), team_advantages),
    "ippo": (lambda: IPPOLoss(*team_networks(), normalize_advantage=False), team_advantages),
    "qmix": (lambda: QMixerLoss(*mixing_networks(), action_space="one_hot"), team),
    "gail": (lambda: GAILLoss(discriminator()), imitation),
    "gail, penalty": (lambda: GAILLoss(discriminator(), use_grad_penalty=True), imitation),
    "rnd": (lambda: RNDLoss(features(), features()), transitions),
    "rnd, every sample": (
        lambda: RNDLoss(features(), features(), update_fraction=1.0, obs_rms=torch.tanh),
        transitions,
    ),
    "tqc": (lambda: TQCLoss(gaussian_actor(), q_critic(2, 5)), transitions),
    "a2c": (lambda: A2CLoss(gaussian_actor(), critic()), advantage_batch),
    "a2c discrete": (lambda: A2CLoss(discrete_actor(), critic()), lambda: advantage_batch(3, discrete=True)),
    "a2c, two heads": (lambda: A2CLoss(composite_actor(), critic()), rated_heads),
    "ppo, two heads": (lambda: PPOLoss(composite_actor(), critic()), rated_heads),
    "clip ppo, two heads": (lambda: ClipPPOLoss(composite_actor(), critic()), rated_heads),
    "kl ppo, two heads": (lambda: KLPENPPOLoss(composite_actor(), critic()), rated_heads),
    "reinforce, two heads": (lambda: ReinforceLoss(composite_actor(), critic()), rated_heads),
    "bc, two heads": (lambda: BCLoss(composite_actor()), two_actions),
    "redq, two heads": (lambda: REDQLoss(composite_actor(), q_of_two(), num_qvalue_nets=2), two_actions),
    "crossq, two heads": (lambda: CrossQLoss(composite_actor(), q_of_two()), two_actions),
    "tqc, two heads": (lambda: TQCLoss(composite_actor(), q_of_two(5)), two_actions),
    "a2c, no critic": (lambda: A2CLoss(gaussian_actor()), advantage_batch),
    "ppo": (lambda: PPOLoss(gaussian_actor(), critic()), advantage_batch),
    "ppo, tanh": (lambda: PPOLoss(gaussian_actor(2, tanh_normal), critic()), advantage_batch),
    "clip ppo": (lambda: ClipPPOLoss(gaussian_actor(), critic()), advantage_batch),
    "clip ppo, all options": (
        lambda: ClipPPOLoss(
            gaussian_actor(17),
            critic(),
            clip_epsilon=(0.1, 0.3),
            clip_value=0.2,
            normalize_advantage=True,
            max_importance_ratio=3.0,
            delay_actor=True,
        ),
        lambda: advantage_batch(17),
    ),
    "clip ppo, discrete": (lambda: ClipPPOLoss(discrete_actor(), critic()), lambda: advantage_batch(3, discrete=True)),
    "kl ppo": (lambda: KLPENPPOLoss(gaussian_actor(), critic()), advantage_batch),
    "reinforce": (lambda: ReinforceLoss(gaussian_actor(), critic()), advantage_batch),
    "reinforce, delayed": (lambda: ReinforceLoss(gaussian_actor(), critic(), delay_value=True), advantage_batch),
    "dreamer's model": (lambda: Models().losses()[0], drawn(rows, 6, 3)),
    "dreamer's policy": (lambda: Models().losses()[1], drawn(latents, 6)),
    "dreamer's values": (lambda: Models().losses()[2], drawn(latents, 6, 3)),
}
# beside the losses comes the data, and a pair has neither keywords nor names to choose from
PAIR = {"keyword_call", "select_out_keys"}
# what a loss cannot keep, and why
EXCEPT = {
    # a gradient within the loss cannot be traced, and its points are drawn in the loss
    "gail, penalty": {"compiles_without_graph_breaks", "maps_over_parameters"},
    # which samples count is drawn, and how many of them is normalised over the batch
    "rnd": {"padded_rows_do_not_count"},
    # of a group with one entry, the batch size that is guessed from keywords is too long
    "qmix": {"keyword_call"},
    # importance weights are taken where they are, and are no in_keys
    "ddpg, delayed, weighted": {"in_keys_suffice", "keyword_call"},
    "sac, all options": {"in_keys_suffice", "keyword_call"},
    # advantages are standardised without the padded rows, so these change the others
    "mappo": {"padded_rows_do_not_count"},
    # what the critic counts against the data depends on all of them
    "td3+bc": {"padded_rows_do_not_count"},
    # advantages are standardised without the padded rows, so these change the others
    "clip ppo, all options": {"padded_rows_do_not_count"},
    "dreamer's model": PAIR,
    # an environment imagines, which asks its flags how to go on
    "dreamer's policy": {*PAIR, "compiles_without_graph_breaks"},
    # of a sequence there is one number
    "dreamer's values": {*PAIR, "unreduced_terms_add_up"},
}


CHECKS = [
    pytest.param(check, id=check.__name__, marks=[pytest.mark.slow] * (check is contract.compiles_without_graph_breaks))
    for check in contract.CHECKS
]


# Tracing takes seconds: one loss of each class is traced, with the options that branch most.
TRACED = {
    "dqn, double, on policy values",
    "ddpg, delayed, weighted",
    "td3, not delayed",
    "sac, all options",
    "sac, first version",
    "iql, two heads",
    "cql, all options",
    "bc, two heads",
    "redq, two heads",
    "crossq, two heads",
    "tqc",
    "rnd, every sample",
    "a2c, two heads",
    "ppo, tanh",
    "clip ppo, all options",
    "kl ppo, two heads",
    "reinforce, delayed",
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", LOSSES)
def test_contract(name, check):
    if check is contract.compiles_without_graph_breaks and not is_traced(name):
        pytest.skip("another loss of this class is traced")
    if check.__name__ not in EXCEPT.get(name, ()):
        check(*LOSSES[name])


def is_traced(name):
    return name in TRACED or not any(kind(name) is kind(other) for other in TRACED)


@functools.cache
def kind(name):
    return type(LOSSES[name][0]())


class NestedLinear(torch.nn.Module):
    """A linear layer whose weights lie in a TensorDictParams with nested names."""

    def __init__(self, inputs, outputs):
        super().__init__()
        layer = Linear(inputs, outputs)
        leaves = {"deep": {"weight": layer.weight.data}, "bias": layer.bias.data}
        self.weights = TensorDictParams(TensorDict(leaves))

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weights["deep", "weight"], self.weights["bias"])


Linear = torch.nn.Linear
NESTED = [
    contract.targets_follow,
    contract.trains_every_parameter_and_no_target,
    contract.gains_only_the_priority,
    contract.state_dict_round_trip,
    contract.stored_outputs_do_not_matter,
    contract.reductions,
]


@pytest.mark.parametrize("name", LOSSES)
def test_networks_may_hold_nested_parameters(name, monkeypatch):
    """Targets, frozen critics and gradients are right where a network holds a TensorDictParams."""
    make, batch = LOSSES[name]
    plain = {key: p.grad for key, p in gradients(make, batch).items()}
    monkeypatch.setattr(torch.nn, "Linear", NestedLinear)
    for check in NESTED:
        check(make, batch)
    nested = gradients(make, batch)
    assert len(nested) == len(plain)
    for key, p in nested.items():
        other = plain[key.replace("weights.deep.", "").replace("weights.", "")]
        torch.testing.assert_close(p.grad, other)


def gradients(make, batch):
    """Return the parameters of a loss, with the gradients of the sum of its terms."""
    loss = contract.build(make)
    contract.run(loss, batch()).backward()
    return dict(loss.named_parameters())


def test_every_public_loss_is_listed():
    classes = (getattr(objectives, name) for name in objectives.__all__)
    public = {c for c in classes if inspect.isclass(c) and issubclass(c, LossModule)}
    assert public - {LossModule} == {type(make()) for make, _ in LOSSES.values()}
