"""Tutorials run, and print what they say they print."""

import re
import runpy
from pathlib import Path

import pytest
import torch

TUTORIALS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.py"))
FRAMES = {"first_training": "6_400", "ppo_double_pendulum": "600"}
PRINTED = re.compile(r"^(?:print\(.*\)|\))  # (.*)$", re.MULTILINE)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_prints_what_it_says(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRAMES", FRAMES.get(path.stem, "0"))
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    expected = PRINTED.findall(path.read_text())
    assert expected
    assert capsys.readouterr().out.splitlines() == expected
