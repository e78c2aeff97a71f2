"""Equal parts are kept once, and stay equal."""

from __future__ import annotations

import copy
import json

from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.kube.sharing import (
    MAX_KEPT_BYTES,
    MAX_TEXT,
    SharedParts,
    excerpt_of,
    is_whole,
    share_texts,
)

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


SMALL = {"queueName": "a", "resources": {"gpusPerNode": 8}, "prune": False}
LARGE = {
    **SMALL,
    "dataset": {"approval": "Required", "sources": [{"system": "x" * MAX_KEPT_BYTES}]},
    "model": {"chatTemplate": {"text": "x" * MAX_KEPT_BYTES}},
    "podTemplate": {"labels": {"a": "b"}},
}


def test_a_small_spec_is_kept_whole_and_of_a_large_one_its_words():
    assert excerpt_of(SMALL) is SMALL
    assert is_whole({"spec": excerpt_of(SMALL)})
    large = parsed(LARGE)
    kept = excerpt_of(large, without=("podTemplate",))
    assert not is_whole({"spec": kept})
    assert kept == {
        **SMALL,
        "dataset": {"approval": "Required"},
        "model": {"chatTemplate": {}},
    }
    assert large == LARGE


def test_an_excerpt_stays_one_when_its_parts_are_shared():
    first, second = ({"metadata": {"name": name}, "spec": excerpt_of(LARGE)} for name in "ab")
    parts = SharedParts()
    parts.share(first)
    parts.share(second)
    assert not is_whole(first)
    assert first["spec"] == second["spec"] == excerpt_of(LARGE)
    assert first["spec"]["dataset"] is second["spec"]["dataset"]


@given(st.dictionaries(st.text(max_size=12), values, max_size=12))
def test_an_excerpt_says_nothing_that_the_whole_does_not(spec):
    whole = {**spec, "large": "x" * MAX_KEPT_BYTES}

    def is_within(part, of):
        if isinstance(part, dict):
            return all(is_within(value, of[key]) for key, value in part.items())
        return part == of

    assert is_within(excerpt_of(whole), whole)
