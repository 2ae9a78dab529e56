"""Old names and keywords: data in, silent answers out."""

import importlib
import pkgutil
import sys
import types
import warnings

import pytest

import torchrl
from torchrl._core.legacy import old_keywords, old_names

TABLES = [
    module.name for module in pkgutil.walk_packages(torchrl.__path__, "torchrl.") if module.name.endswith("._legacy")
]


@pytest.fixture
def zoo(monkeypatch):
    module = types.ModuleType("zoo")
    module.Lion = type("Lion", (), {})
    module._keeper = "private"
    table = {"Cat": "Lion", "Ordered": "collections:OrderedDict", "Gone": "Nowhere"}
    module.__getattr__ = old_names("zoo", table)
    monkeypatch.setitem(sys.modules, "zoo", module)
    return module


class TestOldNames:
    def test_are_the_new_things_themselves(self, zoo):
        import collections

        assert zoo.Cat is zoo.Lion
        assert zoo.Ordered is collections.OrderedDict
        from zoo import Cat

        assert Cat is zoo.Lion

    def test_are_silent(self, zoo):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _ = zoo.Cat
        assert not caught

    def test_an_unknown_name_gets_its_neighbour(self, zoo):
        with pytest.raises(AttributeError, match=r"'zoo' has no attribute 'Lyon'. .*'Lion'") as info:
            _ = zoo.Lyon
        assert (info.value.name, info.value.obj) == ("Lyon", zoo)
        with pytest.raises(AttributeError, match=r"no attribute 'Xyzzy'$"):
            _ = zoo.Xyzzy

    def test_a_private_name_gets_no_hint(self, zoo):
        with pytest.raises(AttributeError, match=r"no attribute '_keepr'$"):
            _ = zoo._keepr
        assert not hasattr(zoo, "__wrapped__")

    def test_a_table_that_points_nowhere_says_so(self, zoo):
        with pytest.raises(AttributeError, match="Nowhere"):
            _ = zoo.Gone

    def test_import_of_a_missing_name_is_an_import_error(self, zoo):
        with pytest.raises(ImportError, match="cannot import name 'Lyon'"):
            exec("from zoo import Lyon", {})


class TestOldKeywords:
    @staticmethod
    def make():
        @old_keywords(minimum="low", maximum="high")
        def bounded(first, *, low=0, high=1):
            """Doc."""
            return first, low, high

        return bounded

    def test_reach_the_new_ones(self):
        bounded = self.make()
        assert bounded(5, minimum=2) == (5, 2, 1)
        assert bounded(5, low=2, maximum=3) == (5, 2, 3)
        assert bounded(first=5) == (5, 0, 1)

    def test_old_and_new_together_are_refused(self):
        with pytest.raises(TypeError, match=r"bounded\(\) got both 'low' and its old name 'minimum'"):
            self.make()(5, minimum=1, low=1)

    def test_unknown_keywords_still_fail(self):
        with pytest.raises(TypeError, match="lowest"):
            self.make()(5, lowest=1)

    def test_name_and_documentation_stay(self):
        bounded = self.make()
        assert (bounded.__name__, bounded.__doc__) == ("bounded", "Doc.")

    def test_methods_can_have_them(self):
        class Spec:
            @old_keywords(minimum="low")
            def __init__(self, low):
                self.low = low

        assert Spec(minimum=3).low == 3


@pytest.mark.parametrize("name", TABLES)
def test_every_old_name_of_the_library_resolves(name):
    """Each table lies beside the package whose ``__getattr__`` reads it."""
    package = importlib.import_module(name.rpartition(".")[0])
    for old in importlib.import_module(name).OLD:
        assert getattr(package, old) is not None
