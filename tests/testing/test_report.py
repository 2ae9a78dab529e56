"""The runner of contract checks runs all of them, and its report names each that failed."""

import pytest

from torchrl.testing.report import ContractError, raises, run_checks


def check_holds(make, *args):
    assert make() == 1


def check_fails_without_a_message(make, *args):
    assert make() == 2


def check_breaks(make, *args):
    raise KeyError("observation")


ALL = [check_fails_without_a_message, check_holds, check_breaks]


def test_all_checks_run_and_the_report_names_those_that_failed():
    with pytest.raises(ContractError) as caught:
        run_checks(ALL, lambda: 1, name="One")
    error = caught.value
    assert error.held == ["holds"]
    assert list(error.failed) == ["fails_without_a_message", "breaks"]
    text = str(error)
    assert "One: 2 of 3 contract checks failed; held: holds" in text
    assert "assert make() == 2" in text, "an assertion without a message shows its line"
    assert "KeyError: 'observation'" in text
    assert error.__cause__ is error.failed["fails_without_a_message"]


def test_arguments_are_passed_and_checks_are_skipped():
    def takes(make, number):
        assert make() == number

    assert run_checks([takes], lambda: 3, 3) == ["takes"]
    skip = ["fails_without_a_message", "breaks"]
    assert run_checks(ALL, lambda: 1, skip=skip) == ["holds"]
    with pytest.raises(ValueError, match=r"no contract check: \['missing'\]"):
        run_checks(ALL, lambda: 1, skip=["missing"])


def test_raises_compares_class_and_message():
    with raises((ValueError, KeyError), match="a.c"):
        raise ValueError("abc")
    with pytest.raises(AssertionError, match="ValueError was not raised"), raises(ValueError):
        pass
    with pytest.raises(AssertionError, match="expected 'x' in the message 'abc'"):  # noqa: SIM117
        with raises(ValueError, match="x"):
            raise ValueError("abc")
    with pytest.raises(KeyError), raises(ValueError):
        raise KeyError("abc")
