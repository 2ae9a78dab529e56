"""``torchrl tune ALGO ENV``: search settings with Optuna, in a study that can be stopped and gone on with."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from tqdm import tqdm

from torchrl._core.errors import TorchRLError, WorkerError, summary
from torchrl._core.files import hold, replaced
from torchrl._core.optional import require_package
from torchrl.cli.arguments import FileArgs, Request, read_request
from torchrl.cli.processes import run_parallel
from torchrl.cli.search_spaces import search_space, suggest
from torchrl.cli.tables import show_table
from torchrl.cli.tasks import check_task
from torchrl.cli.train import train_one
from torchrl.trainers import RunConfig
from torchrl.trainers.algorithms import AlgorithmTrainer

STUDY, BEST, HISTORY, IMPORTANCE = "study.db", "best.yaml", "history.png", "importance.png"
NAME = "settings"  # of the study in its file
STARTUP = 5  # trials that are drawn at random, and never pruned
INTERRUPTED, REPEATS = "interrupted", "repeats"  # attributes: of a trial that was stopped; of another, its number
# Of the run, these do not change what a trial finds.
IRRELEVANT = ("log_dir", "progress_bar", "save_interval", "tensorboard", "video", "num_threads")


@dataclass
class TuneArgs(FileArgs):
    """What is searched. Settings that are given are fixed, the others are drawn or have their defaults."""

    trials: int = 50  # trials of the study in all; those that it has already count
    jobs: int = 1  # trials at a time, each in a process
    sampler_seed: int = 0  # of what is drawn


class TrialFailedError(Exception):
    """Training ended with an error, as it does when numbers overflow."""


def run(argv: list[str]) -> None:
    """Tune the settings with Optuna, in a study that can be resumed."""
    optuna = require_package("optuna", needed_by="torchrl tune", extra="cli")
    request = read_request("tune", TuneArgs, argv, RunConfig(video=False, progress_bar=False, final_episodes=20))
    for name in ("trials", "jobs"):
        if getattr(request.args, name) < 1:
            raise ValueError(f"tune: --{name} is too small; expected at least 1, found {getattr(request.args, name)}.")
    check_task(request.algorithm, request.env)
    folder = Path(request.options.log_dir, f"tune_{request.algorithm}_{request.env.replace('/', '-')}")
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _only_process(folder):
        study = open_study(folder, request.args.sampler_seed, request)
        repeat_stopped(study)
        trials = study.get_trials(deepcopy=False)
        done = [trial for trial in trials if trial.state.is_finished() and INTERRUPTED not in trial.user_attrs]
        left = max(0, request.args.trials - len(done))
        print(f"{folder / STUDY}: {len(done)} of {request.args.trials} trials are done")
        _check_fixed(study, request)
        counter = get_context("spawn").Value("q", left)
        jobs = min(request.args.jobs, max(1, left))
        if jobs == 1:
            run_trials(folder, request, counter)
        else:
            try:
                for _ in run_parallel(run_trials, [(folder, request, counter, job) for job in range(jobs)], jobs):
                    pass
            except WorkerError as error:
                raise WorkerError(f"tune: {error}. The same command repeats what was lost, and goes on.") from error
        report(study, folder, request)


@contextmanager
def _only_process(folder: Path) -> Iterator[None]:
    """Hold a lock, which the system takes back from a process that was killed; Windows has none."""
    lock = hold(folder)
    if lock is None and os.name != "nt":
        raise ValueError(f"tune: another process works on {folder}; use --jobs for several at a time.")
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def open_study(folder: Path, seed: int, request: Request[TuneArgs]) -> Any:
    """Return the study in a folder, made if there is none."""
    optuna = require_package("optuna", needed_by="torchrl tune", extra="cli")
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{(folder / STUDY).resolve()}", engine_kwargs={"connect_args": {"timeout": 60}}
    )
    interval = request.options.eval_interval or max(1, request.config.total_frames // 20)
    pruner = optuna.pruners.MedianPruner(
        n_startup_trials=STARTUP, n_warmup_steps=request.config.total_frames // interval // 3
    )
    study = optuna.create_study(
        storage=storage,
        study_name=NAME,
        direction="maximize",
        load_if_exists=True,
        pruner=pruner,
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP),
    )
    # a study that goes on draws other settings than at its start
    study.sampler = optuna.samplers.TPESampler(seed=seed + 1000 * len(study.trials), n_startup_trials=STARTUP)
    return study


def repeat_stopped(study: Any) -> None:
    """Queue once the settings of each trial that was stopped, or that a killed process has left running."""
    optuna = require_package("optuna", needed_by="torchrl tune", extra="cli")
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study._storage.set_trial_user_attr(trial._trial_id, INTERRUPTED, True)
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    trials = study.get_trials(deepcopy=False)
    repeated = {trial.user_attrs.get(REPEATS) for trial in trials}
    for trial in trials:
        if INTERRUPTED in trial.user_attrs and trial.number not in repeated:
            queued = trial.system_attrs.get("fixed_params", {})  # of a repeat that was stopped before it drew them
            study.enqueue_trial({**queued, **trial.params}, user_attrs={REPEATS: trial.number})


def _check_fixed(study: Any, request: Request[TuneArgs]) -> None:
    """Raise ValueError if the study was made with other settings; remember those of a new one."""
    space = search_space(request.algorithm, request.given)
    fixed = {name: value for name, value in request.settings.items() if name not in space and name not in IRRELEVANT}
    fixed = json.loads(json.dumps(fixed))
    before = study.user_attrs.get("fixed")
    if before is None:
        study.set_user_attr("fixed", fixed)
        return
    other = [name for name in sorted({*fixed, *before}) if fixed.get(name) != before.get(name)]
    if other:
        name = other[0]
        raise ValueError(
            f"tune: the study has trials with another {name}: {before.get(name)}, now {fixed.get(name)}. "
            "Give the same settings to go on with it, or another --log-dir."
        )


def run_trials(folder: Path, request: Request[TuneArgs], counter: Any, job: int = 0) -> None:
    """Run trials until a counter, which other processes share, is at zero."""
    optuna = require_package("optuna", needed_by="torchrl tune", extra="cli")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = open_study(folder, request.args.sampler_seed + job, request)
    options = {"n_trials": 1, "catch": (TrialFailedError,), "callbacks": [show_trial]}
    while True:
        with counter.get_lock():
            if counter.value <= 0:
                return
            counter.value -= 1
        study.optimize(lambda trial: objective(trial, folder, request), **options)


def show_trial(study: Any, trial: Any) -> None:
    """Print how a trial has ended, and the best score until now."""
    value = "failed" if trial.value is None else f"{trial.value:.1f}"
    best = max((each.value for each in _completed(study)), default=None)
    shown = "-" if best is None else f"{best:.1f}"
    tqdm.write(f"trial {trial.number}: {trial.state.name.lower()}, {value}; best {shown}")


def _completed(study: Any) -> list[Any]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]


def objective(trial: Any, folder: Path, request: Request[TuneArgs]) -> float:
    """Train with settings that are drawn; return the score.

    Raises:
        TrialPruned: if the evaluations during training are below the median of the other trials.
        TrialFailedError: if training fails.
    """
    optuna = require_package("optuna", needed_by="torchrl tune", extra="cli")
    config = request.config
    options = replace(
        request.options, log_dir=str(folder / "trials"), save_interval=2 * config.total_frames, progress_bar=False
    )
    interval = options.eval_interval or max(1, config.total_frames // 20)
    parent = parent_process()
    last: list[object] = [None]

    def check(trainer: AlgorithmTrainer) -> None:
        if parent is not None and not parent.is_alive():
            raise KeyboardInterrupt  # the command was killed
        value = trainer.metrics.get("eval_return")
        if value is None or value is last[0]:
            return
        last[0] = value
        trial.report(float(value), trainer.collected_frames // interval)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        drawn = suggest(trial, search_space(request.algorithm, request.given), config)
        trial.set_user_attr("settings", drawn)
        settings = {**vars(config), **vars(options), **drawn}
        score = train_one(request.algorithm, request.env, settings, callbacks=[check]).score
    except (KeyboardInterrupt, OSError):  # of a full disk, say
        trial.set_user_attr(INTERRUPTED, True)  # repeat_stopped() queues its settings when the study goes on
        raise
    except TorchRLError:
        raise
    except (ValueError, RuntimeError, ArithmeticError) as error:
        raise TrialFailedError(summary(error)[0]) from error
    if score is None or not math.isfinite(score):
        raise TrialFailedError("there was no evaluation")
    return score


def report(study: Any, folder: Path, request: Request[TuneArgs]) -> None:
    """Write the best settings and the plots; print both."""
    completed = sorted(_completed(study), key=lambda trial: -trial.value)
    if not completed:
        raise ValueError(f"tune: no trial has ended with a score; see {folder}.")
    names = list(completed[0].user_attrs["settings"])
    shown = completed[:4]
    rows = [["score", *(f"{trial.value:.1f}" for trial in shown)]]
    drawn = [trial.user_attrs["settings"] for trial in shown]
    values = {name: [settings[name] for settings in drawn] for name in names}
    rows += [[name, *(f"{v:.4g}" if isinstance(v, float) else str(v) for v in each)] for name, each in values.items()]
    show_table(["", *(f"trial {trial.number}" for trial in shown)], rows, "best trials")
    best = folder / BEST
    fixed = {name: value for name, value in vars(request.config).items() if name in request.given}
    command = f"torchrl train {request.algorithm} {request.env} --config {best}"
    write_settings(best, {**fixed, **completed[0].user_attrs["settings"]}, f"score {completed[0].value:.1f}: {command}")
    plot_history(study, folder / HISTORY)
    plot_importance(study, folder / IMPORTANCE)
    print(f"{best}\n{folder / HISTORY}\n{folder / IMPORTANCE}\n{command}")


def write_settings(path: Path, settings: Mapping[str, Any], comment: str) -> None:
    """Write settings as YAML."""
    yaml = require_package("yaml", needed_by="torchrl tune", extra="cli")
    with replaced(path) as draft:
        draft.write_text(f"# {comment}\n{yaml.safe_dump(dict(settings), sort_keys=False)}")


def plot_history(study: Any, path: Path) -> None:
    """Plot the score of each trial, and the best one so far."""
    figure = require_package("matplotlib.figure", needed_by="torchrl tune", extra="rendering").Figure(
        figsize=(7, 4), layout="constrained"
    )
    axes = figure.subplots()
    completed = _completed(study)
    numbers, values = [trial.number for trial in completed], [trial.value for trial in completed]
    axes.scatter(numbers, values, s=16, label="ended")
    pruned = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "PRUNED"]
    axes.scatter(
        [trial.number for trial in pruned],
        [trial.value for trial in pruned],
        s=16,
        marker="x",
        color="C7",
        label="pruned",
    )
    best = [max(values[: i + 1]) for i in range(len(values))]
    axes.step(numbers, best, where="post", color="C1", label="best")
    axes.set(xlabel="trial", ylabel="mean return", title="Trials")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)


def plot_importance(study: Any, path: Path) -> None:
    """Plot how much of the score each setting explains: PED-ANOVA, Watanabe et al., 2023, arXiv:2304.10255."""
    optuna = require_package("optuna", needed_by="torchrl tune", extra="cli")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    try:
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except ValueError:  # too few trials
        found = {}
    names = list(found)[::-1]
    figure = require_package("matplotlib.figure", needed_by="torchrl tune", extra="rendering").Figure(
        figsize=(7, 1 + 0.3 * max(3, len(names))), layout="constrained"
    )
    axes = figure.subplots()
    axes.barh(names, [found[name] for name in names])
    axes.set(xlabel="share of the score that it explains", title="Importance of the settings")
    axes.grid(alpha=0.3, axis="x")
    figure.savefig(path, dpi=100)
