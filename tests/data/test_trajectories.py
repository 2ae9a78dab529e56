"""Trajectories: numbered as a loop would number them, split as a loop would split them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import NonTensorData, NonTensorStack, TensorDict

from torchrl._core.errors import MissingKeyError, ShapeError
from torchrl.collectors.single import traj_ids
from torchrl.data.trajectories import split_trajectories

FLAGS = st.tuples(st.integers(1, 4), st.integers(1, 7)).flatmap(
    lambda shape: st.lists(
        st.lists(st.booleans(), min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
    )
)


def numbered_by_a_loop(done, first, next_free):
    """Step by step, row by row: after an end, the row gets the next free number."""
    current, ids = list(first), [[] for _ in done]
    for t in range(len(done[0])):
        for b, row in enumerate(done):
            ids[b].append(current[b])
            if row[t]:
                current[b], next_free = next_free, next_free + 1
    return ids, current, next_free


def pieces_by_a_loop(rows, cut_after):
    pieces = []
    for row, cuts in zip(rows, cut_after, strict=True):
        piece = []
        for value, cut in zip(row, cuts, strict=True):
            piece.append(value)
            if cut:
                pieces.append(piece)
                piece = []
        if piece:
            pieces.append(piece)
    return pieces


def batch_of(done, **entries):
    """A batch ``[B, T]`` whose observations count from 1."""
    done = torch.tensor(done)
    observation = torch.arange(1, done.numel() + 1).view(done.shape)
    next_root = TensorDict(done=done.unsqueeze(-1), batch_size=done.shape)
    return TensorDict(observation=observation, next=next_root, **entries, batch_size=done.shape)


def unpadded(pieces, mask_key="mask"):
    mask = pieces[mask_key]
    return [row[kept].tolist() for row, kept in zip(pieces["observation"], mask, strict=True)]


class TestTrajIds:
    @given(FLAGS, st.integers(0, 1000))
    def test_equals_the_loop(self, done, gap):
        first, next_free = list(range(len(done))), len(done) + gap
        ids, next_root, free = traj_ids(torch.tensor(done).unsqueeze(-1), torch.tensor(first), next_free)
        assert (ids.tolist(), next_root.tolist(), free) == numbered_by_a_loop(done, first, next_free)

    @given(FLAGS, FLAGS)
    def test_no_number_is_given_twice_across_batches(self, one, two):
        """Two batches of the same rows: as many numbers as trajectories begun."""
        two = [two[0]] * len(one)
        first = torch.arange(len(one))
        ids_one, next_root, free = traj_ids(torch.tensor(one).unsqueeze(-1), first, len(one))
        ids_two, _, end = traj_ids(torch.tensor(two).unsqueeze(-1), next_root, free)
        row_of = {}
        for ids in (ids_one, ids_two):
            for b, row in enumerate(ids.tolist()):
                assert all(row_of.setdefault(number, b) == b for number in row)
        assert end == len(one) + sum(map(sum, one)) + sum(map(sum, two))

    def test_one_environment_without_batch(self):
        done = torch.tensor([True, False, True]).unsqueeze(-1)
        ids, next_root, free = traj_ids(done, torch.tensor(4), 5)
        assert ids.tolist() == [4, 5, 5]
        assert (next_root.item(), free) == (6, 7)
        assert ids.dtype == torch.int64

    def test_several_batch_dimensions(self):
        done = torch.rand(2, 3, 5, 1) < 0.4
        ids, next_root, free = traj_ids(done, torch.arange(6).view(2, 3), 6)
        flat = numbered_by_a_loop(done.view(6, 5).tolist(), range(6), 6)
        assert (ids.view(6, 5).tolist(), next_root.flatten().tolist(), free) == flat


class TestSplitTrajectories:
    @given(FLAGS)
    def test_cuts_after_each_end(self, done):
        td = batch_of(done)
        pieces = split_trajectories(td)
        assert unpadded(pieces) == pieces_by_a_loop(td["observation"].tolist(), done)
        assert pieces["observation"][~pieces["mask"]].eq(0).all()
        assert not pieces["next", "done"][~pieces["mask"]].any()
        assert pieces.names == [None, "time"]

    @given(FLAGS)
    def test_cuts_where_the_number_changes(self, done):
        """The numbers say it, not the ends: here every end is hidden."""
        first = torch.arange(len(done))
        ids, _, _ = traj_ids(torch.tensor(done).unsqueeze(-1), first, len(done))
        td = batch_of(torch.zeros(len(done), len(done[0]), dtype=torch.bool).tolist())
        td["collector", "traj_ids"] = ids
        pieces = split_trajectories(td)
        expected = pieces_by_a_loop(td["observation"].tolist(), done)
        assert unpadded(pieces, ("collector", "mask")) == expected
        assert pieces["collector", "traj_ids"].shape == pieces["collector", "mask"].shape

    def test_one_number_in_two_rows_makes_two_pieces(self):
        td = batch_of([[False, False], [False, False]])
        td["collector", "traj_ids"] = torch.zeros(2, 2, dtype=torch.int64)
        assert unpadded(split_trajectories(td), ("collector", "mask")) == [[1, 2], [3, 4]]

    def test_splits_a_single_row_and_several_batch_dimensions(self):
        td = batch_of([[False, True, False]])
        assert unpadded(split_trajectories(td[0])) == [[1, 2], [3]]
        assert unpadded(split_trajectories(td.unsqueeze(0))) == [[1, 2], [3]]

    def test_splitting_twice_changes_nothing(self):
        once = split_trajectories(batch_of([[False, True, False], [False, False, False]]))
        twice = split_trajectories(once)
        assert (once == twice).all()

    def test_names_can_be_chosen(self):
        td = batch_of([[False, True, False]])
        td["log", "episode"] = torch.tensor([[1, 2, 2]])
        td["log", "end"] = torch.tensor([[[True], [True], [False]]])
        td["log", "traj_ids"] = torch.tensor([[5, 5, 5]])
        by_number = split_trajectories(td, trajectory_key=("log", "episode"))
        assert unpadded(by_number) == [[1], [2, 3]]
        by_end = split_trajectories(td, done_key=("log", "end"), prefix="out")
        assert unpadded(by_end, ("out", "mask")) == [[1], [2], [3]]
        by_prefix = split_trajectories(td, prefix="log")
        assert unpadded(by_prefix, ("log", "mask")) == [[1, 2, 3]]

    def test_pads_entries_of_every_kind(self):
        td = batch_of([[True, False, False]])
        td["pixels"] = torch.ones(1, 3, 2, 2, dtype=torch.uint8)
        agents = TensorDict(reward=torch.ones(1, 3, 2, 1), batch_size=[1, 3, 2])
        td["agents"] = agents
        td["text"] = NonTensorStack(NonTensorStack(*map(NonTensorData, "abc")))
        pieces = split_trajectories(td)
        assert pieces["pixels"][:, 1].flatten(1).tolist() == [[0] * 4, [1] * 4]
        assert pieces["agents"].batch_size == (2, 2, 2)
        assert pieces["agents", "reward"][0].flatten().tolist() == [1.0, 1.0, 0.0, 0.0]
        assert [list(row) for row in pieces["text"]] == [["a", "a"], ["b", "c"]]

    def test_leaves_its_input_alone(self):
        td = batch_of([[False, True, False]])
        before = td.clone()
        split_trajectories(td)
        assert set(td.keys(True)) == set(before.keys(True))
        assert (td == before).all()

    @pytest.mark.parametrize("as_nested", [True, torch.jagged])
    def test_nested_tensors_need_no_padding(self, as_nested):
        td = batch_of([[False, True, False], [False, False, False]])
        nested = split_trajectories(td, as_nested=as_nested)
        assert nested.batch_size == (3, -1)
        assert nested["observation"].layout == torch.jagged
        assert [piece.tolist() for piece in nested["observation"].unbind()] == [[1, 2], [3], [4, 5, 6]]
        assert "mask" not in nested

    def test_refuses_what_has_no_time(self):
        with pytest.raises(ShapeError, match=r"no steps to split.*\[\*B, T\].*found \[\]"):
            split_trajectories(TensorDict(done=torch.ones(1)))
        with pytest.raises(ShapeError, match=r"found \[2, 0\]"):
            split_trajectories(TensorDict(batch_size=[2, 0]))

    def test_names_what_it_misses(self):
        td = TensorDict(next=TensorDict(dome=torch.ones(3, 1), batch_size=[3]), batch_size=[3])
        with pytest.raises(MissingKeyError, match=r"split_trajectories: entry .*'done'.*done_key"):
            split_trajectories(td)
        with pytest.raises(MissingKeyError, match="entry 'episode' is read but absent"):
            split_trajectories(td, trajectory_key="episode")

    def test_refuses_two_ways_at_once(self):
        with pytest.raises(ValueError, match="pass one of them"):
            split_trajectories(batch_of([[True]]), trajectory_key="a", done_key="b")
