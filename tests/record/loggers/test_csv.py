"""The files that a CSVLogger leaves, byte for byte or frame for frame."""

import json
import re
import subprocess
import sys

import imageio.v3 as imageio
import imageio_ffmpeg
import pytest
import torch
from tensordict import MemoryMappedTensor

from torchrl.record import CSVLogger


def video(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def smooth_video(t, h, w):
    """Frames of one grey each, so that a lossy format keeps them nearly as they are."""
    return torch.linspace(0, 255, t).view(1, t, 1, 1, 1).expand(1, t, 3, h, w).to(torch.uint8)


def read_movie(path):
    """Return the frames ``[T, H, W, 3]`` of a file, decoded by ffmpeg itself if it is an mp4."""
    if path.suffix == ".gif":
        return torch.from_numpy(imageio.imread(path))
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path]
    decode = [*ffmpeg, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    run = subprocess.run(decode, capture_output=True, check=True)
    w, h = re.search(rb"rawvideo.* (\d+)x(\d+)", run.stderr).groups()
    return torch.frombuffer(bytearray(run.stdout), dtype=torch.uint8).view(-1, int(h), int(w), 3)


def test_a_number_is_a_line(tmp_path):
    logger = CSVLogger("run", tmp_path)
    logger.log_scalar("eval/return", torch.tensor(0.1), 3)
    logger.log_scalar("eval/return", float("nan"), 4)
    path = tmp_path / "run" / "scalars" / "eval" / "return.csv"
    assert path.read_text() == "3,0.10000000149011612\n4,nan\n"
    assert logger.experiment == tmp_path / "run"


def test_lines_are_there_before_the_logger_closes_and_a_later_one_goes_on(tmp_path):
    for step in range(3):
        CSVLogger("run", tmp_path, resume=True).log_scalar("a", step, step)
        assert len((tmp_path / "run/scalars/a.csv").read_text().splitlines()) == step + 1


def test_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    CSVLogger("run").log_scalar("a", 1, 0)
    assert (tmp_path / "csv_logs/run/scalars/a.csv").read_text() == "0,1.0\n"


@pytest.mark.parametrize("name", ["../a", "/etc/a", "a/../../b", ".."])
def test_no_name_leads_out_of_the_folder(name, tmp_path):
    logger = CSVLogger("run", tmp_path)
    for log in (logger.log_scalar, lambda n, v: logger.log_str(n, str(v))):
        with pytest.raises(ValueError, match="leads out of"):
            log(f"{name}/../.." if name == ".." else name, 1.0)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_texts(tmp_path):
    logger = CSVLogger("run", tmp_path)
    logger.log_str("notes", "two\nlines")
    logger.log_str("notes", "more")
    texts = tmp_path / "run" / "texts"
    assert (texts / "notes_0.txt").read_text() == "two\nlines"
    assert (texts / "notes_1.txt").read_text() == "more"


def test_hyperparameters_are_json(tmp_path):
    logger = CSVLogger("run", tmp_path)
    logger.log_hparams({"lr": 1e-3, "net": {"cells": [64, 64]}, "device": torch.device("cpu")})
    stored = json.loads((tmp_path / "run" / "hparams.json").read_text())
    assert stored == {"lr": 1e-3, "net": {"cells": [64, 64]}, "device": "cpu"}


def test_a_histogram_counts_each_finite_number_once(tmp_path):
    data = torch.tensor([[0.0, 1.0, 1.5], [4.0, float("nan"), float("inf")]])
    CSVLogger("run", tmp_path).log_histogram("w", data, 2, bins=4)
    lines = (tmp_path / "run/histograms/w.csv").read_text().splitlines()
    rows = [[float(part) for part in line.split(",")] for line in lines]
    assert rows == [[2, 0, 1, 1], [2, 1, 2, 2], [2, 2, 3, 0], [2, 3, 4, 1]]


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 5, 1, 6, 4)])
def test_pt_and_memmap_keep_every_frame(shape, tmp_path):
    frames = video(*shape)
    for kind in ("pt", "memmap"):
        CSVLogger("run", tmp_path, video_format=kind, resume=True).log_video("v", frames, 7)
    folder = tmp_path / "run/videos"
    assert torch.load(folder / "v_7.pt").equal(frames)
    mapped = MemoryMappedTensor.from_filename(folder / "v_7.memmap", torch.uint8, frames.shape)
    assert mapped.equal(frames)


@pytest.mark.parametrize("kind", ["mp4", "gif"])
@pytest.mark.parametrize(("h", "w"), [(16, 32), (17, 31)])
def test_movies_show_what_was_logged(kind, h, w, tmp_path):
    """Odd sizes grow by the last row and column where the format wants even ones."""
    frames = smooth_video(5, h, w)
    logger = CSVLogger("run", tmp_path, video_format=kind, video_fps=10)
    logger.log_video("v", frames, 0)
    path = tmp_path / f"run/videos/v_0.{kind}"
    shown = read_movie(path)
    even = (h + h % 2, w + w % 2) if kind == "mp4" else (h, w)
    assert shown.shape == (5, *even, 3)
    error = shown[:, :h, :w].float() - frames[0].permute(0, 2, 3, 1).float()
    assert error.abs().max() <= 6


def test_movies_have_their_frame_rate(tmp_path):
    logger = CSVLogger("run", tmp_path, video_format="mp4", video_fps=10)
    logger.log_video("own", smooth_video(10, 16, 16), 0)
    logger.log_video("given", smooth_video(10, 16, 16), 0, fps=20)
    seconds = {
        name: imageio_ffmpeg.count_frames_and_secs(tmp_path / f"run/videos/{name}_0.mp4")[1]
        for name in ("own", "given")
    }
    assert seconds == pytest.approx({"own": 1.0, "given": 0.5}, abs=0.06)


def test_several_videos_stand_side_by_side(tmp_path):
    frames = torch.stack([torch.zeros(2, 1, 8, 8), torch.full((2, 1, 8, 8), 255.0)]).byte()
    CSVLogger("run", tmp_path, video_format="gif").log_video("v", frames, 0)
    shown = read_movie(tmp_path / "run/videos/v_0.gif")
    assert shown.shape[1:] == (8, 16, 3)
    assert shown[..., :8, :].eq(0).all()
    assert shown[..., 8:, :].eq(255).all()


def test_refuses_an_unknown_format(tmp_path):
    with pytest.raises(ValueError, match=r"one of \('pt', .*found 'avi'"):
        CSVLogger("run", tmp_path, video_format="avi")
    assert not list(tmp_path.iterdir())


def test_names_the_package_that_a_movie_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio.v3", None)
    logger = CSVLogger("run", tmp_path, video_format="gif")
    with pytest.raises(ImportError, match=r"CSVLogger needs imageio: .*torchrl\[rendering\]"):
        logger.log_video("v", smooth_video(1, 2, 2), 0)


def test_settings_as_lines_and_the_files_of_a_run(tmp_path, capsys):
    logger = CSVLogger("run", tmp_path)
    for lr in (0.5, 0.25):
        logger.log_hparams({"net": {"cells": [8]}, "lr": lr})
    texts = tmp_path / "run" / "texts"
    assert (texts / "hparams0.txt").read_text() == "lr: 0.5\nnet: {'cells': [8]}"
    assert (texts / "hparams1.txt").read_text().startswith("lr: 0.25")
    logger.print_log_dir()
    assert capsys.readouterr().out.split() == sorted(map(str, (p for p in (tmp_path / "run").rglob("*.*"))))
