"""An operator and its chart replaced by those of another version, with jobs in every state.

``previous.zip`` is the release before (``python tools/previous_release.py``): its operator really
runs, its CRD and chart are really installed, and both ways are gone: up, and back again.
"""

from __future__ import annotations

import copy
import itertools
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml

from control_plane.test_lifecycle import last_words
from control_plane.test_replicas import LEASE, holder
from finetune_api.protocol.trainer import ExitCode, FailureClass, Stage
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.kube.api.resource import PODS
from kit.cluster.chart import IMAGES, HelmNotFoundError, find_helm, install_crd
from kit.cluster.kubelet import Fate, Kubelet, success
from kit.cluster.simulation import ended_status, finetunejob, success_text
from kit.processes.eventually import eventually_async
from kit.processes.operators import (
    ROOT,
    OperatorProcess,
    child_jobs,
    connection_of,
    event_reasons,
    get_job,
    holds,
    open_client,
    running_manager,
    test_config,
)

CHART = ROOT / "charts" / "finetune-operator"
CRD = "crds/finetunejobs.yaml"


HIDING = {
    "volumes": [{"name": "mine", "configMap": {"name": "mine"}}],
    "volumeMounts": [{"name": "mine", "mountPath": "//etc/finetune/job"}],
}
"""What the release before accepts: a mount over the job file."""


@pytest.fixture(scope="module")
def previous(tmp_path_factory) -> Path:
    """The files of the release before."""
    folder = tmp_path_factory.mktemp("previous")
    with zipfile.ZipFile(Path(__file__).with_name("previous.zip")) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(autouse=True)
def own_crd(control_plane):
    """Leave the CRD of this version behind, for the modules that come after."""
    yield
    install_crd(control_plane)


def script(job, stage, attempt):
    """Training runs on in its first attempt; one job fails once, one for good."""
    if job == "bad" and stage is Stage.PREPARE:
        text = last_words(stage, ExitCode.DATA_ERROR, FailureClass.DATA_ERROR, "InvalidRows", "x")
        return Fate(status=ended_status(65, text))
    if job == "retried" and stage is Stage.PREPARE and attempt == 0:
        text = last_words(stage, 73, FailureClass.STORAGE_ERROR, "Unreachable", "no answer")
        return Fate(status=ended_status(73, text))
    if stage is Stage.TRAIN and job != "done" and attempt == 0:
        return Fate()
    return success(stage)


class World:
    """What the steps of the test share."""

    def __init__(self, client, namespace: str) -> None:
        self.client, self.namespace = client, namespace

    async def create(self, name: str, **spec) -> None:
        await self.client.create(FINETUNEJOBS, finetunejob(name, self.namespace, **spec))

    async def reach(self, name: str, phase: str):
        async def has_phase():
            job = await get_job(self.client, self.namespace, name)
            return job if (job.get("status") or {}).get("phase") == phase else None

        return await eventually_async(has_phase, timeout=60, interval=0.2)

    async def train(self, name: str) -> None:
        async def is_training():
            return holds(await get_job(self.client, self.namespace, name), "Training")

        await eventually_async(is_training, timeout=60, interval=0.2)

    async def suspend(self, name: str, *, suspend: bool) -> None:
        patch = {"spec": {"suspend": suspend}}
        await self.client.merge_patch(FINETUNEJOBS, self.namespace, name, patch)

    async def finish_training(self, name: str) -> None:
        """Let the pod end that has been training all the time."""
        selector = f"finetune.dev/job={name},finetune.dev/stage=train"
        (pod,) = (await self.client.list(PODS, self.namespace, label_selector=selector)).items
        status = ended_status(0, success_text(Stage.TRAIN))
        await self.client.merge_patch(
            PODS, self.namespace, pod["metadata"]["name"], {"status": status}, subresource="status"
        )

    async def is_led_by(self, name: str) -> None:
        async def leads():
            return (await holder(self.client, self.namespace)).startswith(name)

        await eventually_async(leads, timeout=60, interval=0.2)

    async def uids(self) -> dict[str, str]:
        found = await child_jobs(self.client, self.namespace)
        return {child["metadata"]["name"]: child["metadata"]["uid"] for child in found}


async def test_jobs_in_every_state_outlive_the_upgrade_and_the_way_back(
    control_plane, namespace, tmp_path, previous
):
    install_crd(control_plane, previous / "charts" / "finetune-operator" / CRD)
    settings = {"namespaces": [namespace], "leaderElectionNamespace": namespace, **LEASE}

    def start(name: str, code: Path) -> OperatorProcess:
        folder = tmp_path / name
        return OperatorProcess(control_plane, folder, pod_name=name, code=code, **settings)

    async with open_client(connection_of(control_plane)) as client:
        kubelet = Kubelet(client, namespaces=(namespace,), script=script)
        world = World(client, namespace)
        operators = [start("old", previous / "operator")]
        try:
            async with kubelet.running():
                for name in ("running", "suspended", "retried", "done", "bad"):
                    await world.create(name)
                await world.create("queued", queueName="team-a")
                code = {"env": [{"name": "TRITON_CACHE_DIR", "value": "/data"}]}
                await world.create("loading", queueName="team-a", podTemplate=code)
                await world.create("hiding", podTemplate=HIDING)
                await world.train("suspended")
                await world.suspend("suspended", suspend=True)
                before = {
                    "suspended": await world.reach("suspended", "Suspended"),
                    "queued": await world.reach("queued", "Queued"),
                    "loading": await world.reach("loading", "Queued"),
                    "hiding": await world.reach("hiding", "Training"),
                    "done": await world.reach("done", "Succeeded"),
                    "bad": await world.reach("bad", "Failed"),
                }
                await world.train("running")
                await world.train("retried")
                uids = await world.uids()

                # up: the CRD first, then the replicas one by one, as a Deployment does it
                install_crd(control_plane)
                operators.append(start("new", ROOT / "operator"))
                operators[0].stop()
                await world.is_led_by("new")
                for name in ("running", "retried"):
                    await world.finish_training(name)
                await world.suspend("suspended", suspend=False)
                retried = await world.reach("retried", "Succeeded")
                await world.reach("running", "Succeeded")
                await world.reach("suspended", "Succeeded")
                assert retried["status"]["attempts"]["counted"] == 1
                assert uids.items() <= (await world.uids()).items()
                assert kubelet.attempts[namespace, "running", "train"] == 1
                assert kubelet.attempts[namespace, "suspended", "train"] == 2
                for name in ("done", "bad"):
                    after = await get_job(client, namespace, name)
                    assert after["status"] == before[name]["status"]
                loading = (await world.reach("loading", "Pending"))["status"]
                assert loading["reason"] == "EnvironmentNotAllowed"
                assert loading["dataset"]["uri"] == "s3://models/datasets/dddd"
                assert "loading-train" not in await world.uids()
                hiding = (await world.reach("hiding", "Failed"))["status"]
                assert hiding["lastFailure"]["reason"] == "ReservedName"
                assert hiding["dataset"]["uri"] == "s3://models/datasets/dddd"
                queued = await world.reach("queued", "Queued")
                assert "queued-train" not in await world.uids()
                assert queued["status"]["reason"] == before["queued"]["status"]["reason"]

                # back: the CRD stays
                await world.create("second")
                await world.train("second")
                uids = await world.uids()
                operators.append(start("older", previous / "operator"))
                operators[1].stop()
                await world.is_led_by("older")
                await world.finish_training("second")
                await world.reach("second", "Succeeded")
                assert uids.items() <= (await world.uids()).items()
                assert kubelet.attempts[namespace, "second", "train"] == 1
        except BaseException:
            print("\n".join(operator.tail() for operator in operators))
            raise
        finally:
            for operator in operators:
                operator.stop()


async def test_fields_of_a_newer_version_survive_the_writes_of_this_one(control_plane, namespace):
    newer = yaml.safe_load((ROOT / CRD).read_text())
    (version,) = newer["spec"]["versions"]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    properties["spec"]["properties"]["forecast"] = {"type": "string", "default": "on"}
    outlook = {"type": "object", "properties": {"score": {"type": "string"}}}
    properties["status"]["properties"]["outlook"] = outlook
    control_plane.kubectl(
        "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump(newer)
    )
    async with open_client(connection_of(control_plane)) as client:
        world = World(client, namespace)
        kubelet = Kubelet(client, namespaces=(namespace,), script=script)
        async with kubelet.running(), running_manager(client, test_config(namespace)):
            numbers = itertools.count()

            async def is_served():
                # Until the new schema is in force the field is dropped without a word.
                body = finetunejob(
                    f"probe-{next(numbers)}", namespace, suspend=True, forecast="off"
                )
                answer = await client.create(FINETUNEJOBS, body)
                return answer["spec"].get("forecast") == "off"

            await eventually_async(is_served, timeout=30, interval=0.5)
            await world.create("wider", forecast="off")
            await world.train("wider")
            # as the newer operator wrote it, under the name that both have
            job = await get_job(client, namespace, "wider")
            status = {**copy.deepcopy(job["status"]), "outlook": {"score": "0.9"}}
            head = {key: job[key] for key in ("apiVersion", "kind")}
            metadata = {"name": "wider", "namespace": namespace}
            await client.apply_status(
                FINETUNEJOBS,
                {**head, "metadata": metadata, "status": status},
                field_manager="finetune-operator",
            )
            await world.finish_training("wider")
            job = await world.reach("wider", "Succeeded")
    assert job["status"]["outlook"] == {"score": "0.9"}
    assert job["spec"]["forecast"] == "off"


async def test_a_crd_that_was_forgotten_is_told_and_jobs_go_on_once_it_is_there(
    control_plane, namespace
):
    older = yaml.safe_load((ROOT / CRD).read_text())
    (version,) = older["spec"]["versions"]
    del version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["reason"]
    control_plane.kubectl(
        "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump(older)
    )
    async with open_client(connection_of(control_plane)) as client:
        world = World(client, namespace)
        kubelet = Kubelet(client, namespaces=(namespace,), script=script)
        async with kubelet.running(), running_manager(client, test_config(namespace)):
            names: list[str] = []

            async def find_told():
                for name in names:
                    if "OutdatedCRD" in await event_reasons(client, namespace, name):
                        return name
                # Until the old schema is in force, jobs still get a status: try another.
                names.append(f"probe-{len(names)}")
                await world.create(names[-1], suspend=True)
                return None

            name = await eventually_async(find_told, timeout=40, interval=0.5)
            install_crd(control_plane)
            await world.reach(name, "Suspended")


def test_the_chart_is_upgraded_in_place_with_the_values_it_was_given(
    control_plane, namespace, previous
):
    try:
        helm = find_helm()
    except HelmNotFoundError as error:
        pytest.skip(str(error))

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [str(helm), *arguments, "--namespace", namespace],
            env={**os.environ, "KUBECONFIG": str(control_plane.kubeconfig)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    name = f"upgrade-{namespace}"
    watched = ("--set", f"watch.namespaces={{{namespace}}}", "--set", "config.allowCpu=true")
    values = (IMAGES, *watched)
    run("install", name, str(previous / "charts" / "finetune-operator"), "--skip-crds", *values)
    try:
        run("upgrade", name, str(CHART), "--reset-then-reuse-values")
        stored = control_plane.kubectl(
            "get", "configmap,deployment,role", "-n", namespace, "-o", "yaml",
            "-l", f"app.kubernetes.io/instance={name}",
        )  # fmt: skip
        objects = yaml.safe_load(stored)["items"]
        (settings,) = (each for each in objects if each["kind"] == "ConfigMap")
        assert yaml.safe_load(settings["data"]["config.yaml"])["allowCpu"] is True
        kinds = [each["kind"] for each in objects]
        assert kinds.count("Deployment") == 1
        assert "Role" in kinds
    finally:
        run("uninstall", name)
