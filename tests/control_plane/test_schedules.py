"""Schedules on a real API server: a cycle that a person asks for, its history, and its end."""

from __future__ import annotations

import asyncio
from typing import Any

from control_plane.test_lifecycle import phase_is
from finetune_api.protocol.trainer import Stage
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.controllers.memory.schedules import FINETUNESCHEDULES
from finetune_operator.kube.api.errors import NotFound
from finetune_operator.status.conditions import find_condition
from kit.cases.schedule_cases import minimal_schedule
from kit.cluster.chart import install_crd
from kit.cluster.kubelet import Fate, Kubelet, success
from kit.cluster.simulation import finetunejob
from kit.processes.cli import Cli, Finished
from kit.processes.eventually import eventually_async
from kit.processes.operators import connection_of, open_client, running_manager, test_config

DIGEST = "d" * 64
"""What the simulated kubelet reports."""


async def test_a_cycle_that_a_person_asks_for_goes_to_its_version_and_dies_with_its_schedule(
    control_plane: Any, namespace: str, tmp_path: Any
) -> None:
    install_crd(control_plane)
    cli, may_end = Cli(tmp_path, use_fake_trainer=False), [True]
    where = ("-n", namespace, "--kubeconfig", str(control_plane.kubeconfig))

    async def run(*arguments: str) -> Finished:
        return await asyncio.to_thread(cli, *arguments, *where)

    def script(job: str, stage: Stage, attempt: int) -> Fate:
        return success(stage) if may_end[0] or stage is not Stage.TRAIN else Fate()

    async with open_client(connection_of(control_plane)) as client:
        body = minimal_schedule("yearly")
        body["metadata"]["namespace"] = namespace
        body["spec"] = {
            "jobTemplate": {"spec": finetunejob("any", namespace)["spec"]},
            "triggers": {"cron": "0 0 1 1 *"},
            "promote": "Auto",
        }
        await client.create(FINETUNESCHEDULES, body)
        kubelet = Kubelet(client, namespaces=(namespace,), script=script)
        async with kubelet.running(), running_manager(client, test_config(namespace)):
            await eventually_async(lambda: _reason(client, namespace), timeout=60)
            assert (await run("schedule", "trigger", "yearly", "--yes")).code == 0
            await eventually_async(lambda: _history(client, namespace), timeout=90)
            (job,) = (await client.list(FINETUNEJOBS, namespace)).items
            name = job["metadata"]["name"]
            await client.delete(FINETUNEJOBS, namespace, name)
            history = (await run("status", "schedule/yearly")).out.partition("History")[2]
            cells = ["Manual", DIGEST[:12], name, "1", "GoalReached", "Published"]
            assert history.splitlines()[2].split()[1:7] == cells
            columns = control_plane.kubectl("-n", namespace, "get", "ftsch").splitlines()
            assert columns[0].split() == [
                "NAME", "CRON", "SUSPEND", "ACTIVE", "LAST", "REASON", "AGE"
            ]  # fmt: skip
            assert "WaitingForTrigger" in columns[1]

            may_end[0] = False
            assert (await run("schedule", "trigger", "yearly", "--yes")).code == 0
            second = await eventually_async(lambda: _active_job(client, namespace), timeout=30)
            assert second != name
            await phase_is(client, namespace, second, "Training")
            suspend = '{"spec":{"suspend":true}}'
            patch = ("patch", "ftsch", "yearly", "--type=merge", "-p", suspend)
            control_plane.kubectl("-n", namespace, *patch)
            await phase_is(client, namespace, second, "Training")
            await client.delete(FINETUNESCHEDULES, namespace, "yearly")
            await eventually_async(lambda: _is_gone(client, namespace, second), timeout=60)


async def _status(client: Any, namespace: str) -> Any:
    return (await client.get(FINETUNESCHEDULES, namespace, "yearly")).get("status") or {}


async def _reason(client: Any, namespace: str) -> str:
    conditions = (await _status(client, namespace)).get("conditions")
    return str((find_condition(conditions, "Ready") or {}).get("reason") or "")


async def _history(client: Any, namespace: str) -> Any:
    return (await _status(client, namespace)).get("history")


async def _active_job(client: Any, namespace: str) -> str:
    active = (await _status(client, namespace)).get("active") or {}
    return str(active.get("job") or "") if active.get("jobUid") else ""


async def _is_gone(client: Any, namespace: str, name: str) -> bool:
    try:
        await client.get(FINETUNEJOBS, namespace, name)
    except NotFound:
        return True
    return False
