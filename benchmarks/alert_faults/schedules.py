"""Faults of schedules: a quota refuses the job of a cycle, and all cycles fail their gates.

Pods of the FineTuneJobs are played. The API server, its quota and the cron table are real.
"""

from __future__ import annotations

from typing import Any

from benchmarks.alert_faults.world import PATIENCE_SECONDS, Seen, World

from finetune_api.protocol.evaluation_result import EvaluateResult, GateResult
from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import ExitCode, Stage
from finetune_operator.controllers.memory.schedules import FINETUNESCHEDULES
from kit.cluster.kubelet import Fate, Kubelet, success
from kit.cluster.simulation import ended_status, finetunejob, result_of
from kit.processes.eventually import eventually_async

Body = dict[str, Any]

REFUSED, VAIN = "alerts-quota", "alerts-vain"
NUM_CYCLES = 2
GATE = {"name": "better", "metric": "exactMatch", "overPublished": "0"}
EVERY_TEN_MINUTES = {"cron": "*/10 * * * *"}


async def troubled_schedules(world: World) -> list[Seen]:
    """Two schedules that train in vain, or not at all."""
    world.make_namespaces(REFUSED, VAIN)
    world.apply(_no_room_for_jobs())
    namespaces = [REFUSED, VAIN]
    kubelet = Kubelet(world.client, namespaces=(VAIN,), script=_miss_the_gate)
    options = {"namespaces": namespaces, "minCycleInterval": "10m"}
    async with world.replica("schedules", **options) as replica, kubelet.running():
        await replica.reach(2)
        replica.note("FineTuneScheduleStalled", "FineTuneScheduleInVain")
        await world.client.create(FINETUNESCHEDULES, _schedule("refused", REFUSED))
        await world.client.create(FINETUNESCHEDULES, _schedule("vain", VAIN))
        end = replica.minute + 70
        await _until_in_vain(world)
        await replica.reach(end)
    return [
        Seen(
            alert="FineTuneScheduleStalled",
            fault="a ResourceQuota that allows no FineTuneJob",
            labels={
                "namespace": REFUSED,
                "finetuneschedule": "refused",
                "state": "Stalled",
                "reason": "Forbidden",
            },
            replica=replica,
        ),
        Seen(
            alert="FineTuneScheduleInVain",
            fault=f"at least {NUM_CYCLES} cycles in a row, and the jobs of all miss a gate",
            labels={"namespace": VAIN, "finetuneschedule": "vain", "reason": "NotPublished"},
            replica=replica,
        ),
    ]


def _schedule(name: str, namespace: str) -> Body:
    template = finetunejob(name, namespace)["spec"]
    template["evaluation"] = {"gates": [GATE]}
    return {
        "apiVersion": FINETUNESCHEDULES.api_version,
        "kind": FINETUNESCHEDULES.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "triggers": EVERY_TEN_MINUTES,
            "promote": "Auto",
            "jobTemplate": {"spec": template},
        },
    }


def _no_room_for_jobs() -> Body:
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "no-jobs", "namespace": REFUSED},
        "spec": {"hard": {"count/finetunejobs.finetune.dev": "0"}},
    }


def _miss_the_gate(job: str, stage: Stage, attempt: int) -> Fate:
    """Play the pods of a job: all works, and the version is no better than the published one."""
    if stage is not Stage.EVALUATE:
        return success(stage)
    gate = GateResult(name=GATE["name"], met=False, message="played for an alert")
    missed = {"gates": [gate], "version": None, "manifest_uri": ""}
    found: EvaluateResult = result_of(stage).model_copy(update=missed)
    words = TerminationMessage(stage=stage, exit_code=ExitCode.OK, reason="Succeeded", result=found)
    return Fate(status=ended_status(0, words.to_text()))


async def _until_in_vain(world: World) -> None:
    async def has_ended() -> bool:
        live = await world.client.get(FINETUNESCHEDULES, VAIN, "vain")
        return len((live.get("status") or {}).get("history") or ()) >= NUM_CYCLES

    found: bool = await eventually_async(has_ended, timeout=PATIENCE_SECONDS)
    assert found
