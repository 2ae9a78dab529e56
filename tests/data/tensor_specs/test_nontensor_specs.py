"""Objects, and choices among specs or objects."""

import numpy as np
import pytest
import torch
from tensordict import NonTensorData, NonTensorStack, TensorDict

from torchrl._core.errors import DTypeError, ShapeError, SpecError
from torchrl.data import Bounded, Categorical, Choice, Composite, NonTensor, Unbounded


class TestNonTensor:
    def test_what_is_drawn(self):
        value = NonTensor((2,), example_data="x").rand((3,))
        assert isinstance(value, NonTensorData)
        assert (value.batch_size, value.data) == ((3, 2), "x")
        value = NonTensor((2,), example_data="x", batched=True).zero((3,))
        assert isinstance(value, NonTensorStack)
        assert value.tolist() == [["x", "x"]] * 3

    def test_membership(self):
        spec = NonTensor((2,))
        assert spec.is_in(NonTensorData("x", batch_size=[2]))
        assert spec.is_in(NonTensorData("x", batch_size=[5, 2]))
        assert not spec.is_in(NonTensorData("x", batch_size=[3]))
        assert not spec.is_in(torch.zeros(2))
        assert not spec.is_in(TensorDict(batch_size=[2]))
        assert spec.is_in({"any": "object"})

    def test_a_last_size_of_one_may_be_missing(self):
        assert NonTensor((4, 1)).is_in(NonTensorData("x", batch_size=[4]))
        assert NonTensor((4, 1)).is_in(NonTensorData("x", batch_size=[4, 1]))
        assert not NonTensor((4, 1), feature_dims=0).is_in(NonTensorData("x", batch_size=[3]))
        assert NonTensor((4, 3), feature_dims=1).is_in(NonTensorData("x", batch_size=[4]))

    def test_conversion(self):
        spec = NonTensor((2,), example_data="x")
        assert spec.encode("y").data == "y"
        assert spec.to_numpy(spec.encode("y")) == "y"
        batched = NonTensor((2,), batched=True)
        assert batched.encode(["a", "b"]).tolist() == ["a", "b"]
        assert batched.to_numpy(batched.encode(["a", "b"])).tolist() == ["a", "b"]
        assert spec.project("y") == "y"

    def test_strangers_are_described(self):
        with pytest.raises(DTypeError, match=r"'state' is a tensor; .*Use Unbounded or Bounded"):
            NonTensor().assert_is_in(torch.zeros(1), "state")
        with pytest.raises(ShapeError, match="wrong shape"):
            NonTensor((2,)).assert_is_in(NonTensorData("x", batch_size=[3]))

    def test_examples_make_a_difference(self):
        assert NonTensor(example_data=1) == NonTensor(example_data=1)
        assert NonTensor(example_data=1) != NonTensor(example_data=2)

    @pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x, "a"), lambda x: {"k": [x]}])
    def test_examples_may_hold_arrays(self, wrap):
        for make in (np.array, torch.tensor):
            spec = NonTensor(example_data=wrap(make([1, 2])))
            assert spec == NonTensor(example_data=wrap(make([1, 2])))
            assert spec != NonTensor(example_data=wrap(make([1, 3])))
            assert spec != NonTensor(example_data=wrap(make([1])))
            assert spec != NonTensor(example_data=None)


class TestChoice:
    def test_every_choice_is_drawn(self):
        spec = Choice([Bounded(0, 1, (2,)), Bounded(4, 5, (2,))])
        values = [spec.rand() for _ in range(40)]
        assert {int(value[0] > 2) for value in values} == {0, 1}
        assert spec.is_in(torch.stack(values))
        assert not spec.is_in(torch.tensor([0.5, 4.5]))
        assert spec.project(torch.tensor([0.5, 4.5])).tolist() == [0.5, 1.0]
        assert spec.project(torch.tensor([4.5, 4.5])).tolist() == [4.5, 4.5]

    def test_objects(self):
        spec = Choice(["a", "b"])
        assert {spec.rand().data for _ in range(40)} == {"a", "b"}
        assert spec.is_in("a")
        assert spec.is_in(NonTensorStack.from_list(["a", "b"]))
        assert not spec.is_in("c")
        assert spec.cardinality() == len(spec.enumerate()) == 2
        assert spec.project("c").data == "a"
        with pytest.raises(SpecError, match=r"none of the choices; expected \['a', 'b'\]"):
            spec.assert_is_in("c")

    def test_composites(self):
        spec = Choice([Composite(a=Categorical(2)), Composite(a=Unbounded(dtype=torch.int64))])
        assert spec.is_in(spec.rand())

    def test_counting(self):
        spec = Choice([Categorical(2), Categorical(3)])
        assert spec.cardinality() == 5
        assert spec.enumerate().tolist() == [0, 1, 0, 1, 2]

    @pytest.mark.parametrize(
        "choices", [[], [Unbounded((2,)), Unbounded((3,))], ["a", Unbounded()], [Unbounded(), "a"]]
    )
    def test_choices_are_of_one_kind(self, choices):
        with pytest.raises(SpecError, match="needs choices of one kind"):
            Choice(choices)
