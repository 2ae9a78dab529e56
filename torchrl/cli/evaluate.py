"""``torchrl eval RUN``: play episodes with an agent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torchrl.cli.arguments import parse
from torchrl.cli.tables import show_table
from torchrl.cli.tasks import check_env, load_agent


@dataclass
class EvalArgs:
    """Play episodes with the agent of a run; show returns and lengths."""

    run: Path  # folder of a run, or file of an agent
    episodes: int = 100  # number of episodes
    env: str | None = None  # another environment than that of training
    seed: int | None = None  # of the episodes; None: one that is far from that of training
    best: bool = False  # the agent with the best evaluation, not the last one
    stochastic: bool = False  # random actions as in training, not the most likely ones
    json: bool = False  # print JSON


def run(argv: list[str]) -> None:
    """Evaluate the agent of a run."""
    args = parse(EvalArgs, argv, command="eval")
    if args.episodes < 1:
        raise ValueError(f"eval: --episodes is too small; expected at least 1, found {args.episodes}.")
    agent = load_agent(args.run, best=args.best)
    check_env(agent, args.env)
    result = agent.evaluate(args.episodes, args.env, deterministic=not args.stochastic, seed=args.seed)
    returns, lengths = result.returns.double(), result.lengths.double()
    if args.json:
        values = {"mean": result.mean, "std": result.std, "returns": returns.tolist(), "lengths": lengths.tolist()}
        print(json.dumps(values))
        return
    rows = [
        [name, f"{x.mean():.1f}", f"{x.std(correction=0):.1f}", f"{x.min():.1f}", f"{x.median():.1f}", f"{x.max():.1f}"]
        for name, x in (("return", returns), ("length", lengths))
    ]
    title = f"{agent.algorithm} on {args.env or agent.task}, {args.episodes} episodes"
    show_table(["", "mean", "std", "min", "median", "max"], rows, title)
