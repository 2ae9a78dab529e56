"""Tutorials print what they say they print.

Where the site was built from the same scripts, by ``make docs``, they ran there, and what they printed is on its
pages. Otherwise they run here, with fewer frames.
"""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
BUILT = ROOT / "docs/tutorials"
TUTORIALS = sorted((ROOT / "tutorials").glob("*.py"))
FRAMES = {"first_training": "6_400", "ppo_double_pendulum": "600"}
PRINTED = re.compile(r"^(?:print\(.*\)|\))  # (.*)$", re.MULTILINE)
ON_PAGE = re.compile(r"^ \.\. code-block:: none\n\n((?:    .*\n|\n)+)", re.MULTILINE)


def lines_of_the_site(path, built=BUILT):
    """Return what a tutorial printed when the site was built, or ``None`` if that was another script or none."""
    copy, ran = built / path.name, built / f"{path.name}.md5"
    if not ran.exists() or copy.read_bytes() != path.read_bytes():
        return None
    blocks = ON_PAGE.findall((built / f"{path.stem}.rst").read_text())
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_prints_what_it_says(path, tmp_path, monkeypatch, capsys):
    expected = PRINTED.findall(path.read_text())
    printed = lines_of_the_site(path)
    if printed is None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("FRAMES", FRAMES.get(path.stem, "0"))
        monkeypatch.setenv("MPLBACKEND", "Agg")
        threads = torch.get_num_threads()
        try:
            runpy.run_path(str(path), run_name="__main__")
        finally:
            torch.set_num_threads(threads)
            if "matplotlib.pyplot" in sys.modules:  # which warns of more than twenty open figures
                sys.modules["matplotlib.pyplot"].close("all")
        printed = capsys.readouterr().out.splitlines()
    remaining = iter(printed)  # tables and reports are printed too, and not repeated in the script
    assert [line for line in expected if line not in remaining] == [], printed
    assert expected or "assert " in path.read_text()


def test_what_was_printed_is_read_from_the_pages(tmp_path):
    script = tmp_path / "it.py"
    script.write_text("print(1)")
    page = "\n.. code-block:: Python\n\n    print(1)\n\n.. rst-class:: sphx-glr-script-out\n\n"
    page += " .. code-block:: none\n\n    1\n\ntext\n"
    (tmp_path / "built").mkdir()
    (tmp_path / "built/it.rst").write_text(page)
    (tmp_path / "built/it.py").write_text("print(1)")
    assert lines_of_the_site(script, tmp_path / "built") is None  # it did not run
    (tmp_path / "built/it.py.md5").write_text("")
    assert lines_of_the_site(script, tmp_path / "built") == ["1"]
    script.write_text("print(2)")
    assert lines_of_the_site(script, tmp_path / "built") is None
