"""The progress bar: what it shows, in a terminal and in a notebook."""

import runpy
import sys
from types import SimpleNamespace

import torch

from torchrl.trainers import metrics
from torchrl.trainers.metrics import Progress


def shown(capsys, monkeypatch, done):
    """Return the last line of a bar of 80 columns."""
    with Progress(100_000, 0, shown=True) as progress:
        monkeypatch.setattr(progress._bar, "dynamic_ncols", lambda _: (80, 40))
        progress.show(done, VALUES)
    return capsys.readouterr().err.strip().split("\r")[-1]


VALUES = {"episode_return": torch.tensor(-1234.5), "episode_length": 200.0, "eval_return": -987.6}


def test_return_length_speed_and_time_left_fit_into_80_columns(capsys, monkeypatch):
    text = shown(capsys, monkeypatch, 50_000)
    assert len(text) <= 80, text
    assert text.startswith(" 50%|")
    assert "frames/s, return -1234, length 200, eval -988]" in text
    assert " left, " in text


def test_less_than_a_frame_a_second_is_shown_as_frames_per_second(capsys, monkeypatch):
    with Progress(100_000, 0, shown=True) as progress:
        monkeypatch.setattr(progress._bar, "dynamic_ncols", lambda _: (80, 40))
        monkeypatch.setattr(progress._bar, "_time", lambda: progress._bar.start_t + 10)
        progress.show(4, {})
    assert "0.40 frames/s]" in capsys.readouterr().err.strip().split("\r")[-1]


def test_a_batch_that_overshoots_is_at_100_percent(capsys, monkeypatch):
    assert shown(capsys, monkeypatch, 100_096).startswith("100%|")


def test_a_notebook_without_ipywidgets_gets_text_and_no_warning(monkeypatch):
    """All warnings are errors here."""
    for name in ("tqdm.auto", "tqdm.autonotebook", "tqdm.notebook", "ipywidgets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    kernel = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel))
    bar = runpy.run_path(metrics.__file__)["tqdm"]
    assert "notebook" not in bar.__module__
