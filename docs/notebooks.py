"""Write each tutorial as a Jupyter notebook, without outputs: ``make notebooks``.

sphinx-gallery cuts a script into cells and translates its text; this adds what it leaves as it is: roles, tables, and
links between tutorials.
"""

from __future__ import annotations

import copy
import json
import re
import runpy
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from docutils.core import publish_doctree
from sphinx_gallery.gen_gallery import DEFAULT_GALLERY_CONF
from sphinx_gallery.notebook import jupyter_notebook
from sphinx_gallery.py_source_parser import remove_config_comments, split_code_and_text_blocks

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "tutorials"
NOTEBOOKS = TUTORIALS / "notebooks"
README = TUTORIALS / "README.md"
HEAD = """# Tutorials

One idea each: five minutes to read, a minute at most to run, as a script and as a Jupyter notebook. On the site, which
`make docs` builds, each has a page with its outputs and figures. The notebooks are made from the scripts, and this list
too: `make notebooks`.
"""
ROLE = re.compile(r":(?:py:)?(class|func|meth|mod|attr|data|exc|obj|doc|ref):`(?:([^`<]+?)\s*<)?([^`>]+)>?`")
SCRIPT = re.compile(r"``(?:tutorials/)?(\w+)\.py``")
PLACE = re.compile(r"``((?:examples|docs|benchmarks)/[\w/]+\.(?:py|md))``")
TABLE = re.compile(r"^(=+(?: +=+)+)\n(?:.+\n)+\1$", re.MULTILINE)
DIRECTIVE_TABLE = re.compile(r"^\.\. (?:list-table|csv-table)::.*(?:\n+ +.*)*", re.MULTILINE)
HINT = re.compile(r"^\.\. (?:tip|seealso|important|hint)::", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")  # of Markdown
LITERAL = re.compile(r"^(?! *\.\. )(.*)::(\n\n +)", re.MULTILINE)
SEED = re.compile(r"^(\w+\.(?:manual_seed|set_seed)\([\w_]*\))(  #.*)?\Z", re.MULTILINE)  # its value says nothing
LEFT_OVER = re.compile(r"(?<!`):[a-z:]+:`|^ *\.\. |^[=~^-]{5,}", re.MULTILINE)
CODE = re.compile(r"```.*?```|``.*?``|(?<!:)`[^`]*`", re.DOTALL)


def notebook(script: Path) -> str:
    """Return the notebook of a script as JSON."""
    blocks = [
        (kind, (prepared if kind == "text" else remove_config_comments)(text), line)
        for kind, text, line in split_code_and_text_blocks(str(script))[1]
    ]
    cells = jupyter_notebook(blocks, copy.deepcopy(DEFAULT_GALLERY_CONF), str(script.parent))
    made = nbformat.reads(json.dumps(cells), as_version=4)
    made.metadata.language_info = {"name": "python"}  # without the version, which differs by reader
    made.cells = [cell for cell in made.cells if cell.source.strip()]
    for cell in made.cells:
        cell.metadata, cell.source = {}, SEED.sub(r"\1;", cell.source.strip())
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"``([^`\n]+)``", r"`\1`", cell.source)
            left = LEFT_OVER.search(CODE.sub("", cell.source))
            if left:
                raise ValueError(f"{script.name}: no Markdown for {left[0]!r} in\n{cell.source}")
    return nbformat.writes(made) + "\n"


def prepared(text: str) -> str:
    """Return the text of a cell with the roles, tables and links that Markdown has."""
    text = PLACE.sub(r"`\1 <../../\1>`_", SCRIPT.sub(to_notebook, ROLE.sub(to_link, text)))
    text = HINT.sub(".. note::", text)
    text = DIRECTIVE_TABLE.sub(to_table, TABLE.sub(to_table, text))
    return LITERAL.sub(r"\1:\2", text)  # an indented block is code


def to_link(match: re.Match[str]) -> str:
    """Return a link to a notebook or page, or the name of a part as code."""
    role, title, target = match.groups()
    if role in ("doc", "ref"):
        return f"`{title or target.rpartition('/')[2].replace('_', ' ')} <{place_of(target)}>`_"
    return f"``{title or (target.rpartition('.')[2] if target[0] == '~' else target)}``"


def place_of(target: str) -> str:
    """Return the path, from the folder of the notebooks, of a page or tutorial."""
    name = target.removeprefix("sphx_glr_tutorials_").removesuffix(".py").removeprefix("/tutorials/")
    return f"../../docs{name}.md" if name.startswith("/") else f"{name}.ipynb"


def to_notebook(match: re.Match[str]) -> str:
    """Return a link to the notebook of a script, if it is a tutorial."""
    name = match[1]
    return f"`{name.replace('_', ' ')} <{name}.ipynb>`_" if (TUTORIALS / f"{name}.py").exists() else match[0]


def to_table(match: re.Match[str]) -> str:
    """Return a table of reStructuredText as one of Markdown."""
    tree = publish_doctree(match[0], settings_overrides={"report_level": 5})
    rows = [
        [" ".join(" ".join(part.rawsource for part in entry).split()) for entry in row]
        for row in tree.findall(nodes.row)
    ]
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)


def readme() -> str:
    """Return the list of all tutorials by theme, as the site has it, with a line on each."""
    gallery = runpy.run_path(str(ROOT / "docs/_ext/gallery.py"))
    text = HEAD
    for theme, scripts in gallery["themes"]().items():
        lines = [one_line(script, gallery) for script in scripts]
        text += f"\n## {theme}\n\n" + "".join(lines) if lines else ""
    return text


def one_line(script: Path, gallery: dict[str, Any]) -> str:
    """Return a tutorial as an item of a list: title, notebook, and what it is about."""
    name = script.stem
    title, intro = gallery["title_and_intro"](script)
    learned = gallery["learned"](script.read_text())
    intro = "; ".join(learned[:2]) or intro.removeprefix("What you will learn: ")
    about = re.split(r"(?<=\w\w[.?!]) ", prepared(intro).replace("``", "`"))[0].rstrip(".:")
    return f"- [{title}]({name}.py) ([notebook](notebooks/{name}.ipynb)): {about[0].lower()}{about[1:]}\n"


def main() -> None:
    """Write all notebooks and their list, and remove those whose script is gone."""
    README.write_text(readme(), encoding="utf-8", newline="\n")
    NOTEBOOKS.mkdir(exist_ok=True)
    scripts = sorted(TUTORIALS.glob("*.py"))
    for script in scripts:
        (NOTEBOOKS / f"{script.stem}.ipynb").write_text(notebook(script), encoding="utf-8", newline="\n")
    for old in {path.stem for path in NOTEBOOKS.glob("*.ipynb")} - {script.stem for script in scripts}:
        (NOTEBOOKS / f"{old}.ipynb").unlink()


if __name__ == "__main__":
    main()
