"""Whose answers many adapters gave, and the page about it."""

from __future__ import annotations

from collections import Counter

import pytest
from benchmarks.serving.adapters import Findings, classify, show


@pytest.mark.parametrize(
    ("said", "owner", "expected"),
    [("ab0", "one", "own"), ("ac0", "two", "another"), ("", None, "base"), ("x", None, "other")],
)
def test_an_answer_belongs_to_whom_it_was_made_for(
    said: str, owner: str | None, expected: str
) -> None:
    assert classify(said, "one", owner) == expected


def test_the_page_has_the_growth_of_memory_and_the_answers_of_others() -> None:
    found = Findings(num_adapters=3, engine="vLLM 0.32.0", ask_seconds=2.0)
    found.memory = {1: (1000.0, 100.0), 3: (1003.0, 101.0)}
    found.loads = found.firsts = found.seconds = [0.010, 0.030]
    found.answers = Counter({"own": 34, "another": 2})
    page = show(found)
    assert "Each adapter adds 1.50 MiB" in page
    assert "| 34 | 2 | 0 | 0 |" in page
    assert "| its first answer | 20 |" in page
    assert "36 requests, 18 a second" in page
