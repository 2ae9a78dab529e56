"""The exploration type: set, nested, restored, seen by probabilistic modules."""

import threading
from contextlib import suppress

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule
from torch.distributions import Normal

from torchrl._core.exploration import (
    ExplorationType,
    exploration_mode,
    exploration_type,
    set_exploration_mode,
    set_exploration_type,
)


@pytest.fixture(autouse=True)
def _restore():
    with set_exploration_type(None):
        yield


def test_is_none_until_it_is_set():
    assert exploration_type() is None
    assert exploration_mode() is None


def test_the_old_name_gives_words():
    with set_exploration_mode("mean"):
        assert (exploration_mode(), exploration_type()) == ("mean", ExplorationType.MEAN)


@pytest.mark.parametrize("member", ExplorationType)
def test_accepts_every_member_and_its_name_in_any_case(member):
    for form in (member, member.value, member.name):
        with set_exploration_type(form):
            assert exploration_type() is member
    assert exploration_type() is None


def test_default_is_deterministic():
    with set_exploration_type():
        assert exploration_type() is ExplorationType.DETERMINISTIC


def test_nests_and_restores_also_after_an_error():
    with set_exploration_type("random"):
        with suppress(KeyError), set_exploration_type("mean"):
            assert exploration_type() is ExplorationType.MEAN
            raise KeyError
        assert exploration_type() is ExplorationType.RANDOM
        with set_exploration_type(None):
            assert exploration_type() is None


def test_decorates():
    @set_exploration_type("mode")
    def inside():
        return exploration_type()

    assert inside() is ExplorationType.MODE
    assert inside() is ExplorationType.MODE
    assert exploration_type() is None


def test_set_holds_until_further_notice():
    set_exploration_type("median").set()
    assert exploration_type() is ExplorationType.MEDIAN
    set_exploration_type(None).set()
    assert exploration_type() is None


def test_one_thread_can_have_its_own():
    seen = {}

    def other():
        with set_exploration_type("mean", thread_local=True):
            started.set()
            looked.wait(5)
            seen["inside"] = exploration_type()

    started, looked = threading.Event(), threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    started.wait(5)
    seen["outside"] = exploration_type()
    looked.set()
    thread.join()
    assert seen == {"inside": ExplorationType.MEAN, "outside": None}


def test_old_form_takes_a_string():
    with set_exploration_mode("mean"):
        assert exploration_type() is ExplorationType.MEAN


@pytest.mark.parametrize("wrong", ["greedy", 3])
def test_refuses_what_is_no_type_by_its_name(wrong):
    with pytest.raises(ValueError, match=rf"expected one of .*'mode'.* found {wrong!r}"):
        set_exploration_type(wrong)


def test_probabilistic_modules_follow_it():
    module = ProbabilisticTensorDictModule(["loc", "scale"], ["action"], distribution_class=Normal)
    td = TensorDict(loc=torch.zeros(100), scale=torch.ones(100), batch_size=[100])
    with set_exploration_type("random"):
        assert module(td)["action"].std() > 0.5
    with set_exploration_type("mean"):
        assert module(td)["action"].eq(0).all()
