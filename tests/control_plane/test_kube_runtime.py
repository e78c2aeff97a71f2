"""The kube runtime on a real API server: what no scripted server can prove."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from finetune_operator.kube.api import errors
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.connection import load_kubeconfig
from finetune_operator.kube.api.resource import (
    CONFIG_MAPS,
    EVENTS,
    JOBS,
    LEASES,
    TOKEN_REVIEWS,
    Resource,
)
from finetune_operator.kube.api.transport import Transport
from finetune_operator.kube.cache import informer as informer_module
from finetune_operator.kube.cache.feed import Feed
from finetune_operator.kube.cache.informer import Informer
from finetune_operator.kube.clock import SystemClock
from finetune_operator.kube.leader import LeaderElector
from finetune_operator.kube.recorder import EventRecorder
from kit.processes.eventually import eventually_async
from kit.servers.tcp_gate import tcp_gate

CRDS = Resource(
    group="apiextensions.k8s.io",
    version="v1",
    plural="customresourcedefinitions",
    kind="CustomResourceDefinition",
    namespaced=False,
)
ACCESS_REVIEWS = Resource(
    group="authorization.k8s.io",
    version="v1",
    plural="selfsubjectaccessreviews",
    kind="SelfSubjectAccessReview",
    namespaced=False,
)
WIDGETS = Resource(group="example.dev", version="v1", plural="widgets", kind="Widget")
WIDGET_STATUS = {
    "type": "object",
    "properties": {
        "phase": {"type": "string"},
        "retries": {"type": "integer", "default": 0},
        "progress": {
            "type": "object",
            "properties": {"step": {"type": "integer"}},
        },
        "lastFailure": {"type": "string"},
        "conditions": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": {
                "type": "object",
                "required": ["type", "status"],
                "properties": {
                    name: {"type": "string"}
                    for name in ("type", "status", "reason", "message", "lastTransitionTime")
                },
            },
        },
    },
}
WIDGET_CRD = {
    "apiVersion": CRDS.api_version,
    "kind": CRDS.kind,
    "metadata": {"name": "widgets.example.dev"},
    "spec": {
        "group": "example.dev",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {"size": {"type": "integer"}},
                            },
                            "status": WIDGET_STATUS,
                        },
                    }
                },
            }
        ],
    },
}


@pytest.fixture
async def client(control_plane):
    connection = load_kubeconfig([Path(control_plane.kubeconfig)])
    async with KubeClient(Transport(connection, user_agent="kube-runtime-test")) as connected:
        yield connected


@pytest.fixture
async def widget(client, namespace):
    await client.apply(CRDS, WIDGET_CRD, field_manager="test")

    async def is_served():
        return await client.list(WIDGETS) is not None

    await eventually_async(is_served, 20)
    body = {"metadata": {"name": "w", "namespace": namespace}, "spec": {"size": 1}}
    return await client.apply(WIDGETS, body, field_manager="user")


def config_map(namespace: str, name: str, **data: str) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": {"test": "yes"}},
        "data": data,
    }


def job(namespace: str, name: str = "j") -> dict:
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {"a": "b"}},
        "spec": {
            "suspend": True,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "c", "image": "example/none"}],
                }
            },
        },
    }


@asynccontextmanager
async def running(*coroutines):
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def make_informer(client: KubeClient, namespace: str, **options) -> Informer:
    return Informer(
        client,
        CONFIG_MAPS,
        namespaces=[namespace],
        label_selector="test=yes",
        rng=random.Random(1),
        **options,
    )


def names(store) -> set[str]:
    return {name for _, name in store}


# --- errors and verbs ------------------------------------------------------------------------


async def test_answers_of_the_real_server_become_the_typed_errors(client, namespace):
    first = await client.create(CONFIG_MAPS, config_map(namespace, "a", k="1"))
    with pytest.raises(errors.AlreadyExists, match=f"create ConfigMap in {namespace}"):
        await client.create(CONFIG_MAPS, config_map(namespace, "a", k="1"))
    with pytest.raises(errors.NotFound):
        await client.get(CONFIG_MAPS, namespace, "nothing")
    with pytest.raises(errors.Invalid):
        await client.create(CONFIG_MAPS, config_map(namespace, "Not_A_Name"))
    bad = job(namespace)
    bad["spec"]["parallelism"] = "many"
    with pytest.raises(errors.Invalid):
        await client.apply(JOBS, bad, field_manager="m")
    await client.replace(CONFIG_MAPS, {**first, "data": {"k": "2"}})
    with pytest.raises(errors.Conflict):
        await client.replace(CONFIG_MAPS, {**first, "data": {"k": "3"}})
    with pytest.raises(errors.Conflict):
        await client.delete(CONFIG_MAPS, namespace, "a", uid="11111111-1111-1111-1111-111111111111")
    await client.delete(CONFIG_MAPS, namespace, "a", uid=first["metadata"]["uid"])
    with pytest.raises(errors.NotFound):
        await client.delete(CONFIG_MAPS, namespace, "a")


async def test_a_merge_patch_changes_only_the_object_that_was_seen(client, namespace):
    def patch_of(seen):
        kept = {key: seen["metadata"][key] for key in ("uid", "resourceVersion")}
        return {"metadata": kept, "data": {"k": "patched"}}

    first = await client.create(CONFIG_MAPS, config_map(namespace, "a", k="1"))
    second = await client.merge_patch(CONFIG_MAPS, namespace, "a", patch_of(first))
    assert second["data"] == {"k": "patched"}
    with pytest.raises(errors.Conflict):
        await client.merge_patch(CONFIG_MAPS, namespace, "a", patch_of(first))
    await client.delete(CONFIG_MAPS, namespace, "a")
    await client.create(CONFIG_MAPS, config_map(namespace, "a", k="another's"))
    with pytest.raises(errors.Conflict):
        await client.merge_patch(CONFIG_MAPS, namespace, "a", patch_of(second))
    assert (await client.get(CONFIG_MAPS, namespace, "a"))["data"] == {"k": "another's"}


async def test_user_without_rights_is_forbidden_and_can_ask_why(control_plane, namespace):
    if not hasattr(control_plane, "kubeconfig_for"):
        pytest.skip("needs a control plane whose certificate authority is ours")
    connection = load_kubeconfig([control_plane.kubeconfig_for("nobody")])
    async with KubeClient(Transport(connection)) as nobody:
        with pytest.raises(errors.Forbidden, match="nobody"):
            await nobody.list(CONFIG_MAPS, namespace)
        attributes = {"namespace": namespace, "verb": "list", "resource": "configmaps"}
        review = await nobody.create(ACCESS_REVIEWS, {"spec": {"resourceAttributes": attributes}})
        assert review["status"]["allowed"] is False


async def test_service_account_token_is_reviewed(client, control_plane, namespace):
    control_plane.kubectl("-n", namespace, "create", "serviceaccount", "runner")
    token = control_plane.kubectl(
        "-n", namespace, "create", "token", "runner", "--audience", "example.dev"
    ).strip()
    good = await client.create(
        TOKEN_REVIEWS, {"spec": {"token": token, "audiences": ["example.dev"]}}
    )
    assert good["status"]["user"]["username"] == f"system:serviceaccount:{namespace}:runner"
    wrong = await client.create(TOKEN_REVIEWS, {"spec": {"token": token, "audiences": ["other"]}})
    assert not wrong["status"].get("authenticated")


async def test_pages_and_metadata_lists_hold_everything(client, namespace):
    for number in range(7):
        await client.create(CONFIG_MAPS, config_map(namespace, f"c{number}", k="v"))
    whole = await client.list(CONFIG_MAPS, namespace, label_selector="test=yes", limit=3)
    assert len(whole.items) == 7
    slim = await client.list(
        CONFIG_MAPS, namespace, label_selector="test=yes", limit=3, metadata_only=True
    )
    assert {item["metadata"]["name"] for item in slim.items} == {f"c{n}" for n in range(7)}
    assert not any("data" in item for item in slim.items)


# --- server-side apply and status --------------------------------------------------------------


async def test_apply_without_effect_leaves_the_version(client, namespace):
    desired = config_map(namespace, "a", k="v")
    first = await client.apply(CONFIG_MAPS, desired, field_manager="m")
    again = await client.apply(CONFIG_MAPS, desired, field_manager="m")
    assert again == first


async def test_two_managers_share_one_status(client, widget):
    async def write(manager: str, **status):
        name = {key: widget["metadata"][key] for key in ("name", "namespace")}
        patch = {"metadata": name, "status": status}
        answer = await client.apply_status(WIDGETS, patch, field_manager=manager)
        return answer["status"]

    ready = {"type": "Ready", "status": "False", "reason": "Wait", "message": "x"}
    await write("controller", phase="One", lastFailure="x", conditions=[ready])
    status = await write("progress", progress={"step": 3})
    assert status["phase"] == "One"
    assert status["progress"] == {"step": 3}
    status = await write("controller", phase="Two", conditions=[ready])
    assert "lastFailure" not in status
    assert status["progress"] == {"step": 3}
    # What one takes over by force goes when it leaves it out, unless the other took it back.
    await write("controller", phase="Two", progress={"step": 0})
    status = await write("progress", progress={"step": 1})
    assert status["progress"] == {"step": 1}
    status = await write("controller", phase="Three")
    assert status["progress"] == {"step": 1}


async def test_status_never_goes_to_another_object_of_that_name(client, widget):
    name = {key: widget["metadata"][key] for key in ("name", "namespace")}
    pinned = {**name, "resourceVersion": widget["metadata"]["resourceVersion"]}
    late = {"metadata": pinned, "status": {"phase": "Late"}}
    await client.delete(WIDGETS, name["namespace"], "w", uid=widget["metadata"]["uid"])
    with pytest.raises(errors.NotFound):
        await client.apply_status(WIDGETS, late, field_manager="c")
    await client.apply(WIDGETS, {"metadata": name}, field_manager="user")
    with pytest.raises(errors.Conflict):
        await client.apply_status(WIDGETS, late, field_manager="c")


# --- caches ----------------------------------------------------------------------------------


async def test_informer_follows_the_server(client, namespace):
    await client.create(CONFIG_MAPS, config_map(namespace, "before"))
    await client.create(CONFIG_MAPS, {"metadata": {"name": "other", "namespace": namespace}})
    informer = make_informer(client, namespace)
    async with running(informer.run()):
        await asyncio.wait_for(informer.synced.wait(), 60)
        assert names(informer.store) == {"before"}
        made = await client.create(CONFIG_MAPS, config_map(namespace, "after", k="1"))
        await eventually_async(lambda: names(informer.store) == {"before", "after"})
        assert "managedFields" not in informer.store.get(namespace, "after")["metadata"]
        await client.replace(CONFIG_MAPS, {**made, "data": {"k": "2"}})
        await eventually_async(lambda: informer.store.get(namespace, "after")["data"]["k"] == "2")
        await client.delete(CONFIG_MAPS, namespace, "before")
        await eventually_async(lambda: names(informer.store) == {"after"})


async def test_own_writes_are_visible_before_the_watch_tells(client, namespace):
    informer = make_informer(client, namespace)
    async with running(informer.run()):
        await asyncio.wait_for(informer.synced.wait(), 60)
        for number in range(20):
            made = await client.create(CONFIG_MAPS, config_map(namespace, f"c{number}"))
            informer.store.absorb(made)
            assert informer.store.get(namespace, f"c{number}") is not None
        assert len(informer.store) == 20


async def test_deletes_while_cut_and_a_version_too_old_leave_no_ghosts(
    private_control_plane, monkeypatch
):
    """The network goes, objects go, the server forgets (restart), the network returns: 410."""
    monkeypatch.setattr(informer_module, "BACKOFF_CAP_SECONDS", 1.0)
    plane = private_control_plane
    address = urlsplit(plane.url)
    direct = load_kubeconfig([Path(plane.kubeconfig)])
    async with tcp_gate(address.hostname, address.port) as gate:
        through = dataclasses.replace(direct, server=f"https://127.0.0.1:{gate.port}")
        async with KubeClient(Transport(direct)) as admin, KubeClient(Transport(through)) as client:
            for number in range(20):
                await admin.create(CONFIG_MAPS, config_map("default", f"c{number}", k="v"))
            cache = make_informer(client, "default")
            told: list[tuple[str, str]] = []
            cache.store.add_handler(
                lambda kind, old, new: told.append((str(kind), (new or old)["metadata"]["name"]))
            )
            async with running(cache.run()):
                await asyncio.wait_for(cache.synced.wait(), 60)
                gate.shut()
                for number in range(10):
                    await admin.delete(CONFIG_MAPS, "default", f"c{number}")
                await admin.create(CONFIG_MAPS, config_map("default", "new"))
                await asyncio.to_thread(plane.restart_api_server)
                told.clear()
                gate.open()
                expected = {f"c{number}" for number in range(10, 20)} | {"new"}
                await eventually_async(lambda: names(cache.store) == expected, 60)
            assert sorted(told) == sorted(
                [("DELETED", f"c{number}") for number in range(10)] + [("ADDED", "new")]
            )
            errors_seen = client.metrics.registry.get_sample_value(
                "reflector_watch_errors_total", {"name": "configmaps", "error": "Gone"}
            )
            assert errors_seen, "the server did not answer 410: the test lost its point"


async def test_informer_and_elector_outlive_a_server_restart(private_control_plane):
    plane = private_control_plane
    connection = load_kubeconfig([Path(plane.kubeconfig)])
    async with KubeClient(Transport(connection)) as client:
        informer = make_informer(client, "default")
        elector = LeaderElector(
            client, namespace="default", name="leader", identity="one", clock=SystemClock()
        )
        terms = 0

        async def lead() -> None:
            nonlocal terms
            terms += 1
            await asyncio.Event().wait()

        async with running(informer.run(), elector.run(lead)):
            await asyncio.wait_for(informer.synced.wait(), 60)
            await eventually_async(lambda: elector.is_leader)
            await asyncio.to_thread(plane.restart_api_server)

            async def has_created():
                return await client.create(CONFIG_MAPS, config_map("default", "after-restart"))

            await eventually_async(has_created, 30)
            await eventually_async(lambda: "after-restart" in names(informer.store), 60)
            await eventually_async(lambda: elector.is_leader)
            assert terms == 1
        lease = await client.get(LEASES, "default", "leader")
        assert lease["spec"]["holderIdentity"] == ""


async def test_feed_that_nobody_feeds_still_ends_up_right(client, namespace):
    for number in range(3):
        await client.create(CONFIG_MAPS, config_map(namespace, f"c{number}", k="v"))
    feed = Feed(
        client,
        CONFIG_MAPS,
        namespaces=[namespace],
        label_selector="test=yes",
        grace_seconds=0.2,
    )
    async with running(feed.run()):
        await asyncio.wait_for(feed.synced.wait(), 60)
        assert names(feed.store) == {"c0", "c1", "c2"}
        assert feed.store.get(namespace, "c0")["data"] == {"k": "v"}
        await client.delete(CONFIG_MAPS, namespace, "c1")
        feed.observe(None, await client.get(CONFIG_MAPS, namespace, "c0"))
        await eventually_async(lambda: names(feed.store) == {"c0", "c2"})


# --- events and leadership ---------------------------------------------------------------------


async def test_events_show_in_describe_with_their_count(client, control_plane, namespace):
    owner = await client.create(CONFIG_MAPS, config_map(namespace, "a"))

    async def tell(instance: str, expected: int) -> None:
        recorder = EventRecorder(
            client, component="op", instance=instance, clock=SystemClock(), repeat_seconds=0.1
        )

        async def is_told() -> bool:
            recorder.record(CONFIG_MAPS, owner, "Warning", "Broken", "it broke")
            found = await client.list(EVENTS, namespace)
            return bool(found.items) and found.items[0]["count"] >= expected

        async with running(recorder.run()):
            await eventually_async(is_told, interval=0.2)

    await tell("op-0", 3)
    await tell("op-1", 5)
    found = await client.list(EVENTS, namespace)
    assert len(found.items) == 1
    shown = control_plane.kubectl("-n", namespace, "events", "--for", "configmap/a")
    assert "it broke" in shown
    assert "Broken" in shown


async def test_leader_paused_beyond_its_lease_writes_nothing_when_it_wakes(
    client, control_plane, namespace
):
    script = Path(__file__).parents[1] / "kit" / "cluster" / "lease_holder.py"
    operator = Path(__file__).parents[2] / "operator"
    old = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        str(control_plane.kubeconfig),
        namespace,
        "old",
        env=os.environ | {"PYTHONPATH": str(operator)},
    )
    try:
        written_by_old = (CONFIG_MAPS, namespace, "written-by-old")

        async def has_written():
            return await client.get(*written_by_old)

        await eventually_async(has_written, 60)
        os.kill(old.pid, signal.SIGSTOP)
        new = LeaderElector(
            client,
            namespace=namespace,
            name="leader",
            identity="new",
            clock=SystemClock(),
            lease_duration_seconds=15.0,
            renew_deadline_seconds=12.0,
            retry_period_seconds=1.0,
        )
        async with running(new.run(asyncio.Event().wait)):
            await eventually_async(lambda: new.is_leader, 60)
            before = await client.get(*written_by_old)
            os.kill(old.pid, signal.SIGCONT)
            assert await asyncio.wait_for(old.wait(), 240) == 3
            after = await client.get(*written_by_old)
            assert after["data"] == before["data"]
            assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
            lease = await client.get(LEASES, namespace, "leader")
            assert lease["spec"]["holderIdentity"] == "new"
            assert lease["spec"]["leaseTransitions"] == 1
    finally:
        if old.returncode is None:
            old.kill()
            await old.wait()
