"""The page that lists the tutorials: cards by theme, with a picture and what one learns.

sphinx-gallery runs the tutorials and writes their pages; this replaces its list of them.
"""

from __future__ import annotations

import ast
import html
import re
from pathlib import Path
from typing import Any

TUTORIALS = Path(__file__).parents[2] / "tutorials"
HEAD = """.. This file is made by docs/_ext/gallery.py.

Tutorials
=========

One idea each, five minutes to read, a minute at most to run. Each can be downloaded at its end, as a script and as a
Jupyter notebook.

"""
THEMES = {
    "Start here": ("overview", "first_training", "coming_from_sb3", "jupyter", "jupyter_workers"),
    "One part at a time": (
        "environments",
        "transforms_in_depth",
        "modules",
        "data",
        "replay_buffers_in_depth",
        "collectors",
        "ray_cluster",
        "losses",
        "loggers",
        "evaluation",
        "checkpoint_resume",
    ),
    "Algorithms and tasks": (
        "ppo_double_pendulum",
        "recurrent_ppo",
        "recurrent_dqn",
        "exploration_compared",
        "observation_statistics",
        "hindsight_replay",
        "offline_minari",
        "multi_task",
        "atari",
        "memory_efficient_pixels",
        "world_models",
    ),
    "Many agents": ("multi_agent_ppo", "competitive_ddpg"),
    "Parts of your own": ("custom_environment", "custom_loss", "custom_sampler", "functional_vmap_meta"),
    "Tools and deployment": (
        "trainers_command_line",
        "debugging",
        "export_deployment",
        "compile_mixed_precision_devices",
    ),
    "More": (),  # those that no theme names
}
COLOURS = ("#0369a1", "#0f766e", "#6d28d9", "#be185d", "#b45309", "#475569", "#334155")
PICTURE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 200" font-family="Menlo, Consolas, monospace">
<rect width="400" height="200" fill="{colour}"/>
<circle cx="340" cy="40" r="110" fill="#fff" opacity="0.07"/>
<circle cx="60" cy="190" r="90" fill="#fff" opacity="0.07"/>
{lines}
</svg>
"""


def picture(words: str, colour: str) -> str:
    """Return a picture with a few words in it."""
    lines: list[str] = []
    for word in words.split("_"):
        if lines and len(lines[-1]) + len(word) < 13:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    top = 100 - 22 * (len(lines) - 1)
    text = "\n".join(
        f'<text x="200" y="{top + 44 * i}" fill="#fff" font-size="28" text-anchor="middle" '
        f'dominant-baseline="central">{html.escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    return PICTURE.format(colour=colour, lines=text)


def title_and_intro(script: Path) -> tuple[str, str]:
    """Return the title of a tutorial and its first paragraph, without roles."""
    text = ast.get_docstring(ast.parse(script.read_text())) or script.stem
    title, _, rest = text.partition("\n")
    rest = re.sub(r"^[=~-]+\n", "", rest.strip() + "\n").strip()
    intro = rest.partition("\n\n")[0].replace("\n", " ")
    if intro == "What you will learn:":
        intro = "; ".join(learned(rest)[:2])
    return title.strip("=\n "), intro.rstrip(":") if intro.endswith("::") else intro


def learned(text: str) -> list[str]:
    """Return the items of the list under "What you will learn:"."""
    items = text.partition("What you will learn:\n\n")[2].partition("\n\n")[0]
    return [" ".join(item.split()).rstrip(";.") for item in items.removeprefix("- ").split("\n- ") if item]


def themes() -> dict[str, list[Path]]:
    """Return the tutorials by theme."""
    scripts = {script.stem: script for script in sorted(TUTORIALS.glob("*.py"))}
    found = {
        theme: [scripts.pop(name) for name in names if name in scripts] for theme, names in THEMES.items() if names
    }
    return {**found, "More": list(scripts.values())}


def index(folder: Path) -> str:
    """Return the page, after pictures for tutorials without one were written to ``folder``."""
    text = HEAD
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for (theme, scripts), colour in zip(themes().items(), COLOURS, strict=True):
        if not scripts:
            continue
        text += f"{theme}\n{'-' * len(theme)}\n\n.. grid:: 1 2 2 3\n   :gutter: 3\n\n"
        for script in scripts:
            title, intro = title_and_intro(script)
            intro = intro.removeprefix("What you will learn: ")
            intro = intro[:1].upper() + intro[1:]
            image = f"images/thumb/sphx_glr_{script.stem}_thumb.png"
            has_figure = any((folder / "images").glob(f"sphx_glr_{script.stem}_0*"))
            if not (has_figure and (folder / image).exists()):
                image = f"images/{script.stem}.svg"
                (folder / image).write_text(picture(script.stem, colour))
            text += (
                f"   .. grid-item-card:: {title}\n      :link: /tutorials/{script.stem}\n      :link-type: doc\n"
                f"      :img-top: {image}\n      :img-alt: {title}\n      :class-card: tutorial\n\n      {intro}\n\n"
            )
        text += ".. toctree::\n   :hidden:\n\n" + "".join(f"   {script.stem}\n" for script in scripts) + "\n"
    return text


def setup(app: Any) -> dict[str, Any]:
    """Write the page after sphinx-gallery has written its own."""

    def write(app: Any) -> None:
        folder = Path(app.srcdir) / "tutorials"
        (folder / "index.rst").write_text(index(folder))
        for notebook in (TUTORIALS / "notebooks").glob("*.ipynb"):  # to download: their text is Markdown throughout
            (folder / notebook.name).write_bytes(notebook.read_bytes())

    app.connect("builder-inited", write, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
