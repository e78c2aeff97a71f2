"""What a job should take is told before it takes it, and held against the budget."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.protocol.stage_results import (
    PrepareResult,
    QuestionCount,
    RowCounts,
    TimeEstimate,
    limit_places,
)
from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import Environment, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_api.v1alpha1.status.cost import EstimateStatus
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.render.pod import render_pod_template
from finetune_operator.finetunejob.state.actions import CreateStage
from finetune_operator.status.conditions import is_terminal, timestamp
from finetune_trainer.data.report import place_row
from kit.builders.jobs import (
    CONFIG,
    accepted,
    after,
    at,
    child,
    complete,
    condition,
    ended,
    job,
    merged,
    observe,
    pod,
    queue,
    reasons,
    running,
    stages_done,
    success_text,
)

PREPARE, TRAIN = Stage.PREPARE, Stage.TRAIN
PRICED = CONFIG.model_copy(update={"gpu_hour_price": "2.50"})
ENGINES = CONFIG.model_copy(update={"vllm_image": "vllm:v9", "garak_image": "garak:v9"})
EIGHT = {"nodes": 2, "gpusPerNode": 4}
RECKONED = TimeEstimate(
    train_seconds=3600,
    evaluate_seconds=900,
    least_train_seconds=900,
    tokens=40_000_000,
    tokens_per_second="11111.1",
    device="8 x H100 SXM 80 GB",
)
"""8 GPU hours of training and, on the four GPUs of one node, 1 of evaluation; at least 2."""


def prepared_with(estimate: TimeEstimate | None) -> dict[str, Any]:
    message = TerminationMessage.model_validate_json(success_text(PREPARE))
    assert message.result is not None
    told = message.model_copy(
        update={"result": message.result.model_copy(update={"estimate": estimate})}
    )
    return {
        "jobs": {PREPARE: child(PREPARE, status=complete())},
        "pods": {PREPARE: (ended(PREPARE, 0, told.to_text()),)},
    }


def on_eight_gpus(**spec: Any) -> dict[str, Any]:
    body = accepted(job(resources=EIGHT))
    body["spec"] |= spec
    return body


def at_training(body: dict[str, Any], config: Any = CONFIG, **estimate: Any) -> Any:
    known = prepared_with(RECKONED.model_copy(update=estimate))
    return plan(observe(body, **known), at(61), config)


def creates(made: Any) -> bool:
    return any(isinstance(each, CreateStage) and each.stage is TRAIN for each in made.first)


def training(body: dict[str, Any], *, step: int, left: float, now: float) -> dict[str, Any]:
    """A job in training since the start that has told its step and how long it goes on."""
    body["status"] = {
        **body["status"],
        "progress": {
            "stage": "train", "step": step, "totalSteps": 1000, "percent": step // 10,
            "lastHeartbeatTime": timestamp(at(now)),
            "estimatedCompletionTime": timestamp(at(now + left)),
        },
    }  # fmt: skip
    return body


def in_training() -> dict[str, Any]:
    return merged(prepared_with(RECKONED), {"jobs": {TRAIN: child(TRAIN, status=running())}})


def test_what_gpus_cost_by_the_hour_is_told_from_the_first() -> None:
    made = plan(observe(job(resources=EIGHT)), at(0), PRICED)
    assert made.status is not None
    assert made.status["estimate"] == {"basis": "Spec", "gpus": 8, "hourlyAmount": "20.00"}
    made = plan(observe(job(resources={"gpusPerNode": 0})), at(0), PRICED)
    assert made.status is not None
    assert "estimate" not in made.status


def test_time_hours_and_amount_are_told_when_the_data_is_prepared() -> None:
    made = at_training(on_eight_gpus(), PRICED)
    told = made.status["estimate"]
    assert {k: v for k, v in told.items() if k != "message"} == {
        "basis": "Assumed", "gpus": 8, "hourlyAmount": "20.00", "trainSeconds": 3600,
        "evaluateSeconds": 900, "gpuHours": "9.000", "amount": "22.50",
        "leastTrainSeconds": 900, "leastGpuHours": "2.000",
    }  # fmt: skip
    for value in ("40,000,000 tokens", "11,111 tokens/s", "8 x H100"):
        assert value in told["message"]
    assert condition(made, "WithinBudget") is None
    assert creates(made)
    EstimateStatus.model_validate(told)


def test_a_kind_of_gpu_that_nobody_named_is_said_to_be_assumed() -> None:
    made = at_training(on_eight_gpus(), is_device_known=False)
    assert "gpuKind" in made.status["estimate"]["message"]
    longest = at_training(on_eight_gpus(), is_device_known=False, device="x" * 63, tokens=2**53 - 1)
    EstimateStatus.model_validate(longest.status["estimate"])


def test_the_estimate_fits_the_last_words_of_a_stage_that_has_much_to_say() -> None:
    result = PrepareResult(
        digest="d" * 64,
        uri="s3://" + "u" * 1019,
        rows=RowCounts(train=10**9, validation=10**9, test=10**9),
        num_tokens=10**15,
        num_invalid_rows=10**9,
        invalid_rows=limit_places(place_row("f" * 80, 10**9, "r" * 63) for _ in range(20)),
        num_truncated_rows=10**9,
        questions=QuestionCount(number=100_000, enough=False, message="q" * 512),
        estimate=RECKONED.model_copy(update={"tokens": 2**53 - 1, "device": "x" * 63}),
    )
    words = TerminationMessage(stage=PREPARE, exit_code=0, reason="Succeeded", result=result)
    text = words.to_text()
    assert len(text.encode()) <= 4096
    assert TerminationMessage.model_validate_json(text).result == result


def test_a_trainer_that_says_nothing_of_time_leaves_what_the_spec_tells() -> None:
    made = plan(observe(on_eight_gpus(), **prepared_with(None)), at(61), CONFIG)
    assert made.status is not None
    assert made.status["estimate"] == {"basis": "Spec", "gpus": 8}
    assert creates(made)


@pytest.mark.parametrize(
    ("budget", "is_within"),
    [
        ({"gpuHours": "9"}, True),
        ({"gpuHours": "8.9"}, False),
        ({"amount": "22.50"}, True),
        ({"amount": "22.49"}, False),
        ({"gpuHours": "100", "amount": "20"}, False),
    ],
)
def test_a_budget_below_the_estimate_is_told_before_gpus_are_asked_for(
    budget: dict[str, str], is_within: bool
) -> None:
    body = on_eight_gpus(budget=budget)
    made = at_training(body, PRICED)
    found = condition(made, "WithinBudget")
    assert found is not None
    assert found["status"] == str(is_within)
    for value in ("9.000 GPU hours", "22.50", "2.50"):
        assert value in found["message"]
    assert creates(made) is is_within
    if is_within:
        assert "EstimateExceedsBudget" not in reasons(made)
        return
    assert "EstimateExceedsBudget" in reasons(made)
    assert made.requeue_after == 0.0
    assert "stopped with a save" in found["message"]
    # Once it is in the status the job goes on: it may be faster, and the budget may be raised.
    made = at_training(after(body, made), PRICED)
    assert creates(made)
    assert "EstimateExceedsBudget" not in reasons(made)


def test_a_budget_that_nothing_can_keep_within_is_refused_without_a_gpu() -> None:
    body = on_eight_gpus(budget={"gpuHours": "1.99"})
    made = at_training(body)
    assert made.status is not None
    assert is_terminal(made.status)
    assert not creates(made)
    assert made.status["lastFailure"]["reason"] == "BudgetTooSmall"
    message = condition(made, "Failed")["message"]  # type: ignore[index]
    assert "at least 2.000 GPU hours" in message
    assert "1.99 GPU hours" in message
    assert "fewer epochs" in message


def test_what_is_not_certain_refuses_nothing() -> None:
    tight = {"gpuHours": "0.5"}
    unknown = at_training(on_eight_gpus(budget=tight), least_train_seconds=0)
    assert not is_terminal(unknown.status)
    trial = on_eight_gpus(budget=tight)
    trial["metadata"]["labels"] = {"finetune.dev/sweep": "three"}
    assert not is_terminal(at_training(trial).status)
    assert not is_terminal(at_training(on_eight_gpus()).status)


def test_a_measurement_takes_the_place_of_the_assumption_once_there_is_one() -> None:
    body = after(on_eight_gpus(), at_training(on_eight_gpus(), PRICED))
    early = training(body, step=19, left=7000, now=200)
    made = plan(observe(early, **in_training()), at(200), PRICED)
    assert (made.status or early["status"])["estimate"]["basis"] == "Assumed"
    body = training(body, step=20, left=7000, now=200)
    made = plan(observe(body, **in_training()), at(200), PRICED)
    assert made.status is not None
    told = made.status["estimate"]
    assert (told["basis"], told["trainSeconds"], told["evaluateSeconds"]) == ("Measured", 7200, 900)
    assert (told["gpuHours"], told["amount"]) == ("17.000", "42.50")
    assert "20 of 1000 steps" in told["message"]


def test_answers_to_validation_rows_stay_reckoned_while_training_measures_itself() -> None:
    asked = RECKONED.model_copy(update={"validation_seconds": 600})
    body = on_eight_gpus()
    body = after(body, plan(observe(body, **prepared_with(asked)), at(61), PRICED))
    assert body["status"]["estimate"]["validationSeconds"] == 600
    assert body["status"]["estimate"]["gpuHours"] == "9.000"  # they are in the 3,600 s
    known = merged(prepared_with(asked), {"jobs": {TRAIN: child(TRAIN, status=running())}})
    body = training(body, step=20, left=7000, now=200)
    body = after(body, plan(observe(body, **known), at(200), PRICED))
    told = body["status"]["estimate"]
    assert (told["trainSeconds"], told["validationSeconds"]) == (7800, 600)
    assert "validation rows" in told["message"]
    EstimateStatus.model_validate(told)
    # While the answers are written no step is left: what was known stands.
    body = training(body, step=1000, left=0, now=9000)
    made = plan(observe(body, **known), at(9000), PRICED)
    assert (made.status or body["status"])["estimate"]["trainSeconds"] == 7800


def test_a_red_team_comes_on_top_of_what_is_reckoned_and_measured() -> None:
    body = on_eight_gpus(evaluation={"engine": "VLLM", "redTeam": {"probes": ["dan"]}})
    body = after(body, plan(observe(body, **prepared_with(RECKONED)), at(61), ENGINES))
    assert "red team" in body["status"]["estimate"]["message"]
    body = training(body, step=20, left=7000, now=200)
    body = after(body, plan(observe(body, **in_training()), at(200), ENGINES))
    told = body["status"]["estimate"]
    assert told["basis"] == "Measured"
    assert "red team" in told["message"]


def test_a_measurement_is_told_anew_only_when_it_has_moved() -> None:
    body = after(on_eight_gpus(), at_training(on_eight_gpus()))
    body = training(body, step=20, left=7000, now=200)
    body = after(body, plan(observe(body, **in_training()), at(200), CONFIG))
    body = training(body, step=100, left=7400, now=1000)  # 8,400 s: a sixth more
    made = plan(observe(body, **in_training()), at(1000), CONFIG)
    assert (made.status or body["status"])["estimate"]["trainSeconds"] == 7200
    body = training(body, step=100, left=8000, now=1000)
    made = plan(observe(body, **in_training()), at(1000), CONFIG)
    assert made.status is not None
    assert made.status["estimate"]["trainSeconds"] == 9000
    # Of a report that is old by now the end is what it was.
    body = after(body, made)
    made = plan(observe(body, **in_training()), at(1300), CONFIG)
    assert (made.status or body["status"])["estimate"]["trainSeconds"] == 9000


def test_a_job_that_is_slower_than_thought_is_warned_of_while_it_runs() -> None:
    body = on_eight_gpus(budget={"gpuHours": "10"})
    body = after(body, at_training(body))
    assert condition(body, "WithinBudget")["status"] == "True"  # type: ignore[index]
    body = training(body, step=50, left=7000, now=200)
    made = plan(observe(body, **in_training()), at(200), CONFIG)
    assert condition(made, "WithinBudget")["status"] == "False"  # type: ignore[index]
    assert "EstimateExceedsBudget" in reasons(made)
    assert not is_terminal(made.status)
    # Raised in time, it is within again.
    body = after(body, made)
    body["spec"]["budget"] = {"gpuHours": "20"}
    made = plan(observe(body, **in_training()), at(210), CONFIG)
    assert condition(made, "WithinBudget")["status"] == "True"  # type: ignore[index]
    del body["spec"]["budget"]
    made = plan(observe(body, **in_training()), at(210), CONFIG)
    assert "no budget" in condition(made, "WithinBudget")["message"]  # type: ignore[index]


HOURS = 3600
STOPPED_AT, GOES_ON_AT = 2 * HOURS, 12 * HOURS
NOTED = {
    "finetune.dev/active-seconds": str(STOPPED_AT),
    "finetune.dev/active-start": timestamp(at(0)),
}


def on_a_node(rank: int = 0, *, since: float) -> dict[str, Any]:
    state = {"running": {"startedAt": timestamp(at(since))}}
    return pod(TRAIN, index=rank, created=since, state=state)


def going_on(*pods: dict[str, Any], noted: Any = None, **known: Any) -> dict[str, Any]:
    train = child(TRAIN, status=running(GOES_ON_AT), annotations=noted)
    return merged(
        prepared_with(RECKONED), {"jobs": {TRAIN: train}, "pods": {TRAIN: tuple(pods)}}, known
    )


GOING_ON = {
    "after a pause": going_on(on_a_node(since=GOES_ON_AT), noted=NOTED),
    "after a pause, and its pods are not seen yet": going_on(noted=NOTED),
    "after a preemption": going_on(
        on_a_node(since=GOES_ON_AT),
        queue={TRAIN: queue(is_admitted=True, has_quota=True, past_active_seconds=STOPPED_AT)},
    ),
}


@pytest.mark.parametrize("known", GOING_ON.values(), ids=list(GOING_ON))
def test_a_report_of_before_a_stop_measures_nothing(known: dict[str, Any]) -> None:
    body = on_eight_gpus(budget={"gpuHours": "20"})
    body = after(body, at_training(body))
    body = training(body, step=500, left=STOPPED_AT, now=STOPPED_AT)
    body = after(body, plan(observe(body, **in_training()), at(STOPPED_AT), CONFIG))
    assert body["status"]["estimate"]["trainSeconds"] == 4 * HOURS
    assert condition(body, "WithinBudget")["status"] == "False"  # type: ignore[index]
    for step, seconds in ((500, 60), (510, 200)):
        now = GOES_ON_AT + seconds
        if step > 500:
            body = training(body, step=step, left=STOPPED_AT, now=now)
        made = plan(observe(body, **known), at(now), CONFIG)
        assert "EstimateExceedsBudget" not in reasons(made), "told before"
        body = after(body, made)
        assert body["status"]["estimate"]["trainSeconds"] == 4 * HOURS
        assert condition(body, "WithinBudget")["status"] == "False"  # type: ignore[index]


def test_a_report_of_before_the_first_measurement_leaves_what_was_reckoned() -> None:
    body = after(on_eight_gpus(), at_training(on_eight_gpus()))
    body = training(body, step=500, left=STOPPED_AT, now=STOPPED_AT)
    made = plan(observe(body, **GOING_ON["after a pause"]), at(GOES_ON_AT + 60), CONFIG)
    told = (made.status or body["status"])["estimate"]
    assert (told["basis"], told["trainSeconds"]) == ("Assumed", 3600)


def test_a_rank_that_was_replaced_makes_no_measurement_of_the_others_last_report() -> None:
    body = after(on_eight_gpus(), at_training(on_eight_gpus()))
    body = training(body, step=20, left=7000, now=200)
    pods = (on_a_node(0, since=10), on_a_node(1, since=230))
    known = merged(in_training(), {"pods": {TRAIN: pods}})
    made = plan(observe(body, **known), at(240), CONFIG)
    assert (made.status or body["status"])["estimate"]["basis"] == "Assumed"
    body = training(body, step=20, left=7000, now=260)
    made = plan(observe(body, **known), at(260), CONFIG)
    assert made.status is not None
    assert made.status["estimate"]["basis"] == "Measured"


def test_a_budget_that_is_used_up_says_so_in_its_condition() -> None:
    body = on_eight_gpus(budget={"gpuHours": "9.5"})
    body = after(body, at_training(body))
    made = plan(observe(body, **in_training()), at(9000), CONFIG)
    assert condition(made, "WithinBudget")["reason"] == "BudgetExceeded"  # type: ignore[index]


def test_an_estimate_outlives_the_pod_that_told_it() -> None:
    body = after(on_eight_gpus(), at_training(on_eight_gpus()))
    without = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=running())}})
    made = plan(observe(body, **without), at(200), CONFIG)
    assert (made.status or body["status"])["estimate"]["trainSeconds"] == 3600


@pytest.mark.parametrize(
    ("selector", "preset", "kind", "named"),
    [
        ({}, {}, None, ""),
        ({}, {}, "l40s", "l40s"),
        ({"nvidia.com/gpu.product": "Tesla-T4"}, {}, "l40s", "Tesla-T4"),
        ({"cloud.google.com/gke-accelerator": "nvidia-l4"}, {}, None, "nvidia-l4"),
        ({"pool": "a"}, {"nvidia.com/gpu.product": "NVIDIA-A10G"}, "h100", "NVIDIA-A10G"),
    ],
)
def test_prepare_is_told_what_training_will_run_on(
    selector: dict[str, str], preset: dict[str, str], kind: str | None, named: str
) -> None:
    body = job(podTemplate={"nodeSelector": selector}, resources={"cpu": "6", "memory": "32Gi"})
    spec = FineTuneJob.from_wire(body).spec
    config = CONFIG.model_copy(update={"gpu_kind": kind, "default_node_selector": preset})
    told = {}
    for stage in (PREPARE, TRAIN):
        pod = render_pod_template(spec, stage, observe(body).owner, config)
        (container,) = pod["spec"]["containers"]
        told[stage] = {each["name"]: each["value"] for each in container["env"]}
    node = json.loads(told[PREPARE][Environment.TRAINING_NODE])
    assert node == {"gpu": named, "cpus": 6, "memoryBytes": 32 * 2**30}
    assert Environment.TRAINING_NODE not in told[TRAIN]
