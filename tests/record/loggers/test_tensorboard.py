"""What TensorBoard finds in the event files."""

import io
import json
import sys

import pytest
import torch

from torchrl.record import TensorboardLogger, get_logger


@pytest.fixture
def events(tmp_path):
    """Return ``(logger, read)``; ``read()`` closes the logger and loads what it wrote."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorboardLogger("run", tmp_path)

    def read():
        logger.close()
        return EventAccumulator(str(tmp_path / "run")).Reload()

    return logger, read


def test_texts_and_settings_can_be_read(events):
    logger, read = events
    logger.log_str("notes", "two\nlines", 3)
    cfg = {"lr": 0.1, "net": {"cells": [64, 64]}, "note": None}
    logger.log_hparams(cfg)
    found = read()
    (note,) = found.Tensors("notes/text_summary")
    assert (note.step, note.tensor_proto.string_val[0]) == (3, b"two\nlines")
    (text,) = found.Tensors("hparams/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    assert json.loads(shown.removeprefix("```json").removesuffix("```")) == cfg


def test_a_histogram_counts_finite_numbers(events):
    logger, read = events
    logger.log_histogram("w", torch.tensor([0.0, 1.0, 4.0, float("nan")]), 2, bins=4)
    logger.log_histogram("nothing", torch.tensor([float("nan")]), 2)
    found = read()
    (histogram,) = found.Histograms("w")
    assert (histogram.step, histogram.histogram_value.num) == (2, 3)
    assert "nothing" not in found.Tags()["histograms"]


def test_a_video_is_an_animated_picture(events):
    import imageio.v3 as imageio

    logger, read = events
    frames = torch.linspace(0, 255, 4).view(1, 4, 1, 1, 1).expand(2, 4, 3, 8, 6).byte()
    logger.log_video("v", frames, 5)
    (image,) = read().Images("v")
    assert (image.step, image.height, image.width) == (5, 8, 12)
    shown = imageio.imread(io.BytesIO(image.encoded_image_string), extension=".gif")
    assert shown.shape == (4, 8, 12, 3)
    assert shown[:, 0, 0, 0].tolist() == frames[0, :, 0, 0, 0].tolist()


def test_is_made_by_its_name(tmp_path):
    pytest.importorskip("tensorboard")
    logger = get_logger("tensorboard", tmp_path, "run")
    assert type(logger) is TensorboardLogger
    logger.close()


def test_names_the_package_that_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"TensorboardLogger needs tensorboard: .*\[utils\]"):
        TensorboardLogger("run", tmp_path)
    assert not list(tmp_path.iterdir())
