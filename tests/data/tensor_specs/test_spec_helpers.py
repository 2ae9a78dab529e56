"""Boxes, specs made from data, old names, laws for users' own specs."""

import copy
import pickle

import pytest
import torch
from tensordict import LazyStackedTensorDict, NonTensorStack, TensorDict, tensorclass

import torchrl.data
import torchrl.data.tensor_specs
from torchrl.data import (
    BinaryBox,
    Bounded,
    Box,
    BoxList,
    Categorical,
    CategoricalBox,
    Composite,
    ContinuousBox,
    NonTensor,
    StackedComposite,
    Unbounded,
    make_composite_from_td,
)
from torchrl.data.tensor_specs._legacy import OLD
from torchrl.testing.spec import check_spec


@tensorclass
class Pair:
    a: torch.Tensor


class Dice(Bounded):
    def __init__(self, shape=()):
        super().__init__(1, 6, shape, dtype=torch.int64)


class TestBoxes:
    def test_continuous(self):
        box = ContinuousBox(torch.zeros(2), torch.ones(2), device="cpu")
        assert isinstance(box, Box)
        assert torch.equal(box.minimum, box.low)
        assert torch.equal(box.maximum, box.high)
        assert box == box.clone() == copy.deepcopy(box) == pickle.loads(pickle.dumps(box))
        assert box != box.to(torch.float64)
        assert box != ContinuousBox(torch.zeros(2), torch.full((2,), 2.0))
        low, high = box
        assert (low.sum(), high.sum()) == (0, 2)
        with pytest.raises(AttributeError):
            box.minimum = torch.zeros(2)

    def test_clones_share_nothing(self):
        box = ContinuousBox(torch.zeros(2), torch.ones(2))
        box.clone().low.fill_(7)
        assert (box.low == 0).all()

    @pytest.mark.parametrize("box", [CategoricalBox(3), BinaryBox(4), BoxList.from_nvec([2, 3])], ids=repr)
    def test_discrete(self, box):
        assert box == box.clone() == box.to("cpu")
        assert box != CategoricalBox(7)

    def test_lists(self):
        boxes = BoxList.from_nvec([2, 3])
        assert (len(boxes), boxes[1], [b.n for b in boxes]) == (2, CategoricalBox(3), [2, 3])

    @pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32])
    def test_unsigned_bounds_are_pickled(self, dtype):
        spec = Bounded(3, 60_000, (2,), dtype=dtype)
        assert pickle.loads(pickle.dumps(spec)) == spec


class TestFromData:
    def test_leaves(self):
        data = TensorDict(
            obs=torch.zeros(4, 3),
            flag=torch.zeros(4, dtype=torch.bool),
            sub={"x": torch.zeros(4, 1, dtype=torch.int32)},
            name="Ada",
            batch_size=[4],
        )
        spec = make_composite_from_td(data)
        assert spec.shape == spec["sub"].shape == (4,)
        assert spec["obs"] == Unbounded((4, 3), device="cpu")
        assert spec["flag"] == Unbounded((4,), "cpu", torch.bool)
        assert spec["sub", "x"].dtype == torch.int32
        assert spec["name"] == NonTensor((4,), example_data="Ada", feature_dims=0)
        assert spec.is_in(data)

    def test_null_shapes(self):
        data = TensorDict(a=torch.tensor(1.0))
        assert make_composite_from_td(data)["a"].shape == (1,)
        assert make_composite_from_td(data, unsqueeze_null_shapes=False)["a"].shape == ()

    def test_dynamic_shapes(self):
        data = TensorDict(a=torch.zeros(4, 3), b=torch.zeros(4), batch_size=[4])
        spec = make_composite_from_td(data, dynamic_shape=True)
        assert (spec["a"].shape, spec["b"].shape) == ((4, -1), (4,))
        assert spec.is_in(TensorDict(a=torch.zeros(4, 7), b=torch.zeros(4), batch_size=[4]))

    def test_tensorclasses_lazy_stacks_and_devices(self):
        spec = make_composite_from_td(Pair(a=torch.zeros(2, 3), batch_size=[2]))
        assert spec.data_cls is Pair
        assert isinstance(spec.rand(), Pair)
        lazy = LazyStackedTensorDict(TensorDict(a=torch.zeros(2)), TensorDict(a=torch.zeros(3)))
        spec = make_composite_from_td(lazy)
        assert isinstance(spec, StackedComposite)
        assert spec.is_in(lazy)
        assert make_composite_from_td(TensorDict(device="cpu")).device == torch.device("cpu")

    def test_stacks_of_objects(self):
        data = TensorDict(s=NonTensorStack.from_list(["a", "b"]), batch_size=[2])
        spec = make_composite_from_td(data)
        assert spec["s"].example_data == ["a", "b"]
        assert spec.is_in(data)


class TestOldNames:
    @pytest.mark.parametrize("module", [torchrl.data, torchrl.data.tensor_specs])
    @pytest.mark.parametrize(("old", "new"), OLD.items())
    def test_resolve(self, module, old, new):
        assert getattr(module, old) is getattr(module, new)

    def test_nothing_is_forgotten(self):
        assert set(OLD) == {
            "BinaryDiscreteTensorSpec",
            "BoundedTensorSpec",
            "CompositeSpec",
            "DiscreteBox",
            "DiscreteTensorSpec",
            "LazyStackedCompositeSpec",
            "LazyStackedTensorSpec",
            "MultiDiscreteTensorSpec",
            "MultiOneHotDiscreteTensorSpec",
            "NonTensorSpec",
            "OneHotDiscreteTensorSpec",
            "UnboundedContinuousTensorSpec",
            "UnboundedDiscreteTensorSpec",
        }

    def test_instances_agree(self):
        from torchrl.data import BoundedTensorSpec, CompositeSpec

        assert isinstance(Bounded(0, 1), BoundedTensorSpec)
        assert isinstance(Composite(), CompositeSpec)
        spec = BoundedTensorSpec(-torch.ones(3), torch.ones(3))
        assert (spec.shape, spec.space.maximum.tolist()) == ((3,), [1, 1, 1])

    def test_typing_errors_are_helped(self):
        with pytest.raises(AttributeError, match="Did you mean 'Bounded'"):
            torchrl.data.tensor_specs.Bouned  # noqa: B018


class TestLaws:
    def test_they_notice_a_draw_outside(self):
        class Broken(Categorical):
            def _rand(self, size):
                return super()._rand(size) + 5

        with pytest.raises(Exception, match="lies outside"):
            check_spec(lambda: Broken(3))

    def test_they_notice_a_projection_outside(self):
        class Broken(Categorical):
            def _project(self, val):
                return val

            def _cast(self, val):
                return val.long()

        with pytest.raises(Exception, match="lies outside"):
            check_spec(lambda: Broken(3))

    def test_subclasses_of_users_are_held_to_them(self):
        spec = Dice((2,))
        assert type(spec) is Dice
        check_spec(lambda: Dice((2,)))
