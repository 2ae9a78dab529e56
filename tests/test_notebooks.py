"""Notebooks say what their scripts say, and run in a Jupyter kernel."""

import base64
import contextlib
import json
import os
import re
import runpy
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "tutorials"
NOTEBOOKS = TUTORIALS / "notebooks"
REMEDY = "run `make notebooks`"


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("sphinx_gallery", reason="needs Python 3.11")
    return runpy.run_path(str(ROOT / "docs/notebooks.py"))


def test_every_tutorial_has_a_notebook_and_every_notebook_a_tutorial():
    names = {path.stem for path in TUTORIALS.glob("*.py")}
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == names, REMEDY


def test_the_list_of_tutorials_is_current(script):
    assert script["README"].read_text(encoding="utf-8") == script["readme"](), REMEDY


@pytest.mark.parametrize("path", sorted(TUTORIALS.glob("*.py")), ids=lambda path: path.stem)
def test_script_and_notebook_agree(path, script):
    assert (NOTEBOOKS / f"{path.stem}.ipynb").read_text(encoding="utf-8") == script["notebook"](path), REMEDY


def cells_of(path, kind):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_somewhere(path, script):
    for text in cells_of(path, "markdown"):
        for target in script["LINK"].findall(text):
            assert "://" in target or (NOTEBOOKS / target).exists(), target


MARKUP = '''"""
Markup
======

A :class:`~torchrl.data.ReplayBuffer`, :func:`torchrl.train` and :meth:`here <torchrl.train>`; see `a paper
<https://arxiv.org/abs/1>`_, :doc:`first_training`, :doc:`a page </own_parts>`, ``losses.py``, ``mine.py`` and
``examples/sac.py``. It is :math:`x^2`::

    FRAMES=5 python it.py

=====  =====
use    for
=====  =====
``a``  a | b
=====  =====

.. list-table::
   :header-rows: 1

   * - c
     - d
   * - 1
     - :class:`~torchrl.envs.GymEnv`
"""

# sphinx_gallery_thumbnail_number = 2
x = 1
torch.manual_seed(0)

# %%
# Part
# ----
#
# .. tip::
#    Rest.
'''


def test_the_markup_of_scripts_becomes_markdown(tmp_path, script):
    (tmp_path / "markup.py").write_text(MARKUP)
    made = script["notebook"](tmp_path / "markup.py")
    assert made == script["notebook"](tmp_path / "markup.py")
    (tmp_path / "markup.ipynb").write_text(made)
    text, second = cells_of(tmp_path / "markup.ipynb", "markdown")
    assert cells_of(tmp_path / "markup.ipynb", "code") == ["x = 1\ntorch.manual_seed(0);"]
    assert text.startswith("# Markup\n\nA `ReplayBuffer`, `torchrl.train` and `here`; see [a paper](")
    links = (
        "[first training](first_training.ipynb), [a page](../../docs/own_parts.md), [losses](losses.ipynb), `mine.py`"
    )
    assert links in text.replace("\n", " ")
    assert "[examples/sac.py](../../examples/sac.py). It is $x^2$:\n\n    FRAMES=5 python it.py" in text
    assert "| use | for |\n| --- | --- |\n| `a` | a \\| b |" in text
    assert "| c | d |\n| --- | --- |\n| 1 | `GymEnv` |" in text
    assert second.startswith("## Part\n\n<div")


@pytest.mark.parametrize("text", [".. figure:: x.png", ":unknown:`role`"])
def test_markup_that_has_no_markdown_is_refused(text, tmp_path, script):
    (tmp_path / "odd.py").write_text(f'"""\nOdd\n===\n\n{text}\n"""\n\nx = 1\n')
    with pytest.raises(ValueError, match=r"odd\.py: no Markdown for"):
        script["notebook"](tmp_path / "odd.py")


PRINTED = re.compile(r"^(?:print\(.*\)|\))  # (.*)$", re.MULTILINE)


@pytest.fixture
def run(tmp_path):
    """Execute a notebook in a kernel of its own; return its code cells. Nothing of it is left afterwards."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    psutil = pytest.importorskip("psutil")
    variables = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    variables |= {"OMP_NUM_THREADS": "1"}
    segments = set(os.listdir("/dev/shm"))
    kernels = []

    def execute(name):
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        notebook.cells.insert(0, nbformat.v4.new_code_cell("import os\nos.getpgid(0)"))  # its workers are of its group
        nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute(
            env=variables
        )
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        kernels.append(int(cells.pop(0).outputs[0].data["text/plain"]))
        return cells

    yield execute
    for _ in range(100):  # a process takes a moment to end
        left = [process.info for process in psutil.process_iter(["pid", "cmdline"]) if group(process.pid) in kernels]
        shared = {name for name in set(os.listdir("/dev/shm")) - segments if name.startswith(("torch", "psm", "sem"))}
        if not left and not shared:
            break
        time.sleep(0.1)
    assert not left
    if "PYTEST_XDIST_WORKER" not in os.environ:  # tests beside this one have shared memory of their own
        assert not shared


def group(pid):
    with contextlib.suppress(ProcessLookupError):
        return os.getpgid(pid)


def outputs(cell, kind):
    """Return what a cell wrote: text of a stream, or data of a type."""
    if kind in ("stdout", "stderr"):
        return "".join(output.text for output in cell.outputs if output.get("name") == kind)
    return "".join(output.data.get(kind, "") for output in cell.outputs if "data" in output)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["data", "jupyter", "jupyter_workers"])
def test_a_notebook_prints_what_it_says(name, run):
    """Of ``jupyter``: a bar, a curve and a film are below their cells; of ``jupyter_workers``: workers end."""
    cells = run(name)
    for cell in cells:
        assert outputs(cell, "stdout").splitlines() == PRINTED.findall(cell.source)
        if "torchrl.train(" not in cell.source:
            assert not outputs(cell, "stderr")
    if name == "jupyter":
        _, training, curve, film = cells
        last = outputs(training, "stderr").rstrip().split("\r")[-1]
        assert re.match(r"100%\|█+\| 4\.10k \[00:00 left, .* frames/s, return [\d.]+, length [\d.]+, eval", last)
        assert "Warning" not in outputs(training, "stderr")
        assert base64.b64decode(outputs(curve, "image/png"))[:4] == b"\x89PNG"
        (data,) = re.findall(r'src="data:video/mp4;base64,([^"]+)"', outputs(film, "text/html"))
        assert base64.b64decode(data)[4:8] == b"ftyp"
