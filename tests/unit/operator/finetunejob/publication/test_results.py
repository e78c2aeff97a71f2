"""Results of stages, also those that were lost on their way."""

from __future__ import annotations

import pytest

from finetune_api.protocol.evaluation_result import EvaluateResult, JudgeResult, JudgeShare, Score
from finetune_api.protocol.stage_results import (
    PrepareResult,
    QuestionCount,
    RowCounts,
    StepSelection,
    TrainResult,
    ValidationScore,
)
from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.status.dataset import DatasetStatus, InvalidRowPlace
from finetune_api.v1alpha1.status.evaluation import JudgeStatus, SelectionStatus
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import ConfirmMissing, CreateStage
from finetune_operator.finetunejob.state.draft import tells_only_how_far
from finetune_operator.finetunejob.state.results import (
    result_of_status,
    score_text,
    sections_of,
)
from finetune_operator.finetunejob.state.trimmed import newest_runs
from finetune_operator.status.conditions import is_terminal, timestamp
from kit.builders.jobs import (
    CONFIG,
    NOW,
    accepted,
    after,
    at,
    child,
    complete,
    condition,
    ended,
    job,
    live,
    merged,
    observe,
    stages_done,
    succeeded,
    success_text,
    trained,
)
from kit.cluster.simulation import result_of

PREPARE, TRAIN = Stage.PREPARE, Stage.TRAIN
EVALUATE, PUBLISH = Stage.EVALUATE, Stage.PUBLISH


def test_a_result_is_waited_for_while_the_pod_cache_may_be_behind():
    body = accepted()
    known = {"jobs": {PREPARE: child(PREPARE, status=complete(end=60))}}
    made = plan(observe(body, **known), at(62), CONFIG)
    assert made.first == ()
    assert made.requeue_after == 1.0


def test_a_lost_result_is_unknown_and_does_not_fail_the_job():
    body = accepted()
    known = {"jobs": {PREPARE: child(PREPARE, status=complete(end=60))}}
    made = plan(observe(body, **known), at(90), CONFIG)
    assert [action.stage for action in made.first] == [TRAIN]
    assert condition(made, "DatasetReady")["status"] == "Unknown"
    assert condition(made, "DatasetReady")["reason"] == "ResultNotReported"


def test_the_origin_of_weights_goes_into_the_status_and_back():
    result = TrainResult(
        uri="s3://m/adapter", sha256="a", num_bytes=7, manifest_sha256="", step=0,
        origin_digest="d",
    )  # fmt: skip
    assert result_of_status(sections_of(result, {}), TRAIN) == result


def test_places_of_rows_left_out_and_questions_go_into_the_status_and_back():
    place = InvalidRowPlace(file="a.jsonl", line=7, reason="NotJson")
    result = PrepareResult(
        digest="d",
        uri="s3://models/datasets/d",
        test_sha256="0" * 64,
        rows=RowCounts(train=1, validation=1, test=1),
        num_tokens=1,
        num_invalid_rows=1,
        invalid_rows=[place],
        num_truncated_rows=0,
        questions=QuestionCount(number=641, enough=False, message="too few"),
    )
    sections = sections_of(result, {})
    DatasetStatus.model_validate(sections["dataset"], by_alias=True, by_name=False)
    assert sections["dataset"]["invalidRows"] == [place.to_wire()]
    assert result_of_status(sections, PREPARE) == result


@pytest.mark.parametrize(("enough", "events"), [(True, []), (False, [("Warning", "DatasetReady")])])
def test_the_number_of_questions_is_told_and_too_few_held_out_rows_are_a_warning(enough, events):
    questions = QuestionCount(number=120, enough=enough, message="120 of 120 are asked")
    result = result_of(PREPARE).model_copy(update={"questions": questions})
    words = TerminationMessage(stage=PREPARE, exit_code=0, reason="Succeeded", result=result)
    known = stages_done(PREPARE)
    known["pods"][PREPARE] = (ended(PREPARE, 0, words.to_text()),)
    known = merged(known, {"jobs": {TRAIN: child(TRAIN)}})
    made = plan(observe(accepted(), **known), at(60), CONFIG)
    assert made.status["dataset"]["questions"] == questions.to_wire()
    assert [(event.kind, event.reason) for event in made.events] == events
    told = [event.message for event in made.events]
    for text in (*told, condition(made, "DatasetReady")["message"]):
        assert text.endswith(" truncated. 120 of 120 are asked.")
    assert condition(made, "DatasetReady")["status"] == "True"


def test_a_score_on_validation_rows_goes_into_the_status_and_back():
    score = ValidationScore(
        metric="macroF1", value="0.9100", low="0.8400", high="0.9500", num_samples=120
    )
    for told in (score, ValidationScore(metric="custom", reason="CustomMetricFailed", message="x")):
        selection = StepSelection(step=80, last_step=90, planned_steps=90, score=told)
        result = result_of(TRAIN).model_copy(update={"selection": selection})
        sections = sections_of(result, {})
        SelectionStatus.model_validate(sections["selection"], by_alias=True, by_name=False)
        back = result_of_status(sections, TRAIN)
        assert isinstance(back, TrainResult)
        assert back.selection is not None
        assert back.selection.score == told
    assert score_text(result_of(TRAIN)) == ""


@pytest.mark.parametrize("is_told", [True, False])
def test_a_choice_that_rests_on_a_lost_score_is_measured_again(is_told):
    body = accepted(
        job(holdAfter="Train", evaluation={"validation": {"metric": "exactMatch"}})
        if is_told
        else job(holdAfter="Train")
    )
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=complete(end=60))}})
    made = plan(observe(body, **known), at(90), CONFIG)
    assert [action.stage for action in made.first] == ([TRAIN] if is_told else [])


def test_what_is_to_be_known_of_a_judge_goes_into_the_status():
    judge = JudgeResult(
        model="m",
        endpoint="https://judge.example/v1",
        mode="Pairwise",
        num_drawn=100,
        num_judged=98,
        agreement="0.8100",
        first=JudgeShare(value="0.6000", low="0.5500", high="0.6500"),
        notes=["leans to the first", "the longer answer tends to win"],
    )
    result = EvaluateResult(
        scores=[Score(name="judgeWinRate", base="0.4000", tuned="0.6000")],
        num_samples=500,
        report_uri="s3://models/report.json",
        judge=judge,
    )
    section = sections_of(result, {})["evaluation"]["judge"]
    told = {"rows": 98, "agreement": "0.8100", "first": "0.6000", "message": "leans to the first"}
    assert section == told
    assert JudgeStatus.model_validate(section).to_wire() == told
    failed = judge.model_copy(update={"failure": "it stayed away " * 20, "agreement": ""})
    section = sections_of(result.model_copy(update={"judge": failed}), {})["evaluation"]["judge"]
    assert section["message"].startswith("it stayed away")
    assert JudgeStatus.model_validate(section).agreement is None


def test_a_result_in_the_status_replaces_lost_last_words():
    body = accepted()
    made = plan(observe(body, **stages_done(PREPARE)), at(60), CONFIG)
    body["status"]["dataset"] = made.status["dataset"]
    known = {"jobs": {PREPARE: child(PREPARE, status=complete(end=60))}}
    made = plan(observe(body, **known), at(61), CONFIG)
    assert condition(made, "DatasetReady")["status"] == "True"


def publishing(known, run=1, pods=(), **more):
    """Return the snapshot with a run of stage publish."""
    later = {"jobs": {PUBLISH: child(PUBLISH, run=run, **more)}, "pods": {PUBLISH: tuple(pods)}}
    return merged(known, later)


WITHOUT_VERDICT = {
    "nothing": (),
    "no last words": (ended(EVALUATE, 0, ""),),
    "no word of the goal": (
        ended(EVALUATE, 0, success_text(EVALUATE).replace('"goalMet":true,', "")),
    ),
    "no version": (ended(EVALUATE, 0, success_text(EVALUATE).replace('"version":1,', "")),),
}


@pytest.mark.parametrize("pods", WITHOUT_VERDICT.values(), ids=WITHOUT_VERDICT)
@pytest.mark.parametrize("goal_met", [True, False])
def test_a_lost_evaluation_is_read_again_by_a_short_pod_and_never_assumed(pods, goal_met):
    body = trained()
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = pods
    made = plan(observe(body, **known), at(500), CONFIG)
    (action,) = made.first
    assert isinstance(action, CreateStage)
    assert action.job["metadata"]["name"] == "headlines-publish"
    assert not is_terminal(made.status)
    assert condition(made, "Published") is None
    made = plan(observe(body, **publishing(known)), at(501), CONFIG)
    body = after(body, made)
    assert body["status"]["phase"] == "Publishing"
    assert body["status"]["stages"][3]["job"] == "headlines-publish"
    words = succeeded(PUBLISH, goal_met=goal_met)
    found = publishing(known, pods=[words], status=complete())
    made = plan(observe(body, **found), at(600), CONFIG)
    assert condition(made, "Complete" if goal_met else "Failed")["status"] == "True"
    assert condition(made, "Evaluated")["status"] == "True"
    assert condition(made, "GoalMet")["status"] == str(goal_met)
    assert condition(made, "Published")["status"] == str(goal_met)
    assert made.status["artifact"].get("version") == (1 if goal_met else None)


def test_a_verdict_needs_no_job_of_its_own():
    made = plan(observe(trained(), **stages_done(PREPARE, TRAIN, EVALUATE)), at(200), CONFIG)
    assert made.first == ()
    assert [entry["name"] for entry in made.status["stages"]] == ["prepare", "train", "evaluate"]


def test_a_result_in_whatever_section_of_the_status_does_not_wait():
    selection = StepSelection(step=80, last_step=90, planned_steps=90)
    chosen = result_of(TRAIN).model_copy(update={"selection": selection})
    results = [*map(result_of, Stage), chosen]
    sections = {name for result in results for name in sections_of(result, {})}
    assert sections == {"dataset", "selection", "artifact", "evaluation"}
    stored = {"phase": "Training"}
    assert not [name for name in sections if tells_only_how_far(stored, {**stored, name: {"a": 1}})]


def test_a_result_that_is_lost_every_time_ends_the_job_with_the_reason():
    lost = stages_done(PREPARE, TRAIN, EVALUATE)
    lost["pods"][EVALUATE] = ()
    made = plan(observe(trained(), **publishing(lost, 1, status=complete())), at(500), CONFIG)
    assert made.first[0].job["metadata"]["name"] == "headlines-publish-2"
    made = plan(observe(trained(), **publishing(lost, 3, status=complete())), at(500), CONFIG)
    assert condition(made, "Failed")["status"] == "True"
    assert condition(made, "Complete") is None
    assert made.status["reason"] == "ResultNotReported"
    assert "succeeded 3 times" in condition(made, "Failed")["message"]


def test_a_second_run_that_was_deleted_is_not_mistaken_for_the_first():
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = ()
    _, body = live([known, publishing(known, 2)], trained(), at(500))
    gone = publishing(known, 1, status=complete())
    made = plan(observe(body, **gone), at(510), CONFIG)
    assert made.first == (ConfirmMissing(stage=PUBLISH, name="headlines-publish-2"),)
    made = plan(observe(body, **gone, missing=frozenset({PUBLISH})), at(510), CONFIG)
    assert made.status["lastFailure"]["reason"] == "JobDeleted"


def test_of_several_runs_the_newest_counts():
    runs = [child(EVALUATE, run=run) for run in (2, 1, 10)]
    (newest,) = newest_runs(runs).values()
    assert newest["metadata"]["name"] == "headlines-evaluate-10"


def test_a_job_that_an_older_operator_left_without_a_verdict_is_read_again():
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = ()
    body = trained()
    over = {"name": "evaluate", "job": "headlines-evaluate", "completionTime": timestamp(NOW)}
    body["status"]["stages"].append(over)
    made = plan(observe(body, **known), at(500), CONFIG)
    assert [action.stage for action in made.first] == [PUBLISH]
    assert not is_terminal(made.status)
    assert condition(made, "Published") is None
