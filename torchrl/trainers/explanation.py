"""`Explanation`: which component writes and reads which entry, as text, Mermaid and HTML."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from html import escape

import torch
from tensordict import NestedKey, unravel_key

from torchrl._core.keys import groups_of, next_key
from torchrl._core.mdp import last_name

Described = tuple[tuple[int, ...], torch.dtype]  # shape and dtype of an entry

# The order of the data flow: components of the first three run at each step.
PHASES = {
    "reset": "reset of the environment",
    "policy": "policy",
    "step": "step of the environment",
    "collect": "collector",
    "sample": "replay buffer",
    "values": "value estimator",
    "loss": "loss",
    "update": "after the loss",
}
END_FLAGS = ("done", "terminated", "truncated")  # which the loop reads
HINTS = {
    "is_init": "Append InitTracker() to the environment.",
    "step_count": "Append StepCounter() to the environment.",
    "episode_reward": "Append RewardSum() to the environment.",
    "action_mask": "Let the environment write it, or leave action_mask_key out.",
    "action_log_prob": "Build the policy with return_log_prob=True.",
    "sample_log_prob": "Build the policy with return_log_prob=True.",
    "advantage": "Call a value estimator, such as GAE, on the batch.",
    "value_target": "Call a value estimator, such as GAE, on the batch.",
}
PRIMER = "Append its primer to the environment: policy.make_tensordict_primer(), or TensorDictPrimer."
STYLE = """<style>
.explanation { font-family: sans-serif; font-size: 13px }
.explanation table { border-collapse: collapse; margin: 8px 0 }
.explanation td, .explanation th { border: 1px solid #ccc; padding: 3px 8px; text-align: left; vertical-align: top }
.explanation th { background: #f0f0f0; color: #111 }
.explanation .phase { background: #e8eef7; color: #111; font-weight: bold }
.explanation .problem { color: #b00020 }
.explanation code { font-size: 12px }
</style>
"""


def text_of(key: NestedKey) -> str:
    """Return a key as it is written in explanations.

    >>> text_of(("next", "reward")), text_of("action")
    ('next.reward', 'action')
    """
    return key if isinstance(key, str) else ".".join(map(str, key))


@dataclass(frozen=True)
class Component:
    """A part of a training program, with the entries that it reads and writes.

    Args:
        name: Name of its class, and of what it is a part of.
        phase: One of :data:`PHASES`.
        reads: Entries that must be there.
        writes: Entries of the data.
        optional: Entries that are read if they are there.
        returns: Names of what it returns, such as losses.
        in_place: Whether entries that others wrote may be written again.
    """

    name: str
    phase: str
    reads: tuple[NestedKey, ...] = ()
    writes: tuple[NestedKey, ...] = ()
    optional: tuple[NestedKey, ...] = ()
    returns: tuple[str, ...] = ()
    in_place: bool = True


@dataclass(frozen=True)
class Missing:
    """An entry that is read and that no component writes before.

    Args:
        key: The entry.
        readers: Names of the components that read it.
        nearest: The entry at hand with the most similar name.
        hint: What to do.
    """

    key: NestedKey
    readers: tuple[str, ...]
    nearest: NestedKey | None
    hint: str

    def __str__(self) -> str:
        text = f"missing: {text_of(self.key)} is read by {', '.join(self.readers)} and written by no component"
        if self.nearest is not None:
            text += f"; nearest: {text_of(self.nearest)}"
        return f"{text}. {self.hint}".rstrip()


def covered(key: NestedKey, entries: Iterable[NestedKey]) -> bool:
    """Return whether an entry is among others, or is a group of one of them.

    >>> covered("agents", [("agents", "reward")]), covered("reward", [("agents", "reward")])
    (True, False)
    """
    known = set(entries)
    return key in known or key in groups_of(known)


def nearest_key(key: NestedKey, entries: Sequence[NestedKey]) -> NestedKey | None:
    """Return the entry with the most similar name: the same last part, else similar letters.

    >>> nearest_key("obs", ["observation", "done"]), nearest_key("reward", ["done", ("next", "reward")])
    ('observation', ('next', 'reward'))
    """
    own, names = last_name(key), [last_name(entry) for entry in entries]
    alike = [own] if own in names else get_close_matches(own, names, 1, 0.6)
    alike = alike or [name for name in names if name.startswith(own) or own.startswith(name)]
    found = [entry for entry, name in zip(entries, names, strict=True) if name in alike[:1]]
    found.sort(key=lambda entry: isinstance(entry, tuple) != isinstance(key, tuple))  # of the same side first
    return found[0] if found else None


@dataclass(frozen=True)
class Explanation:
    """Components in the order of the data flow, and what does not fit together.

    Args:
        components: The components.
        described: Shape, with the batch size of the environment, and dtype of the entries that are known.
        failures: What went wrong when a component was run on data of zeros, by its name.
        unread_is_known: Whether a loss is among the components: otherwise entries may be read later.
    """

    components: tuple[Component, ...]
    described: Mapping[NestedKey, Described] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    unread_is_known: bool = True

    @cached_property
    def missing(self) -> tuple[Missing, ...]:
        """The entries that are read and not written before; one that is missing at both ends of a step once."""
        written: list[NestedKey] = []
        readers: dict[NestedKey, list[str]] = {}
        for component in self.components:
            for key in component.reads:
                if not covered(key, written):
                    readers.setdefault(key, []).append(component.name)
            written += component.writes
        policy = [part for part in self.components if part.phase == "policy"]
        states = {key for part in policy for key in part.reads if next_key(key) in part.writes}
        found = []
        for key, names in readers.items():
            if isinstance(key, tuple) and key[0] == "next" and unravel_key(key[1:]) in readers:
                continue  # the same entry after the step
            near = nearest_key(key, [entry for entry in dict.fromkeys(written) if entry != key])
            hint = HINTS.get(last_name(key), "")
            if key in states:  # carried from step to step
                hint, near = PRIMER, None
            found.append(Missing(key, tuple(dict.fromkeys(names)), near, hint))
        return tuple(found)

    @cached_property
    def unread(self) -> tuple[NestedKey, ...]:
        """The entries that are written and not read, if a loss is among the components.

        Not those of the step of an environment that are carried on to the next root, nor the end flags,
        which the loop reads.
        """
        if not self.unread_is_known:
            return ()
        read = {key for part in self.components for key in (*part.reads, *part.optional)}
        found: dict[NestedKey, None] = {}
        for part in self.components:
            for key in part.writes if part.phase not in ("collect", "sample", "loss") else ():
                root = unravel_key(key[1:]) if isinstance(key, tuple) and key[0] == "next" else key
                after = next_key(root)
                if read.isdisjoint({root, after, *groups_of([root, after])}) and last_name(root) not in END_FLAGS:
                    found[root] = None
        return tuple(found)

    @cached_property
    def written_twice(self) -> tuple[tuple[NestedKey, str, str], ...]:
        """Each entry that a component writes over another's without reading it, and their names."""
        writers: dict[NestedKey, str] = {}
        found = []
        for part in self.components:
            for key in part.writes:
                if key in writers and not part.in_place and key not in part.reads:
                    found.append((key, writers[key], part.name))
                writers[key] = part.name
        return tuple(found)

    @property
    def problems(self) -> tuple[str, ...]:
        """What does not fit together, a sentence each; empty if everything does."""
        twice = [
            f"written twice: {text_of(key)} of {first} is overwritten by {second}, which does not read it."
            for key, first, second in self.written_twice
        ]
        failed = [f"fails: {name} cannot run on entries of these shapes: {why}" for name, why in self.failures.items()]
        return (*map(str, self.missing), *twice, *failed)

    def writers(self, key: NestedKey) -> tuple[str, ...]:
        """Return the names of the components that write an entry."""
        return tuple(dict.fromkeys(part.name for part in self.components if key in part.writes))

    def readers(self, key: NestedKey) -> tuple[str, ...]:
        """Return the names of the components that read an entry, or a group that it is in."""
        wanted = {key, *groups_of([key])}
        return tuple(dict.fromkeys(part.name for part in self.components if wanted & {*part.reads, *part.optional}))

    @property
    def entries(self) -> tuple[NestedKey, ...]:
        """Every entry, in the order of the data flow."""
        return tuple(dict.fromkeys(key for part in self.components for key in (*part.reads, *part.writes)))

    def size(self, key: NestedKey) -> str:
        """Return dtype and shape of an entry, or ``"?"``.

        >>> Explanation((), {"done": ((4, 1), torch.bool)}).size("done")
        'bool [4, 1]'
        """
        if key not in self.described:
            return "?"
        shape, dtype = self.described[key]
        return f"{str(dtype).removeprefix('torch.')} {list(shape)}"

    def text(self, width: int = 110) -> str:
        """Return components, entries and problems as plain text."""
        lines: list[str] = []
        name_width = max((len(part.name) for part in self.components), default=0) + 2
        for phase, parts in self._phases():
            lines += ["", PHASES[phase].upper()]
            for _, part in parts:
                start = f"  {part.name:<{name_width}}"
                body = "; ".join(self._sides(part)) or "-"
                indent = " " * (name_width + 4)
                lines += textwrap.wrap(
                    body,
                    width,
                    initial_indent=start,
                    subsequent_indent=indent,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
        lines += ["", "ENTRIES"]
        rows = [
            (text_of(key), self.size(key), ", ".join(self.writers(key)) or "-", ", ".join(self.readers(key)) or "-")
            for key in self.entries
        ]
        rows.insert(0, ("entry", "dtype and shape", "written by", "read by"))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines += [f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c:<{widths[2]}}  {d}" for a, b, c, d in rows]
        if self.unread:
            lines += ["", f"Written and not read: {', '.join(map(text_of, self.unread))}."]
        lines += ["", *(self.problems or ["Every entry that is read is written before."])]
        return "\n".join(lines[1:])

    def _phases(self) -> Iterator[tuple[str, list[tuple[int, Component]]]]:
        """Yield each phase that has components, and these with their numbers."""
        for phase in PHASES:
            if parts := [(i, part) for i, part in enumerate(self.components) if part.phase == phase]:
                yield phase, parts

    def _sides(self, part: Component) -> list[str]:
        """Return what a component reads, writes and returns, each as text."""
        sides = (
            ("reads", [text_of(key) for key in part.reads]),
            ("reads if present", [text_of(key) for key in part.optional]),
            ("writes", [text_of(key) for key in part.writes]),
            ("returns", list(part.returns)),
        )
        return [f"{verb} {', '.join(names)}" for verb, names in sides if names]

    def mermaid(self) -> str:
        """Return the data flow as a Mermaid flowchart: an arrow from the writer of an entry to each reader.

        Entries that are missing are red.
        """
        lines = ["flowchart TD"]
        for phase, parts in self._phases():
            lines.append(f'  subgraph {phase}["{PHASES[phase]}"]')
            lines += [f'    n{i}["{_quoted(part.name)}"]' for i, part in parts]
            lines.append("  end")
        arrows: dict[tuple[str, str], list[str]] = {}
        written: dict[NestedKey, int] = {}
        lost: dict[NestedKey, str] = {}
        for i, part in enumerate(self.components):
            for key in (*part.reads, *part.optional):
                sources = [at for entry, at in written.items() if key == entry or key in groups_of([entry])]
                if sources:
                    arrows.setdefault((f"n{max(sources)}", f"n{i}"), []).append(text_of(key))
                elif key in part.reads:
                    lost.setdefault(key, f"m{len(lost)}")
                    arrows.setdefault((lost[key], f"n{i}"), []).append("missing")
            written |= dict.fromkeys(part.writes, i)
        lines += [f'  {node}["{_quoted(text_of(key))}"]:::missing' for key, node in lost.items()]
        for (source, target), names in arrows.items():
            shown = [*names[:4], f"and {len(names) - 4} more"] if len(names) > 5 else names
            lines.append(f'  {source} -->|"{_quoted(", ".join(shown))}"| {target}')
        if lost:
            lines.append("  classDef missing fill:#fdd,stroke:#b00020,stroke-dasharray:4")
        return "\n".join(lines)

    def html(self) -> str:
        """Return a fragment of HTML that needs nothing else: problems, components, entries."""
        lost = {missing.key for missing in self.missing}

        def names(keys: Iterable[NestedKey]) -> str:
            return ", ".join(
                f"<code{' class=problem' if key in lost else ''}>{escape(text_of(key))}</code>" for key in keys
            )

        problems = "".join(f'<li class="problem">{escape(problem)}</li>' for problem in self.problems)
        parts = [STYLE, '<div class="explanation">']
        parts.append(f"<ul>{problems}</ul>" if problems else "<p>Every entry that is read is written before.</p>")
        parts.append("<table><tr><th>component</th><th>reads</th><th>writes</th></tr>")
        for phase, members in self._phases():
            parts.append(f'<tr><td colspan="3" class="phase">{PHASES[phase]}</td></tr>')
            for _, part in members:
                results = "".join(f"<br>returns <code>{escape(name)}</code>" for name in part.returns)
                reads = names((*part.reads, *part.optional))
                row = (escape(part.name), reads, names(part.writes) + results)
                parts.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>")
        heads = ("entry", "dtype and shape", "written by", "read by")
        parts.append(f"</table><table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>")
        for key in self.entries:
            cells = [self.size(key), ", ".join(self.writers(key)), ", ".join(self.readers(key))]
            parts.append(f"<tr><td>{names([key])}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
        return "".join([*parts, "</table></div>"])

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return self.html()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": self.text(), "text/html": self.html()}


def _quoted(text: str) -> str:
    """Return text for a quoted label of Mermaid."""
    return text.replace("&", "#amp;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
