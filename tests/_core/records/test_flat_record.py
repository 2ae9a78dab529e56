"""Flat records: what a step may do to a tensordict, at the price of a dict."""

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.records.flat_record import FlatRecord, stack_flat_records

RECORDS = [TensorDict, FlatRecord]


@pytest.mark.parametrize("make", RECORDS)
class TestServesLikeATensorDict:
    """The operations that code for both kinds of record may use mean the same on both."""

    def test_set_and_get(self, make):
        record = make({})
        assert record.set("a", torch.ones(2)) is record
        record["b"] = torch.zeros(2)
        record.set(("next", "a"), torch.full((2,), 3.0))
        assert record["a"].tolist() == record.get("a").tolist() == [1, 1]
        assert record["next", "a"].tolist() == record.get(("next", "a")).tolist() == [3, 3]
        assert record.get("missing", None) is None
        assert record.get(("next", "missing"), "default") == "default"

    def test_missing_entries_are_key_errors(self, make):
        with pytest.raises(KeyError):
            make({})["missing"]

    def test_pop(self, make):
        record = make({"a": torch.ones(2)})
        assert record.pop("a").tolist() == [1, 1]
        assert record.pop("a", None) is None

    def test_update_keeps_what_it_does_not_name(self, make):
        record = make({"a": torch.ones(2), "b": torch.ones(2)})
        record.update(make({"a": torch.zeros(2)}))
        assert record["a"].tolist() == [0, 0]
        assert record["b"].tolist() == [1, 1]

    def test_a_copy_holds_the_same_tensors_and_its_own_places(self, make):
        record = make({"a": torch.ones(2)})
        copy = record.copy()
        assert type(copy) is make
        assert copy["a"].data_ptr() == record["a"].data_ptr()
        copy["a"] = torch.zeros(2)
        assert record["a"].tolist() == [1, 1]


@pytest.mark.parametrize("batch_size", [(), (3,), (2, 3)])
def test_stacking_equals_stacking_tensordicts(batch_size):
    steps = [
        {
            "observation": torch.randn(*batch_size, 4),
            ("next", "done"): torch.rand(*batch_size, 1) < 0.5,
            ("agents", "reward"): torch.randn(*batch_size, 2, 1),
        }
        for _ in range(5)
    ]
    stacked = stack_flat_records([FlatRecord(s) for s in steps], torch.Size(batch_size), None)
    plain = torch.stack([TensorDict(s, batch_size) for s in steps], len(batch_size))
    assert stacked.batch_size == plain.batch_size == (*batch_size, 5)
    assert set(stacked.keys(True, True)) == set(plain.keys(True, True))
    assert (stacked == plain).all()
