"""A room over its budget is named, and no commit raises all budgets together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from budgets import count_code, count_rooms, find_faults

MODULE = '''"""What it is for.

More of it.
"""

from __future__ import annotations

import os
from pathlib import (
    Path,
)

# A comment.
LIMIT = 3
"""What it bounds."""


def act(text: str = """
not a docstring
""") -> int:
    """Say nothing."""
    return len(text)  # counts
'''


def test_code_is_what_is_left_without_prose_imports_and_blanks() -> None:
    assert count_code(MODULE) == 5


def test_a_module_counts_in_the_innermost_room(tmp_path: Path) -> None:
    for name in ("operator/a/one.py", "operator/a/b/two.py", "trainer_image/c/three.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    assert count_rooms(tmp_path, ["operator/a", "operator/a/b"]) == {
        "operator/a": 1,
        "operator/a/b": 1,
        "": 1,
    }


@pytest.mark.parametrize(
    ("counts", "before", "named"),
    [
        ({"a": 10, "b": 5}, None, []),
        ({"a": 11, "b": 5}, None, ["a: 11"]),
        ({"a": 10, "b": 5, "": 2}, None, ["2 lines"]),
        ({"a": 10, "b": 5}, {"a": 12, "b": 3}, []),
        ({"a": 10, "b": 5}, {"a": 12, "b": 2}, ["tools/budgets.toml"]),
    ],
    ids=["within", "a room above", "no room", "one for another", "all together rise"],
)
def test_what_breaks_the_rules_is_named(
    counts: dict[str, int], before: dict[str, int] | None, named: list[str]
) -> None:
    faults = find_faults({"a": 10, "b": 5}, Counter(counts), before)
    assert [fault.startswith(start) for fault, start in zip(faults, named, strict=True)] == [
        True
    ] * len(named)
