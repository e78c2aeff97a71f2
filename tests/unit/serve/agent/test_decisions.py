"""The decisions on an endpoint lie beside its versions, and come back where its status is empty."""

import asyncio
import json
import threading
from pathlib import Path

from finetune_api.protocol.serving import StoredDecisions
from finetune_operator.finetuneendpoint.observed import ServerPod
from finetune_trainer.errors import StorageError
from finetune_trainer.serve.agent.decisions import Decisions
from finetune_trainer.storage import open_store
from kit.builders.endpoints import EndpointWorld, published_job
from kit.builders.versions import publish_version
from kit.processes.eventually import eventually_async
from kit.servers.serving_agent import running_agent

SERVER = "fts-0123456789ab"


def job_of(version):
    """Return the job that has published a version."""
    root = f"file://{version.root}"
    job = published_job(version.number, model={"uri": "hf://org/model"}, output={"uri": root})
    uid = f"uid-{version.job}-{version.number}"
    job["metadata"] |= {"name": version.job, "namespace": "team", "uid": uid}
    manifest = f"{root}/versions/team/{version.job}/{version.number}/manifest.json"
    job["status"]["artifact"] |= {"manifestUri": manifest, "sha256": version.weights}
    return job


def world_of(version):
    """Return an endpoint that follows the job of a version."""
    world = EndpointWorld(job_of(version), jobRef={"name": version.job})
    world.endpoint["metadata"]["namespace"] = "team"
    world.look()
    return world


def stored_at(version):
    return version.root / f"versions/team/{version.job}/endpoints/headlines.json"


async def together(world, agent, is_so):
    """Let agent and operator act on each other until something holds."""

    async def step():
        agent.endpoints.write_text(json.dumps([world.endpoint]))
        report = await agent.report()
        pod = ServerPod(name="pod", server=report.server, is_ready=True, report=report)
        world.facts = {"servers": (pod,)}
        world.look(seconds=10)
        return is_so()

    await eventually_async(step, timeout=10, interval=0.05)


async def test_a_restored_endpoint_answers_with_its_version_and_tries_no_rejected_one(
    engine, tmp_path
):
    first = publish_version(tmp_path / "out")
    second = publish_version(tmp_path / "out", number=2, shift=1)
    world = world_of(first)
    environment = {"FINETUNE_SERVER": world.status["candidate"]["server"]}
    async with running_agent(tmp_path / "one", engine, environment=environment) as agent:
        await together(world, agent, lambda: world.versions()[0] == 1)
        world.job = job_of(second)
        damaged = second.root / second.manifest.inputs["run"] / "adapter/adapter_model.safetensors"
        whole = damaged.read_bytes()
        damaged.write_bytes(b"weights x")

        def is_stored():
            path = stored_at(first)
            told = json.loads(path.read_text()) if path.exists() else {}
            return [each["version"] for each in told.get("rejected", [])] == [2]

        await together(world, agent, is_stored)
        recorded = lambda: world.condition("Recorded") == ("True", "Recorded")  # noqa: E731
        await together(world, agent, recorded)
    damaged.write_bytes(whole)
    before = world.status
    world.endpoint.pop("status")
    world.facts.clear()
    world.look()
    assert world.versions() == (None, 2, None)
    async with running_agent(tmp_path / "two", engine, environment=environment) as agent:
        await together(world, agent, lambda: world.versions()[0] is not None)
        assert world.versions() == (1, None, None)
        assert world.status["active"]["sha256"] == first.sha256 == before["active"]["sha256"]
        assert world.status["rejected"] == before["rejected"]
        await together(world, agent, recorded)
        await agent.until(first.name, "Verified")
    assert world.decided() == [(1, "Restored")]
    assert StoredDecisions.model_validate_json(stored_at(first).read_bytes()).active == 1


async def test_an_endpoint_without_stored_decisions_begins_anew(engine, tmp_path):
    version = publish_version(tmp_path / "out")
    world = world_of(version)
    environment = {"FINETUNE_SERVER": world.status["candidate"]["server"]}
    stored_at(version).parent.mkdir(parents=True)
    stored_at(version).write_text("{")
    async with running_agent(tmp_path / "agent", engine, environment=environment) as agent:
        damaged = lambda: "Recorded" in str(world.status["conditions"])  # noqa: E731
        await together(world, agent, damaged)
        assert world.condition("Recorded") == ("False", "DecisionsDamaged")

        def is_stored():
            is_told = world.condition("Recorded") == ("True", "Recorded")
            return is_told and stored_at(version).read_text() != "{"

        await together(world, agent, is_stored)
    assert world.versions() == (1, None, None)
    assert json.loads(stored_at(version).read_text())["active"] == 1


# ---- the agent alone -----------------------------------------------------------------------------


class Store:
    """A folder whose requests can be refused or held back."""

    def __init__(self, folder: Path) -> None:
        self._store = open_store(f"file://{folder}")
        self.refuses = ""
        self.held = threading.Event()
        self.is_free = threading.Event()
        self.is_free.set()
        self.written: list[dict] = []

    def exists(self, key):
        return self._store.exists(key)

    def read_chunks(self, key):
        return self._store.read_chunks(key)

    def write_bytes(self, key, data):
        if self.refuses:
            raise StorageError(self.refuses, "no")
        if not self.held.is_set():
            self.held.set()
            assert self.is_free.wait(10)
        self.written.append(json.loads(data))
        self._store.write_bytes(key, data)


def decided(version, *, active=1, minute=0, **status):
    """Return an endpoint on which something was decided at a minute."""
    served = {**version.served(), "version": active, "server": SERVER}
    newest = {k: v for k, v in served.items() if k not in ("sha256", "server")}
    at = f"2026-12-02T10:{minute:02d}:00Z"
    decision = {"time": at, "version": active, "action": "Promoted"}
    return {
        "x": {
            "metadata": {"name": "x", "namespace": "team"},
            "spec": {"jobRef": {"name": version.job}},
            "status": {"active": served, "newest": newest, "decisions": [decision], **status},
        }
    }


def keeping(store):
    return Decisions(namespace="team", server=SERVER, opens=lambda _: store, pause=short)


async def short(seconds):
    await asyncio.sleep(0.01)


async def until_stored(decisions):
    async def is_stored():
        return not decisions.list_open()

    await eventually_async(is_stored, timeout=10, interval=0.01)


async def test_decisions_are_written_once_for_each_change(tmp_path):
    version, store = publish_version(tmp_path / "out"), Store(tmp_path / "store")
    one, other = keeping(store), keeping(store)
    for decisions in (one, other, one):
        for phase in ("Available", "Degraded"):
            decisions.follow(decided(version, phase=phase))
            await until_stored(decisions)
    assert [each["active"] for each in store.written] == [1]
    one.follow(decided(version, active=2, minute=1))
    await until_stored(one)
    assert [each["active"] for each in store.written] == [1, 2]


async def test_an_older_write_never_follows_a_newer_one(tmp_path):
    version, store = publish_version(tmp_path / "out"), Store(tmp_path / "store")
    decisions = keeping(store)
    store.is_free.clear()
    decisions.follow(decided(version))
    await asyncio.to_thread(store.held.wait, 10)
    decisions.follow(decided(version, active=2, minute=1))
    await asyncio.sleep(0.1)
    assert store.written == []
    store.is_free.set()
    await until_stored(decisions)
    assert [each["active"] for each in store.written] == [1, 2]


async def test_a_status_from_an_older_backup_overwrites_no_newer_decision(tmp_path):
    version, store = publish_version(tmp_path / "out"), Store(tmp_path / "store")
    decisions = keeping(store)
    decisions.follow(decided(version, active=2, minute=5))
    await until_stored(decisions)
    decisions.follow(decided(version, active=1, minute=1))

    async def is_told():
        return [each.reason for each in decisions.list_open()] == ["StatusIsOlder"]

    await eventually_async(is_told, timeout=10, interval=0.01)
    decisions.follow(decided(version, active=1, minute=9))
    await until_stored(decisions)
    assert [each["active"] for each in store.written] == [2, 1]


async def test_storage_that_takes_no_decisions_is_told_until_it_takes_them(tmp_path):
    version, store = publish_version(tmp_path / "out"), Store(tmp_path / "store")
    decisions = keeping(store)
    store.refuses = "AccessDenied"
    decisions.follow(decided(version))

    async def is_told():
        told = [(each.name, each.state, each.reason) for each in decisions.list_open()]
        return told == [("x", "Failed", "AccessDenied")]

    await eventually_async(is_told, timeout=10, interval=0.01)
    store.refuses = ""
    await until_stored(decisions)
    await decisions.close()


async def test_endpoints_of_other_servers_and_of_a_file_of_ones_own_are_left_alone(tmp_path):
    version, store = publish_version(tmp_path / "out"), Store(tmp_path / "store")
    decisions = keeping(store)
    (local,) = decided(version).values()
    del local["status"]["newest"]
    elsewhere = decided(version)["x"]
    elsewhere["status"]["active"]["server"] = "fts-another"
    decisions.follow({"local": local, "elsewhere": elsewhere, "broken": {"status": {"active": 1}}})
    assert decisions.list_open() == []
