"""Links that leave ``docs``, pages whose text lies elsewhere, and formulas without a script.

Pages link to files of the repository, as readers of the repository need. On the site, those that have a page there
lead to it; folders, which have none, become plain text. A page with ``<!-- text of: ../FILE.md -->`` shows that file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
    "benchmarks/README.md": "benchmarks.md",
    "tutorials/README.md": "tutorials/index.rst",
    "tutorials": "tutorials/index.rst",
    "examples": "examples.md",
    "benchmarks": "benchmarks.md",
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
IMAGE = re.compile(r'(<img src=")([^":]+)"')
TEXT = re.compile(r"<!-- text of: (\S+) -->")
BIG = re.compile(r"\\[bB]ig[lr]?(?![a-zA-Z])")  # sizes of brackets, which browsers choose themselves
CODE = re.compile(r"(^```.*?^```$|^~~~.*?^~~~$)", re.MULTILINE | re.DOTALL)


def site_path(file: Path) -> str | None:
    """Return what shows a file of the repository: a page or a file to download, from the root of the sources."""
    path = file.relative_to(ROOT).as_posix()
    if path in PAGES:
        return "/" + PAGES[path]
    if file.is_relative_to(DOCS):
        return "/" + file.relative_to(DOCS).as_posix()
    if file.parent == ROOT / "tutorials" and file.suffix in (".py", ".md", ".rst", ".html"):
        return f"/tutorials/{file.stem}.rst"
    return "/" + Path(os.path.relpath(file, DOCS)).as_posix() if file.is_file() else None


def rewritten(text: str, folder: Path, shown_in: Path = DOCS) -> str:
    """Return Markdown whose relative links, from ``folder``, lead to the site; images are those of a page elsewhere."""

    def link(match: re.Match[str]) -> str:
        mark, label, target, anchor = match.groups()
        file = Path(os.path.normpath(folder / target))
        if "://" in target or target.startswith(("mailto:", "/")) or not file.is_relative_to(ROOT):
            return match[0]
        if mark:  # an image, whose label may be anything
            return f"![{label}]({os.path.relpath(file, shown_in)})"
        label = LINK.sub(link, label)
        if folder.is_relative_to(DOCS) and file.is_relative_to(DOCS) and not file.is_relative_to(DOCS / "tutorials"):
            return f"[{label}]({target}{anchor or ''})"
        path = site_path(file)
        return f"[{label}]({path}{anchor or ''})" if path else label

    def image(match: re.Match[str]) -> str:
        file = Path(os.path.normpath(folder / match[2]))
        return f'{match[1]}{os.path.relpath(file, shown_in)}"' if file.is_file() else match[0]

    parts = CODE.split(text)
    return "".join(part if i % 2 else IMAGE.sub(image, LINK.sub(link, part)) for i, part in enumerate(parts))


def on_source(app: Any, docname: str, source: list[str]) -> None:
    """Replace links of a Markdown page, and its text where it names a file that has it."""
    page = Path(app.env.doc2path(docname))
    if page.suffix != ".md":
        return
    text = rewritten(source[0], page.parent, page.parent)
    for name in TEXT.findall(text):
        file = (page.parent / name).resolve()
        app.env.note_dependency(str(file))
        text = text.replace(f"<!-- text of: {name} -->", rewritten(file.read_text(), file.parent, page.parent))
    source[0] = text


def visit_math(self: Any, node: Any) -> None:
    """Write a formula as MathML, which browsers show without help."""
    from docutils import nodes  # noqa: PLC0415
    from docutils.utils.math.latex2mathml import tex2mathml  # noqa: PLC0415

    is_block = isinstance(node, nodes.math_block)
    formula = tex2mathml(BIG.sub("", node.astext()), as_block=is_block)
    self.body.append(f'<div class="math">{formula}</div>' if is_block else formula)
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.connect("source-read", on_source)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
