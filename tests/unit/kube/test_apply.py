"""Server-side apply is skipped exactly while neither side has changed."""

from __future__ import annotations

import pytest

from finetune_operator.kube.apply import Applier, digest_of
from finetune_operator.kube.resource import JOBS
from support.fake_client import FakeClient


def desired(**spec) -> dict:
    return {"metadata": {"namespace": "ns", "name": "a", "labels": {"app": "x"}}, "spec": spec}


async def applied(client: FakeClient, **metadata):
    applier = Applier(client, field_manager="me")
    first = await applier.apply(JOBS, desired(parallelism=1))
    live = first.object | {"metadata": first.object["metadata"] | metadata}
    return applier, live


async def test_missing_object_is_created():
    client = FakeClient()
    result = await Applier(client, field_manager="me").apply(JOBS, desired())
    assert result.written
    assert ("jobs", "ns", "a") in client.cluster.objects


async def test_unchanged_object_is_not_applied_again():
    client = FakeClient()
    applier, live = await applied(client)
    result = await applier.apply(JOBS, desired(parallelism=1), live=live)
    assert not result.written
    assert result.object is live
    assert len(client.writes) == 1


@pytest.mark.parametrize(
    ("metadata", "spec", "is_written"),
    [
        ({}, {"parallelism": 2}, True),
        ({"uid": "another"}, {"parallelism": 1}, True),
        ({"labels": {}}, {"parallelism": 1}, True),
        ({"resourceVersion": "999"}, {"parallelism": 1}, True),
    ],
    ids=["desired changed", "made anew", "label lost", "live changed"],
)
async def test_change_on_either_side_is_applied(metadata, spec, is_written):
    client = FakeClient()
    applier, live = await applied(client, **metadata)
    result = await applier.apply(JOBS, desired(**spec), live=live)
    assert result.written is is_written


async def test_status_writes_of_others_do_not_count_where_there_is_a_generation():
    client = FakeClient()
    applier = Applier(client, field_manager="me")
    spec = desired(parallelism=1)
    spec["metadata"]["generation"] = 1
    live = (await applier.apply(JOBS, spec)).object
    touched = live | {"metadata": live["metadata"] | {"resourceVersion": "999"}}
    assert not (await applier.apply(JOBS, spec, live=touched)).written
    changed = live | {"metadata": live["metadata"] | {"generation": 2}}
    assert (await applier.apply(JOBS, spec, live=changed)).written


async def test_deleted_object_is_applied_again():
    client = FakeClient()
    applier, live = await applied(client)
    assert (await applier.apply(JOBS, desired(parallelism=1), live=None)).written
    applier.forget(JOBS, ("ns", "a"))
    assert (await applier.apply(JOBS, desired(parallelism=1), live=live)).written


async def test_failed_apply_is_not_remembered():
    client = FakeClient()
    applier, live = await applied(client)
    client.faults.append(RuntimeError("cut"))
    with pytest.raises(RuntimeError):
        await applier.apply(JOBS, desired(parallelism=2), live=live)
    assert (await applier.apply(JOBS, desired(parallelism=2), live=live)).written


def test_digest_does_not_hang_on_the_order_of_keys():
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of({"b": [2, 1]}) != digest_of({"b": [1, 2]})
