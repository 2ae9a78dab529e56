"""Intervals and means agree with others; pictures show what they should."""

import sys

import numpy as np
import pytest
from scipy import stats

from torchrl.trainers import plots
from torchrl.trainers.plots import bootstrap_interval, iqm, iqm_interval, plot_runs, smoothed


def make_run(folder, env, algorithm, seed, returns, step=100):
    path = folder / f"{algorithm}_{env}_seed{seed}" / "scalars" / "train"
    path.mkdir(parents=True)
    lines = (f"{(i + 1) * step},{value}\n" for i, value in enumerate(returns))
    (path / "episode_return.csv").write_text("".join(lines))
    return path.parents[1]


def test_interval_of_the_mean_agrees_with_scipy():
    values = np.random.default_rng(1).normal(3.0, 2.0, 20)
    low, high = bootstrap_interval(values, 0.9, resamples=20_000)
    other = stats.bootstrap((values,), np.mean, confidence_level=0.9, method="percentile", n_resamples=20_000, rng=3)
    assert low == pytest.approx(other.confidence_interval.low, abs=0.03)
    assert high == pytest.approx(other.confidence_interval.high, abs=0.03)


def test_intervals_are_of_each_column_and_seeded():
    values = np.random.default_rng(0).normal(size=(6, 4))
    low, high = bootstrap_interval(values)
    assert low.shape == high.shape == (4,)
    for i in range(4):
        one = bootstrap_interval(values[:, i])
        assert (one[0], one[1]) == (pytest.approx(low[i]), pytest.approx(high[i]))
    assert (bootstrap_interval(values, seed=1)[0] != low).any()


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(200):
        low, high = bootstrap_interval(rng.normal(size=30), 0.9, resamples=500, seed=i)
        hits += low <= 0 <= high
    assert 0.82 < hits / 200 < 0.95


@pytest.mark.parametrize("call", [bootstrap_interval, lambda x, level=0.5: iqm_interval([x], level)])
def test_bad_arguments(call):
    with pytest.raises(ValueError, match="level that is no probability"):
        call([1.0, 2.0], 95)
    with pytest.raises(ValueError, match="at least one run"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match=r"expected \[runs, tasks\], found \[2\]"):
        iqm_interval([1.0, 2.0])
    with pytest.raises(ValueError, match="task without a run"):
        iqm_interval([[1.0, np.nan]])


@pytest.mark.parametrize("shape", [(4,), (5, 3), (10, 26), (3, 1)])
def test_interquartile_mean_agrees_with_the_trimmed_mean_of_scipy(shape):
    scores = np.random.default_rng(2).normal(size=shape)
    assert iqm(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))


def by_hand(scores, level, resamples):
    """Stratified bootstrap as in the paper: for each task draw as many runs as it has, then the IQM of all."""
    rng = np.random.default_rng(7)
    num_runs, num_tasks = scores.shape
    found = []
    for _ in range(resamples):
        drawn = [scores[rng.integers(num_runs), task] for task in range(num_tasks) for _ in range(num_runs)]
        found.append(stats.trim_mean(drawn, 0.25))
    return np.quantile(found, [(1 - level) / 2, (1 + level) / 2])


def test_interval_of_the_interquartile_mean_agrees_with_one_by_hand():
    scores = np.random.default_rng(3).normal(size=(6, 4)) + np.arange(4)
    low, high = by_hand(scores, 0.9, 1500)
    found = iqm_interval(scores, 0.9, resamples=8000)
    assert found == (pytest.approx(low, abs=0.06), pytest.approx(high, abs=0.06))


def test_runs_of_one_task_are_not_drawn_for_another():
    scores = np.array([[0.0, 10.0]] * 4)
    assert iqm_interval(scores) == (5.0, 5.0)


def test_missing_runs_are_left_out():
    scores = [[1.0, 2.0], [1.0, np.nan]]
    assert iqm(scores) == iqm([1.0, 1.0, 2.0])
    assert iqm_interval(scores) == (iqm(scores), iqm(scores))


def test_smoothing_is_the_mean_of_the_last_values():
    values = np.arange(100.0)
    found = smoothed(values)
    assert found[0] == 0
    assert found[3] == 1.5
    assert found[50] == np.mean(values[46:51])


@pytest.fixture
def drawn(monkeypatch):
    """Return the figures that are made."""
    figures = []
    make = plots._panels

    def kept(number):
        figures.append(make(number))
        return figures[-1]

    monkeypatch.setattr(plots, "_panels", kept)
    return figures


def open_figures():
    return sys.modules["matplotlib.pyplot"].get_fignums() if "matplotlib.pyplot" in sys.modules else []


def test_one_environment(tmp_path, drawn):
    rng = np.random.default_rng(0)
    for seed in range(3):
        make_run(tmp_path, "CartPole-v1", "ppo", seed, np.linspace(20, 400, 50 + seed) + rng.normal(size=50 + seed))
    before = open_figures()
    path = plot_runs(tmp_path, tmp_path / "out" / "curve.png")
    assert open_figures() == before
    assert path.read_bytes()[:4] == b"\x89PNG"
    [(_, [axes])] = drawn
    assert axes.get_title() == "CartPole-v1"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ppo (3 seeds)"]
    mean = axes.lines[-1]
    assert len(axes.lines) == 4
    assert len(axes.collections) == 1  # the band
    assert mean.get_xdata()[-1] == 5000  # the frames that all seeds reached


def test_the_mean_is_that_of_the_seeds(tmp_path, drawn):
    for seed, value in enumerate((1.0, 2.0, 6.0)):
        make_run(tmp_path, "A", "ppo", seed, [value] * 30)
    plot_runs(tmp_path, tmp_path / "a.png")
    axes = drawn[0][1][0]
    assert np.allclose(axes.lines[-1].get_ydata(), 3.0)
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    low, high = bootstrap_interval([1.0, 2.0, 6.0])
    assert (band.min(), band.max()) == (pytest.approx(low), pytest.approx(high))


def test_several_environments_have_a_panel_each_and_the_interquartile_mean(tmp_path, drawn):
    for env, low, high in (("CartPole-v1", 22, 475), ("Acrobot-v1", -500, -100)):
        for algorithm in ("ppo", "dqn"):
            for seed in range(2):
                make_run(tmp_path, env, algorithm, seed, np.linspace(low, high, 40))
    make_run(tmp_path, "Acrobot-v1", "a2c", 0, np.linspace(-500, -200, 40))
    plot_runs(tmp_path, tmp_path / "a.svg", title="All")
    [(figure, panels)] = drawn
    assert [axes.get_title() for axes in panels] == ["Acrobot-v1", "CartPole-v1", "IQM over 2 tasks"]
    legend = [text.get_text() for text in panels[2].get_legend().get_texts()]
    assert legend == ["dqn (4 runs)", "ppo (4 runs)"]  # a2c has not run on all tasks
    assert panels[2].lines[0].get_ydata()[0] == pytest.approx(0, abs=1e-6)
    assert panels[2].lines[0].get_ydata()[-1] == pytest.approx(smoothed(np.linspace(0, 1, 40))[-1])
    assert figure.get_suptitle() == "All"


def test_unknown_scores_have_no_interquartile_mean(tmp_path, drawn):
    for env in ("CartPole-v1", "Mine-v0"):
        make_run(tmp_path, env, "ppo", 0, range(10))
    plot_runs(tmp_path, tmp_path / "a.png")
    assert [axes.get_title() for axes in drawn[0][1]] == ["CartPole-v1", "Mine-v0"]
    plot_runs(tmp_path, tmp_path / "a.png", scores={"CartPole-v1": (0, 1), "Mine-v0": (0, 1)})
    assert len(drawn[1][1]) == 3


def test_runs_without_a_step_in_common_and_short_ones(tmp_path):
    make_run(tmp_path, "A", "ppo", 0, [1.0])
    make_run(tmp_path, "A", "ppo", 1, [1.0, 2.0], step=1000)
    assert plot_runs(tmp_path, tmp_path / "a.png").exists()


def test_an_absent_metric_names_the_nearest(tmp_path):
    folder = make_run(tmp_path, "A", "ppo", 0, [1.0, float("nan")])
    with pytest.raises(ValueError, match=r"no metric 'episode_retun'\. Did you mean 'episode_return'\?"):
        plot_runs(folder, tmp_path / "a.png", "episode_retun")
