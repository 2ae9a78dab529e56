"""Each rule finds what it is for, in a run that has only that, and nothing in a healthy one."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from torchrl.collectors import Collector
from torchrl.envs import GymEnv
from torchrl.modules import MLP, QValueActor
from torchrl.objectives import DQNLoss
from torchrl.record import CSVLogger
from torchrl.trainers import LogDeadUnits, Trainer, doctor
from torchrl.trainers.diagnosis import RULES, SEVERITIES, Measured, Rule
from torchrl.trainers.thresholds import Thresholds

ROOT = Path(__file__).parents[2]
N = 60
RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=N)
RISE = np.linspace(0, 1, N)
HEALTHY = {
    "train/kl_approx": 0.01 + 0.002 * NOISE,
    "train/clip_fraction": 0.1 + 0.01 * NOISE,
    "train/entropy": 0.69 - 0.4 * RISE,
    "train/explained_variance": 0.9 * RISE - 0.05,
    "train/pred_value": 80 * RISE,
    "train/reward": np.ones(N),
    "train/dead_units": 0.05 * RISE,
    "train/grad_norm_0": 0.4 + 0.1 * np.abs(NOISE),
    "train/time/collect": np.full(N, 0.5),
    "train/time/optimise": np.full(N, 0.7),
    "train/frames_per_second": 1000 + 20 * NOISE,
    "train/episode_return": 20 + 400 * RISE + 10 * NOISE,
    "train/lr": 1e-3 * (1 - RISE),
    "train/eps": 1 - 0.95 * RISE,
    "train/loss": np.exp(-RISE),
}
SETTINGS = {"algorithm": "ppo", "env": "CartPole-v1", "gamma": 0.99, "max_grad_norm": 0.5}


def write(folder, name, series, settings=SETTINGS):
    """Write a run whose healthy metrics are replaced by others; ``None`` leaves one out."""
    run = folder / name
    for metric, values in {**HEALTHY, **series}.items():
        if values is None:
            continue
        path = run / "scalars" / f"{metric}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{(i + 1) * 1000},{float(value)!r}\n" for i, value in enumerate(values)))
    (run / "hparams.json").write_text(json.dumps(settings))
    return run


def with_one(values, at, value):
    values = np.array(values, dtype=float)
    values[at] = value
    return values


def rate(seconds_per_value):
    """Return the logged mean frames per second of a run whose values take so long each."""
    return np.arange(1, N + 1) * 1000 / np.cumsum(seconds_per_value)


# What makes each rule of one run fire, and alone.
FAULTS = {
    "not_finite": {"train/loss": with_one(HEALTHY["train/loss"], 30, np.nan)},
    "kl_too_high": {"train/kl_approx": np.full(N, 0.2)},
    "kl_zero": {"train/kl_approx": np.zeros(N)},
    "clips_too_much": {"train/clip_fraction": np.full(N, 0.6)},
    "entropy_collapse": {"train/entropy": 0.69 * np.exp(-10 * RISE)},
    "critic_explains_nothing": {"train/explained_variance": np.full(N, -0.5)},
    "q_overestimates": {"train/pred_value": 500 * RISE},
    "units_are_dead": {"train/dead_units": 0.8 * RISE},
    "gradients_explode": {"train/grad_norm_0": 0.3 * np.exp(10 * RISE)},
    "gradients_vanish": {"train/grad_norm_0": 0.4 * np.exp(-40 * RISE)},
    "gradients_always_clipped": {"train/grad_norm_0": np.full(N, 3.0)},
    "environment_bound": {"train/time/collect": np.full(N, 9.0)},
    "learner_bound": {"train/time/optimise": np.full(N, 9.0)},
    "slows_down": {"train/frames_per_second": rate(1 + 3 * RISE)},
    "return_fell": {"train/episode_return": 20 + 400 * np.sin(np.pi * RISE * 0.9) + 10 * NOISE},
    "return_did_not_rise": {"train/episode_return": 20 + 5 * NOISE},
    "learning_rate_is_zero": {"train/lr": np.maximum(0, 1e-3 * (1 - 2 * RISE))},
    "exploration_never_falls": {"train/eps": np.ones(N)},
    "temperature_grows": {"train/alpha": np.exp(5 * RISE)},
}


def rules_of(report):
    return [finding.rule for finding in report.findings]


def test_a_healthy_run_has_no_findings(tmp_path):
    report = doctor(write(tmp_path, "run", {}))
    assert report.is_clean, report.text()
    assert report.text().startswith("No problem found in 1 run.")
    assert set(report.checked) | set(report.unchecked) >= set(FAULTS)
    assert "alpha" in str(report)  # not checked, and why


@pytest.mark.parametrize("rule", FAULTS)
def test_each_rule_finds_its_fault_alone(rule, tmp_path):
    report = doctor(write(tmp_path, "run", FAULTS[rule]))
    alone = set(rules_of(report)) - {"gradients_always_clipped"} if rule == "gradients_explode" else rules_of(report)
    assert list(alone) == [rule], report.text()
    finding = report.findings[0]
    assert finding.run == "run"
    assert finding.severity in SEVERITIES
    assert "nan" in finding.fact or finding.value != finding.threshold


MORE_FAULTS = {
    "infinite": ("not_finite", {"eval/return": [1.0, np.inf]}),
    "entropy of a density": ("entropy_collapse", {"train/entropy": 2 - 40 * RISE}),
    "value that diverges": ("q_overestimates", {"train/pred_value": 1e6 * RISE}),
    "discounted return": (
        "q_overestimates",
        {"train/pred_value": np.full(N, 30.0), "train/discounted_return": np.full(N, 10.0), "train/reward": None},
    ),
    "value of a trainer": ("q_overestimates", {"train/pred_value": None, "train/q_value": 500 * RISE}),
    "value of an evaluation": (
        "q_overestimates",
        {"train/q_value": 40 * RISE, "train/pred_value": None, "eval/discounted_return": np.full(20, 10.0)},
    ),
    "value above negative returns": (
        "q_overestimates",
        {"train/q_value": np.full(N, -20.0), "eval/discounted_return": np.full(20, -100.0)},
    ),
    "value with little entropy": (
        "q_overestimates",
        {
            "train/q_value": np.full(N, 150.0),
            "train/alpha": np.full(N, 0.2),
            "train/entropy": np.ones(N),
            "eval/discounted_return": np.full(20, 50.0),
        },
    ),
    "kl of a penalty": ("kl_too_high", {"train/kl_approx": None, "train/kl": np.full(N, 1.0)}),
    "norm without a number": ("gradients_vanish", {"train/grad_norm_0": None, "grad_norm": np.zeros(N)}),
    "units that are dead from the start": ("units_are_dead", {"train/dead_units": np.full(N, 0.8)}),
    "units that die": ("units_are_dead", {"train/dead_units": 0.1 + 0.35 * RISE}),
    "sigma": ("exploration_never_falls", {"train/eps": None, "train/sigma": np.full(N, 0.9)}),
    "rising exploration": ("exploration_never_falls", {"train/eps": 0.3 + 0.5 * RISE}),
}


@pytest.mark.parametrize("name", MORE_FAULTS)
def test_other_ways_to_go_wrong(name, tmp_path):
    rule, series = MORE_FAULTS[name]
    assert rules_of(doctor(write(tmp_path, "run", series))) == [rule]


FINE = {
    "inputs that vary little": {"train/dead_units": np.full(N, 0.4)},
    "small constant exploration": {"train/eps": np.full(N, 0.1)},
    "entropy held by a temperature": {"train/entropy": 0.69 * np.exp(-10 * RISE), "train/alpha": np.ones(N)},
    "entropy of a density": {"train/entropy": 1.4 - 3 * RISE},
    "negative rewards": {
        "train/reward": -8 + 7 * RISE,
        "train/pred_value": -100 * RISE,
        "train/episode_return": -1600 + 1400 * RISE + 50 * NOISE,
    },
    "negative rewards that end": {
        "train/reward": np.full(N, -1.0),
        "train/q_value": np.full(N, -30.0),
        "train/episode_return": -100 + 50 * RISE,
    },
    "values that fall to negative returns": {
        "train/q_value": -50 * RISE,
        "eval/discounted_return": np.full(20, -400.0),
    },
    "values of evaluations": {"train/q_value": 90 * RISE, "eval/discounted_return": np.linspace(10, 80, 20)},
    "values with entropy": {
        "train/q_value": np.full(N, 150.0),
        "train/alpha": np.ones(N),
        "train/entropy": np.ones(N),
        "eval/discounted_return": np.full(20, 50.0),
    },
    "solved from the start": {"train/episode_return": np.full(N, 500.0)},
    "noisy returns": {"train/episode_return": 100 + 200 * RISE + 60 * NOISE},
    "a dip in the middle": {"train/episode_return": with_one(HEALTHY["train/episode_return"], 30, 0)},
    "learning starts late": {"train/frames_per_second": rate(np.r_[np.full(20, 0.1), np.full(40, 2.0)])},
    "cyclic rate": {"train/lr": 1e-3 * (1 + np.cos(6 * np.pi * RISE)) / 2},
    "rate of a run that was extended": {"train/lr": with_one(1e-3 * (1 - RISE), 40, 0)},
    "a kl that ends at zero": {"train/kl_approx": 0.02 * (1 - RISE)},
    "growing gradients": {"train/grad_norm_0": 0.1 + 0.35 * RISE},
    "no settings": {"train/grad_norm_0": np.full(N, 3.0)},
}


@pytest.mark.parametrize("name", FINE)
def test_what_is_normal_is_no_finding(name, tmp_path):
    series = dict(FINE[name])
    if name == "learning starts late":
        folder = write(tmp_path, "run", series)
        path = folder / "scalars/train/loss.csv"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[20:]))
    else:
        folder = write(tmp_path, "run", series, {} if name == "no settings" else SETTINGS)
    assert doctor(folder).is_clean, doctor(folder).text()


SEEDS = {"seeds_disagree": [10, 100, 190], "seeds_are_bimodal": [20, 22, 480, 490, 500, 499]}


@pytest.mark.parametrize("rule", SEEDS)
def test_seeds(rule, tmp_path):
    for seed, final in enumerate(SEEDS[rule]):
        returns = final * (0.05 + 0.95 * np.minimum(1, 2 * RISE))
        write(tmp_path, f"ppo_CartPole-v1_seed{seed}", {"train/episode_return": returns})
    report = doctor(tmp_path)
    assert rule in rules_of(report)
    assert {finding.run for finding in report.findings} == {"ppo on CartPole-v1"}


def test_seeds_that_agree(tmp_path):
    for seed in range(5):
        write(tmp_path, f"run_seed{seed}", {"train/episode_return": HEALTHY["train/episode_return"] + 5 * seed})
    report = doctor(tmp_path)
    assert report.is_clean, report.text()
    assert {"seeds_disagree", "seeds_are_bimodal", "seeds_differ_in_speed"} <= set(report.checked)


def test_a_slow_seed(tmp_path):
    for seed in range(3):
        rates = HEALTHY["train/frames_per_second"] / (4 if seed == 1 else 1)
        write(tmp_path, f"run_seed{seed}", {"train/frames_per_second": rates})
    [finding] = doctor(tmp_path).findings
    assert finding.rule == "seeds_differ_in_speed"
    assert "run_seed1 did 2" in finding.fact


def test_every_rule_is_tested_and_complete():
    assert {rule.name for rule in RULES} == {*FAULTS, *SEEDS, "seeds_differ_in_speed"}
    for rule in RULES:
        assert rule.severity in SEVERITIES
        assert rule.why.endswith(".")
        assert rule.advice.endswith(".")
        assert rule.source


def test_the_most_severe_comes_first(tmp_path):
    series = {**FAULTS["gradients_always_clipped"], **FAULTS["kl_too_high"], **FAULTS["not_finite"]}
    report = doctor(write(tmp_path, "run", series))
    assert [finding.severity for finding in report.findings] == ["error", "warning", "note"]
    text = report.text(width=80)
    assert text.index("ERROR not finite: run") < text.index("WARNING kl too high") < text.index("NOTE gradients always")
    for part in ("measured 0.2, limit 0.06", "why:", "try:", "source: Huang"):
        assert part in text
    assert all(len(line) <= 80 or "http" in line for line in text.splitlines())


def test_json_is_standard(tmp_path):
    report = doctor(write(tmp_path, "run", {**FAULTS["not_finite"], **FAULTS["kl_too_high"]}))

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(report.json(), parse_constant=refuse)
    assert not found["clean"]
    assert [finding["rule"] for finding in found["findings"]] == ["not_finite", "kl_too_high"]
    assert found["findings"][0]["value"] == "nan"
    assert found["findings"][1]["threshold"] == 0.06
    assert found["runs"] == ["run"]


def test_thresholds_can_be_changed_and_rules_added(tmp_path):
    folder = write(tmp_path, "run", FAULTS["kl_too_high"])
    assert doctor(folder, thresholds=Thresholds(kl_high=0.5)).is_clean

    def loss_is_small(run, limits):
        return Measured("loss", 0.0, 1.0, "the loss is small")

    rule = Rule(loss_is_small, ("loss",), "note", "It is.", "Nothing.", "this test")
    [finding] = doctor(folder, rules=(rule,)).findings
    assert (finding.rule, finding.advice) == ("loss_is_small", "Nothing.")


def test_the_table_of_thresholds_has_a_source_for_each():
    lines = (ROOT / "torchrl/trainers/thresholds.py").read_text().splitlines()
    fields = [i for i, line in enumerate(lines) if re.match(r" {4}\w+: (float|int) = ", line)]
    assert len(fields) == len(vars(Thresholds())) > 15
    assert all("20" in lines[i - 1] or "chosen here" in lines[i - 1] for i in fields)


def test_a_run_of_a_trainer(tmp_path):
    """Metrics of a trainer with a logger are found under their names; its dead units are logged."""
    torch.manual_seed(0)
    env = GymEnv("CartPole-v1")
    network = QValueActor(MLP(4, 2, num_cells=[16], activation_class=torch.nn.ReLU), spec=env.action_spec)
    loss = DQNLoss(network)
    trainer = Trainer(
        collector=Collector(env, network, frames_per_batch=20, total_frames=200),
        total_frames=200,
        loss_module=loss,
        optimizer=torch.optim.Adam(loss.parameters(), lr=1e-3),
        logger=CSVLogger("dqn", tmp_path),
        log_interval=20,
        log_timings=True,
        clip_norm=10.0,
        progress_bar=False,
    )
    LogDeadUnits(network, interval=2).register(trainer)
    trainer.train()
    report = doctor(tmp_path / "dqn")
    assert {"units_are_dead", "gradients_explode", "environment_bound", "not_finite"} <= set(report.checked)
    assert set(rules_of(report)) <= {"environment_bound", "learner_bound", "slows_down"}, report.text()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ppo", {"total_frames": 3200}),
        ("dqn", {"total_frames": 1500, "learning_starts": 500, "updates_per_frame": 0.25}),
        ("sac", {"total_frames": 1000, "init_random_frames": 600, "num_cells": 32}),
    ],
)
def test_a_short_run_of_an_example_has_no_absurd_findings(name, settings, tmp_path):
    script = runpy.run_path(str(ROOT / f"examples/{name}.py"))
    args = script["Args"](**settings, eval_episodes=2, video=False, log_dir=str(tmp_path))
    threads = torch.get_num_threads()
    try:
        script["main"](args)
    finally:
        torch.set_num_threads(threads)
    report = doctor(tmp_path)
    # within a thousand frames a run need not have learned; the machine of the tests is shared
    assert set(rules_of(report)) <= {"return_did_not_rise", "slows_down"}, report.text()
    assert len(report.checked) >= 5


def test_settings_of_a_run_of_train_are_read(tmp_path):
    """They are a group in its file."""
    settings = {"algorithm": "ppo", "env": "CartPole-v1", "settings": {"gamma": 0.99, "max_grad_norm": 0.5}}
    series = {"train/pred_value": None, "train/q_value": 500 * RISE}
    assert rules_of(doctor(write(tmp_path, "run", series, settings))) == ["q_overestimates"]
    series = FAULTS["gradients_always_clipped"]
    assert rules_of(doctor(write(tmp_path, "other", series, settings))) == ["gradients_always_clipped"]
