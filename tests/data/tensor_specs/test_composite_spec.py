"""A tensordict of specs."""

import numpy as np
import pytest
import torch
from tensordict import NonTensorData, TensorDict, tensorclass

from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError, SpecError
from torchrl.data import Binary, Bounded, Categorical, Composite, NonTensor, OneHot, Unbounded


def nested(**kwargs):
    return Composite(
        {("agents", "torque"): Bounded(-1, 1, (2, 3)), "goal": Unbounded((2, 1))},
        agents_alive=Binary(4, (2, 4)),
        nothing=None,
        shape=(2,),
        **kwargs,
    )


@tensorclass
class Pair:
    a: torch.Tensor
    b: torch.Tensor


class TestMapping:
    def test_keys(self):
        spec = nested()
        assert list(spec) == ["agents", "goal", "agents_alive", "nothing"]
        assert list(spec.keys(True)) == ["agents", ("agents", "torque"), "goal", "agents_alive", "nothing"]
        assert set(spec.keys(True, True)) == {("agents", "torque"), "goal", "agents_alive", "nothing"}
        assert list(spec.keys(False, True)) == ["goal", "agents_alive", "nothing"]
        assert len(spec) == len(spec.keys()) == 4
        assert dict(spec.items()) == {name: spec[name] for name in spec}
        assert next(iter(spec.values())) == spec["agents"]

    def test_get(self):
        spec = nested()
        assert spec["agents", "torque"] is spec["agents"]["torque"]
        assert spec.get(("agents", "torque")) is spec["agents", "torque"]
        assert spec["nothing"] is None
        assert spec.get("absent", 3) == 3
        assert spec.get(("goal", "absent"), None) is None
        assert ("agents", "torque") in spec
        assert ("agents", "absent") not in spec
        assert "nothing" in spec

    def test_what_is_absent_is_named(self):
        with pytest.raises(MissingKeyError, match=r"'gaol' is absent. Did you mean 'goal'\?"):
            nested()["gaol"]
        with pytest.raises(MissingKeyError, match=r"\('agents', 'x'\) is absent.*It holds"):
            nested()["agents", "x"]
        with pytest.raises(MissingKeyError, match="'gone' is absent"):
            del nested()["gone"]

    def test_set(self):
        spec = Composite(shape=(3,), device="cpu")
        spec["a", "b", "c"] = Unbounded((3, 2))
        spec["d"] = {"e": Categorical(2, (3,))}
        spec.set("f", None)
        assert spec["a", "b"].shape == (3,)
        assert spec["a", "b", "c"].device == torch.device("cpu")
        assert isinstance(spec["d"], Composite)
        assert spec["d"].shape == (3,)
        assert spec.set("g", Unbounded((3,))) is spec

    def test_nested_composites_take_the_batch_size(self):
        inner = Composite(x=Unbounded((3, 2)))
        spec = Composite(inner=inner, shape=(3,))
        assert spec["inner"].shape == (3,)
        assert inner.shape == ()

    def test_pop_delete_update(self):
        spec = nested()
        assert spec.pop("goal").shape == (2, 1)
        assert spec.pop(("agents", "absent"), 5) == 5
        del spec["agents", "torque"]
        assert spec["agents"].is_empty()
        with pytest.raises(MissingKeyError, match="'goal' is absent"):
            spec.pop("goal")
        update = {"agents": {"id": Categorical(3, (2,))}, "goal": Unbounded((2, 7))}
        assert spec.update(update) is spec
        spec.update(Composite(agents=Composite(name=Unbounded((2, 1)), shape=(2,)), shape=(2,)))
        assert set(spec["agents"]) == {"id", "name"}
        assert spec["goal"].shape == (2, 7)

    def test_empty(self):
        spec = nested(device="cpu")
        assert spec.empty() == Composite(shape=(2,), device="cpu")
        assert spec.empty().is_empty()
        assert not spec.is_empty()
        assert not Composite(a=Composite()).is_empty()
        assert Composite(a=Composite()).is_empty(recurse=True)

    def test_separates(self):
        spec = nested()
        named, rest = spec.separates("goal", ("agents", "torque"), "absent")
        assert set(named.keys(True, True)) == {"goal", ("agents", "torque")}
        assert set(rest.keys(True, True)) == {"agents_alive", "nothing"}
        assert spec.separates("absent", default=0)[0] == 0
        assert "goal" in spec

    def test_locks(self):
        spec = nested().lock_()
        assert spec.is_locked
        assert spec["agents"].is_locked
        for change in (
            lambda: spec.set("a", Unbounded((2,))),
            lambda: spec["agents"].set("a", Unbounded((2,))),
            lambda: spec.pop("goal"),
            lambda: spec.update({"a": Unbounded((2,))}),
            lambda: spec.__delitem__("goal"),
            lambda: setattr(spec, "shape", ()),
        ):
            with pytest.raises(RuntimeError, match=r"Composite: is locked. Call unlock_\(\) first"):
                change()
        assert not spec.clone().is_locked
        assert not spec.clone()["agents"].is_locked
        spec.unlock_()["a"] = Unbounded((2,))
        assert not spec["agents"].is_locked
        assert not nested().lock_(recurse=False)["agents"].is_locked


class TestShape:
    def test_every_spec_begins_with_it(self):
        with pytest.raises(ShapeError, match=r"'a' does not start.*\[3, '...'\], found \[2\]"):
            Composite(a=Unbounded((2,)), shape=(3,))
        with pytest.raises(ShapeError, match=r"'b' does not start"):
            Composite(a={"b": Unbounded((2,))}, shape=(3,))

    def test_setting_it_checks_and_recurses(self):
        spec = Composite(a=Unbounded((3, 4)), b={"c": Unbounded((3, 5))})
        spec.shape = (3,)
        assert spec["b"].shape == (3,)
        assert spec.rand().batch_size == (3,)
        with pytest.raises(ShapeError, match=r"does not start with the batch size"):
            spec.shape = (3, 4)
        assert spec.shape == spec["b"].shape == (3,)
        with pytest.raises(ShapeError, match=r"\('b', 'c'\) does not start"):
            Composite(b={"c": Unbounded((3, 5))}).shape = (4,)

    def test_operations_leave_features_alone(self):
        spec = Composite(a=Unbounded((2, 5)), b={"c": OneHot(3, (2, 3))}, shape=(2,))
        assert spec.expand(4, 2)["a"].shape == (4, 2, 5)
        assert spec.expand(4, 2)["b"].shape == (4, 2)
        assert spec.unsqueeze(-1)["b", "c"].shape == (2, 1, 3)
        assert spec[0]["a"].shape == (5,)
        assert spec[None].reshape(2, 1)["a"].shape == (2, 1, 5)
        with pytest.raises(IndexError, match="2 indices for a spec of 1 dimensions"):
            spec[0, 0]

    def test_names(self):
        spec = Composite(a=Unbounded((3, 1)), shape=(3,), names=["env"])
        assert spec.names == ["env"]
        assert spec.rand().names == ["env"]
        assert spec.zero((2,)).names == [None, "env"]
        assert spec[:2].names == ["env"]
        assert spec[0].names is None
        with pytest.raises(ShapeError, match="needs a name for each batch dimension"):
            Composite(shape=(3,), names=["a", "b"])


class TestValues:
    def test_drawn_tensordicts(self):
        td = nested().rand((4,))
        assert (td.batch_size, td["agents"].batch_size, td.device) == ((4, 2), (4, 2), None)
        assert "nothing" not in td
        assert nested(device="cpu").rand().device == torch.device("cpu")
        assert (nested().zero()["goal"] == 0).all()
        assert (nested().ones()["goal"] == 1).all()

    def test_leaf_devices_differ_from_the_tensordict(self):
        spec = Composite(a=Unbounded(device="cpu"))
        assert (spec.device, spec["a"].device) == (None, torch.device("cpu"))
        assert spec.rand().device is None

    def test_tensorclasses(self):
        spec = Composite(a=Unbounded((3,)), b=Categorical(2), data_cls=Pair)
        assert isinstance(spec.rand((2,)), Pair)
        assert spec.is_in(spec.zero())
        assert isinstance(spec.expand(4).rand(), Pair)
        assert isinstance(spec.enumerate, object)

    def test_update_writes_into_a_tensordict(self):
        spec = Composite(a=Unbounded((2, 3)), b={"c": Categorical(2, (2,))}, shape=(2,))
        td = TensorDict(a=torch.full((5, 2, 3), 7.0), other=torch.ones(5, 2), batch_size=[5, 2])
        assert spec.zeros_update(td) is td
        assert (td["a"] == 0).all()
        assert (td["other"] == 1).all()
        assert spec.is_in(spec.rand_update(td))
        assert (td["a"] != 0).all()

    def test_static_entries_are_marked(self):
        spec = Composite(step_mdp_static=True)
        assert spec.step_mdp_static
        assert spec.clone().step_mdp_static
        assert spec != Composite()

    def test_membership(self):
        spec = nested()
        td = spec.rand()
        assert spec.is_in(td)
        assert spec.is_in(td.clone().set("more", torch.zeros(2)))
        assert spec.is_in(torch.stack([td] * 5, 1))
        assert spec.is_in(dict(td.items()))
        assert not spec.is_in(td.exclude("goal"))
        assert not spec.is_in(td.exclude(("agents", "torque")))
        assert not spec.is_in(torch.zeros(2))
        assert not spec.is_in(None)
        td["agents", "torque"][0, 0] = 5
        assert not spec.is_in(td)
        assert spec.is_in(spec.project(td))

    def test_projection_is_in_place(self):
        spec = nested()
        td = spec.rand()
        td["agents", "torque"][0, 0] = 5
        lead = torch.stack([td] * 4).contiguous()
        assert spec.project(td) is td
        assert td["agents", "torque"][0, 0] == spec["agents", "torque"].high.flatten()[0]
        assert spec.project(lead) is lead
        assert spec.is_in(lead)

    def test_batch_dimensions_are_known(self):
        spec = Composite(flag=Unbounded((4,)), shape=(4,))
        assert spec.is_in(TensorDict(flag=torch.zeros(4, 20), batch_size=[4, 20]))
        assert not spec["flag"].is_in(torch.zeros(4, 20))

    def test_projection_knows_batch_dimensions_and_names_what_is_absent(self):
        spec = Composite(a=Bounded(0, 1, (4,), dtype=torch.int64), shape=(4,))
        td = TensorDict(a=torch.full((4, 20), 7.5), batch_size=[4, 20])
        assert (spec.project(td)["a"] == 1).all()
        with pytest.raises(MissingKeyError, match=r"'a' is absent; .*found \[\]"):
            spec.project(TensorDict(batch_size=[4]))

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            (
                lambda td: td.set(("agents", "torque"), torch.full((2, 3), 2.0)),
                SpecError,
                r"entry \('agents', 'torque'\) lies outside its spec; expected values from",
            ),
            (
                lambda td: td.set("goal", torch.zeros(2, 2)),
                ShapeError,
                r"'goal' has the wrong shape; expected \[2, 1\] after any .* found \[2, 2\]",
            ),
            (
                lambda td: td.set("goal", torch.zeros(2, 1).double()),
                DTypeError,
                "'goal' has the wrong dtype; expected torch.float32, found torch.float64. Cast",
            ),
            (lambda td: td.set("goal", "x"), DTypeError, "found NonTensorData"),
            (
                lambda td: td.rename_key_("goal", "goals"),
                MissingKeyError,
                r"'goal' is absent; expected UnboundedContinuous \[2, 1\], found .* Did you mean "
                r"'goals'\?",
            ),
            (lambda td: td.pop("agents"), MissingKeyError, "'agents' is absent"),
        ],
    )
    def test_strangers_are_described(self, change, error, words):
        td = nested().rand()
        change(td)
        with pytest.raises(error, match=words):
            nested().assert_is_in(td)

    def test_something_else_is_described(self):
        with pytest.raises(DTypeError, match=r"'obs' is no tensordict.*found Tensor"):
            nested().assert_is_in(torch.zeros(2), "obs")

    def test_type_check(self):
        spec = nested()
        spec.type_check(spec.rand())
        spec.type_check(torch.zeros(2, 1), "goal")
        with pytest.raises(DTypeError, match="'goal' has the wrong dtype"):
            spec.type_check(spec.rand().set("goal", torch.zeros(2, 1).bool()))
        with pytest.raises(DTypeError, match="has the wrong dtype"):
            spec.type_check(torch.zeros(2, 1).bool(), ("agents", "torque"))

    def test_numpy(self):
        spec = Composite(a=OneHot(3), b={"c": Unbounded((2,))}, none=None)
        arrays = spec.to_numpy(spec.encode({"a": 1, "b": {"c": [0.5, 1.5]}}))
        assert arrays["a"] == 1
        assert arrays["b"]["c"].tolist() == [0.5, 1.5]
        rollout = {"a": np.array([0, 1]), "b": {"c": np.zeros((2, 2))}}
        assert spec.encode(rollout).batch_size == (2,)
        with pytest.raises(MissingKeyError, match=r"'a' is absent.*Did you mean 'aa'\?"):
            Composite(a=OneHot(3)).encode({"aa": 1})

    def test_objects(self):
        spec = Composite(name=NonTensor(example_data="Ada"))
        td = TensorDict(name=NonTensorData("Grace"))
        assert spec.is_in(td)
        assert spec.rand()["name"] == "Ada"

    def test_every_combination(self):
        spec = Composite(a=Categorical(2), b={"c": Categorical(3)}, none=None)
        values = spec.enumerate()
        assert (spec.cardinality(), values.batch_size) == (6, (6,))
        pairs = set(zip(values["a"].tolist(), values["b", "c"].tolist(), strict=True))
        assert pairs == {(a, c) for a in range(2) for c in range(3)}


class TestCopies:
    def test_clones_share_no_entries(self):
        spec = nested()
        clone = spec.clone()
        clone["agents", "new"] = Unbounded((2,))
        del clone["goal"]
        assert ("agents", "new") not in spec
        assert "goal" in spec

    def test_order_does_not_matter_to_equality(self):
        a, b = Unbounded((2,)), Categorical(3)
        assert Composite(a=a, b=b) == Composite(b=b, a=a)
        assert Composite(a=a) != Composite(b=a)
        assert Composite(a=a) != Composite(a=Unbounded((3,)))
        assert Composite(a=a) != Composite(a=a, device="cpu")

    def test_other_dtypes_and_devices(self):
        assert Composite(a=Unbounded(())).to(torch.float64)["a"].dtype == torch.float64
        spec = nested().to("cpu")
        assert spec["agents", "torque"].device == torch.device("cpu")
        assert spec.clear_device_() is spec
        assert spec["agents"].device is spec.device is None
        assert spec["agents", "torque"].device == torch.get_default_device()

    def test_it_is_printed_as_a_tree(self):
        assert repr(Composite(a=Composite(b=Categorical(2)), shape=())) == (
            "Composite(\n"
            "    a=Composite(\n"
            "        b=Categorical(\n"
            "            shape=torch.Size([]),\n"
            "            space=CategoricalBox(n=2),\n"
            "            device=cpu,\n"
            "            dtype=torch.int64,\n"
            "            domain=discrete),\n"
            "        device=None,\n"
            "        shape=torch.Size([])),\n"
            "    device=None,\n"
            "    shape=torch.Size([]))"
        )
