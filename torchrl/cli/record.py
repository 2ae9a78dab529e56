"""``torchrl record RUN``: write a film."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torchrl.cli.arguments import parse
from torchrl.cli.tasks import check_env, load_agent


@dataclass
class RecordArgs:
    """Write a film of an episode of the agent of a run."""

    run: Path  # folder of a run, or file of an agent
    out: Path | None = None  # the film, .mp4 or .gif; None: film.mp4 beside the agent
    env: str | None = None  # another environment than that of training
    seed: int = 0  # of the episode
    max_steps: int = 500  # steps after which the episode is cut
    best: bool = False  # the agent with the best evaluation, not the last one


def run(argv: list[str]) -> None:
    """Record a film of the agent of a run."""
    args = parse(RecordArgs, argv, command="record")
    folder = args.run if args.run.is_dir() else args.run.parent
    agent = load_agent(args.run, best=args.best)
    check_env(agent, args.env)
    print(agent.record(args.out or folder / "film.mp4", args.env, max_steps=args.max_steps, seed=args.seed))
