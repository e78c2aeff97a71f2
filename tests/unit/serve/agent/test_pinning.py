"""The operator and an agent together: which manifest of a version is served."""

import asyncio
import json
from contextlib import asynccontextmanager

from finetune_operator.finetuneendpoint.observed import ServerPod
from kit.builders.endpoints import EndpointWorld, published_job
from kit.builders.versions import publish_version
from kit.processes.eventually import eventually_async
from kit.servers.serving_agent import running_agent


def world_of(version):
    """Return an endpoint that follows the job of a version, which reports what real jobs do."""
    root = f"file://{version.root}"
    job = published_job(1, model={"uri": "hf://org/model"}, output={"uri": root})
    job["metadata"] |= {"name": version.job, "namespace": "team", "uid": f"uid-{version.job}-1"}
    manifest = f"{root}/versions/team/{version.job}/1/manifest.json"
    job["status"]["artifact"] |= {"manifestUri": manifest, "sha256": version.weights}
    world = EndpointWorld(job, jobRef={"name": version.job})
    world.endpoint["metadata"]["namespace"] = "team"
    world.look()
    return world


@asynccontextmanager
async def agent_for(world, folder, engine):
    server = (world.status.get("candidate") or world.status["active"])["server"]
    environment = {"FINETUNE_SERVER": server}
    async with running_agent(folder, engine, environment=environment) as agent:
        yield agent


async def work_together(world, agent, version, state):
    """Let the agent do what the status says, and the operator plan on its report."""
    agent.endpoints.write_text(json.dumps([world.endpoint]))
    await agent.until(version.name, state)
    report = await agent.report()
    pod = ServerPod(name="pod", server=report.server, is_ready=True, report=report)
    world.facts = {"servers": (pod,)}
    world.run()


async def test_the_manifest_that_an_agent_has_verified_is_the_only_one_from_then_on(
    engine, tmp_path
):
    version = publish_version(tmp_path / "out")
    world = world_of(version)
    assert world.status["candidate"]["sha256"] == ""
    async with agent_for(world, tmp_path / "first", engine) as agent:
        await work_together(world, agent, version, "Verified")
        assert world.versions() == (1, None, None)
        assert world.status["active"]["sha256"] == version.sha256
        agent.endpoints.write_text(json.dumps([world.endpoint]))
        adapter = agent.process.keeper.find(version.name)
        while adapter.wanted.sha256 != version.sha256:
            await asyncio.sleep(0)
        assert (adapter.state, agent.process.keeper.num_loads) == ("Verified", 1)
    path = version.root / f"versions/team/{version.job}/1/manifest.json"
    swapped = json.loads(path.read_text()) | {"createdBy": "somebody"}
    path.write_text(json.dumps(swapped))
    async with agent_for(world, tmp_path / "second", engine) as agent:
        await work_together(world, agent, version, "Failed")
    assert world.versions() == (1, None, None)
    assert world.status["active"]["sha256"] == version.sha256
    assert world.condition("Degraded") == ("True", "FilesDamaged")


async def test_weights_that_the_job_does_not_report_are_refused(engine, tmp_path):
    version = publish_version(tmp_path / "out")
    world = world_of(version)
    other = publish_version(tmp_path / "others" / "out", shift=1)
    world.endpoint["status"]["candidate"]["weightsSha256"] = other.weights
    world.job["status"]["artifact"]["sha256"] = other.weights
    async with agent_for(world, tmp_path / "agent", engine) as agent:
        await work_together(world, agent, version, "Failed")
        assert world.versions() == (None, 1, None)
        await eventually_async(lambda: agent.process.keeper.find(version.name).num_failures > 1)
        await work_together(world, agent, version, "Failed")
    assert world.versions() == (None, None, None)
    assert world.status["rejected"][0]["reason"] == "FilesDamaged"
    assert world.status["rejected"][0]["sha256"] == version.sha256
