"""Thirty questions have an answer: a page with the heading that is named, which the site's search finds."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/questions.md"
SITE = ROOT / "docs/_build/html"
ROW = re.compile(r"^\| ([^|]+\?) \| ([^|]+) \| \[[^\]]+\]\(([^)#]+)#([^)]+)\) \| ([^|]+) \|$", re.MULTILINE)


def questions():
    """Return question, page, heading and words of each row."""
    return [(question, page, heading, words) for question, _, page, heading, words in ROW.findall(PAGE.read_text())]


def headings(page):
    """Return the headings of a page as GitHub and MyST name them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_there_are_thirty():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    assert len(questions()) == len(rows) - 2 >= 30


@pytest.mark.parametrize(("question", "page", "heading", "words"), questions())
def test_the_answer_is_there(question, page, heading, words):
    assert heading in headings(PAGE.parent / page)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_search_finds_each_page():
    """Needs the site, of ``make docs``, and a browser."""
    api = pytest.importorskip("playwright.sync_api")
    pages = {page for _, page, _, _ in questions()}
    if not all((SITE / page).with_suffix(".html").exists() for page in pages):
        pytest.skip("the site is not built")
    script = runpy.run_path(str(ROOT / "docs/check_site.py"))
    with api.sync_playwright() as playwright:
        browser = script["launch"](playwright)
        if browser is None:
            pytest.skip("no browser")
        site = script["Browser"](browser)
        rows = ((words, Path(page).with_suffix(".html").as_posix()) for _, page, _, words in questions())
        problems = [problem for words, page in rows for problem in site.search(words, page)]
    assert not [problem for problem in problems if problem.startswith("a search for")]  # others: `make docs`
