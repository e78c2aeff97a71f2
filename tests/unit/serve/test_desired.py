"""The copy of the endpoints equals the list of the API server, whatever happens to the watch."""

import asyncio
import json
import random
from contextlib import suppress

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.serve.desired import Expired, FileSource, KubernetesSource, Mirror, source_of
from kit.servers.scripted_server import scripted_server


def endpoint(name, version, **spec):
    return {"metadata": {"name": name, "resourceVersion": str(version)}, "spec": spec}


class History:
    """Objects of an API server with the events that led to them."""

    def __init__(self):
        self.objects, self.events, self.version = {}, [], 100

    def change(self, name, is_deletion):
        self.version += 1
        kind = "MODIFIED" if name in self.objects else "ADDED"
        if is_deletion:
            if self.objects.pop(name, None) is None:
                return
            kind = "DELETED"
        item = endpoint(name, self.version, number=self.version)
        if not is_deletion:
            self.objects[name] = item
        self.events.append((self.version, {"type": kind, "object": item}))

    def after(self, version):
        return [event for number, event in self.events if number > int(version)]

    def list(self):
        return list(self.objects.values()), str(self.version)


changes = st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=40)


@given(changes=changes, seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_events_in_any_order_and_repeated_lead_to_the_list(changes, seed):
    rng, history, mirror = random.Random(seed), History(), Mirror()
    for change in changes[:5]:
        history.change(*change)
    mirror.replace(*history.list())
    start = mirror.resource_version
    for change in changes[5:]:
        history.change(*change)
    events = history.after(start)
    events += rng.choices(events, k=5) if events else []
    rng.shuffle(events)
    for event in events:
        mirror.apply(event)
    assert mirror.objects == history.objects


@given(changes=changes, seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_a_watch_that_is_cut_and_expires_leads_to_the_list(changes, seed):
    rng, history, mirror = random.Random(seed), History(), Mirror()
    mirror.replace(*history.list())
    for change in [*changes, None]:
        if change:
            history.change(*change)
            if rng.random() < 0.5:
                continue
        if rng.random() < 0.2:
            with pytest.raises(Expired):
                mirror.apply({"type": "ERROR", "object": {"code": 410, "message": "too old"}})
            mirror.replace(*history.list())
            continue
        pending = history.after(mirror.resource_version)
        cut = len(pending) if change is None else rng.randint(0, len(pending))
        for event in pending[:cut]:
            mirror.apply(event)
    assert mirror.objects == history.objects


def test_an_event_that_changes_nothing_is_not_reported():
    mirror = Mirror()
    mirror.replace([endpoint("a", 5)], "5")
    assert not mirror.apply({"type": "MODIFIED", "object": endpoint("a", 5)})
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}
    assert not mirror.apply(bookmark)
    assert mirror.resource_version == "9"


async def until_seen(follow, is_enough):
    """Follow until the reported endpoints satisfy a condition; return all reports."""
    reports, enough = [], asyncio.Event()

    def on_change(objects):
        reports.append(dict(objects))
        if is_enough(objects):
            enough.set()

    task = asyncio.create_task(follow(on_change))
    done = asyncio.create_task(enough.wait())
    await asyncio.wait({task, done}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert enough.is_set()
    return reports


def page(*items, version, following=None):
    metadata = {"resourceVersion": str(version), "continue": following}

    async def answer(_request):
        return web.json_response({"items": list(items), "metadata": metadata})

    return answer


def watch(*lines, status=200, tail=b"", holds=False):
    async def answer(request):
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        for line in lines:
            await response.write(json.dumps(line).encode() + b"\n")
        if tail:
            await response.write(tail)
        if holds:
            await asyncio.Event().wait()
        return response

    return answer


def modified(name, version):
    return {"type": "MODIFIED", "object": endpoint(name, version)}


async def no_pause(_seconds):
    await asyncio.sleep(0)


def source(server, tmp_path):
    token = tmp_path / "token"
    if not token.exists():
        token.write_text("first\n")
    return KubernetesSource(
        server=server.url, namespace="team", token_file=token, ca_file=None, pause=no_pause
    )


def versions(objects):
    return {name: item["metadata"]["resourceVersion"] for name, item in objects.items()}


async def test_a_list_in_pages_is_followed_by_a_watch_from_its_version(tmp_path):
    async with scripted_server() as server:
        server.lists.append(page(endpoint("a", 1), version=7, following="next"))
        server.lists.append(page(endpoint("b", 2), version=7))
        server.watches.append(watch(modified("b", 8), holds=True))
        reports = await until_seen(
            source(server, tmp_path).follow, lambda objects: versions(objects).get("b") == "8"
        )
        assert [versions(report) for report in reports] == [
            {"a": "1", "b": "2"},
            {"a": "1", "b": "8"},
        ]
        assert server.requests("GET", **{"continue": "next"})
        (request,) = server.requests("GET", watch="1")
        assert request.query["resourceVersion"] == "7"
        assert request.path.endswith("/namespaces/team/finetuneendpoints")


async def test_a_watch_that_breaks_within_an_event_goes_on_after_the_last_whole_one(tmp_path):
    async with scripted_server() as server:
        server.lists.append(page(endpoint("a", 1), version=1))
        server.watches.append(watch(modified("a", 2), tail=b'{"type": "MODI'))
        server.watches.append(watch(status=503))
        server.watches.append(watch(modified("a", 3), holds=True))
        await until_seen(source(server, tmp_path).follow, lambda o: versions(o) == {"a": "3"})
        asked = [seen.query["resourceVersion"] for seen in server.requests("GET", watch="1")]
        assert asked == ["1", "2", "2"]
        assert len(server.requests("GET", limit="500")) == 1


@pytest.mark.parametrize(
    "gone",
    [
        watch({"type": "ERROR", "object": {"code": 410, "message": "too old"}}),
        watch(status=410),
    ],
    ids=["event", "status"],
)
async def test_history_that_is_gone_is_replaced_by_a_new_list(tmp_path, gone):
    async with scripted_server() as server:
        server.lists.append(page(endpoint("a", 1), endpoint("b", 1), version=1))
        server.lists.append(page(endpoint("b", 9), version=9))
        server.watches.append(gone)
        server.watches.append(watch(holds=True))
        reports = await until_seen(
            source(server, tmp_path).follow, lambda o: versions(o) == {"b": "9"}
        )
        assert len(reports) == 2


async def test_a_watch_that_is_silent_is_replaced_by_a_new_list(tmp_path, monkeypatch):
    monkeypatch.setattr("finetune_trainer.serve.desired.STALE_SECONDS", 0.2)
    async with scripted_server() as server:
        server.lists.append(page(endpoint("a", 900), version=1000))
        server.lists.append(page(endpoint("a", 5), endpoint("b", 7), version=7))  # restored
        server.watches.append(watch(holds=True))
        server.watches.append(watch(modified("a", 8), holds=True))
        await until_seen(
            source(server, tmp_path).follow, lambda o: versions(o) == {"a": "8", "b": "7"}
        )


async def test_a_rotated_token_is_read_again(tmp_path):
    async with scripted_server() as server:

        async def refused(_request):
            (tmp_path / "token").write_text("second")
            return web.Response(status=401)

        server.lists.append(refused)
        server.lists.append(page(version=1))
        server.watches.append(watch(holds=True))
        await until_seen(source(server, tmp_path).follow, lambda objects: objects == {})
        tokens = [seen.headers["Authorization"] for seen in server.requests("GET", limit="500")]
        assert tokens == ["Bearer first", "Bearer second"]


async def test_an_error_of_the_receiver_is_not_retried(tmp_path):
    def fail(_objects):
        raise ValueError("a defect")

    async with scripted_server() as server:
        server.lists.append(page(version=1))
        with pytest.raises(ValueError, match="a defect"):
            await source(server, tmp_path).follow(fail)


async def test_a_changed_file_is_reported_and_a_broken_one_keeps_the_last(tmp_path):
    path = tmp_path / "endpoints.json"
    path.write_text(json.dumps([endpoint("a", 1)]))
    steps = iter(["{broken", json.dumps([endpoint("a", 1), endpoint("b", 2)])])

    async def write_the_next(_seconds):
        await asyncio.sleep(0)
        if text := next(steps, None):
            path.write_text(text)

    following = FileSource(path, pause=write_the_next)
    reports = await until_seen(following.follow, lambda objects: "b" in objects)
    assert [sorted(report) for report in reports] == [["a"], ["a", "b"]]


def test_the_environment_names_the_source(tmp_path):
    assert isinstance(source_of({"FINETUNE_ENDPOINTS": f"file://{tmp_path}/x"}), FileSource)
    inside = {"KUBERNETES_SERVICE_HOST": "fd00::1", "FINETUNE_NAMESPACE": "team"}
    assert isinstance(source_of(inside), KubernetesSource)
    with pytest.raises(ValueError, match="FINETUNE_ENDPOINTS"):
        source_of({"FINETUNE_ENDPOINTS": "s3://bucket/x"})
    with pytest.raises(ValueError, match="set FINETUNE_ENDPOINTS"):
        source_of({})
