"""What is written holds: code on the pages runs, links lead somewhere, made pages are current."""

import re
import runpy
from dataclasses import fields
from pathlib import Path

import pytest

from torchrl.trainers import RunConfig

ROOT = Path(__file__).parents[1]
FOLDERS = (".", "docs", "docs/guide", "benchmarks", "examples")
PAGES = sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))
PARTS = (
    *("coming_from", "command_line", "debugging", "differences", "faq", "getting_started", "index", "loggers"),
    *("modules", "own_parts", "quick_start", "trainers", "training"),
)
# The blocks of each of these, in order, are one script.
GUIDE = [page for page in sorted((ROOT / "docs/guide").glob("*.md")) if page.stem != "index"]
SCRIPTS = [ROOT / "README.md", *(ROOT / f"docs/{name}.md" for name in PARTS), *GUIDE]
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def code_of(path):
    return code_in(path.read_text())


def code_in(text):
    return "\n".join(CODE.findall(text))


@pytest.fixture
def few_evaluations(monkeypatch):
    """Twenty evaluations of ten episodes, and one of a hundred, are most of the time of short runs."""
    few = {"eval_episodes": 1, "final_episodes": 2}
    values = zip(fields(RunConfig), RunConfig.__init__.__defaults__, strict=True)
    monkeypatch.setattr(
        RunConfig.__init__, "__defaults__", tuple(few.get(field.name, value) for field, value in values)
    )


@pytest.mark.usefixtures("few_evaluations")
@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_the_code_of_a_page_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code_of(path), name_of(path), "exec"), {"__name__": "page"})


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path):
    links = [link for link in LINK.findall(path.read_text()) if "://" not in link]
    missing = [link for link in links if not (path.parent / link).exists()]
    assert not missing


def test_every_difference_is_shown_by_a_block():
    """An entry starts with a sentence in bold; what it says is executed by the test above."""
    page = (ROOT / "docs/differences.md").read_text()
    entries = re.split(r"^(?=\*\*)", page, flags=re.MULTILINE)[1:]
    assert len(entries) > 15
    checks = re.compile(r"^ *(assert|with pytest)", re.MULTILINE)
    assert not [entry.partition("\n")[0] for entry in entries if not checks.search(code_in(entry))]


def test_the_readme_has_ten_lines_that_matter():
    block = code_in((ROOT / "README.md").read_text().partition("## In ten lines")[2]).partition("\n\n")[2]
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
    script = runpy.run_path(str(ROOT / "docs/old_names.py"))
    assert script["PAGE"].read_text() == script["page"](), "run `make docs`"
