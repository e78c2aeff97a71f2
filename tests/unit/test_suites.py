"""The table of suites: what each name means, and that each names a test."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import pytest

from kit.suites import MOST_IN_QUARANTINE, ROOT, Suites, read_suites

SUITES = Suites(
    suites={
        "quick": frozenset({"tests/trainer/test_b.py::test_journey"}),
        "baseline": frozenset(
            {"tests/cli", "tests/e2e/test_a.py", "tests/trainer/test_b.py::test_one"}
        ),
    },
    lanes={
        "api": frozenset({"tests/tools"}),
        "node": frozenset({"tests/e2e", "tests/tools/test_n.py"}),
    },
    quarantine=frozenset({"tests/cli/test_c.py::test_ill"}),
)  # fmt: skip


@pytest.mark.parametrize(
    ("test", "suite"),
    [
        ("tests/cli/test_c.py::test_any[parameters]", "baseline"),
        ("tests/cli/test_c.py::test_ill[parameters]", "quarantine"),
        ("tests/e2e/test_a.py::TestClass::test_x", "baseline"),
        ("tests/e2e/test_new.py::test_with_a_cluster", "extended"),
        ("tests/trainer/test_b.py::test_one[a::b]", "baseline"),
        ("tests/trainer/test_b.py::test_one_more", "extended"),
        ("tests/trainer/test_b.py::test_journey", "quick"),
    ],
)
def test_a_name_takes_all_below_it_and_the_rest_is_extended(test: str, suite: str) -> None:
    assert SUITES.suite_of(test) == suite
    assert SUITES.may_hold(test.partition("::")[0], [suite], None)


def test_the_longest_name_decides_the_lane() -> None:
    lanes = [SUITES.lane_of(f"tests/{each}::test_it") for each in (
        "tools/test_x.py", "tools/test_n.py", "e2e/test_a.py", "cli/test_c.py",
    )]  # fmt: skip
    assert lanes == ["api", "node", "node", "local"]


def test_a_module_without_a_test_of_the_suite_is_not_imported() -> None:
    assert not SUITES.may_hold("tests/trainer/test_other.py", ["baseline"], None)
    assert not SUITES.may_hold("tests/cli/test_c.py", ["baseline"], "node")


def test_each_name_of_the_tables_is_there() -> None:
    table = read_suites()
    names = chain(table.quarantine, *table.suites.values(), *table.lanes.values())
    assert [name for name in names if not is_there(name)] == []
    assert len(table.quarantine) <= MOST_IN_QUARANTINE


def is_there(name: str) -> bool:
    file, _, function = name.partition("::")
    path = Path(ROOT, file)
    if not function:
        return path.exists()
    return path.is_file() and bool(
        re.search(rf"^(async )?def {re.escape(function)}\(", path.read_text(), re.MULTILINE)
    )
