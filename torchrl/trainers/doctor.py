"""`doctor`: read the numbers of training runs, and report what looks wrong."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torchrl.trainers.diagnosis import RULES, SEVERITIES, Measured, Rule
from torchrl.trainers.runs import Folders, Run, grouped, read_runs
from torchrl.trainers.thresholds import Thresholds


@dataclass(frozen=True)
class Finding:
    """Something that looks wrong in a run, or in several seeds.

    Args:
        severity: ``"error"``, ``"warning"`` or ``"note"``.
        rule: Name of the rule that found it.
        run: Name of the run, or algorithm and environment of the seeds.
        metric: The metric that was looked at.
        value: What was measured.
        threshold: The limit that it crossed.
        fact: Both in a sentence.
        why: Why it matters.
        advice: What to try.
        source: Paper or text.
    """

    severity: str
    rule: str
    run: str
    metric: str
    value: float
    threshold: float
    fact: str
    why: str
    advice: str
    source: str

    def text(self, width: int = 100) -> str:
        """Return the finding as a paragraph of lines of at most ``width`` characters."""
        measured = f"{self.fact} ({self.metric}: measured {self.value:.4g}, limit {self.threshold:.4g})"
        lines = [f"{self.severity.upper()} {self.rule.replace('_', ' ')}: {self.run}"]
        for name, text in (("what", measured), ("why", self.why), ("try", self.advice), ("source", self.source)):
            first = f"  {name + ':':<8}"
            options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
            lines += textwrap.wrap(text, width, initial_indent=first, subsequent_indent=" " * len(first), **options)
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """What :func:`doctor` found.

    Args:
        findings: The most severe first.
        runs: Names of the runs.
        checked: Names of the rules that had numbers to look at.
        unchecked: For each other rule the metrics that it needs, none of which was logged.
    """

    findings: tuple[Finding, ...]
    runs: tuple[str, ...]
    checked: tuple[str, ...]
    unchecked: dict[str, tuple[str, ...]]

    @property
    def is_clean(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    def text(self, width: int = 100) -> str:
        """Return the report as plain text."""
        number = len(self.findings)
        if self.is_clean:
            head = f"No problem found in {_several(len(self.runs), 'run')}."
        else:
            head = f"{_several(number, 'finding')} in {_several(len(self.runs), 'run')}."
        parts = [head, *(finding.text(width) for finding in self.findings)]
        done = f"Checked: {', '.join(self.checked)}."
        parts.append(textwrap.fill(done, width, break_on_hyphens=False))
        if self.unchecked:
            missing = [f"{rule} (needs {' or '.join(needs)})" for rule, needs in self.unchecked.items()]
            parts.append(textwrap.fill(f"Not checked: {', '.join(missing)}.", width, break_on_hyphens=False))
        return "\n\n".join(parts)

    def json(self) -> str:
        """Return the report as JSON; numbers that are not finite become strings."""
        found = [asdict(finding) for finding in self.findings]
        for finding in found:
            for name in ("value", "threshold"):
                number = finding[name]
                finding[name] = number if abs(number) < float("inf") else str(number)
        content = {"clean": self.is_clean, "runs": self.runs, "findings": found, "checked": self.checked}
        return json.dumps({**content, "unchecked": self.unchecked}, indent=2)

    def __str__(self) -> str:
        return self.text()


def _several(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def doctor(run_folders: Folders, *, thresholds: Thresholds | None = None, rules: Sequence[Rule] = RULES) -> Report:
    """Read the numbers of one or several runs, and report what looks wrong.

    Each finding has what was measured and its limit, why it matters, what to try, and the source. Runs of
    the same algorithm and environment are compared as seeds.

    Args:
        run_folders: Folders of runs, written by :class:`~torchrl.record.Experiment` or a
            :class:`~torchrl.record.CSVLogger`, or of several runs each.
        thresholds: The limits; the defaults of :class:`~torchrl.trainers.thresholds.Thresholds` if ``None``.
        rules: What is checked.

    Raises:
        FileNotFoundError: if a folder holds no run.

    >>> import tempfile
    >>> from torchrl.record import CSVLogger
    >>> logger = CSVLogger("ppo_CartPole-v1_seed0", tempfile.mkdtemp())
    >>> for step in range(10):
    ...     logger.log_scalar("train/kl_approx", 0.3, step)
    >>> report = doctor(logger.experiment)
    >>> print(report.text().splitlines()[2])
    WARNING kl too high: ppo_CartPole-v1_seed0
    >>> report.findings[0].value, report.findings[0].threshold
    (0.3, 0.06)
    """
    limits = thresholds or Thresholds()
    runs = read_runs(run_folders)
    found: list[Finding] = []
    checked: dict[str, None] = {}
    groups = [*grouped(runs).items()]
    for rule in rules:
        subjects: list[tuple[str, list[Run]]] = [(run.name, [run]) for run in runs]
        if rule.of_seeds:
            subjects = [(f"{name} on {env}" if env else name, seeds) for (name, env), seeds in groups if len(seeds) > 1]
        for name, seeds in subjects:
            if rule.needs and not any(run.has(*rule.needs) for run in seeds):
                continue
            checked[rule.name] = None
            check: Any = rule.check
            measured: Measured | None = check(seeds if rule.of_seeds else seeds[0], limits)
            if measured is not None:
                metric, value, threshold, fact, severity = measured
                severity = severity or rule.severity
                about = (severity, rule.name, name, metric, value, threshold, fact)
                found.append(Finding(*about, rule.why, rule.advice, rule.source))
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    several = any(len(seeds) > 1 for _, seeds in groups)
    unchecked = {rule.name: rule.needs for rule in rules if rule.name not in checked and (several or not rule.of_seeds)}
    return Report(tuple(found), tuple(run.name for run in runs), tuple(checked), unchecked)
