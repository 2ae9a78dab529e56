"""``torchrl train ALGO ENV``: train an agent, or several with different seeds."""

from __future__ import annotations

import multiprocessing
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

import torchrl
from torchrl.cli.arguments import FileArgs, read_request
from torchrl.cli.processes import num_cores, run_parallel
from torchrl.cli.tables import show_table
from torchrl.cli.tasks import check_task
from torchrl.trainers import RunFolder
from torchrl.trainers.algorithms import AlgorithmTrainer
from torchrl.trainers.metrics import BAR
from torchrl.trainers.plots import bootstrap_interval


@dataclass
class TrainArgs(FileArgs):
    """Where settings come from, and how many runs."""

    seeds: int = 1  # runs with the seeds seed, seed + 1, ...; as many at once as there are cores


@dataclass
class Result:
    """What came out of a run.

    Args:
        folder: Its folder.
        score: Mean return of the evaluation after training, or of the last one; ``None`` without any.
        std: Standard deviation of those returns.
    """

    folder: Path
    score: float | None
    std: float

    def __str__(self) -> str:
        return "not evaluated" if self.score is None else f"return {self.score:.1f} ± {self.std:.1f}"

    @classmethod
    def of(cls, run: RunFolder) -> Result:
        """Read it from the numbers of a run."""
        run.flush()
        for name in ("final_return", "return"):
            if scores := run.curve(f"eval/{name}"):
                deviations = run.curve(f"eval/{name}_std")  # empty if its file was removed or emptied
                return cls(run.folder, scores[-1][1], deviations[-1][1] if deviations else 0.0)
        return cls(run.folder, None, 0.0)


def run(argv: list[str]) -> None:
    """Train an agent, or one for each of several seeds."""
    request = read_request("train", TrainArgs, argv)
    if not request.options.log_dir:
        raise ValueError("train: --log-dir is empty: the agent would be lost.")
    if request.args.seeds < 1:
        raise ValueError(f"train: --seeds is too small; expected at least 1, found {request.args.seeds}.")
    check_task(request.algorithm, request.env)
    if request.args.seeds == 1:
        result = train_one(request.algorithm, request.env, request.settings)
        print(f"{request.algorithm} on {request.env}, seed {request.config.seed}: {result}")
        print(f"folder: {result.folder}")
        return
    first = request.config.seed
    seeds = range(first, first + request.args.seeds)
    results = train_seeds(request.algorithm, request.env, request.settings, list(seeds))
    rows = [[str(seed), str(result), str(result.folder)] for seed, result in zip(seeds, results, strict=True)]
    show_table(["seed", "evaluation", "folder"], rows, f"{request.algorithm} on {request.env}")
    scores = [result.score for result in results if result.score is not None]
    if len(scores) > 1:
        low, high = bootstrap_interval(scores)
        print(f"mean {statistics.mean(scores):.1f}, 95 % bootstrap interval [{low:.1f}, {high:.1f}]")
    print(f"compare: torchrl plot {' '.join(str(result.folder) for result in results)}")


def train_one(algorithm: str, env: str, settings: dict[str, Any], **options: Any) -> Result:
    """Train with these settings; ``options`` are further arguments of :func:`torchrl.train`."""
    found: list[RunFolder] = []

    def keep(trainer: AlgorithmTrainer) -> None:
        if not found:
            assert isinstance(trainer.logger, RunFolder)
            found.append(trainer.logger)

    torchrl.train(algorithm, env, callbacks=[*options.pop("callbacks", ()), keep], **options, **settings)
    return Result.of(found[0])


def train_seeds(algorithm: str, env: str, settings: dict[str, Any], seeds: list[int]) -> list[Result]:
    """Train one agent for each seed, each in a process of its own, with one progress bar for all."""
    total = settings["total_frames"]
    frames = multiprocessing.get_context("spawn").Array("q", len(seeds), lock=False)
    hidden = {**settings, "progress_bar": False}
    calls = [(algorithm, env, {**hidden, "seed": seed}, frames, i) for i, seed in enumerate(seeds)]
    found: dict[int, Result] = {}
    is_shown = settings["progress_bar"]
    with tqdm(total=total * len(seeds), unit=" frames", unit_scale=True, disable=not is_shown, bar_format=BAR) as bar:

        def show() -> None:
            bar.set_postfix_str(f"{len(found)} of {len(seeds)} runs have ended", refresh=False)
            bar.update(sum(frames) - bar.n)

        for number, result in run_parallel(_train_seed, calls, min(len(seeds), num_cores()), tick=show):
            found[number] = result
            bar.write(f"seed {seeds[number]}: {result}", file=sys.stderr)
        show()
    return [found[number] for number in range(len(seeds))]


def _train_seed(algorithm: str, env: str, settings: dict[str, Any], frames: Any, number: int) -> Result:
    def count(trainer: AlgorithmTrainer) -> None:
        frames[number] = trainer.collected_frames

    return train_one(algorithm, env, settings, callbacks=[count])
