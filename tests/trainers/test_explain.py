"""The data flow of correct programs has no problems; planted faults are named; nothing is changed."""

import copy
import re
import sys
from html.parser import HTMLParser

import pytest
import torch
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictSequential
from torch import nn

import torchrl
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictPrioritizedReplayBuffer, TensorDictReplayBuffer
from torchrl.envs import (
    ActionDiscretizer,
    CatTensors,
    Compose,
    DoubleToFloat,
    GymEnv,
    InitTracker,
    MultiStepTransform,
    ObservationNorm,
    RenameTransform,
    RewardSum,
    SerialEnv,
    StepCounter,
    TransformedEnv,
)
from torchrl.modules import (
    MLP,
    EGreedyModule,
    LSTMModule,
    OneHotCategorical,
    ProbabilisticActor,
    QValueActor,
    QValueModule,
    TanhNormal,
    ValueOperator,
)
from torchrl.objectives import ClipPPOLoss, DQNLoss, SACLoss
from torchrl.objectives.value import GAE
from torchrl.testing.mocks import MaskedEnv, MultiAgentEnv
from torchrl.trainers import explain
from torchrl.trainers.explanation import PHASES, Explanation


def cartpole(*transforms):
    return TransformedEnv(GymEnv("CartPole-v1"), Compose(StepCounter(20), RewardSum(), *transforms))


def ppo_actor(env, in_key="observation", log_prob=True):
    net = TensorDictModule(MLP(4, 2, num_cells=[8]), [in_key], ["logits"])
    return ProbabilisticActor(
        net, ["logits"], spec=env.action_spec, distribution_class=OneHotCategorical, return_log_prob=log_prob
    )


def ppo(env=None, actor=None):
    env = env or cartpole()
    actor = actor or ppo_actor(env)
    return env, actor, ClipPPOLoss(actor, ValueOperator(MLP(4, 1, num_cells=[8])))


def dqn(env=None, **options):
    env = env or cartpole()
    network = QValueActor(MLP(4, 2, num_cells=[8]), spec=env.action_spec, **options)
    return env, TensorDictSequential(network, EGreedyModule(env.action_spec)), DQNLoss(network, delay_value=True)


def sac(env=None):
    env = env or TransformedEnv(GymEnv("Pendulum-v1"), RewardSum())
    num_obs = env.observation_spec["observation"].shape[-1]
    net = TensorDictModule(
        nn.Sequential(MLP(num_obs, 2, num_cells=[8]), NormalParamExtractor()), ["observation"], ["loc", "scale"]
    )
    actor = ProbabilisticActor(
        net, ["loc", "scale"], spec=env.action_spec, distribution_class=TanhNormal, return_log_prob=True
    )
    critic = ValueOperator(MLP(num_obs + 1, 1, num_cells=[8]), in_keys=["observation", "action"])
    return env, actor, SACLoss(actor, critic)


@pytest.mark.parametrize("make", [ppo, dqn, sac])
def test_correct_programs_have_no_problems(make):
    env, policy, loss = make()
    explanation = explain(env, policy, loss)
    assert explanation.problems == ()
    assert explanation.text().endswith("Every entry that is read is written before.")
    # what it says is what happens
    batch = env.rollout(3, policy)
    for key in explanation.entries:
        value = batch.get(key, None)
        if value is not None and key in explanation.described:
            shape, dtype = explanation.described[key]
            assert (tuple(value.shape[1:]), value.dtype) == (shape, dtype), key
    written = {key for part in explanation.components[:-1] for key in part.writes}
    assert set(batch.keys(True, True)) <= written


def test_the_data_flow_of_ppo():
    env, actor, loss = ppo()
    found = explain(env, actor, loss, value_estimator=GAE(gamma=0.9, lmbda=0.9, value_network=loss.critic_network))
    assert [(part.phase, part.name) for part in found.components] == [
        ("reset", "GymEnv"),
        ("reset", "StepCounter"),
        ("reset", "RewardSum"),
        ("policy", "ProbabilisticActor: MLP"),
        ("policy", "ProbabilisticActor: SafeProbabilisticModule"),
        ("step", "GymEnv"),
        ("step", "StepCounter"),
        ("step", "RewardSum"),
        ("values", "GAE"),
        ("loss", "ClipPPOLoss: actor_network"),
        ("loss", "ClipPPOLoss: critic_network"),
        ("loss", "ClipPPOLoss"),
    ]
    assert found.writers("action_log_prob") == ("ProbabilisticActor: SafeProbabilisticModule",)
    assert found.readers("advantage") == ("ClipPPOLoss",)
    assert found.readers(("next", "reward")) == ("RewardSum", "GAE")
    assert found.size("logits") == "float32 [2]"
    assert found.size("advantage") == found.size(("next", "reward")) == "float32 [1]"
    assert found.unread == ("step_count", "episode_reward")
    # without an estimator the loss computes them
    alone = explain(env, actor, loss)
    assert alone.writers("advantage") == ("ClipPPOLoss: value estimator",)
    assert alone.problems == ()


def test_collector_and_prioritised_buffer_of_dqn():
    env, policy, loss = dqn()
    collector = Collector(env, policy, frames_per_batch=10, total_frames=10)
    buffer = TensorDictPrioritizedReplayBuffer(
        alpha=0.6, beta=0.4, storage=LazyTensorStorage(10), batch_size=2, transform=MultiStepTransform(3, 0.9)
    )
    found = explain(loss=loss, collector=collector, replay_buffer=buffer)
    collector.shutdown()
    assert found.problems == ()
    assert found.readers("priority_weight") == ("DQNLoss",)
    assert found.readers("td_error") == ("update of the priorities",)
    assert found.writers(("collector", "traj_ids")) == ("Collector",)
    assert "MultiStepTransform" in [part.name for part in found.components]
    loss.set_keys(priority="error")
    [problem] = explain(env, policy, loss, replay_buffer=buffer).problems
    assert problem.startswith("missing: td_error is read by update of the priorities")
    assert "nearest: error" in problem


def test_the_policy_of_the_loss_is_the_default():
    env, _, loss = dqn()
    assert explain(env, loss=loss).problems == ()
    assert explain(env).problems == ()  # random actions
    assert "random actions" in explain(env).text()


FAULTS = {
    "wrong in_key": (
        lambda: dqn(in_keys=["observations"]),
        "missing: observations is read by QValueActor: MLP, DQNLoss: value_network and written by no component; "
        "nearest: observation.",
    ),
    "wrong in_key of a critic": (
        lambda: (cartpole(), None, ClipPPOLoss(ppo_actor(cartpole()), ValueOperator(MLP(4, 1), in_keys=["observed"]))),
        "missing: observed is read by ClipPPOLoss: critic_network and written by no component; nearest: observation.",
    ),
    "missing transform": (
        lambda: ppo(actor=ppo_actor(cartpole(), in_key="observation_vector")),
        "missing: observation_vector is read by ProbabilisticActor: MLP, ClipPPOLoss: actor_network and written by no "
        "component; nearest: observation.",
    ),
    "missing counter": (
        lambda: (GymEnv("CartPole-v1"), TensorDictModule(MLP(1, 2), ["step_count"], ["action"]), None),
        "missing: step_count is read by MLP and written by no component. Append StepCounter() to the environment.",
    ),
    "missing mask": (
        lambda: dqn(action_mask_key="action_mask"),
        "missing: action_mask is read by QValueActor: QValueModule, DQNLoss: value_network and written by no component",
    ),
    "no log-probability": (
        lambda: ppo(actor=ppo_actor(cartpole(), log_prob=False)),
        "missing: action_log_prob is read by ClipPPOLoss and written by no component; nearest: action. "
        "Build the policy with return_log_prob=True.",
    ),
    "action under another name": (
        lambda: (GymEnv("CartPole-v1"), TensorDictModule(MLP(4, 2), ["observation"], ["act"]), None),
        "missing: action is read by GymEnv and written by no component; nearest: act.",
    ),
    "network of another width": (
        lambda: (GymEnv("CartPole-v1"), TensorDictModule(MLP(3, 2), ["observation"], ["action"]), None),
        "fails: MLP cannot run on entries of these shapes: ",
    ),
    "written twice": (
        lambda: (
            GymEnv("CartPole-v1"),
            TensorDictSequential(
                TensorDictModule(MLP(4, 3), ["observation"], ["hidden"]),
                TensorDictModule(MLP(4, 2), ["observation"], ["hidden"]),
                TensorDictModule(MLP(2, 2), ["hidden"], ["action"]),
            ),
            None,
        ),
        "written twice: hidden of MLP is overwritten by MLP, which does not read it.",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults(name):
    make, message = FAULTS[name]
    problems = explain(*make()).problems
    assert len(problems) == 1, problems
    assert problems[0].startswith(message)


@pytest.mark.parametrize(
    ("make", "names", "key", "near"),
    [
        (dqn, {"reward": "rewrd"}, "next.rewrd", "next.reward"),
        (dqn, {"action": "acton"}, "acton", "action"),
        (sac, {"reward": ("agents", "reward")}, "next.agents.reward", "next.reward"),
        (ppo, {"sample_log_prob": "log_prob"}, None, None),  # the names that policies write are read as well
    ],
)
def test_misspelt_keys_of_a_loss(make, names, key, near):
    env, policy, loss = make()
    loss.set_keys(**names)
    problems = explain(env, policy, loss).problems
    if key is None:
        assert problems == ()
        return
    [problem] = problems
    assert problem == f"missing: {key} is read by {type(loss).__name__} and written by no component; nearest: {near}."


def test_an_advantage_under_another_name():
    env, actor, loss = ppo()
    loss.set_keys(advantage="adv")
    estimator = GAE(gamma=0.9, lmbda=0.9, value_network=loss.critic_network)
    [problem] = explain(env, actor, loss, value_estimator=estimator).problems
    assert problem.startswith("missing: adv is read by ClipPPOLoss and written by no component; nearest: advantage")


def test_missing_primer_and_tracker():
    lstm = LSTMModule(input_size=4, hidden_size=8, in_key="observation", out_key="hidden")
    env = GymEnv("CartPole-v1")
    head = TensorDictModule(nn.Linear(8, 2), ["hidden"], ["action_value"])
    policy = TensorDictSequential(lstm, head, QValueModule(spec=env.action_spec))
    found = explain(env, policy)
    assert [(missing.key, missing.nearest) for missing in found.missing] == [
        ("recurrent_state_h", None),
        ("recurrent_state_c", None),
        ("is_init", None),
    ]
    assert "policy.make_tensordict_primer()" in found.missing[0].hint
    assert "InitTracker()" in found.missing[2].hint
    tracked = TransformedEnv(env, InitTracker())
    assert len(explain(tracked, policy).missing) == 2
    whole = TransformedEnv(GymEnv("CartPole-v1"), Compose(InitTracker(), lstm.make_tensordict_primer()))
    found = explain(whole, policy, DQNLoss(policy))
    assert found.problems == ()
    assert found.size("hidden") == "float32 [8]"
    assert found.writers("recurrent_state_h") == ("TensorDictPrimer",)
    assert found.writers(("next", "recurrent_state_h")) == ("LSTMModule",)


def test_a_mask_of_the_environment():
    env = MaskedEnv()
    net = MLP(1, 4, num_cells=[4])
    policy = QValueActor(net, in_keys=["count"], spec=env.action_spec, action_mask_key="action_mask")
    found = explain(env, policy, DQNLoss(policy))
    assert found.problems == ()
    assert "QValueActor: QValueModule" in found.readers("action_mask")


def test_transforms_one_by_one():
    env = TransformedEnv(
        GymEnv("CartPole-v1"),
        Compose(
            DoubleToFloat(),
            ObservationNorm(0.0, 1.0, in_keys=["observation"]),
            RenameTransform(["observation"], ["raw"]),
            StepCounter(),
            CatTensors(["raw"], "vector", del_keys=False),
        ),
    )
    found = explain(env)
    rows = {part.name: (part.reads, part.writes) for part in found.components if part.phase == "reset"}
    assert rows["ObservationNorm"] == (("observation",), ("observation",))
    assert rows["RenameTransform"] == (("observation",), ("raw",))
    assert rows["StepCounter"] == ((), ("step_count",))
    assert rows["CatTensors"] == (("raw",), ("vector",))
    assert found.problems == ()


def test_inverse_transforms():
    env = TransformedEnv(GymEnv("Pendulum-v1"), ActionDiscretizer(num_intervals=5))
    found = explain(env)
    inverse = next(part for part in found.components if part.name.endswith("inverse"))
    assert inverse.reads
    assert set(inverse.reads) <= set(env.action_keys)
    assert found.problems == ()


def test_environments_in_a_batch_keep_their_rows():
    found = explain(SerialEnv(3, lambda: cartpole()))
    assert found.size("observation") == "float32 [3, 4]"
    assert found.components[0].name == "SerialEnv"
    assert found.problems == ()


def test_groups_of_agents():
    env = MultiAgentEnv(num_agents=2)
    net = TensorDictModule(MLP(1, 3), [("agents", "observation")], [("agents", "action_value")])
    policy = TensorDictSequential(
        net,
        QValueModule(
            action_space="one_hot",
            action_value_key=("agents", "action_value"),
            out_keys=[("agents", "action"), ("agents", "action_value"), ("agents", "chosen_action_value")],
        ),
    )
    found = explain(env, policy)
    assert found.problems == ()
    assert found.size(("agents", "action_value")) == "float32 [2, 3]"
    wrong = TensorDictModule(MLP(1, 3), ["observation"], [("agents", "action")])
    [problem] = explain(env, wrong).problems
    assert "nearest: agents.observation" in problem


def test_functions_as_policies():
    env = GymEnv("CartPole-v1")
    action = torch.tensor([1, 0])

    def of_tensordict(td):
        assert td["observation"].shape == (4,)
        return td.set("action", action)

    found = explain(env, of_tensordict)
    assert (found.components[1].name, found.components[1].reads) == ("of_tensordict", ("observation",))
    assert found.components[1].writes == ("action",)
    for policy in (lambda observation: action, nn.Linear(4, 2)):
        found = explain(env, policy)
        assert found.components[1].reads == ("observation",)
        assert found.problems == ()


def test_transforms_besides():
    env, policy, loss = dqn()
    found = explain(env, policy, loss, transforms=[ObservationNorm(0.0, 1.0, in_keys=["obs"])])
    [problem] = found.problems
    assert problem.startswith("missing: obs is read by ObservationNorm")


def test_without_an_environment():
    _, policy, loss = dqn()
    found = explain(None, policy, loss)
    assert found.problems == ()
    assert "observation" in found.components[0].writes
    with pytest.raises(ValueError, match="nothing to explain"):
        explain()


def test_nothing_is_changed():
    env, actor, loss = ppo()
    state = copy.deepcopy(loss.state_dict())
    keys = list(loss.in_keys)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    explain(env, actor, loss).text()
    assert torch.equal(torch.get_rng_state(), before)
    assert loss._value_estimator is None
    assert loss.in_keys == keys
    for name, value in loss.state_dict().items():
        assert torch.equal(value, state[name])
    lazy = TensorDictModule(nn.LazyLinear(2), ["observation"], ["action"])
    assert explain(env, lazy).size("action") == "int64 [2]"
    assert isinstance(lazy.module.weight, nn.UninitializedParameter)


class Tags(HTMLParser):
    """Checks that tags are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.count = [], 0

    def handle_starttag(self, tag, attrs):
        if tag != "br":
            self.open.append(tag)
            self.count += 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_whole_and_needs_no_network():
    env, policy, loss = dqn(in_keys=["<observations>"])
    found = explain(env, policy, loss)
    html = found.html()
    tags = Tags()
    tags.feed(html)
    assert not tags.open
    assert tags.count > 50
    assert "http" not in html
    assert "src=" not in html
    assert "&lt;observations&gt;" in html
    assert "<observations>" not in html
    assert found._repr_html_() == html
    assert found._repr_mimebundle_() == {"text/plain": found.text(), "text/html": html}


def test_mermaid_names_nodes_once_and_shows_what_is_missing():
    env, policy, loss = dqn(in_keys=["observations"])
    chart = explain(env, policy, loss).mermaid()
    lines = chart.splitlines()
    assert lines[0] == "flowchart TD"
    nodes = re.findall(r"^ +([nm]\d+)\[", chart, re.MULTILINE)
    assert len(nodes) == len(set(nodes))
    arrows = re.findall(r'^  ([nm]\d+) -->\|"([^"]+)"\| ([nm]\d+)$', chart, re.MULTILINE)
    assert {node for source, _, target in arrows for node in (source, target)} <= set(nodes)
    assert '  m0["observations"]:::missing' in lines
    assert sum(line.strip() == "end" for line in lines) == sum("subgraph" in line for line in lines)
    names = dict(re.findall(r'([nm]\d+)\["([^"]+)"\]', chart))
    assert ("QValueActor: MLP", "action_value", "QValueActor: QValueModule") in [
        (names[source], text, names[target]) for source, text, target in arrows
    ]


def test_text_is_a_table():
    env, policy, loss = dqn()
    text = explain(env, policy, loss).text(width=90)
    for phase in ("reset", "policy", "step", "loss"):
        assert PHASES[phase].upper() in text
    assert re.search(r"observation +float32 \[4\] +GymEnv +QValueActor: MLP, DQNLoss: value_network", text)
    assert str(Explanation(())).endswith("Every entry that is read is written before.")


def test_is_a_name_of_the_library(fresh_python):
    assert torchrl.explain is explain
    out = fresh_python(
        "import sys, torchrl; print('torchrl.trainers' in sys.modules); torchrl.explain; "
        "print('torchrl.trainers' in sys.modules)"
    )
    assert out.split() == ["False", "True"]
    assert "torchrl.trainers" in sys.modules


def test_a_buffer_without_priorities():
    env, policy, loss = dqn()
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(10), batch_size=2)
    found = explain(env, policy, loss, replay_buffer=buffer)
    assert found.problems == ()
    assert "priority_weight" not in found.text()
