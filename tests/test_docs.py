"""What is written holds: code on the pages runs, links lead somewhere, made pages are current."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (".", "docs", "benchmarks", "examples")
PAGES = sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))
PARTS = ("index", "loggers", "own_parts", "trainers")
# The blocks of each of these, in order, are one script.
SCRIPTS = [ROOT / "README.md", *(ROOT / f"docs/{name}.md" for name in PARTS)]
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def code_of(path):
    return "\n".join(CODE.findall(path.read_text()))


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_the_code_of_a_page_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code_of(path), name_of(path), "exec"), {"__name__": "page"})


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path):
    links = [link for link in LINK.findall(path.read_text()) if "://" not in link]
    missing = [link for link in links if not (path.parent / link).exists()]
    assert not missing


def test_the_readme_has_ten_lines_that_matter():
    block = code_of(ROOT / "README.md").partition("\n\n")[2]
    statements = [line for line in block.splitlines() if line.strip(" )")]
    assert 5 <= len(statements) <= 14


def test_the_folders_on_the_page_of_the_architecture_are_those_of_the_source():
    page = (ROOT / "docs/architecture.md").read_text()
    path, named = [], set()
    for indent, name in re.findall(r"^([│├└─ ]*)(\w+)/", page, re.MULTILINE):
        path = [*path[: len(indent) // 4], name]
        named.add("/".join(path))
    folders = (file.parent for file in (ROOT / "torchrl").rglob("__init__.py"))
    assert named == {name_of(folder) for folder in folders}


def test_the_page_of_old_names_is_current():
    script = runpy.run_path(ROOT / "docs/old_names.py")
    assert script["PAGE"].read_text() == script["page"](), "run `make docs`"
