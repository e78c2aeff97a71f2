"""Equal parts are kept once, and stay equal."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.kube.cache.sharing import MAX_PART_BYTES, MAX_TEXT, SharedParts, share_texts

texts = st.text(max_size=2 * MAX_TEXT)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


def parsed(body):
    """Return a copy that shares nothing, as from the API server."""
    return json.loads(json.dumps(body))


def test_equal_parts_are_one_object():
    parts = SharedParts()
    first, second = parsed({"rank": 8, "of": ["q", "v"]}), parsed({"rank": 8, "of": ["q", "v"]})
    assert parts.of(first) is first
    assert parts.of(second) is first
    assert parts.of({"rank": 16, "of": ["q", "v"]}) is not first


def test_memory_is_bounded():
    parts = SharedParts(limit=2)
    kept = [parts.of([number]) for number in range(5)]
    assert kept == [[0], [1], [2], [3], [4]]
    assert len(parts._known) <= 2


def test_memory_is_bounded_in_bytes():
    parts = SharedParts(limit_bytes=1000)
    for number in range(100):
        parts.of([f"{number:0300}"])
        assert sum(len(json.dumps(each)) for each in parts._known.values()) <= 1000


def test_a_large_value_is_not_remembered():
    parts = SharedParts()
    large = ["x" * MAX_PART_BYTES]
    assert parts.of(large) is large
    assert not parts._known


@pytest.mark.slow
@given(st.dictionaries(texts, values, max_size=5))
def test_sharing_texts_changes_nothing(body):
    before = copy.deepcopy(body)
    assert share_texts(body) is body
    assert body == before


def test_short_texts_of_two_objects_are_one_and_long_ones_stay():
    body = {"reason": "Prepared it", "conditions": [{"reason": "Prepared it"}], "long": "x " * 999}
    one, other = share_texts(parsed(body)), share_texts(parsed(body))
    assert one["reason"] is other["conditions"][0]["reason"]
    assert one["long"] is not other["long"]
