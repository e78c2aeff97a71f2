"""What is told of a job's tracker, and what its Secret may not hold up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.names import Owner
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.render.job import render_job
from kit.builders.jobs import (
    at,
    child,
    complete,
    ended,
    job,
    live,
    merged,
    reasons,
    stages_done,
    success_text,
    trained,
)

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE
PAGE = "http://mlflow:5000/#/experiments/1/runs/a"
FILES = "https://wandb.example.org/team-a/headlines/runs/1"


def told(stage: Stage, **tracking: Any) -> dict:
    body = json.loads(success_text(stage))
    body["result"]["tracking"] = tracking
    pods = (ended(stage, 0, json.dumps(body)),)
    return {"jobs": {stage: child(stage, status=complete())}, "pods": {stage: pods}}


@pytest.mark.parametrize(
    ("training", "evaluation", "status", "num_events"),
    [
        ({"uris": [PAGE]}, {"uris": [PAGE]}, {"uris": [PAGE]}, 0),
        ({"problem": "away"}, {"uris": [PAGE]}, {"uris": [PAGE]}, 1),
        ({"uris": [PAGE]}, {"problem": "away"}, {"uris": [PAGE], "message": "away"}, 1),
        (
            {"uris": [PAGE, FILES]},
            {"uris": [FILES], "problem": "away"},
            {"uris": [PAGE, FILES], "message": "away"},
            1,
        ),
        ({"problem": "away"}, {"problem": "still away"}, {"message": "still away"}, 1),
    ],
)
def test_the_run_is_told_in_the_status_and_a_problem_in_one_event(
    training, evaluation, status, num_events
):
    first = merged(stages_done(PREPARE), told(TRAIN, **training))
    made, body = live([first], trained(), at(200))
    events = reasons(made)
    made, body = live([merged(first, told(EVALUATE, **evaluation))], body, at(300))
    events += reasons(made)
    assert body["status"]["tracking"] == status
    assert events.count("TrackingFailed") == num_events
    assert "Published" in events


def test_a_job_without_a_tracker_says_nothing_of_one():
    _, body = live([stages_done(PREPARE, TRAIN, EVALUATE)], trained(), at(200))
    assert "tracking" not in body["status"]


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
@pytest.mark.parametrize(
    ("output", "optional"), [({}, True), ({"credentialsRef": {"name": "keys"}}, None)]
)
def test_a_secret_that_only_the_tracker_needs_may_be_missing(output, optional, tracker):
    named = {tracker: {"uri": "http://tracker:5000", "credentialsRef": {"name": "keys"}}}
    body = job(output={"uri": "s3://models", **output}, tracking=named)
    spec = FineTuneJob.from_stored(body).spec
    owner = Owner(name="a", namespace="b", uid="c")
    rendered = render_job(spec, TRAIN, owner, OperatorConfig())
    volumes = rendered["spec"]["template"]["spec"]["volumes"]
    (secret,) = [volume["secret"] for volume in volumes if "secret" in volume]
    assert secret["secretName"] == "keys"
    assert secret.get("optional") is optional
