"""Every public name has a page in the API reference, with a documentation; the site itself is not built."""

import functools
import importlib
import sys
from pathlib import Path

import pytest

EXTENSIONS = str(Path(__file__).parents[1] / "docs/_ext")


@pytest.fixture(scope="module")
def site():
    """The module that makes the pages of the reference."""
    sys.path.insert(0, EXTENSIONS)
    try:
        yield importlib.import_module("reference")
    finally:
        sys.path.remove(EXTENSIONS)


@functools.cache
def reference_of(site):
    return site.Reference()


@pytest.fixture
def reference(site):
    return reference_of(site)


def test_every_name_in_all_has_a_page_and_stands_in_one_table(site, reference, tmp_path):
    site.write(tmp_path)
    tables = "\n".join((tmp_path / f"{slug}.rst").read_text() for slug in site.SECTIONS)
    for module in site.public_modules():
        for name in importlib.import_module(module).__all__:
            if f"{module}.{name}" == "torchrl.objectives.value.functional":
                continue  # a module, whose names have pages
            path = reference.find(f"{module}.{name}")
            assert (tmp_path / f"{path}.rst").exists(), f"{module}.{name} has no page: docs/_ext/reference_themes.py"
            assert tables.count(f":py:obj:`~{path}`\n") == 1, path


def test_every_public_name_is_documented(reference):
    assert [entry.path for entry in reference.entries if not entry.summary] == []


def test_every_theme_lists_names(reference):
    empty = [(slug, theme) for slug, themes in reference.grouped().items() for theme in themes if not themes[theme]]
    assert empty == []


def test_names_on_several_paths_have_one_page(reference):
    """It is that of the shortest path; the definition leads there, too, and so do methods."""
    path = "torchrl.data.SliceSampler"
    assert reference.find("torchrl.data.replay_buffers.SliceSampler") == path
    assert reference.find("torchrl.data.replay_buffers.samplers.slice.SliceSampler") == path
    assert reference.find("SliceSampler") == path
    assert reference.find("torchrl.data.replay_buffers.samplers.SliceSampler.sample") == f"{path}.sample"
    assert reference.find("torchrl.data.SliceSamplr") is None


def test_a_name_without_documentation_is_found(site):
    class Bare:
        pass

    assert site.Entry("Bare", "torchrl.data", Bare).summary == ""


def test_docstrings_become_lists_of_fields(site):
    converted = importlib.import_module("docstrings").converted
    lines = ["Text.", "Reads: ``a``,", "and ``b``.", "Writes: ``c``.", "", "Hooks:", "    _call: ``td -> td``."]
    assert [line for line in converted(lines) if line] == [
        "Text.",
        ":Reads: ``a``,",
        "    and ``b``.",
        ":Writes: ``c``.",
        "**Hooks:**",
        "* ``_call``: ``td -> td``.",
    ]


def test_links_out_of_the_docs_lead_to_pages(site):
    pages = importlib.import_module("pages")
    docs = pages.DOCS
    text = "[a](../tutorials/data.py) [b](../CHANGELOG.md) [c](faq.md#x) ![d](../examples/results/ppo.png)\n"
    assert pages.rewritten(text, docs) == (
        "[a](/tutorials/data.rst) [b](/changelog.md) [c](faq.md#x) ![d](../examples/results/ppo.png)\n"
    )
    assert pages.rewritten("[a](docs/own_parts.md#capabilities)", pages.ROOT) == "[a](/own_parts.md#capabilities)"
    assert pages.rewritten("```\n[a](../CHANGELOG.md)\n```\n", docs) == "```\n[a](../CHANGELOG.md)\n```\n"


def test_settings_of_an_algorithm_are_a_table_with_their_comments(site, reference):
    for entry in reference.entries:
        if entry.name.endswith("Config") and entry.module == "torchrl.trainers.algorithms":
            table = site.settings(entry)
            missing = [name for name in entry.value.__dataclass_fields__ if f"* - ``{name}``\n" not in table]
            assert missing == [], entry.path
    assert site.settings(reference.by_name["SliceSampler"]) == ""
