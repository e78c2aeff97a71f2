"""What is kept of large specs."""

from __future__ import annotations

import copy

from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.finetunejob.state.excerpts import (
    MAX_KEPT_BYTES,
    MAX_TEXT,
    excerpt_of,
    is_large,
    is_whole,
)
from finetune_operator.kube.cache.sharing import SharedParts

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=2 * MAX_TEXT),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
SMALL = {"queueName": "a", "resources": {"gpusPerNode": 8}, "prune": False}
LARGE = {
    **SMALL,
    "dataset": {"approval": "Required", "sources": [{"system": "x" * MAX_KEPT_BYTES}]},
    "model": {"chatTemplate": {"text": "x" * MAX_KEPT_BYTES}},
    "podTemplate": {"labels": {"a": "b"}},
}


def test_of_a_large_spec_its_words_are_kept():
    assert is_large(LARGE)
    assert not is_large(SMALL)
    assert is_whole({"spec": SMALL})
    large = copy.deepcopy(LARGE)
    kept = excerpt_of(large)
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
