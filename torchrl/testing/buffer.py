"""Contract checks of replay buffers and of their parts: samplers, storages, writers.

``check_buffer``, ``check_sampler``, ``check_storage`` and ``check_writer`` take a function that
makes a new component, run all checks of its kind and report those that fail:

>>> from torchrl.data import LazyTensorStorage, RandomSampler, ReplayBuffer, RoundRobinWriter
>>> check_sampler(RandomSampler)
>>> check_storage(lambda: LazyTensorStorage(12))
>>> check_writer(RoundRobinWriter)
>>> check_buffer(lambda: ReplayBuffer(storage=LazyTensorStorage(12)))

Each check is also a function of its own, ``check(make)`` with ``make() -> buffer``.
"""

from __future__ import annotations

import copy
import random
import re
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError, UnexpectedKeyError
from torchrl._core.files import CHECKSUMS, write_checksums
from torchrl.data import LazyTensorStorage, ReplayBuffer, Sampler, Storage, Writer
from torchrl.data.replay_buffers.samplers.base import check_drawn
from torchrl.testing.report import raises, remedy, run_checks

ROWS = 12  # of the storages that are checked
EPISODE = 3
Make = Callable[[], ReplayBuffer]
Extra = Mapping[NestedKey, Callable[[tuple[int, ...]], Tensor]]


def transitions(first: int, count: int, row_shape: Sequence[int] = ()) -> TensorDict:
    """Return ``count`` rows ``[N, *W]``; every entry of item ``i`` is a function of ``i``.

    Every third row ends an episode.
    """
    width = int(torch.Size(row_shape).numel())
    item = torch.arange(first * width, (first + count) * width).view(count, *row_shape)
    row = torch.arange(first, first + count).view(count, *(1,) * len(row_shape), 1)
    done = (row % EPISODE == EPISODE - 1).expand(*item.shape, 1).clone()
    size = item.shape
    after = torch.where(done.squeeze(-1), item + 0.5, item + width)  # the last observation of an episode
    next_root = TensorDict(
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
        next=next_root,
        batch_size=size,
    )


def check_agrees_with_a_queue(make: Make, row_shape: Sequence[int] = ()) -> None:
    """A buffer of 12 rows holds and samples the last 12 rows that were written."""
    _check_queue(make(), (1, 5, 4, 7, 0, 12, 3, 30, 1), row_shape)
    _check_queue(make(), (17, 2), row_shape)


def _check_queue(buffer: ReplayBuffer, sizes: Sequence[int], row_shape: Sequence[int]) -> None:
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


def _extend(buffer: ReplayBuffer, row: int, size: int, row_shape: Sequence[int]) -> None:
    data = transitions(row, size, row_shape)
    index = buffer.extend(data.transpose(0, buffer.dim_extend) if row_shape else data)
    items = size * torch.Size(row_shape).numel()
    assert index.shape == ((items, buffer.ndim) if row_shape else (size,))


def _check_sample(sample: TensorDictBase, info: dict[Any, Any], buffer: ReplayBuffer, expected: set[int]) -> None:
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


def check_refuses_bad_rows(make: Make) -> None:
    """Rows that differ from the first ones in layout raise a typed error; nothing is written."""
    buffer = make()
    buffer.extend(transitions(0, 8))
    before = buffer.state_dict()
    good = transitions(8, 6)
    for words, (error, rows) in _bad_rows(good).items():
        for write in (lambda rows=rows: buffer.extend(rows), lambda rows=rows: buffer.add(rows[0])):
            with raises(error, match=words):
                write()
            assert_same_state(buffer.state_dict(), before)
    buffer.extend(good)
    assert len(buffer) == 12


def _bad_rows(good: TensorDict) -> dict[str, tuple[type[Exception], TensorDict]]:
    """Return rows that differ from ``good [6]`` in layout, by the message that they cause."""
    return {
        r"entry 'observation' is missing .*expected \[.*'observation'.*\], found": (
            MissingKeyError,
            good.exclude("observation"),
        ),
        r"entry \('next', 'reward'\) is missing": (MissingKeyError, good.exclude(("next", "reward"))),
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


def check_continues_exactly(
    make: Make, row_shape: Sequence[int] = (), transfer: Callable[[ReplayBuffer, ReplayBuffer], None] | None = None
) -> None:
    """A buffer that loads the state of another one continues bit for bit as the other does.

    Args:
        make: Makes a buffer.
        row_shape: ``[*W]``.
        transfer: Copies the state of its first argument to its second; with ``state_dict`` and
            ``load_state_dict`` if ``None``.
    """
    first, second = make(), make()
    _extend(first, 0, 9, row_shape)
    first.sample(6)
    _extend(first, 9, 7, row_shape)
    first.sample(6)
    if transfer is None:
        second.load_state_dict(first.state_dict())
    else:
        transfer(first, second)
    for step in range(4):
        batches, infos = [], []
        for buffer in (first, second):
            torch.manual_seed(step)
            data, info = buffer.sample(6, return_info=True)
            batches.append(data)
            infos.append(info)
            _extend(buffer, 16 + 3 * step, 3, row_shape)
            buffer.add(transitions(50 + step, 1, row_shape)[0])
        with remedy("after loading a state dict; what changes between draws belongs in state_dict()"):
            assert_same_state(infos[1], infos[0], "info")
            assert_same(batches[0], batches[1])
    assert_same(first[:], second[:])


def check_empty_forgets(make: Make, row_shape: Sequence[int] = ()) -> None:
    """After ``empty()`` a buffer behaves like a new one; only info may depend on what was before."""
    buffer, new = make(), make()
    _extend(buffer, 0, 9, row_shape)
    buffer.sample(6)
    buffer.empty()
    assert len(buffer) == 0
    with raises(RuntimeError, match=r"empty"):
        buffer.sample(6)
    found = []
    for each in (buffer, new):
        torch.manual_seed(0)
        _extend(each, 20, 7, row_shape)
        found.append([each.sample(6)["item"].tolist() for _ in range(2)])
    assert int(buffer[:]["item"].min()) == 20 * int(torch.Size(row_shape).numel())
    stale = f"after empty() the samples have the items {found[0]}, those of a new buffer {found[1]}"
    assert found[0] == found[1], f"{stale}; reset what depends on the stored items, and cursors, in _empty()"


def check_prefetches_what_is_stored(
    make: Callable[..., Any], row_shape: Sequence[int] = (), seeds: Sequence[int] = (0, 1, 2)
) -> None:
    """Prefetched batches equal those of a buffer without prefetching, bit for bit.

    Both buffers get the same random calls: rows written, added, replaced, loaded and deleted,
    priorities, a transform, samples of two sizes.

    Args:
        make: ``(prefetch, generator) -> buffer``: an empty buffer with these two arguments.
        row_shape: ``[*W]``.
        seeds: Seeds of the random calls.
    """
    for seed in seeds:
        plain, ahead = (
            make(prefetch=prefetch, generator=torch.Generator().manual_seed(seed)) for prefetch in (None, 3)
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
                for size in [changes.choice([6, 6, 4])] * changes.randint(1, 4):
                    _compare_samples(plain, ahead, size)
            else:
                for buffer in (plain, ahead):
                    _change(buffer, kind, row, row_shape)
                row += 1
        assert_same(plain[:], ahead[:])


def _compare_samples(plain: ReplayBuffer, ahead: ReplayBuffer, size: int) -> None:
    """Sample both; both return the same, or both have nothing to sample."""
    assert plain.can_sample(size) == ahead.can_sample(size), "can_sample() differs"
    if not plain.can_sample(size):
        return
    (left, known), (right, about) = (buffer.sample(size, return_info=True) for buffer in (plain, ahead))
    ours, theirs = right["item"].tolist(), left["item"].tolist()
    assert ours == theirs, (
        f"prefetching gave the items {ours} in place of {theirs}; what sample() changes belongs in state_dict(), "
        "and random numbers are drawn with generator=self.generator"
    )
    with remedy(
        "with prefetching; what sample() changes belongs in state_dict(), and in pass_state() where that is overridden"
    ):
        assert_same_state(about, known, "info")
        assert_same(left, right)
        assert plain.ran_out == ahead.ran_out, f"ran_out is {ahead.ran_out} in place of {plain.ran_out}"


def _change(buffer: ReplayBuffer, kind: str, row: int, row_shape: Sequence[int]) -> None:
    """Change a buffer that is not empty in one way, then add a row: that drops prefetches."""
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


def check_saves_are_safe(make: Make, row_shape: Sequence[int] = (), folder: Path | None = None) -> None:
    """Loading a save that is damaged, malicious or of another kind raises and changes nothing.

    A flipped bit in any file is an error that names the file; no code of a file runs; a state that
    one part cannot load leaves all parts unchanged.

    Args:
        make: Makes a new, empty buffer.
        row_shape: ``[*W]``.
        folder: An empty folder; a temporary one if ``None``.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as name:
            return check_saves_are_safe(make, row_shape, Path(name))
    saved, mine = make(), make()
    _extend(saved, 0, 7, row_shape)
    _extend(mine, 40, 5, row_shape)
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
    return None


def _check_damage(buffer: ReplayBuffer, before: dict[str, Any], file: Path, save: Path) -> None:
    whole = file.read_bytes()
    for damage in (bytes([whole[0] ^ 1]) + whole[1:], whole[: len(whole) // 2], b""):
        file.write_bytes(damage)
        with raises(Exception, match=re.escape(file.name)):
            buffer.loads(save)
        assert_same_state(buffer.state_dict(), before)
    file.write_bytes(whole)


def _check_trap(buffer: ReplayBuffer, before: dict[str, Any], file: Path, folder: Path) -> None:
    """Load a file that holds malicious code, with checksums that are absent or fit."""
    whole, mark, notes = file.read_bytes(), folder / "mark", file.parent
    while not (notes / CHECKSUMS).exists():
        notes = notes.parent
    checksums = (notes / CHECKSUMS).read_bytes()
    state = torch.load(file, weights_only=False)
    torch.save({**state, "trap": _Trap(mark)} if isinstance(state, dict) else _Trap(mark), file)
    for refresh in (True, False):
        write_checksums(notes) if refresh else (notes / CHECKSUMS).unlink()
        _check_refused(buffer, before, lambda: buffer.loads(folder / "save"))
        assert not mark.exists(), f"code in {file.name} was executed"
    file.write_bytes(whole)
    (notes / CHECKSUMS).write_bytes(checksums)


def _check_refused(buffer: ReplayBuffer, before: dict[str, Any], load: Callable[[], object]) -> None:
    """Load; a load that fails must change nothing, one that succeeds is undone."""
    try:
        load()
    except Exception:
        assert_same_state(buffer.state_dict(), before)
        return
    buffer.load_state_dict(before)


def check_bad_rows_change_nothing(make: Make, row_shape: Sequence[int] = ()) -> None:
    """Rows of another layout are stored, or raise an error and change no part of the buffer."""
    buffer = make()
    _extend(buffer, 0, 8, row_shape)
    before = copy.deepcopy(buffer.state_dict())
    for _, rows in _bad_rows(transitions(8, 6)).values():
        data = torch.stack([rows] * 2, 0 if buffer.dim_extend else 1) if row_shape else rows
        _check_refused(buffer, before, partial(buffer.extend, data))


def check_sampler_output(make: Callable[[], Sampler], extra: Extra | None = None) -> None:
    """``sample`` returns positions ``[B]`` of stored items, and info with as many elements.

    Checked with storages of one and of two dimensions, partly filled and full.
    """
    for row_shape in ((), (2,)):
        buffer = _buffer_of(make(), row_shape, extra)
        for row, count in ((0, 5), (5, 9)):
            _extend(buffer, row, count, row_shape)
            for size in (6, 12):
                drawn = buffer.sampler.sample(buffer.storage, size)
                check_drawn(buffer.sampler, drawn, buffer.storage)
                assert 0 < len(drawn[0]) <= size, f"{len(drawn[0])} positions for a batch of {size}"


def check_uses_its_generator(make: Callable[[], Sampler], extra: Extra | None = None) -> None:
    """Random numbers are drawn from ``self.generator``, which the buffer sets, and from nowhere else."""
    drawn = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        buffer = _buffer_of(make(), (), extra, generator=torch.Generator().manual_seed(0))
        _extend(buffer, 0, 9, ())
        drawn.append([buffer.sample(6)["item"].tolist() for _ in range(4)])
    assert drawn[0] == drawn[1], (
        "the generator of the buffer had the same seed, but other items were drawn; draw random numbers with "
        "generator=self.generator, as in torch.randint(n, (batch_size,), generator=self.generator)"
    )


def check_positions_count_items(make: Callable[[], Sampler], extra: Extra | None = None) -> None:
    """In a storage of two dimensions, positions number items, two for each slot, and not slots."""
    buffer, highest = _buffer_of(make(), (2,), extra), 0
    for row in range(3 * ROWS):
        _extend(buffer, row, 1, (2,))
        if row >= ROWS:
            positions, _ = buffer.sampler.sample(buffer.storage, ROWS)
            highest = max(highest, int(positions.max()))
    assert highest >= ROWS, (
        f"no position above {highest} was drawn while the {ROWS} slots, of 2 items each, were filled twice; "
        "a position is slot * storage.width + column, not a slot"
    )


def check_reads_what_was_written(make: Make, row_shape: Sequence[int] = ()) -> None:
    """Rows of the storage, read by slot, and items, read by position, are those written there."""
    buffer = make()
    _extend(buffer, 0, 7, row_shape)
    storage, rows = buffer.storage, transitions(0, 7, row_shape)
    assert (storage.rows, storage.written, len(storage)) == (7, 7, 7 * storage.width)
    for index in (0, -1, slice(1, 5), torch.tensor([3, 0])):
        assert_same(_collated(storage, storage.get(index)), rows[index])
    positions = torch.tensor([5, 0, 5])
    assert_same(_collated(storage, storage.take(positions)), rows.reshape(-1)[positions])
    assert torch.equal(storage.take_entry("item", positions), positions)
    assert torch.equal(storage.positions(storage.coordinates(positions)), positions)


def _collated(storage: Storage, rows: Any) -> TensorDictBase:
    return storage.collate(rows) if isinstance(rows, list) else rows


def check_returned_slots(make: Make, row_shape: Sequence[int] = ()) -> None:
    """``extend`` and ``add`` return the slot of a row that is kept, else ``-1`` or ``None``.

    Of a storage of several dimensions they return the index of each item. Of several rows with the
    same slot the last is stored.
    """
    buffer, row = make(), 0
    for count in (5, 4, 7, 30):
        data = transitions(row, count, row_shape)
        slots = buffer.extend(data.transpose(0, buffer.dim_extend) if row_shape else data)
        assert isinstance(slots, Tensor), f"extend() returned {slots!r}"
        slots = _slots_of(slots, buffer)
        assert slots.shape == (count,), f"{count} rows, slots of shape {list(slots.shape)}"
        kept = {int(slot): number for number, slot in enumerate(slots) if slot >= 0}
        for slot, number in kept.items():
            assert_same(_collated(buffer.storage, buffer.storage.get(slot)).exclude("index"), data[number])
        row += count
    slot = buffer.add(transitions(row, 1, row_shape)[0])
    if slot is not None:
        slot = slot if isinstance(slot, int) else int(_slots_of(slot, buffer))
        stored = _collated(buffer.storage, buffer.storage.get(slot))
        assert_same(stored.exclude("index"), transitions(row, 1, row_shape)[0])


BufferCheck = Callable[..., None]
BUFFER_CHECKS: tuple[BufferCheck, ...] = (
    check_agrees_with_a_queue,
    check_continues_exactly,
    check_empty_forgets,
    check_bad_rows_change_nothing,
    check_saves_are_safe,
)
STORAGE_CHECKS: tuple[BufferCheck, ...] = (check_reads_what_was_written, *BUFFER_CHECKS)
WRITER_CHECKS: tuple[BufferCheck, ...] = (
    check_returned_slots,
    check_continues_exactly,
    check_empty_forgets,
    check_bad_rows_change_nothing,
)


def _slots_of(index: Tensor, buffer: ReplayBuffer) -> Tensor:
    """Return the slots ``[N]`` of the rows whose items ``extend`` has returned the index of."""
    if buffer.ndim == 1:
        return index
    items = index[:, 0].numel() // buffer.storage.width
    time = index[:, buffer.storage.time_dim]
    shape = list(buffer.storage.row_shape)
    shape.insert(buffer.storage.time_dim, items)
    return time.view(shape).movedim(buffer.storage.time_dim, 0).reshape(items, -1)[:, 0]


class _Completed(ReplayBuffer):
    """A buffer that adds entries to the rows that are written.

    Args:
        extra: Functions from a shape ``[*B]`` to the entries.
        **kwargs: Of :class:`ReplayBuffer`.

    The same rows get the same entries in each buffer.
    """

    def __init__(self, extra: Extra, **kwargs: Any) -> None:
        self._extra = extra
        super().__init__(**kwargs)

    def _complete(self, data: TensorDictBase) -> TensorDictBase:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(data["item"].flatten()[0]))
            return data.copy().update({key: draw(tuple(data.batch_size)) for key, draw in self._extra.items()})

    def extend(self, data: Any, **kwargs: Any) -> Tensor:
        return super().extend(self._complete(data), **kwargs)

    def add(self, data: Any) -> Any:
        return super().add(self._complete(data))

    def __setitem__(self, index: Any, data: Any) -> None:
        super().__setitem__(index, self._complete(data))


def _with_sampler(check: BufferCheck, row_shape: Sequence[int] = ()) -> BufferCheck:
    """Return a check of a sampler that runs ``check`` on a buffer with this sampler."""

    def check_buffer_with_sampler(make: Callable[[], Sampler], extra: Extra | None = None) -> None:
        check(lambda **options: _buffer_of(make(), row_shape, extra, **options), row_shape)

    check_buffer_with_sampler.__name__ = check.__name__ + "_2d" * len(row_shape)
    return check_buffer_with_sampler


def _buffer_of(sampler: Sampler, row_shape: Sequence[int], extra: Extra | None = None, **options: Any) -> ReplayBuffer:
    size = ROWS * int(torch.Size(row_shape).numel())
    storage = LazyTensorStorage(size, ndim=1 + len(row_shape))
    if extra:
        return _Completed(extra, storage=storage, sampler=sampler, **options)
    return ReplayBuffer(storage=storage, sampler=sampler, **options)


SAMPLER_CHECKS: tuple[BufferCheck, ...] = (
    check_sampler_output,
    check_uses_its_generator,
    check_positions_count_items,
    *(
        _with_sampler(check, row_shape)
        for row_shape in ((), (2,))
        for check in (check_agrees_with_a_queue, check_continues_exactly, check_empty_forgets)
    ),
    _with_sampler(check_prefetches_what_is_stored),
)


def check_buffer(make: Make, skip: Collection[str] = ()) -> None:
    """Run all checks of :data:`BUFFER_CHECKS`.

    Args:
        make: Makes a new, empty buffer of 12 rows; a row of a storage of several dimensions has two
            items along each further one.
        skip: Names of checks to leave out.

    Raises:
        ContractError: if a check fails.

    >>> from torchrl.data import LazyTensorStorage
    >>> check_buffer(lambda **options: ReplayBuffer(storage=LazyTensorStorage(12), **options))
    """
    run_checks(BUFFER_CHECKS, make, (2,) * (make().storage.ndim - 1), skip=skip)


def check_storage(make: Callable[[], Storage], skip: Collection[str] = ()) -> None:
    """Run all checks of :data:`STORAGE_CHECKS` on a buffer with this storage.

    Args:
        make: Makes a new, empty storage of 12 rows; a row of a storage of several dimensions has
            two items along each further one.
        skip: Names of checks to leave out.

    Raises:
        ContractError: if a check fails.

    >>> from torchrl.data import LazyTensorStorage
    >>> check_storage(lambda: LazyTensorStorage(12))  # raises if a check fails
    """
    storage = make()
    name, row_shape = type(storage).__name__, (2,) * (storage.ndim - 1)
    run_checks(STORAGE_CHECKS, lambda: ReplayBuffer(storage=make()), row_shape, skip=skip, name=name)


def check_sampler(make: Callable[[], Sampler], skip: Collection[str] = (), *, extra: Extra | None = None) -> None:
    """Run all checks of :data:`SAMPLER_CHECKS`, with storages of one and of two dimensions.

    The stored rows are those of :func:`transitions`: ``item``, ``observation``, ``is_init``,
    ``td_error``, and under ``next`` ``observation``, ``reward``, ``done``, ``truncated`` and
    ``terminated``. An episode has three rows.

    Args:
        make: Makes a new sampler, of at least 24 items where it has a capacity.
        skip: Names of checks to leave out.
        extra: Functions from a shape ``[*B]`` to the other stored entries that it reads.

    Raises:
        ContractError: if a check fails.

    >>> from torchrl.data import RandomSampler
    >>> check_sampler(RandomSampler)  # raises if a check fails
    """
    run_checks(SAMPLER_CHECKS, make, extra, skip=skip, name=type(make()).__name__)


def check_writer(make: Callable[[], Writer], skip: Collection[str] = ()) -> None:
    """Run all checks of :data:`WRITER_CHECKS` on a buffer with this writer.

    Args:
        make: Makes a new writer.
        skip: Names of checks to leave out.

    Raises:
        ContractError: if a check fails.

    >>> from torchrl.data import RoundRobinWriter
    >>> check_writer(RoundRobinWriter)  # raises if a check fails
    """
    name = type(make()).__name__
    run_checks(
        WRITER_CHECKS, lambda: ReplayBuffer(storage=LazyTensorStorage(ROWS), writer=make()), skip=skip, name=name
    )


def assert_same(left: TensorDictBase, right: TensorDictBase, place: object = "") -> None:
    """Assert that two tensordicts have the same entries, equal to the bit."""
    mine: dict[Any, Any] = dict(left.items(True, True))
    theirs: dict[Any, Any] = dict(right.items(True, True))
    assert mine.keys() == theirs.keys(), f"{place} has the entries {list(mine)} in place of {list(theirs)}"
    for key, value in mine.items():
        assert value.dtype == theirs[key].dtype, f"{place}{key!r} is {value.dtype} in place of {theirs[key].dtype}"
        assert torch.equal(value, theirs[key]), f"{place}{key!r} is {value} in place of {theirs[key]}"


def assert_same_state(left: Any, right: Any, place: str = "state") -> None:
    """Assert that two state dicts are equal, tensors included; ``place`` names them in the message."""
    assert type(left) is type(right), f"{place} is {left} in place of {right}"
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), f"{place} is {left} in place of {right}"
    elif isinstance(left, TensorDictBase):
        assert_same(left, right, f"{place}: ")
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), f"{place} has the keys {list(left)} in place of {list(right)}"
        for key in left:
            assert_same_state(left[key], right[key], f"{place}[{key!r}]")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), f"{place} is {left} in place of {right}"
        for number, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same_state(a, b, f"{place}[{number}]")
    else:
        assert left == right, f"{place} is {left} in place of {right}"
