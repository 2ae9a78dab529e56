"""The tools of the site: tables of results, published versions, the check of links."""

import importlib
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def extension(monkeypatch):
    """Import a module of the site's own extensions."""
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    yield importlib.import_module
    for name in ("scores", "gallery", "report", "manifest"):
        sys.modules.pop(name, None)


def test_scores_become_tables(extension, tmp_path):
    scores = extension("scores")
    assert scores.scores(tmp_path) == ""
    run = {"frames": 100_000, "seconds": 90.0, "training": [1.0] * 90 + [400.0] * 10}
    for seed, score in enumerate((450.0, 460.0, 470.0)):
        result = {**run, "seed": seed, "last": {"mean": score, "std": 1.0}, "best": {"mean": 500.0, "std": 0.0}}
        (tmp_path / f"ppo_CartPole-v1_100_000_{seed}.json").write_text(json.dumps(result))
    small, classic = (text.splitlines()[4] for text in scores.scores(tmp_path).split("## ")[1:])
    row = "| 450 to 470 | 500 | 400 |  | 3 | 1.5 |"
    assert small == f"| `ppo` | CartPole-v1 | 100,000 | 475 ! | **460** {row}"
    assert classic == small.replace("475 !", "500").replace("| 3 |", "| 3 of 10 |")  # of ten seeds, three are there
    assert scores.scores_in_short(tmp_path).splitlines()[2] == "| `ppo` | CartPole-v1 | 475 ! | **460** |"


def test_speeds_become_tables(extension, tmp_path):
    scores = extension("scores")
    assert scores.speeds(tmp_path) == ""
    (tmp_path / "collect.json").write_text(json.dumps([{"what": "cartpole", "ratio": 1.23456}]))
    assert scores.speeds_in_short(tmp_path / "none") == ""
    (tmp_path / "updates.json").write_text(json.dumps([{"update": "DQN", "ratio": 1.25}]))
    assert scores.speeds_in_short(tmp_path).splitlines()[2] == "| DQN | 0.80 |"
    assert "## Collect\n\n| what | ratio |\n| --- | --- |\n| cartpole | 1.23 |\n" in scores.speeds(tmp_path)


def test_every_tutorial_has_a_card(extension, tmp_path):
    gallery = extension("gallery")
    page = gallery.index(tmp_path)
    for script in gallery.TUTORIALS.glob("*.py"):
        assert page.count(f":link: /tutorials/{script.stem}\n") == 1
        assert f"   {script.stem}\n" in page
    assert gallery.themes()["More"] == [], "give it a theme in docs/_ext/gallery.py"


def test_links_that_lead_nowhere_and_assets_from_elsewhere_are_found(tmp_path):
    check = runpy.run_path(str(DOCS / "check_site.py"))["broken_links"]
    (tmp_path / "a.html").write_text('<h1 id="x">A</h1><a href="b.html#y">b</a><a href="https://example.org">c</a>')
    (tmp_path / "b.html").write_text('<h1 id="y">B</h1><img src="c.png"><a href="a.html#x">a</a>')
    (tmp_path / "c.png").touch()
    assert check(tmp_path) == []
    (tmp_path / "c.png").unlink()
    (tmp_path / "b.html").write_text('<script src="https://cdn.org/x.js"></script><a href="c.html">c</a>')
    (tmp_path / "a.css").write_text("@font-face { src: url(https://fonts.org/a.woff) }")
    assert sorted(check(tmp_path)) == [
        "a.css: https://fonts.org/a.woff is not part of the site",
        "a.html: b.html#y has no such heading",
        "b.html: c.html does not exist",
        "b.html: https://cdn.org/x.js is not part of the site",
    ]


def test_a_file_that_is_missing_is_a_failure_and_a_page_that_was_left_is_none():
    failures = runpy.run_path(str(DOCS / "check_site.py"))["failures"]
    assert failures(SimpleNamespace(url="logo.svg", failure="net::ERR_ABORTED")) == []
    missing = SimpleNamespace(url="logo.svg", failure="net::ERR_FILE_NOT_FOUND")
    assert failures(missing) == ["cannot load logo.svg: net::ERR_FILE_NOT_FOUND"]


def test_each_published_version_lists_all(tmp_path):
    publish = runpy.run_path(str(DOCS / "versions.py"))["publish"]
    (tmp_path / "built/_static").mkdir(parents=True)
    (tmp_path / "built/objects.inv").touch()
    for version in ("main", "v0.9.0", "v0.10.0"):
        names = publish(tmp_path / "built", tmp_path / "site", version)
    assert names == ["main", "v0.10.0", "v0.9.0"]
    listed = json.loads((tmp_path / "site/v0.9.0/_static/switcher.json").read_text())
    assert listed[1] == {"version": "v0.10.0", "url": "../v0.10.0/"}
    assert 'href="v0.10.0/"' in (tmp_path / "site/index.html").read_text()
