"""Numbers logged at intervals, and a logger in another process."""

import time

import pytest
import torch

from torchrl._core.errors import WorkerError
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.record import CSVLogger
from torchrl.record.loggers import Every, LoggerMonitor, ProcessLogger


@pytest.fixture
def logger(tmp_path):
    return CSVLogger("run", tmp_path)


def test_schedules():
    assert [Every("polls", 3).is_due({}) for _ in range(1)] == [True]
    polls = Every("polls", 3)
    assert [polls.is_due({}) for _ in range(7)] == [True, False, False, True, False, False, True]
    seconds = Every("seconds", 0.02)
    found = [seconds.is_due({}), seconds.is_due({})]
    time.sleep(0.03)
    assert [*found, seconds.is_due({})] == [True, False, True]
    for args in (("hours", 1), ("polls", 0), ("value", 1), ("polls", 1, "frames")):
        with pytest.raises(ValueError, match="Every: "):
            Every(*args)


def test_sources_are_logged_when_they_are_due(logger, tmp_path):
    buffer, frames = ReplayBuffer(storage=LazyTensorStorage(10)), iter([0, 5, 20])
    monitor = LoggerMonitor(logger, background=False)
    monitor.add("buffer", buffer)
    monitor.add("train", lambda: {"frames": next(frames)}, Every("value", 10, key="frames"))
    buffer.extend(torch.arange(4))
    assert monitor.poll() == {"buffer/size": 4, "buffer/write_count": 4, "train/frames": 0}
    assert monitor.poll() == {"buffer/size": 4, "buffer/write_count": 4}
    assert monitor.poll()["train/frames"] == 20
    lines = (tmp_path / "run/scalars/train/frames.csv").read_text().split()
    assert lines == ["0,0.0", "1,20.0"]
    with pytest.raises(TypeError, match="'text' cannot be polled"):
        monitor.add("text", "no source")


@pytest.mark.parametrize("on_error", ["warn", "raise", "ignore"])
@pytest.mark.parametrize("background", [False, True])
def test_sources_that_fail(logger, on_error, background, caplog):
    monitor = LoggerMonitor(logger, on_error=on_error, background=background, poll_interval=0.01)
    monitor.add("broken", lambda: 1 / 0)
    monitor.add("fine", lambda: {"x": 1})
    if on_error == "raise":
        with pytest.raises(ZeroDivisionError), monitor:
            time.sleep(0.1)
        return
    with monitor:
        time.sleep(0.1)
    assert (logger.experiment / "scalars/fine/x.csv").exists()
    assert ("the source 'broken' failed: ZeroDivisionError" in caplog.text) is (on_error == "warn")


def test_what_a_monitor_refuses(logger):
    for options in ({"on_error": "shout"}, {"poll_interval": 0}):
        with pytest.raises(ValueError, match="LoggerMonitor: "):
            LoggerMonitor(logger, **options)


def test_a_logger_in_another_process(tmp_path):
    """It writes what a logger in this process writes."""
    video = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)

    def log(logger):
        for step in range(3):
            logger.log_scalar("loss", torch.tensor(step / 2), step)
        logger.log_metrics({"a": {"b": 1}})
        logger.log_str("note", "text")
        logger.log_histogram("h", torch.arange(10.0), bins=2)
        logger.log_video("v", video)
        logger.log_hparams({"lr": 0.5})

    with ProcessLogger(CSVLogger, "there", log_dir=tmp_path, mp_context="fork", max_queue_size=2) as there:
        assert (there.exp_name, there.log_dir) == ("there", str(tmp_path))
        log(there)
        there.flush()
        assert (tmp_path / "there/scalars/loss.csv").read_text().split()[-1] == "2,1.0"
    with CSVLogger("here", tmp_path) as here:
        log(here)
    files = [
        sorted(p.relative_to(tmp_path / name) for p in (tmp_path / name).rglob("*.*")) for name in ("there", "here")
    ]
    assert files[0] == files[1]
    for file in files[0]:
        if file.suffix != ".pt":
            assert (tmp_path / "there" / file).read_text() == (tmp_path / "here" / file).read_text()
    there.close()
    with pytest.raises(WorkerError, match="is closed"):
        there.log_scalar("loss", 1.0)


def test_errors_in_the_process_are_reported(tmp_path):
    with pytest.raises(WorkerError, match="expected video_format"):
        ProcessLogger(CSVLogger, "run", tmp_path, video_format="avi", mp_context="fork")
    logger = ProcessLogger(CSVLogger, "run", tmp_path, mp_context="fork")
    logger.log_str("../../outside", "text")
    with pytest.raises(WorkerError, match="leads out of"):
        logger.flush()
    logger.log_scalar("x", 1.0)
    logger.flush()
    logger._process.kill()
    with pytest.raises(WorkerError, match="its process ended with -9"):
        logger.flush()
    with pytest.raises(WorkerError, match="its process ended"):
        logger.close()
