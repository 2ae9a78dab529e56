"""What transforms compute, against references written by hand."""

import math

import cv2
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from torchrl.envs import (
    CatFrames,
    ClipTransform,
    Compose,
    FrameSkipTransform,
    MultiStepTransform,
    ReturnNorm,
    Reward2GoTransform,
    RewardSum,
    StepCounter,
    TimeMaxPool,
    TransformedEnv,
    VecNormV2,
)
from torchrl.envs.transforms.buffer.trajectories import multi_step
from torchrl.envs.transforms.functional import resize, rgb_to_grayscale
from torchrl.testing.transform import World


def episodes(rows=3, steps=40, seed=0):
    """Random steps ``[B, T]`` with terminations and truncations."""
    torch.manual_seed(seed)
    terminated = torch.rand(rows, steps, 1) < 0.15
    truncated = (torch.rand(rows, steps, 1) < 0.1) & ~terminated
    step = TensorDict(
        reward=torch.randn(rows, steps, 1),
        observation=torch.randn(rows, steps, 2),
        terminated=terminated,
        truncated=truncated,
        done=terminated | truncated,
        batch_size=[rows, steps],
    )
    return TensorDict(next=step, action=torch.randn(rows, steps, 2), batch_size=[rows, steps])


def n_step_by_hand(data, row, t, n, gamma):
    """Sum, last step and length of the window that begins at ``t``."""
    total, steps = 0.0, data.shape[1]
    for k in range(n):
        total += gamma**k * data["next", "reward"][row, t + k].item()
        if data["next", "done"][row, t + k] or t + k == steps - 1 or k == n - 1:
            return total, t + k, k + 1
    raise AssertionError


@pytest.mark.parametrize("n", [1, 2, 3, 5, 60])
@pytest.mark.parametrize("seed", range(3))
def test_multi_step_equals_its_definition(n, seed):
    data = episodes(seed=seed)
    out = multi_step(data, n, 0.9)
    for row in range(data.shape[0]):
        for t in range(data.shape[1]):
            total, last, length = n_step_by_hand(data, row, t, n, 0.9)
            assert math.isclose(out["next", "reward"][row, t].item(), total, abs_tol=1e-5)
            for key in ("observation", "done", "terminated", "truncated"):
                assert torch.equal(out["next", key][row, t], data["next", key][row, last])
            assert out["steps_to_next_obs"][row, t].item() == length
            assert math.isclose(out["gamma"][row, t].item(), 0.9**length, rel_tol=1e-5)
            assert out["nonterminal"][row, t].item() == (not data["next", "done"][row, last])
    assert torch.equal(out["next", "original_reward"], data["next", "reward"])
    assert torch.equal(data["next", "reward"], episodes(seed=seed)["next", "reward"])


@pytest.mark.parametrize("n", [1, 3, 7])
@pytest.mark.parametrize("size", [1, 4, 13])
def test_multi_step_in_pieces_equals_multi_step_at_once(n, size):
    data = episodes(steps=39)
    at_once = multi_step(data, n, 0.9)
    transform = MultiStepTransform(n, 0.9)
    pieces = [transform.inv(piece) for piece in data.split(size, 1)]
    if (rest := transform.flush()) is not None:
        pieces.append(rest)
    together = torch.cat(pieces, 1)
    assert together.shape == at_once.shape
    for key in at_once.keys(True, True):
        torch.testing.assert_close(together[key], at_once[key])


def test_n_step_targets_of_the_toy_chain():
    """Three steps of reward 1, then the end; V = 100 everywhere would show a bootstrap."""
    done = torch.tensor([[False], [False], [True]])
    step = TensorDict(reward=torch.ones(3, 1), done=done, terminated=done, batch_size=[3])
    out = multi_step(TensorDict(next=step, batch_size=[3]), 3, 0.5)
    alive = (~out["next", "terminated"]).float()
    targets = out["next", "reward"] + out["gamma"] * alive * 100.0
    assert targets.squeeze(-1).tolist() == [1.75, 1.5, 1.0]


def test_multi_step_leaves_padding_out():
    data = episodes(rows=1, steps=6)
    data["next", "done"][:] = False
    data["mask"] = torch.tensor([[True, True, True, True, False, False]])
    out = multi_step(data, 3, 1.0, mask_key="mask")
    assert out["steps_to_next_obs"][0, :4, 0].tolist() == [3, 3, 2, 1]


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_reward_to_go_equals_its_definition(gamma):
    data = episodes()
    out = Reward2GoTransform(gamma).inv(data)["next", "reward"]
    for row in range(data.shape[0]):
        to_go = 0.0
        for t in reversed(range(data.shape[1])):
            ends = data["next", "done"][row, t].item()
            to_go = data["next", "reward"][row, t].item() + (0.0 if ends else gamma * to_go)
            assert math.isclose(out[row, t].item(), to_go, abs_tol=1e-4)


def test_reward_to_go_refuses_a_fragment():
    data = episodes()
    data["next", "done"][:] = False
    with pytest.raises(ValueError, match="the end of the episode is not in the data"):
        Reward2GoTransform().inv(data)


def test_reward_sum_equals_its_definition():
    env = TransformedEnv(World((4,)), RewardSum())
    batch = env.rollout(30, break_when_any_done=False)
    total = torch.zeros(4, 1)
    for t in range(30):
        assert torch.equal(batch["episode_reward"][:, t], total)
        total = total + batch["next", "reward"][:, t]
        torch.testing.assert_close(batch["next", "episode_reward"][:, t], total)
        total = total * ~batch["next", "done"][:, t]


@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_running_statistics_equal_weighted_moments(decay):
    data = torch.randn(50, 3) * 3 + 1000
    norm = VecNormV2(["x"], decay=decay)
    for k, row in enumerate(data):
        out = norm(TensorDict(x=row))["x"]
        weight = np.array([decay ** (k - i) for i in range(k + 1)])
        weight /= weight.sum()
        seen = data[: k + 1].double().numpy()
        mean = (weight[:, None] * seen).sum(0)
        std = np.sqrt((weight[:, None] * (seen - mean) ** 2).sum(0)).clip(1e-4)
        expected = (row.double().numpy() - mean) / std
        np.testing.assert_allclose(out.numpy(), expected, rtol=1e-3, atol=1e-4)


def test_running_statistics_of_a_batch_equal_those_of_its_rows():
    data = torch.randn(20, 4, 3) + 5
    norm = VecNormV2(["x"], decay=1.0, reduce_batch_dims=True)
    for rows in data:
        norm(TensorDict(x=rows, batch_size=[4]))
    torch.testing.assert_close(norm.loc["x"], data.reshape(-1, 3).double().mean(0))
    std = data.reshape(-1, 3).double().std(0, correction=0)
    torch.testing.assert_close(norm.scale["x"], std)


def test_running_statistics_leave_out_rows_that_are_not_reset():
    env = TransformedEnv(World((4,)), VecNormV2(["observation"], decay=1.0, reduce_batch_dims=True))
    seen = TransformedEnv(World((4,))).rollout(20, break_when_any_done=False)
    torch.manual_seed(0)
    actions = seen["action"]
    env.set_seed(0)
    env.rollout(20, actions=actions, break_when_any_done=False)
    shown = [seen["observation"][:, 0]]
    for t in range(20):
        shown.append(seen["next", "observation"][:, t])
        begun = seen["next", "done"][:, t, 0]
        if t < 19:
            shown.append(seen["observation"][begun, t + 1])
    count = env.transform.state_dict()["observation_count"].item()
    assert count == sum(map(len, shown))


def test_frozen_statistics_do_not_move():
    norm = VecNormV2(["x"], decay=1.0)
    for _ in range(5):
        norm(TensorDict(x=torch.randn(3)))
    frozen, before = norm.frozen_copy(), norm.loc["x"].clone()
    norm.eval()
    norm(TensorDict(x=torch.ones(3) * 100))
    assert torch.equal(norm.loc["x"], before)
    norm.train()
    norm(TensorDict(x=torch.ones(3) * 100))
    assert not torch.equal(norm.loc["x"], before)
    frozen(TensorDict(x=torch.ones(3) * 100))
    assert torch.equal(frozen.loc["x"], before)
    fixed = frozen.to_observation_norm()
    record = TensorDict(x=torch.randn(3))
    torch.testing.assert_close(fixed(record.copy())["x"], frozen(record.copy())["x"])
    torch.testing.assert_close(frozen.denorm(frozen(record.copy()))["x"], record["x"])


def test_processes_share_statistics():
    env = World()
    shared = VecNormV2.build_shared_data(env, ["observation"])
    assert all(value.is_shared() for value in shared.values())
    norms = [VecNormV2(["observation"], shared_data=shared, decay=1.0) for _ in range(2)]
    for norm in norms:
        TransformedEnv(World(), norm).rollout(2)
    assert norms[0].state_dict()["observation_count"] == 6
    assert norms[0].clone().state_dict()["observation_count"] is not None
    assert torch.equal(norms[1].loc["observation"], norms[0].loc["observation"])


def test_return_scaling_equals_its_definition():
    gamma = 0.9
    env = TransformedEnv(World((2,)))
    batch = env.rollout(30, break_when_any_done=False)
    scaled = TransformedEnv(World((2,)), ReturnNorm(gamma))
    out = scaled.rollout(30, actions=batch["action"], break_when_any_done=False)
    total, seen = torch.zeros(2, 1), []
    for t in range(30):
        reward = batch["next", "reward"][:, t]
        total = gamma * total + reward
        seen.append(total.double())
        samples = torch.cat(seen)
        # The first guess, variance 1, weighs 1e-4 samples.
        weight = 1e-4 / (1e-4 + len(samples))
        mean = samples.mean() * (1 - weight)
        var = weight * (1 + mean**2) + (1 - weight) * ((samples - mean) ** 2).mean()
        torch.testing.assert_close(out["next", "reward"][:, t], (reward / var.sqrt()).float(), rtol=1e-4, atol=1e-5)
        total = total * ~batch["next", "done"][:, t]


@pytest.mark.parametrize("padding", ["same", "constant"])
def test_stacked_frames_equal_their_definition(padding):
    env = TransformedEnv(World((4,)), CatFrames(3, -1, ["observation"], ["stack"], padding=padding))
    batch = env.rollout(25, break_when_any_done=False)
    for row in range(4):
        frames = []
        for t in range(25):
            first = not frames
            now = batch["observation"][row, t]
            if first:
                pad = now if padding == "same" else torch.zeros(3)
                frames = [pad, pad, now]
            assert torch.equal(batch["stack"][row, t], torch.cat(frames))
            frames = [*frames[1:], batch["next", "observation"][row, t]]
            assert torch.equal(batch["next", "stack"][row, t], torch.cat(frames))
            if batch["next", "done"][row, t]:
                frames = []


@pytest.mark.parametrize("padding", ["same", "constant"])
def test_frames_stacked_in_a_buffer_equal_those_stacked_in_the_environment(padding):
    keys = [["observation"], ["stack"]]
    env = TransformedEnv(World((4,)), CatFrames(3, -1, *keys, padding=padding, mask_key="real"))
    batch = env.rollout(25, break_when_any_done=False)
    raw = batch.exclude("stack", "real", ("next", "stack"), ("next", "real"))
    stack = CatFrames(
        3, -1, ["observation", ("next", "observation")], ["stack", ("next", "stack")], padding=padding, mask_key="real"
    )
    stacked = stack(raw)
    for key in ("stack", ("next", "stack"), "real"):
        assert torch.equal(stacked[key], batch[key])


def test_frames_that_follow():
    data = TensorDict(x=torch.arange(4.0).view(4, 1), batch_size=[4])
    data["next", "done"] = torch.tensor([[False], [True], [False], [False]])
    out = CatFrames(2, -1, ["x"], future=True)(data)["x"]
    assert out.tolist() == [[0, 1], [1, 1], [2, 3], [3, 3]]


def test_maximum_of_frames_equals_its_definition():
    env = TransformedEnv(World((4,)), TimeMaxPool(["observation"], ["most"], T=2))
    batch = env.rollout(25, break_when_any_done=False)
    expected = torch.maximum(batch["observation"], batch["next", "observation"])
    assert torch.equal(batch["next", "most"], expected)
    first = torch.cat([torch.ones(4, 1, 1, dtype=bool), batch["next", "done"][:, :-1]], 1)
    fresh = torch.where(first, batch["observation"], batch["most"])
    assert torch.equal(batch["most"], fresh)


def test_frame_skip_stops_at_the_end():
    """Rows live 3, 4, 5, 6 steps; what a repeated action earns is what its steps earn."""
    env = TransformedEnv(World((4,)), Compose(StepCounter(), FrameSkipTransform(4)))
    single = World((4,))
    root, action = env.reset(), torch.tensor([0.5, -0.25]).expand(4, 2)
    single.set_seed(0)
    env.set_seed(0)
    root, plain = env.reset(), single.reset()
    out = env.step(root.set("action", action))
    total, over = torch.zeros(4, 1), torch.zeros(4, 1, dtype=bool)
    for _ in range(4):
        plain = single.step(plain.set("action", action))
        total += plain["next", "reward"] * ~over
        over = over | plain["next", "done"]
        plain = single.step_mdp(plain)
    assert out["next", "step_count"].squeeze(-1).tolist() == [3, 4, 4, 4]
    assert out["next", "done"].squeeze(-1).tolist() == [True, True, False, False]
    torch.testing.assert_close(out["next", "reward"], total)


def area_by_hand(image, height, width):
    """Mean over the area that each new pixel covers, by integration of a summed-area table."""
    rows, columns = image.shape
    table = np.zeros((rows + 1, columns + 1))
    table[1:, 1:] = image.cumsum(0).cumsum(1)

    def integral(y, x):
        y0, x0 = min(int(y), rows - 1), min(int(x), columns - 1)
        a, b = y - y0, x - x0
        return (
            (1 - a) * (1 - b) * table[y0, x0]
            + a * (1 - b) * table[y0 + 1, x0]
            + (1 - a) * b * table[y0, x0 + 1]
            + a * b * table[y0 + 1, x0 + 1]
        )

    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            top, bottom = i * rows / height, (i + 1) * rows / height
            left, right = j * columns / width, (j + 1) * columns / width
            whole = integral(bottom, right) - integral(top, right)
            whole -= integral(bottom, left) - integral(top, left)
            out[i, j] = whole / ((bottom - top) * (right - left))
    return out


def test_area_resize_equals_the_mean_of_the_area():
    image = np.random.default_rng(0).random((21, 16))
    found = resize(torch.as_tensor(image)[None], 8, 7, "area")[0]
    np.testing.assert_allclose(found.numpy(), area_by_hand(image, 8, 7), atol=1e-12)


def test_gray_and_small_as_opencv_does_it():
    frame = np.random.default_rng(0).integers(0, 256, (210, 160, 3), dtype=np.uint8)
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    theirs = cv2.resize(gray, (84, 84), interpolation=cv2.INTER_AREA) / 255
    image = torch.as_tensor(frame).movedim(-1, -3) / 255
    ours = resize(rgb_to_grayscale(image), 84, 84, "area")[0]
    assert abs(ours.numpy() - theirs).mean() < 1 / 255


def test_gray_weighs_colours_by_luma():
    frame = torch.rand(5, 3, 4, 6)
    luma = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(
        rgb_to_grayscale(frame)[:, 0], torch.einsum("nchw,c->nhw", frame, luma), atol=2e-4, rtol=0
    )


def test_clip_keeps_what_lies_between():
    record = TensorDict(x=torch.tensor([-9.0, 0.5, 9.0]))
    assert ClipTransform(["x"], low=-1.0)(record.copy())["x"].tolist() == [-1.0, 0.5, 9.0]
