"""Every output of every fixture has a test that compares it.

A test marked ``given`` fails unless it has compared what it claims (``conftest.py``), so it is enough that the claims,
read here from the source of this folder's tests, leave nothing out.
"""

import ast
import fnmatch
import pathlib

import pytest

HERE = pathlib.Path(__file__).parent


def claims():
    """(file patterns, output patterns) of every ``@pytest.mark.given(...)``, whose arguments must be literals."""
    found = []
    for path in sorted(HERE.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.given":
                    options = {word.arg: ast.literal_eval(word.value) for word in mark.keywords}
                    found.append(([ast.literal_eval(arg) for arg in mark.args], options.get("outputs", ("*",))))
    return found


def matches(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def test_every_output_of_every_fixture_is_compared(given):
    assert given
    known = claims()
    left = [
        f"{name}: {output}"
        for name, outputs in given.items()
        for output in outputs
        if not any(matches(name, files) and matches(output, wanted) for files, wanted in known)
    ]
    assert left == []


def test_no_test_waits_for_a_fixture_that_is_not_there(given):
    names = {pattern for files, _ in claims() for pattern in files}
    assert [pattern for pattern in sorted(names) if not fnmatch.filter(given, pattern)] == []


def test_an_output_that_was_claimed_and_not_compared_is_named(oracle):
    case = oracle("trans_video_tiny", ("window*",))
    assert case.unchecked() == case.claimed != []
    for name in case.claimed:
        case.check(name, case.outputs[name])
    assert case.unchecked() == []


@pytest.mark.given("trans_video_tiny", outputs=())
def test_a_difference_above_the_tolerance_is_an_error_wherever_it_is(case):
    right = case.outputs["local"]
    wrong = right.copy()
    wrong[0, 3, 1] += 2e-4 * (right**2).mean() ** 0.5
    with pytest.raises(AssertionError, match="local"):
        case.check("local", wrong)
    with pytest.raises(AssertionError, match="shape"):
        case.check("local", right[:1])
