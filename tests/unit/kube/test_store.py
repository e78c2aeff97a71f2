"""The cache: only news counts, ghosts go, indexes always equal a recount."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.kube.cache.store import EventType, Store
from kit.cluster.objects import pod


def index_by_owner(obj: dict) -> list[str]:
    return [owner["uid"] for owner in obj["metadata"].get("ownerReferences") or ()]


def index_by_job(obj: dict) -> list[str]:
    labels = obj["metadata"].get("labels") or {}
    return [labels["job-name"]] if "job-name" in labels else []


def recording(store: Store) -> list[tuple[str, str]]:
    told: list[tuple[str, str]] = []

    def handler(kind, old, new):
        told.append((str(kind), (new or old)["metadata"]["name"]))

    store.add_handler(handler)
    return told


def test_handlers_hear_of_each_change_with_old_and_new():
    store = Store()
    told = []
    store.add_handler(lambda kind, old, new: told.append((kind, old, new)))
    first, second = pod("a", 1), pod("a", 2)
    store.observe("ADDED", first)
    store.observe("MODIFIED", second)
    store.observe("DELETED", pod("a", 3))
    assert told == [
        (EventType.ADDED, None, first),
        (EventType.MODIFIED, first, second),
        (EventType.DELETED, second, None),
    ]


@pytest.mark.parametrize("kind", ["ADDED", "MODIFIED", None])
def test_news_that_is_not_newer_is_dropped(kind):
    store = Store()
    store.observe("ADDED", pod("a", 5))
    told = recording(store)
    store.observe(kind, pod("a", 5))
    store.observe(kind, pod("a", 4))
    assert told == []
    assert store.get("ns", "a")["metadata"]["resourceVersion"] == "5"


def test_delete_of_an_earlier_object_of_that_name_is_dropped():
    store = Store()
    store.observe("ADDED", pod("a", 9, uid="new"))
    store.observe("DELETED", pod("a", 7, uid="old"))
    assert ("ns", "a") in store


def test_object_created_anew_between_two_looks_counts_as_deleted_and_added():
    store = Store()
    store.observe("ADDED", pod("a", 1, uid="one"))
    told = recording(store)
    store.observe(None, pod("a", 9, uid="two"))
    assert told == [("DELETED", "a"), ("ADDED", "a")]


def test_versions_compare_as_numbers_not_as_text():
    store = Store()
    store.observe("ADDED", pod("a", 9))
    store.observe("MODIFIED", pod("a", 10))
    assert store.get("ns", "a")["metadata"]["resourceVersion"] == "10"


def test_replace_drops_ghosts_and_tells_of_them():
    store = Store()
    for name in "abc":
        store.observe("ADDED", pod(name, 1))
    told = recording(store)
    assert store.replace([pod("a", 1), pod("d", 4)], 5) == 2
    assert sorted(told) == [("ADDED", "d"), ("DELETED", "b"), ("DELETED", "c")]
    assert sorted(store.keys()) == [("ns", "a"), ("ns", "d")]


def test_replace_keeps_what_was_written_after_the_list_was_made():
    store = Store()
    store.absorb(pod("mine", 12))
    store.replace([], 10)
    assert ("ns", "mine") in store


def test_replace_of_one_namespace_leaves_the_others_alone():
    store = Store()
    store.observe("ADDED", pod("a", 1, namespace="x"), scope="x")
    store.observe("ADDED", pod("a", 1, namespace="y"), scope="y")
    store.replace([], 5, scope="x")
    assert store.keys() == [("y", "a")]


def test_absorbed_answer_is_visible_at_once_and_its_own_event_is_no_news():
    store = Store()
    store.observe("ADDED", pod("a", 1))
    store.absorb(pod("a", 4))
    told = recording(store)
    store.observe("MODIFIED", pod("a", 4))
    assert told == []


def test_absorbed_answer_does_not_raise_the_dead():
    store = Store()
    store.observe("ADDED", pod("a", 1))
    store.observe("DELETED", pod("a", 6))
    store.absorb(pod("a", 5))
    assert ("ns", "a") not in store


def test_listed_objects_do_not_claim_that_the_cache_is_complete():
    store = Store()
    store.observe(None, pod("z", 50))
    assert store.observed_version("ns") == 0
    store.absorb(pod("new", 40))
    assert ("ns", "new") in store


def test_handler_that_raises_stops_neither_store_nor_other_handlers(caplog):
    store = Store()

    def broken(kind, old, new):
        raise RuntimeError("boom")

    store.add_handler(broken)
    told = recording(store)
    store.observe("ADDED", pod("a", 1))
    assert told == [("ADDED", "a")]
    assert "boom" in caplog.text


def test_transform_trims_at_ingest():
    store = Store()
    store.observe("ADDED", pod("a", 1, managedFields=[{"manager": "x"}]))
    assert "managedFields" not in store.get("ns", "a")["metadata"]


def test_objects_are_found_by_owner_and_label():
    store = Store(indexers={"owner": index_by_owner, "job": index_by_job})
    store.observe("ADDED", pod("a", 1, ownerReferences=[{"uid": "j1"}], labels={"job-name": "j"}))
    store.observe("ADDED", pod("b", 2, ownerReferences=[{"uid": "j2"}]))
    assert [found["metadata"]["name"] for found in store.by_index("owner", "j1")] == ["a"]
    assert [found["metadata"]["name"] for found in store.by_index("job", "j")] == ["a"]
    assert store.by_index("owner", "nobody") == []
    store.observe("MODIFIED", pod("a", 3, ownerReferences=[{"uid": "j2"}]))
    assert store.by_index("owner", "j1") == store.by_index("job", "j") == []
    assert len(store.by_index("owner", "j2")) == 2
    store.observe("DELETED", pod("a", 4))
    store.observe("DELETED", pod("b", 5))
    assert store.by_index("owner", "j2") == []


OBJECTS = st.builds(
    lambda name, version, owner: pod(name, version, ownerReferences=[{"uid": owner}]),
    st.sampled_from("abc"),
    st.integers(1, 30),
    st.sampled_from(["x", "y"]),
)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["ADDED", "MODIFIED", "DELETED", None]), OBJECTS),
        st.tuples(st.just("absorb"), OBJECTS),
        st.tuples(st.just("replace"), st.lists(OBJECTS, max_size=3)),
    ),
    max_size=30,
)


@given(operations=OPERATIONS)
def test_any_history_keeps_indexes_and_told_state_equal_to_the_store(operations):
    store = Store(indexers={"owner": index_by_owner})
    mirror = {}

    def follow(kind, old, new):
        key = (new or old)["metadata"]["name"]
        if kind == EventType.DELETED:
            assert mirror.pop(key) is old
        else:
            assert mirror.get(key) is old
            mirror[key] = new

    store.add_handler(follow)
    for operation, argument in operations:
        if operation == "absorb":
            store.absorb(argument)
        elif operation == "replace":
            top = max((int(o["metadata"]["resourceVersion"]) for o in argument), default=1)
            store.replace(argument, top)
        else:
            store.observe(operation, argument)
        assert {key[1]: store.get(*key) for key in store} == mirror
        for owner in ("x", "y"):
            recount = {
                name
                for name, obj in mirror.items()
                if obj["metadata"]["ownerReferences"][0]["uid"] == owner
            }
            found = {obj["metadata"]["name"] for obj in store.by_index("owner", owner)}
            assert found == recount
