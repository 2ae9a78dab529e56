"""Hashes, queries, and maps of tensordicts."""

import copy
import pickle

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import MissingKeyError, ShapeError
from torchrl.data import (
    BinaryToDecimal,
    HashToInt,
    LazyMemmapStorage,
    LazyTensorStorage,
    ListStorage,
    QueryModule,
    RandomProjectionHash,
    SipHash,
    TensorDictMap,
)
from torchrl.data.map.hash import siphash


def keys(*rows):
    a, b = zip(*rows, strict=True)
    return TensorDict(a=torch.tensor(a).float().unsqueeze(-1), b=torch.tensor(b), batch_size=[len(rows)])


def values(*numbers):
    return TensorDict(value=torch.tensor(numbers), batch_size=[len(numbers)])


def test_bits():
    module = BinaryToDecimal(4, "cpu", torch.int32, convert_to_binary=True)
    assert module(torch.tensor([[-1.0, 0.0, 2.0, 3.0], [0.1, 0, 0, 0]])).tolist() == [3, 8]
    assert module(torch.ones(2, 3, 4)).shape == (2, 3)
    assert module(torch.tensor([[0.0, 0, 0, 1, 0, 0, 1, 0]])).tolist() == [3]  # 1 + 2
    for width in (3, 6, 0):
        with pytest.raises(ShapeError, match="multiple of 4"):
            module(torch.ones(2, width))


def plain_siphash(message, key):
    """SipHash-2-4 of one message, in Python's integers, as the paper has it."""
    mask = 2**64 - 1
    rotate = lambda x, b: ((x << b) | (x >> (64 - b))) & mask
    v = [
        key[0] ^ 0x736F6D6570736575,
        key[1] ^ 0x646F72616E646F6D,
        key[0] ^ 0x6C7967656E657261,
        key[1] ^ 0x7465646279746573,
    ]

    def rounds(count):
        for _ in range(count):
            v[0] = (v[0] + v[1]) & mask
            v[1] = rotate(v[1], 13) ^ v[0]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[3]) & mask
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & mask
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & mask
            v[1] = rotate(v[1], 17) ^ v[2]
            v[2] = rotate(v[2], 32)

    padded = message + bytes(7 - len(message) % 8) + bytes([len(message) % 256])
    for start in range(0, len(padded), 8):
        word = int.from_bytes(padded[start : start + 8], "little")
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 15, 300])
def test_siphash_is_that_of_the_paper(size):
    rng = np.random.default_rng(size)
    rows, key = rng.integers(256, size=(3, size), dtype=np.uint8), (3, 2**63 + 5)
    assert siphash(rows, key).tolist() == [plain_siphash(row.tobytes(), key) for row in rows]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.bool, torch.complex64])
def test_equal_rows_have_equal_hashes(dtype):
    rows = torch.tensor([[0, 1, 1], [0, 1, 1], [1, 0, 0]]).to(dtype)
    hashes = SipHash()(rows)
    assert hashes.dtype == torch.int64
    assert hashes[0] == hashes[1] != hashes[2]
    assert (SipHash()(rows.reshape(3, 3, 1)) == hashes).all()
    texts = SipHash(as_tensor=False)(rows)
    assert texts[0] == texts[1] != texts[2]
    with pytest.raises(ShapeError, match="hashes rows"):
        SipHash()(rows[0, 0])


def test_zeros_of_both_signs_are_equal():
    hashes = SipHash()(torch.tensor([[0.0], [-0.0]]))
    assert hashes[0] == hashes[1]


def test_directions_are_part_of_the_state():
    torch.manual_seed(0)
    source, target = RandomProjectionHash(n_components=3), RandomProjectionHash(n_components=3)
    rows = torch.randn(4, 5, 2)
    expected = source(rows)
    target.load_state_dict(source.state_dict())
    assert (target(rows) == expected).all()
    assert (copy.deepcopy(source)(rows) == expected).all()
    close = source(rows + 1e-9)
    assert (close == expected).all()
    with pytest.raises(ShapeError, match="rows have another size"):
        source(rows[:, 1:])
    ones = RandomProjectionHash(n_components=1, init_method=torch.nn.init.ones_)
    assert ones(torch.tensor([[1.0, 2.0], [2.0, 1.0]])).unique().numel() == 1


def test_numbers_of_hashes():
    numbers = HashToInt()
    assert numbers(torch.tensor([[7, 7], [3, 7]]), extend=True).tolist() == [[0, 0], [1, 0]]
    assert numbers(torch.tensor([3, 4])).tolist() == [1, -1]
    other = HashToInt()
    other.load_state_dict(numbers.state_dict())
    assert other(torch.tensor([3, 7])).tolist() == [1, 0]
    assert len(pickle.loads(pickle.dumps(numbers))) == 2
    numbers.clear()
    assert len(numbers) == 0


@pytest.mark.parametrize("hashes", [None, SipHash(), [SipHash(), lambda x: x.long().flatten()]])
def test_queries(hashes):
    query = QueryModule(["a", "b"], index_key="place", hash_key="hash", hash_module=hashes)
    td = query(keys((1, 2), (1, 2), (1, 3), (2, 2)))
    assert td["place"].tolist() == [0, 0, 1, 2]
    assert td["hash"][0] == td["hash"][1]
    again = query(keys((2, 2), (9, 9)), extend=False, write_hash=False)
    assert again["place"].tolist() == [2, -1]
    assert "hash" not in set(again.keys())
    given = keys((1, 3))
    assert query(given, clone=True) is not given
    assert "place" not in set(given.keys())
    assert query(keys((1, 3), (1, 2)).reshape(2, 1))["place"].tolist() == [[1], [0]]
    assert query(keys((1, 3))[0])["place"] == 1
    with pytest.raises(MissingKeyError):
        query(keys((1, 2)).exclude("a"))


def test_one_hash_module_for_each_entry():
    with pytest.raises(ValueError, match="one hash module for each entry"):
        QueryModule(["a", "b"], hash_module=[SipHash()])


@pytest.mark.parametrize("storage", [ListStorage, LazyTensorStorage, LazyMemmapStorage])
def test_maps_return_what_was_stored(storage):
    table = TensorDictMap(query_module=QueryModule(["a", "b"]), storage=storage(10))
    assert len(table) == 0
    table[keys((1, 1), (2, 1), (1, 1))] = values(1, 2, 3)  # of equal keys the last counts
    assert len(table) == 2
    assert table[keys((2, 1), (1, 1))]["value"].tolist() == [2, 3]
    assert table[keys((2, 1))[0]]["value"] == 2
    assert table[keys((2, 1), (1, 1)).reshape(2, 1)]["value"].tolist() == [[2], [3]]
    table[keys((2, 1))[0]] = values(7)[0]
    assert table[keys((2, 1)).set("other", torch.zeros(1))]["value"].tolist() == [7]
    assert table.contains(keys((2, 1), (3, 3))).tolist() == [True, False]
    assert keys((2, 1)) in table
    assert keys((2, 1), (3, 3)) not in table
    with pytest.raises(MissingKeyError, match="1 of 2"):
        table[keys((2, 1), (3, 3))]
    with pytest.raises(ShapeError, match="as many values as keys"):
        table[keys((2, 1), (3, 3))] = values(1)
    table.clear()
    assert len(table) == 0
    assert not table.contains(keys((2, 1))).any()


def test_values_are_merged_by_a_function():
    def add(new, old=None):
        return new if old is None else new + old

    table = TensorDictMap(query_module=QueryModule(["a", "b"]), storage=ListStorage(10), write_fn=add)
    table[keys((1, 1), (2, 1))] = values(1, 2)
    table[keys((1, 1), (3, 1))] = values(10, 20)
    table[keys((3, 1), (3, 1), (4, 1))] = values(5, 6, 7)
    assert table[keys((1, 1), (2, 1), (3, 1), (4, 1))]["value"].tolist() == [11, 2, 31, 7]


def test_maps_of_a_pair():
    source, dest = keys((1, 1), (2, 2)), values(1, 2).set("more", torch.zeros(2))
    table = TensorDictMap.from_tensordict_pair(
        source, dest, out_keys=["value"], max_size=2, storage_constructor=LazyTensorStorage
    )
    assert table.in_keys == ["a", "b"]
    assert table.max_size == 2
    table[source] = dest
    assert sorted(table[source].keys()) == ["value"]
    doubled = TensorDictMap.from_tensordict_pair(source, dest, in_keys=["a"], collate_fn=lambda td: td * 2)
    doubled[source] = dest
    assert doubled[source]["value"].tolist() == [2, 4]
