"""Records end in a file, and pictures in the records."""

import numpy as np
import pytest
import torch

from torchrl._core.errors import MissingKeyError
from torchrl.envs import Compose, GymEnv, SerialEnv, TransformedEnv, check_env_specs
from torchrl.record import PixelRenderTransform, TensorDictRecorder, VideoRecorder
from torchrl.testing.mocks import CountingEnv


class DrawnEnv(CountingEnv):
    """Draws its count."""

    def render(self, times=1):
        picture = np.empty((4, 6, 3), np.uint8)
        picture[:] = int(self.count.flatten()[0]) * times
        return picture[::-1]

    def nothing(self):
        return None

    def from_record(self, tensordict):
        return tensordict["observation"][..., :1].expand(4, 6, 3)


def counts(path):
    return torch.load(path)["observation"][..., 0].tolist()


@pytest.mark.parametrize(
    ("skip_reset", "skip", "expected"),
    [(True, 1, [1, 2, 3, 4, 5]), (False, 1, [0, 1, 2, 3, 4, 5]), (True, 2, [1, 3, 5])],
)
def test_one_record_in_skip_is_kept(tmp_path, skip_reset, skip, expected):
    recorder = TensorDictRecorder(tmp_path / "new/run", skip_reset, skip)
    TransformedEnv(CountingEnv(horizon=9), recorder).rollout(5)
    path = recorder.dump("eval")
    assert path == tmp_path / "new/run_eval.pt"
    assert counts(path) == expected
    kept = set(torch.load(path).keys())
    assert {"observation", "done"} <= kept
    assert ("reward" in kept) == skip_reset  # a reset has none
    assert recorder.dump() is None


def test_rows_stand_behind_the_steps_and_entries_can_be_chosen(tmp_path):
    recorder = TensorDictRecorder(tmp_path / "run", skip=1, in_keys=["observation"])
    TransformedEnv(CountingEnv(horizon=9, batch_size=[2]), recorder).rollout(3)
    saved = torch.load(recorder.dump())
    assert saved.batch_size == (3, 2)
    assert set(saved.keys()) == {"observation"}


def test_recorder_errors():
    with pytest.raises(ValueError, match="skip must be at least 1, found 0"):
        TensorDictRecorder("run", skip=0)
    with pytest.raises(MissingKeyError, match="'observations' is read but absent"):
        TransformedEnv(CountingEnv(), TensorDictRecorder("run", in_keys=["observations"]))


def test_each_root_has_its_own_picture():
    env = TransformedEnv(DrawnEnv(horizon=9), PixelRenderTransform(times=10))
    assert env.observation_spec["pixels"].shape == (4, 6, 3)
    assert env.observation_spec["pixels"].dtype == torch.uint8
    check_env_specs(env)
    steps = env.rollout(4)
    assert steps["pixels"][:, 0, 0, 0].tolist() == [0, 10, 20, 30]
    assert steps["next", "pixels"][:, 3, 5, 2].tolist() == [10, 20, 30, 40]


def test_arguments_of_the_picture():
    preproc = PixelRenderTransform(["view"], preproc=lambda x: torch.tensor(x[:2] / 255))
    env = TransformedEnv(DrawnEnv(), preproc)
    assert env.rollout(2)["next", "view"].shape == (2, 2, 6, 3)
    assert env.observation_spec["view"].dtype == torch.float64
    camera = PixelRenderTransform(render_method="from_record", pass_tensordict=True)
    steps = TransformedEnv(DrawnEnv(), camera).rollout(2)
    assert steps["next", "pixels"][:, 0, 0, 0].tolist() == [1, 2]


def test_rows_are_drawn_one_by_one():
    env = SerialEnv(2, lambda: DrawnEnv(horizon=9))
    env = TransformedEnv(env, PixelRenderTransform())
    assert env.rollout(3)["next", "pixels"].shape == (2, 3, 4, 6, 3)


def test_the_picture_can_be_switched_off():
    env = TransformedEnv(DrawnEnv(horizon=9), Compose(PixelRenderTransform()))
    camera = env.transform[0]
    camera.switch("off")
    assert "pixels" not in list(env.observation_spec.keys())
    assert env.rollout(2).get("pixels", None) is None
    camera.switch()
    assert env.rollout(2)["pixels"].shape == (2, 4, 6, 3)
    with pytest.raises(ValueError, match="expected 'on', 'off' or nothing, found 'dim'"):
        camera.switch("dim")


def test_a_clone_draws_its_own_environment():
    env = TransformedEnv(DrawnEnv(horizon=9), PixelRenderTransform())
    env.rollout(3)
    other = TransformedEnv(DrawnEnv(horizon=9), env.transform.clone())
    assert other.reset()["pixels"].max() == 0


def test_pictures_become_a_video():
    class Notebook:
        def log_video(self, name, video, step, fps=None):
            self.video = video

    notebook = Notebook()
    env = GymEnv("CartPole-v1", render_mode="rgb_array")
    env = TransformedEnv(env, Compose(PixelRenderTransform(), VideoRecorder(notebook, "run")))
    env.rollout(3)
    env.transform[1].dump()
    assert notebook.video.shape[1:] == (3, 400, 600)
    assert len(notebook.video) >= 4


def test_picture_errors():
    with pytest.raises(ValueError, match="expected one entry to write"):
        PixelRenderTransform(["a", "b"])
    with pytest.raises(RuntimeError, match=r"got nothing from nothing\(\) of DrawnEnv"):
        TransformedEnv(DrawnEnv(), PixelRenderTransform(render_method="nothing"))
    with pytest.raises(RuntimeError, match="has no environment to draw"):
        PixelRenderTransform()(CountingEnv().reset())


def test_what_is_drawn_may_stay_as_it_is():
    camera = PixelRenderTransform(["text"], lambda drawn: str(drawn[0, 0, 0]), as_non_tensor=True)
    env = TransformedEnv(DrawnEnv(horizon=9), camera)
    check_env_specs(env)
    steps = env.rollout(3)
    assert [step["next", "text"] for step in steps] == ["1", "2", "3"]


def test_each_row_of_a_batch_may_keep_an_object():
    camera = PixelRenderTransform(["text"], lambda drawn: ["a", "b"], as_non_tensor=True)
    env = TransformedEnv(DrawnEnv(horizon=9, batch_size=[2]), camera)
    assert env.reset()["text"] == ["a", "b"]
    assert env.rollout(3)[1]["next", "text"] == ["b"] * 3


def test_frames_go_on_under_another_name():
    class Deaf:
        def log_video(self, *args, **kwargs):
            pass

    recorder = VideoRecorder(Deaf(), "run", out_keys=["seen"])
    env = TransformedEnv(DrawnEnv(horizon=9), Compose(PixelRenderTransform(), recorder))
    check_env_specs(env)
    steps = env.rollout(3)
    assert torch.equal(steps["next", "seen"], steps["next", "pixels"])
    recorder.dump()
    assert torch.equal(recorder(steps.exclude("seen"))["seen"], steps["pixels"])
    assert len(recorder.frames) == 3
