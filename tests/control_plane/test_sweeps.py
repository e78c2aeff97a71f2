"""Sweeps on a real API server: what is refused, how one lives, and what a death changes."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from control_plane.test_crashes import Island, run_until_death
from finetune_api.meta import SWEEP_KIND
from finetune_api.names import Owner
from finetune_api.protocol.stage_results import ValidationScore
from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import ExitCode, Stage
from finetune_api.v1alpha1.finetunesweep import (
    SWEEP_FIXED_FIELDS,
    FineTuneSweep,
    fixed_in_sweep_message,
)
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.controllers.memory.sweeps import FINETUNESWEEPS
from finetune_operator.kube.api.errors import NotFound
from finetune_operator.kube.cache import informer as informer_module
from kit.cases.sweep_cases import RATE, SWEEP_CASES, SweepCase, minimal_sweep
from kit.cluster.chart import install_crd
from kit.cluster.kubelet import Fate, Kubelet, success
from kit.cluster.raw_api import MERGE, RawApi
from kit.cluster.simulation import ended_status, finetunejob, result_of
from kit.processes.eventually import eventually_async
from kit.processes.operators import (
    ROOT,
    condition,
    connection_of,
    holds,
    open_client,
    running_manager,
    test_config,
)

LOSSES = {"rates-t1": "1.5", "rates-t2": "1.2", "rates-t3": "0.9", "rates-t4": "1.1"}
BEST = "rates-t3"
SCORES = {"rates-t1": "0.6", "rates-t2": "0.9", "rates-t3": "0.7", "rates-t4": "0.9"}
BEST_BY_SCORE = "rates-t4"
"""Two score alike; it has the lower loss."""
NUM_CALLS_OF_A_LIFE = 96
STRIDE = 5
NUM_ISLANDS = 6


@pytest.fixture(scope="module", autouse=True)
def crd(control_plane: Any) -> None:
    install_crd(control_plane)


@pytest.fixture(scope="module")
def api(control_plane: Any) -> Iterator[RawApi]:
    api = RawApi(control_plane.kubeconfig)
    yield api
    api.close()


@pytest.fixture
def path(namespace: str) -> str:
    return f"/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunesweeps"


def sweep(namespace: str, **spec: Any) -> dict[str, Any]:
    """Return a sweep whose template has a goal, and that goes by the validation loss."""
    body = minimal_sweep("rates")
    body["metadata"]["namespace"] = namespace
    body["spec"] = {
        "template": finetunejob("x", namespace)["spec"],
        "parameters": [{"path": RATE, "values": ["1e-5", "1e-4", "1e-3", "1e-2"]}],
        "search": "Grid",
        "objective": {"metric": "validationLoss"},
        **spec,
    }
    return body


def script(job: str, stage: Stage, attempt: int) -> Fate:
    """Let every stage succeed at once, and training with loss and score of its trial."""
    if stage is not Stage.TRAIN:
        return success(stage)
    trained = result_of(stage, validation_loss=LOSSES.get(job, "1"))
    score = ValidationScore(
        metric="exactMatch",
        value=SCORES.get(job, "0.5"),
        low="0.4",
        high="0.95",
        num_samples=80,
    )
    selection = trained.selection.model_copy(update={"score": score})
    message = TerminationMessage(
        stage=stage,
        exit_code=ExitCode.OK,
        reason="Succeeded",
        result=trained.model_copy(update={"selection": selection}),
    )
    return Fate(status=ended_status(0, message.to_text()))


async def get_sweep(client: Any, namespace: str) -> dict[str, Any]:
    found: dict[str, Any] = await client.get(FINETUNESWEEPS, namespace, "rates")
    return found


async def jobs_of(client: Any, namespace: str) -> dict[str, dict[str, Any]]:
    found = await client.list(FINETUNEJOBS, namespace, label_selector="finetune.dev/sweep=rates")
    return {job["metadata"]["name"]: job for job in found.items}


async def until_over(client: Any, namespace: str) -> dict[str, Any]:
    async def is_over() -> dict[str, Any] | None:
        found = await get_sweep(client, namespace)
        return found if holds(found, "Complete") or holds(found, "Failed") else None

    found: dict[str, Any] = await eventually_async(is_over, timeout=120, interval=0.2)
    return found


# ---- what is refused ---------------------------------------------------------------------------


def test_api_server_and_models_judge_sweeps_alike(api: RawApi, path: str) -> None:
    disagreements = [
        f"{case.name}: {verdict}" for case in SWEEP_CASES if (verdict := _verdict(api, path, case))
    ]
    assert not disagreements, "\n".join(disagreements)


def _verdict(api: RawApi, path: str, case: SweepCase) -> str | None:
    status, answer = api.send("POST", f"{path}?dryRun=All&fieldValidation=Strict", case.body)
    try:
        FineTuneSweep.from_wire(case.body)
    except ValidationError:
        refused_here = True
    else:
        refused_here = False
    if (status >= 400) != refused_here:
        return f"API server {status} {answer.get('message')}, models refused: {refused_here}"
    if status >= 400 and case.server_expected not in answer["message"]:
        return f"expected {case.server_expected!r} in {answer['message']!r}"
    return None


CHANGES: dict[str, Any] = {
    "template": {"backoffLimit": 9},
    "parameters": [{"path": RATE, "values": ["1e-5"]}],
    "search": "Grid",
    "trials": 3,
    "objective": {"metric": "rougeL"},
    "earlyStopping": {"method": "Median"},
    "replicates": 3,
    "requestedBy": "rita@example.org",
}


@pytest.mark.parametrize("field", SWEEP_FIXED_FIELDS)
def test_what_is_tried_cannot_change(field: str, api: RawApi, path: str) -> None:
    assert set(CHANGES) == set(SWEEP_FIXED_FIELDS)
    assert api.send("POST", path, minimal_sweep())[0] == 201
    patch = {"spec": {field: CHANGES[field]}}
    status, answer = api.send("PATCH", f"{path}/example", patch, content_type=MERGE)
    assert status == 422
    assert fixed_in_sweep_message(field) in answer["message"]


def test_what_steers_a_sweep_can_change(api: RawApi, path: str) -> None:
    assert api.send("POST", path, minimal_sweep())[0] == 201
    edit = {"suspend": True, "parallelism": 5, "budget": {"trials": 3},
            "ttlSecondsAfterFinished": 60}  # fmt: skip
    status, answer = api.send("PATCH", f"{path}/example", {"spec": edit}, content_type=MERGE)
    assert status == 200, answer
    assert {key: answer["spec"][key] for key in edit} == edit


# ---- a life ------------------------------------------------------------------------------------


async def test_the_best_trial_is_published_and_deleting_the_sweep_takes_all(
    control_plane: Any, namespace: str
) -> None:
    async with open_client(connection_of(control_plane)) as client:
        kubelet = Kubelet(client, namespaces=(namespace,), script=script)
        async with kubelet.running(), running_manager(client, test_config(namespace)):
            await client.create(FINETUNESWEEPS, sweep(namespace))
            done = await until_over(client, namespace)
            assert holds(done, "Complete"), done["status"]
            assert done["status"]["best"]["name"] == BEST
            assert done["status"]["best"]["score"] == "0.9"
            jobs = await jobs_of(client, namespace)
            assert sorted(jobs) == sorted(LOSSES)
            assert holds(jobs[BEST], "Published")

            async def are_pruned() -> bool:
                found = await jobs_of(client, namespace)
                return all(holds(job, "Pruned") for name, job in found.items() if name != BEST)

            await eventually_async(are_pruned, timeout=30)
            # one data set, trained four times, evaluated once
            attempts = {(job, stage) for (_, job, stage) in kubelet.attempts}
            assert {job for job, stage in attempts if stage == "evaluate"} == {BEST}
            shown = control_plane.kubectl("-n", namespace, "get", "fts", "rates")
            assert shown.splitlines()[0].split() == [
                "NAME", "PHASE", "TRIALS", "BEST", "SCORE", "METRIC", "AGE"
            ]  # fmt: skip
            assert shown.splitlines()[1].split()[:6] == [
                "rates", "Succeeded", "4/4", BEST, "0.9", "validationLoss"
            ]  # fmt: skip
            await client.delete(FINETUNESWEEPS, namespace, "rates")

            async def are_gone() -> bool:
                return not await jobs_of(client, namespace)

            await eventually_async(are_gone, timeout=60)


async def test_the_goals_metric_on_validation_rows_decides_where_nothing_else_is_said(
    control_plane: Any, namespace: str
) -> None:
    async with open_client(connection_of(control_plane)) as client:
        kubelet = Kubelet(client, namespaces=(namespace,), script=script)
        async with kubelet.running(), running_manager(client, test_config(namespace)):
            await client.create(FINETUNESWEEPS, sweep(namespace, objective={}))
            done = await until_over(client, namespace)
            jobs = await jobs_of(client, namespace)
    assert holds(done, "Complete"), done["status"]
    assert done["status"]["objective"] == {"metric": "exactMatch", "direction": "Maximize"}
    assert done["status"]["best"]["name"] == BEST_BY_SCORE
    assert done["status"]["best"]["score"] == "0.9"
    trials = {trial["name"]: trial for trial in done["status"]["trials"]}
    assert {name: trial["loss"] for name, trial in trials.items()} == LOSSES
    assert jobs[BEST]["spec"]["evaluation"]["validation"] == {
        "metric": "exactMatch", "maxSamples": 500
    }  # fmt: skip
    held = condition(jobs[BEST], "Training")
    assert held is not None
    assert "exactMatch 0.7 [0.4, 0.95] on 80 validation rows" in held["message"]


async def test_a_missed_goal_is_told_on_the_sweep(control_plane: Any, namespace: str) -> None:
    def missing(job: str, stage: Stage, attempt: int) -> Fate:
        return success(stage, goal_met=False) if stage is Stage.EVALUATE else script(job, stage, 0)

    async with open_client(connection_of(control_plane)) as client:
        kubelet = Kubelet(client, namespaces=(namespace,), script=missing)
        async with kubelet.running(), running_manager(client, test_config(namespace)):
            await client.create(FINETUNESWEEPS, sweep(namespace))
            done = await until_over(client, namespace)
    failed = condition(done, "Failed")
    assert failed is not None
    assert failed["reason"] == done["status"]["reason"] == "GoalNotMet"
    assert BEST in failed["message"]


async def test_a_trial_that_would_be_refused_is_told_and_nothing_is_created(
    control_plane: Any, namespace: str
) -> None:
    parameters = [{"path": "method.adapter.rank", "values": [8, 1024]}]
    async with (
        open_client(connection_of(control_plane)) as client,
        running_manager(client, test_config(namespace)),
    ):
        await client.create(FINETUNESWEEPS, sweep(namespace, parameters=parameters))
        done = await until_over(client, namespace)
        assert await jobs_of(client, namespace) == {}
    accepted = condition(done, "Accepted")
    assert accepted is not None
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidTrial")
    assert "rates-t2" in accepted["message"]
    assert "1024" in accepted["message"]


async def test_without_the_kind_jobs_run_and_sweeps_go_on_once_it_is_there(
    control_plane: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(informer_module, "ABSENT_RETRY_SECONDS", 1.0)
    crd = str(ROOT / "crds" / "finetunesweeps.yaml")
    control_plane.kubectl("delete", "-f", crd, "--wait=true")
    try:
        async with open_client(connection_of(control_plane)) as client:
            kubelet = Kubelet(client, namespaces=(namespace,), script=script)
            async with kubelet.running(), running_manager(client, test_config(namespace)):
                await client.create(FINETUNEJOBS, finetunejob("alone", namespace))

                async def is_published() -> bool:
                    return holds(await client.get(FINETUNEJOBS, namespace, "alone"), "Published")

                await eventually_async(is_published, timeout=60)
                install_crd(control_plane)
                await client.create(FINETUNESWEEPS, sweep(namespace))
                assert holds(await until_over(client, namespace), "Complete")
    finally:
        install_crd(control_plane)


async def test_jobs_that_could_not_be_held_are_not_created(
    control_plane: Any, namespace: str, tmp_path: Path
) -> None:
    crd = yaml.safe_load((ROOT / "crds" / "finetunejobs.yaml").read_text())
    (version,) = crd["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    del schema["properties"]["spec"]["properties"]["holdAfter"]
    rules = schema["x-kubernetes-validations"]
    schema["x-kubernetes-validations"] = [r for r in rules if "holdAfter" not in r["rule"]]
    older = tmp_path / "finetunejobs.yaml"
    older.write_text(yaml.safe_dump(crd))
    try:
        install_crd(control_plane, older)
        async with (
            open_client(connection_of(control_plane)) as client,
            running_manager(client, test_config(namespace)),
        ):
            await client.create(FINETUNESWEEPS, sweep(namespace))
            done = await until_over(client, namespace)
            assert await jobs_of(client, namespace) == {}
    finally:
        install_crd(control_plane)
    failed = condition(done, "Failed")
    assert failed is not None
    assert failed["reason"] == "InvalidTrial"
    assert "holdAfter" in failed["message"]
    assert "kubectl apply" in failed["message"]


async def test_trials_that_are_deleted_stay_counted_and_foreign_jobs_are_left_alone(
    control_plane: Any, namespace: str
) -> None:
    """Delete running trials, restart the operator in between, and forge the next trial."""

    def running(job: str, stage: Stage, attempt: int) -> Fate:
        is_first = job in ("rates-t1", "rates-t2")
        return Fate() if is_first and stage is Stage.TRAIN else script(job, stage, 0)

    connection = connection_of(control_plane)
    async with open_client(connection) as client:
        kubelet = Kubelet(client, namespaces=(namespace,), script=running)
        async with kubelet.running():
            async with (
                open_client(connection) as own,
                running_manager(own, test_config(namespace)),
            ):
                await client.create(FINETUNESWEEPS, sweep(namespace, parallelism=1))
                await delete_once_it_trains(client, namespace, "rates-t1")
                await until_told_as_deleted(client, namespace, [1])
            await client.delete(FINETUNEJOBS, namespace, "rates-t2")
            owner = (await get_sweep(client, namespace))["metadata"]
            foreign = finetunejob("rates-t3", namespace)
            foreign["spec"]["model"]["uri"] = "hf://somebody/else"
            ours = Owner(namespace=namespace, name="rates", uid=owner["uid"], kind=SWEEP_KIND)
            foreign["metadata"]["ownerReferences"] = [ours.reference()]
            stored = await client.create(FINETUNEJOBS, foreign)
            async with running_manager(client, test_config(namespace)):
                await until_told_as_deleted(client, namespace, [1, 2])
                await eventually_async(lambda: _waits_for_name(client, namespace), timeout=60)
                live = await client.get(FINETUNEJOBS, namespace, "rates-t3")
                assert live["spec"] == stored["spec"]
                await client.delete(FINETUNEJOBS, namespace, "rates-t3")
                done = await until_over(client, namespace)
    assert holds(done, "Complete"), done["status"]
    assert done["status"]["best"]["name"] == BEST
    assert done["status"]["counts"]["created"] == 4
    assert done["status"]["counts"]["failed"] == 2
    states = {trial["name"]: trial["state"] for trial in done["status"]["trials"]}
    assert (states["rates-t1"], states["rates-t2"]) == ("Deleted", "Deleted")


async def delete_once_it_trains(client: Any, namespace: str, name: str) -> None:
    async def trains() -> bool:
        found = (await jobs_of(client, namespace)).get(name) or {}
        return bool((found.get("status") or {}).get("phase") == "Training")

    await eventually_async(trains, timeout=60)
    await client.delete(FINETUNEJOBS, namespace, name)


async def until_told_as_deleted(client: Any, namespace: str, numbers: list[int]) -> None:
    async def is_told() -> bool:
        status = (await get_sweep(client, namespace)).get("status") or {}
        is_next = (status.get("counts") or {}).get("created", 0) > len(numbers)
        told = (status.get("deleted") or {}).get("numbers") == numbers
        return told and (is_next or len(numbers) > 1)

    await eventually_async(is_told, timeout=60)


async def _waits_for_name(client: Any, namespace: str) -> bool:
    found = condition(await get_sweep(client, namespace), "Progressing")
    return found is not None and found["reason"] == "NameTaken"


# ---- deaths ------------------------------------------------------------------------------------


async def _live_with_a_death(control_plane: Any, *, dies_at: int, after_sending: bool) -> bool:
    """Run a sweep whose operator dies at one of its calls; return whether it did."""
    connection = connection_of(control_plane)
    namespace = f"sweep-{uuid.uuid4().hex[:6]}-{dies_at}"
    async with open_client(connection) as client:
        island = Island(connection, client, namespace)
        island.kubelet.script = script
        async with island.living():
            await client.create(FINETUNESWEEPS, sweep(namespace, parallelism=4))

            async def until_end() -> None:
                await until_over(client, namespace)

            has_died = await run_until_death(
                connection,
                test_config(namespace, num_workers=4),
                dies_at=dies_at,
                after_sending=after_sending,
                until=until_end,
            )
            async with running_manager(client, test_config(namespace)):
                done = await until_over(client, namespace)
            assert island.observer.violations == []
            assert holds(done, "Complete"), done["status"]
            assert done["status"]["best"]["name"] == BEST
            assert sorted(await jobs_of(client, namespace)) == sorted(LOSSES)
    return has_died


@pytest.mark.slow
@pytest.mark.parametrize("after_sending", [False, True], ids=["before sending", "after sending"])
async def test_a_death_at_any_call_makes_no_trial_twice_and_chooses_the_same(
    control_plane: Any, after_sending: bool
) -> None:
    logging.getLogger("finetune_operator").setLevel(logging.CRITICAL)
    places = asyncio.Semaphore(NUM_ISLANDS)

    async def visit(dies_at: int) -> bool:
        async with places:
            return await _live_with_a_death(
                control_plane, dies_at=dies_at, after_sending=after_sending
            )

    try:
        # Every fifth call, from another one with each variant; the unit test dies at all of them.
        first = 3 if after_sending else 1
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(visit(number))
                for number in range(first, NUM_CALLS_OF_A_LIFE + 1, STRIDE)
            ]
    finally:
        logging.getLogger("finetune_operator").setLevel(logging.NOTSET)
    died = [task.result() for task in tasks]
    assert died[:8] == [True] * 8


async def _is_gone(client: Any, namespace: str) -> bool:
    try:
        await get_sweep(client, namespace)
    except NotFound:
        return True
    return False


async def test_a_finished_sweep_is_deleted_with_its_jobs_after_its_time(
    control_plane: Any, namespace: str
) -> None:
    async with open_client(connection_of(control_plane)) as client:
        kubelet = Kubelet(client, namespaces=(namespace,), script=script)
        async with kubelet.running(), running_manager(client, test_config(namespace)):
            await client.create(FINETUNESWEEPS, sweep(namespace, ttlSecondsAfterFinished=1))
            await eventually_async(lambda: _is_gone(client, namespace), timeout=120)

            async def are_gone() -> bool:
                return not await jobs_of(client, namespace)

            await eventually_async(are_gone, timeout=60)
