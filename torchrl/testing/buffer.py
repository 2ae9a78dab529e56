"""What every replay buffer must do, whatever its storage, sampler and writer.

Each check takes a function that makes a fresh, empty buffer, and raises ``AssertionError`` where
the buffer errs. Use them on your own storages, samplers and writers:

>>> from torchrl.data import LazyTensorStorage, ReplayBuffer
>>> check_agrees_with_a_queue(lambda: ReplayBuffer(storage=LazyTensorStorage(12)))
"""

from __future__ import annotations

import copy
import random
import re
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict, TensorDictBase

from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError, UnexpectedKeyError
from torchrl._core.files import CHECKSUMS, write_checksums

EPISODE = 3


def transitions(first: int, count: int, row_shape: Sequence[int] = ()) -> TensorDict:
    """Return ``count`` rows ``[N, *W]``; item ``i`` is known by ``item == i`` in every entry.

    Every third row ends an episode.
    """
    width = int(torch.Size(row_shape).numel())
    item = torch.arange(first * width, (first + count) * width).view(count, *row_shape)
    row = torch.arange(first, first + count).view(count, *(1,) * len(row_shape), 1)
    done = (row % EPISODE == EPISODE - 1).expand(*item.shape, 1).clone()
    size = item.shape
    after = torch.where(done.squeeze(-1), item + 0.5, item + width)  # an end is no beginning
    following = TensorDict(
        observation=after.unsqueeze(-1).expand(*size, 2).double(),
        reward=item.unsqueeze(-1).float(),
        done=done,
        truncated=torch.zeros_like(done),
        terminated=done.clone(),
        batch_size=size,
    )
    observation = item.unsqueeze(-1).expand(*size, 2).double()
    return TensorDict(
        item=item,
        observation=observation.clone(),
        is_init=done.roll(1, 0),
        td_error=item.float() + 1,
        next=following,
        batch_size=size,
    )


def check_agrees_with_a_queue(make: Callable[[], Any], row_shape: Sequence[int] = ()) -> None:
    """A buffer of 12 rows holds, and hands out, what a queue of that length would."""
    _check_queue(make(), (1, 5, 4, 7, 0, 12, 3, 30, 1), row_shape)
    _check_queue(make(), (17, 2), row_shape)


def _check_queue(buffer: Any, sizes: Sequence[int], row_shape: Sequence[int]) -> None:
    width = int(torch.Size(row_shape).numel())
    queue, row = deque[int](maxlen=12), 0
    for size in sizes:
        if size:
            _extend(buffer, row, size, row_shape)
            queue.extend(range(row, row + size))
            row += size
        buffer.add(transitions(row, 1, row_shape)[0])
        queue.append(row)
        row += 1
        expected = {r * width + w for r in queue for w in range(width)}
        assert len(buffer) == len(expected), (len(buffer), len(expected))
        assert set(buffer[:]["item"].flatten().tolist()) == expected
        sample, info = buffer.sample(12, return_info=True)
        _check_sample(sample, info, buffer, expected)


def _extend(buffer: Any, row: int, size: int, row_shape: Sequence[int]) -> None:
    data = transitions(row, size, row_shape)
    slots = buffer.extend(data.transpose(0, buffer.dim_extend) if row_shape else data)
    assert slots.shape == (size,)


def _check_sample(
    sample: TensorDictBase, info: dict[Any, Any], buffer: Any, expected: set[int]
) -> None:
    items = sample["item"]
    assert items.numel() > 0
    assert set(items.tolist()) <= expected, "an item that was never stored, or is overwritten"
    assert (sample["observation"] == items.unsqueeze(-1)).all(), "a torn row"
    assert (sample["next", "reward"].squeeze(-1) == items).all(), "a torn row"
    ended = sample["next", "terminated"].squeeze(-1)
    after = torch.where(ended, items + 0.5, items + buffer.storage.width)
    assert (sample["next", "observation"] == after.unsqueeze(-1)).all(), "a torn row"
    index = info["index"]
    stored = buffer[:]["item"]
    found = stored[index] if index.ndim == 1 else stored[index.unbind(-1)]
    assert (found == items).all(), "info['index'] does not lead back to the sample"


def check_refuses_bad_rows(make: Callable[[], Any]) -> None:
    """Rows that do not look like the first ones raise, by name, and leave no trace."""
    buffer = make()
    buffer.extend(transitions(0, 8))
    before = buffer.state_dict()
    good = transitions(8, 6)
    bad = {
        r"entry 'observation' is missing .*expected \[.*'observation'.*\], found": (
            MissingKeyError,
            good.exclude("observation"),
        ),
        r"entry \('next', 'reward'\) is missing": (
            MissingKeyError,
            good.exclude(("next", "reward")),
        ),
        r"entry 'extra' has no place .*found \[.*'extra'": (
            UnexpectedKeyError,
            good.clone().set("extra", torch.zeros(6)),
        ),
        r"entry \('next', 'extra'\) has no place": (
            UnexpectedKeyError,
            good.clone().set(("next", "extra"), torch.zeros(6)),
        ),
        r"'observation' has the wrong shape; expected \[(6, )?2\], found \[(6, )?3\]": (
            ShapeError,
            good.clone().set("observation", torch.zeros(6, 3, dtype=torch.float64)),
        ),
        r"'observation' has the wrong dtype; expected torch.float64, found torch.float32": (
            DTypeError,
            good.clone().set("observation", torch.zeros(6, 2)),
        ),
    }
    for words, (error, rows) in bad.items():
        for write in (lambda rows=rows: buffer.extend(rows), lambda rows=rows: buffer.add(rows[0])):
            with pytest.raises(error, match=words):
                write()
            assert_same_state(buffer.state_dict(), before)
    buffer.extend(good)
    assert len(buffer) == 12


def check_continues_exactly(
    make: Callable[[], Any],
    row_shape: Sequence[int] = (),
    travel: Callable[[Any, Any], None] | None = None,
) -> None:
    """A buffer that takes over a state goes on, bit for bit, as the first one does.

    Args:
        make: Makes a buffer.
        row_shape: ``[*W]``.
        travel: Brings the state of its first argument into its second; by default through
            ``state_dict`` and ``load_state_dict``.
    """
    first, second = make(), make()
    _extend(first, 0, 9, row_shape)
    first.sample(6)
    _extend(first, 9, 7, row_shape)
    first.sample(6)
    if travel is None:
        second.load_state_dict(first.state_dict())
    else:
        travel(first, second)
    for step in range(4):
        batches = []
        for buffer in (first, second):
            torch.manual_seed(step)
            batches.append(buffer.sample(6))
            _extend(buffer, 16 + 3 * step, 3, row_shape)
            buffer.add(transitions(50 + step, 1, row_shape)[0])
        assert_same(batches[0], batches[1])
    assert_same(first[:], second[:])


def check_empty_forgets(make: Callable[[], Any], row_shape: Sequence[int] = ()) -> None:
    """After ``empty()`` a buffer is like new."""
    buffer = make()
    _extend(buffer, 0, 9, row_shape)
    buffer.sample(6)
    buffer.empty()
    assert len(buffer) == 0
    with pytest.raises(RuntimeError, match=r"empty"):
        buffer.sample(6)
    _extend(buffer, 20, 7, row_shape)
    assert int(buffer[:]["item"].min()) == 20 * int(torch.Size(row_shape).numel())
    assert int(buffer.sample(6)["item"].min()) >= 20


def check_prefetches_what_is_stored(
    make: Callable[..., Any], row_shape: Sequence[int] = (), seeds: Sequence[int] = (0, 1, 2)
) -> None:
    """Batches that are prepared ahead are those of a buffer without prefetching, bit for bit.

    Two buffers go through the same random changes: rows that are written, added, replaced, loaded
    and forgotten, priorities, a transform, samples of two sizes.

    Args:
        make: ``(prefetch, generator) -> buffer``, an empty one that takes both as its own.
        row_shape: ``[*W]``.
        seeds: Of the changes.
    """
    for seed in seeds:
        plain, ahead = (
            make(prefetch=prefetch, generator=torch.Generator().manual_seed(seed))
            for prefetch in (None, 3)
        )
        changes, row = random.Random(seed), 0
        for _ in range(40):
            kind = changes.choice(["sample"] * 5 + ["extend", "add", "write", "load", "other"])
            if row == 0 or kind == "extend":
                size = changes.choice([1, 3, 12])
                for buffer in (plain, ahead):
                    _extend(buffer, row, size, row_shape)
                row += size
            elif kind == "sample":
                for size in [changes.choice([6, 6, 3])] * changes.randint(1, 4):
                    _compare_samples(plain, ahead, size)
            else:
                for buffer in (plain, ahead):
                    _change(buffer, kind, row, row_shape)
                row += 1
        assert_same(plain[:], ahead[:])


def _compare_samples(plain: Any, ahead: Any, size: int) -> None:
    """Sample both; both return the same, or both have nothing to sample."""
    assert plain.can_sample(size) == ahead.can_sample(size), "can_sample() differs"
    if not plain.can_sample(size):
        return
    (left, known), (right, about) = (
        buffer.sample(size, return_info=True) for buffer in (plain, ahead)
    )
    ours, theirs = right["item"].tolist(), left["item"].tolist()
    assert ours == theirs, f"prefetching gave the items {ours} in place of {theirs}"
    assert_same(left, right)
    assert_same_state(known, about)
    assert plain.ran_out == ahead.ran_out


def _change(buffer: Any, kind: str, row: int, row_shape: Sequence[int]) -> None:
    """Change a buffer that is not empty in one way; one new row makes priorities count at once."""
    if kind == "write" and not row_shape:
        buffer[row % len(buffer)] = transitions(row, 1)[0]
    elif kind == "load":
        buffer.load_state_dict(buffer.state_dict())
    elif kind == "other":
        if row % 3 == 0:
            buffer.append_transform(_Shift())
        elif row % 3 == 1:
            buffer.empty()
        elif len(buffer):
            index = buffer.storage.coordinates(torch.arange(len(buffer)))
            buffer.update_priority(index, torch.arange(len(buffer)) % 5 + 1.0)
    buffer.add(transitions(row, 1, row_shape)[0])


class _Shift:
    """A transform that changes an entry of a sample."""

    def __call__(self, data: TensorDictBase) -> TensorDictBase:
        return data.set("shifted", data["item"] + data.get("shifted", 1))


class _Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def check_saves_are_safe(make: Callable[[], Any], folder: Path) -> None:
    """A save that is damaged, booby-trapped or of another kind raises, and changes nothing.

    A flipped bit in any file is an error that names the file; no code of a file runs; a state that
    one part cannot take leaves all parts as they were.

    Args:
        make: Makes a fresh, empty buffer.
        folder: An empty folder.
    """
    saved, mine = make(), make()
    saved.extend(transitions(0, 7))
    mine.extend(transitions(40, 5))
    before = copy.deepcopy(mine.state_dict())
    saved.dumps(folder / "save")
    for file in sorted((folder / "save").rglob("*")):
        if file.is_file() and file.stat().st_size:
            _check_damage(mine, before, file, folder / "save")
    for file in sorted((folder / "save").rglob("*.pt")):
        _check_trap(mine, before, file, folder)
    state = saved.state_dict()
    for part in state:
        broken = {name: value for name, value in state.items() if name != part}
        _check_refused(mine, before, partial(mine.load_state_dict, broken))
        _check_refused(mine, before, partial(mine.load_state_dict, {**state, part: "?"}))
    mine.loads(folder / "save")
    assert_same_state(mine.state_dict(), saved.state_dict())


def _check_damage(buffer: Any, before: Any, file: Path, save: Path) -> None:
    whole = file.read_bytes()
    for damage in (bytes([whole[0] ^ 1]) + whole[1:], whole[: len(whole) // 2], b""):
        file.write_bytes(damage)
        with pytest.raises(Exception, match=re.escape(file.name)):
            buffer.loads(save)
        assert_same_state(buffer.state_dict(), before)
    file.write_bytes(whole)


def _check_trap(buffer: Any, before: Any, file: Path, folder: Path) -> None:
    """Load a file that holds malicious code, with checksums that are gone or fit."""
    whole, mark, notes = file.read_bytes(), folder / "mark", file.parent
    while not (notes / CHECKSUMS).exists():
        notes = notes.parent
    checksums = (notes / CHECKSUMS).read_bytes()
    state = torch.load(file, weights_only=False)
    torch.save({**state, "trap": _Trap(mark)} if isinstance(state, dict) else _Trap(mark), file)
    for refresh in (True, False):
        write_checksums(notes) if refresh else (notes / CHECKSUMS).unlink()
        _check_refused(buffer, before, lambda: buffer.loads(folder / "save"))
        assert not mark.exists(), f"code that stands in {file.name} ran"
    file.write_bytes(whole)
    (notes / CHECKSUMS).write_bytes(checksums)


def _check_refused(buffer: Any, before: Any, load: Callable[[], None]) -> None:
    """A load that fails changes nothing; one that succeeds is undone."""
    try:
        load()
    except Exception:
        assert_same_state(buffer.state_dict(), before)
        return
    buffer.load_state_dict(before)


def assert_same(left: TensorDictBase, right: TensorDictBase) -> None:
    """Both hold the same entries with the same bits."""
    mine: dict[Any, Any] = dict(left.items(True, True))
    theirs: dict[Any, Any] = dict(right.items(True, True))
    assert mine.keys() == theirs.keys(), (mine.keys(), theirs.keys())
    for key, value in mine.items():
        assert value.dtype == theirs[key].dtype, key
        assert torch.equal(value, theirs[key]), (key, value, theirs[key])


def assert_same_state(left: Any, right: Any) -> None:
    """Two state dicts are alike, down to their tensors."""
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, TensorDictBase):
        assert_same(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same_state(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert_same_state(a, b)
    else:
        assert left == right, (left, right)
