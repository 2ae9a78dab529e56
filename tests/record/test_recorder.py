"""The frames of an environment end in a video."""

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import MissingKeyError, ShapeError
from torchrl.envs import GymEnv, TransformedEnv
from torchrl.record import CSVLogger, VideoRecorder
from torchrl.record.recorder import grid


class Notebook:
    """A logger that remembers."""

    def __init__(self):
        self.videos = []

    def log_video(self, name, video, step, fps=None):
        self.videos.append((name, video, step, fps))


def frame(i, *batch):
    return TensorDict(pixels=torch.full((*batch, 6, 8, 3), i, dtype=torch.uint8), batch_size=batch)


def test_frames_arrive_in_order_and_once():
    logger = Notebook()
    recorder = VideoRecorder(logger, "run", fps=7)
    for i in range(3):
        recorder(frame(i))
    recorder.dump(suffix="eval", step=12)
    (name, video, step, fps), *rest = logger.videos
    assert (name, step, fps, rest) == ("run_eval", 12, 7, [])
    assert video.shape == (3, 3, 6, 8)
    assert video[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert recorder.dump() is None


def test_skip_max_frames_and_crop():
    recorder = VideoRecorder(Notebook(), "run", skip=2, max_frames=2, center_crop=(2, 4))
    for i in range(10):
        recorder(frame(i))
    video = recorder.dump()
    assert video.shape == (2, 3, 2, 4)
    assert video[:, 0, 0, 0].tolist() == [0, 2]


def test_floats_and_channels_first_become_bytes():
    recorder = VideoRecorder(Notebook(), "run")
    recorder(TensorDict(pixels=torch.full((3, 6, 8), 0.5)))
    assert recorder.frames[0].dtype == torch.uint8
    assert recorder.frames[0][0, 0, 0] == 128


def test_rows_of_a_batch_form_a_grid_or_a_video_each():
    for make_grid, shape in ((True, (1, 3, 12, 16)), (False, (3, 1, 3, 6, 8))):
        recorder = VideoRecorder(Notebook(), "run", make_grid=make_grid)
        recorder._call(frame(1, 3))
        assert recorder.dump().shape == shape
    cells = grid(torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1).expand(3, 1, 2, 2))
    assert cells[0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 0, 0], [2, 2, 0, 0]]


def test_dump_on_done_writes_one_video_an_episode():
    logger = Notebook()
    env = TransformedEnv(GymEnv("CartPole-v1", from_pixels=True), VideoRecorder(logger, "run", dump_on_done=True))
    env.set_seed(0)
    steps = env.rollout(60, break_when_any_done=False)
    ends = int(steps["next", "done"].sum())
    assert ends > 0
    assert len(logger.videos) == ends
    first_length = int(steps["next", "done"].flatten().int().argmax()) + 1
    assert logger.videos[0][1].shape[0] == first_length + 1


def test_real_file(tmp_path):
    logger = CSVLogger("run", tmp_path, video_format="gif")
    recorder = VideoRecorder(logger, "clip")
    for i in range(4):
        recorder(frame(60 * i))
    recorder.dump(step=3)
    assert (tmp_path / "run/videos/clip_3.gif").stat().st_size > 0


def test_errors_name_the_entry():
    with pytest.raises(MissingKeyError, match="'pixels' is read but absent"):
        VideoRecorder(Notebook(), "run")(TensorDict(observation=torch.zeros(3)))
    with pytest.raises(ShapeError, match="'pixels' is not an image"):
        VideoRecorder(Notebook(), "run")(TensorDict(pixels=torch.zeros(6, 8, 5)))
    with pytest.raises(ValueError, match="skip must be at least 1"):
        VideoRecorder(Notebook(), "run", skip=0)
    with pytest.raises(MissingKeyError, match="'pixels' is read but absent"):
        TransformedEnv(GymEnv("CartPole-v1"), VideoRecorder(Notebook(), "run"))
    with pytest.raises(RuntimeError, match="no frames yet"):
        VideoRecorder(Notebook(), "run").to_animation()
