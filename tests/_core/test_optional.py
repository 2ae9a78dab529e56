"""Optional packages: imported, or named with the command that installs them."""

import sys

import pytest

from torchrl._core.optional import require_package


class Writer:
    pass


def test_returns_the_module_itself():
    import json.decoder

    assert require_package("json", needed_by=Writer()) is json
    assert require_package("json.decoder", needed_by=Writer()) is json.decoder


@pytest.mark.parametrize(
    ("needed_by", "extra", "message"),
    [
        (Writer(), "rendering", r'^Writer needs no_such: pip install "torchrl\[rendering\]"$'),
        ("Writer", None, r"^Writer needs no_such: pip install no_such$"),
    ],
)
def test_says_who_needs_what_and_how_to_get_it(needed_by, extra, message):
    with pytest.raises(ImportError, match=message) as info:
        require_package("no_such.part", needed_by=needed_by, extra=extra)
    assert info.value.__suppress_context__


def test_a_missing_part_of_an_installed_package_blames_the_package():
    with pytest.raises(ImportError, match="Writer needs json"):
        require_package("json.no_such_part", needed_by="Writer")


def test_an_installed_package_that_lacks_something_speaks_for_itself(tmp_path, monkeypatch):
    (tmp_path / "halfway_there.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_dependency'"):
        require_package("halfway_there", needed_by="Writer")
    sys.modules.pop("halfway_there", None)
