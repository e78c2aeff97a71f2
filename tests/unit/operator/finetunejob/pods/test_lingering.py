"""Stages whose container has ended and whose pod goes on, with a container that somebody added."""

from __future__ import annotations

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.state.trimming import trim_pod
from finetune_operator.finetunejob.state.waiting import find_wait
from finetune_operator.status.conditions import is_terminal, timestamp
from kit.builders.jobs import (
    CONDITIONS,
    accepted,
    at,
    child,
    condition,
    done_before,
    merged,
    plans,
    reasons,
    running,
    stages_done,
    succeeded,
    trained,
)
from kit.cluster.simulation import success_text

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE
RUNS = {"running": {"startedAt": timestamp(at(60))}}


def raw_pod(stage, *containers, end=None, code=0, index=0, native=(), phase="Running"):
    """A pod as the API server shows it, with containers beside the trainer's that run."""
    state = RUNS
    if end is not None:
        text = success_text(stage) if code == 0 else ""
        state = {
            "terminated": {"exitCode": code, "message": text, "finishedAt": timestamp(at(end))}
        }
    name = f"headlines-{stage.value}-{index}-abcde"
    return {
        "metadata": {
            "name": name, "namespace": "team-a", "uid": f"uid-{name}",
            "creationTimestamp": timestamp(at(60)),
            "labels": {
                "finetune.dev/job": "headlines", "finetune.dev/stage": stage.value,
                "batch.kubernetes.io/job-completion-index": str(index),
            },
        },
        "spec": {"nodeName": "node-1"},
        "status": {
            "phase": phase,
            "containerStatuses": [
                {"name": "trainer", "state": state},
                *({"name": each, "state": RUNS} for each in containers),
            ],
            "initContainerStatuses": [{"name": each, "state": RUNS} for each in native],
        },
    }  # fmt: skip


def under_way(stage, *pods):
    """A job in this stage, with these pods."""
    body = accepted() if stage is PREPARE else trained()
    jobs = {stage: child(stage, status=running(60))}
    pods = {stage: tuple(trim_pod(each) for each in pods)}
    return body, merged(done_before(stage), {"jobs": jobs, "pods": pods})


@pytest.mark.parametrize("stage", list(CONDITIONS))
def test_a_container_that_does_not_end_is_named_once_and_counted_as_a_wait(stage):
    body, known = under_way(stage, raw_pod(stage, "istio-proxy", end=600))
    made, body = plans(body, known, 610, 631, 700, 5 * 3600)
    told = condition(body, CONDITIONS[stage])
    assert (told["status"], told["reason"]) == ("Unknown", "PodNotEnding")
    assert "container istio-proxy" in told["message"]
    assert "with exit code 0" in told["message"]
    assert 'sidecar.istio.io/inject: "false"' in told["message"]
    assert [reasons(each).count("PodNotEnding") for each in made] == [0, 1, 0, 0]
    assert made[0].requeue_after == pytest.approx(20)
    assert not is_terminal(body["status"])
    wait = find_wait(body, at(5 * 3600), expects_progress=True)
    assert (wait.state, wait.reason) == ("NotStarting", "PodNotEnding")
    assert wait.seconds == pytest.approx(5 * 3600 - 631)


def test_a_training_that_has_ended_is_not_said_to_hang():
    body, known = under_way(TRAIN, raw_pod(TRAIN, "linkerd-proxy", end=600))
    body["status"]["progress"] = {
        "stage": "train", "step": 100, "totalSteps": 100, "lastHeartbeatTime": timestamp(at(590)),
    }  # fmt: skip
    _, body = plans(body, known, 631, 5 * 3600)
    assert "step" not in condition(body, "Training")["message"]
    assert condition(body, "Training")["reason"] == "PodNotEnding"


def test_a_failed_attempt_that_is_kept_from_its_next_one_is_told_too():
    body, known = under_way(TRAIN, raw_pod(TRAIN, "vault-agent", "istio-proxy", end=600, code=75))
    _, body = plans(body, known, 640)
    message = condition(body, "Training")["message"]
    assert "exit code 75" in message
    assert "containers vault-agent, istio-proxy" in message


def test_native_sidecars_have_the_pods_grace_period():
    """The operator's own vLLM and garak are such; so is what a careful mesh adds."""
    body, known = under_way(EVALUATE, raw_pod(EVALUATE, end=600, native=("vllm",)))
    made, body = plans(body, known, 640, 890)
    assert condition(body, "Evaluated")["reason"] == "Evaluating"
    assert made[-1].requeue_after == pytest.approx(10)
    made, body = plans(body, known, 901)
    assert condition(body, "Evaluated")["reason"] == "PodNotEnding"
    assert "node-1" in condition(body, "Evaluated")["message"]


@pytest.mark.parametrize(
    "pods",
    [
        (raw_pod(TRAIN, "istio-proxy"),),
        (
            raw_pod(TRAIN, "istio-proxy", end=600),
            raw_pod(TRAIN, "istio-proxy", index=1),
        ),
    ],
    ids=["it works", "another rank works"],
)
def test_a_stage_that_works_beside_such_a_container_is_left_in_peace(pods):
    body, known = under_way(TRAIN, *pods)
    _, body = plans(body, known, 640, 800)
    assert condition(body, "Training")["status"] == "True"


def test_the_result_of_such_a_pod_counts_once_it_has_ended():
    body, known = under_way(PREPARE, raw_pod(PREPARE, "istio-proxy", end=600))
    made, body = plans(body, known, 640)
    assert "dataset" not in body["status"]
    known["pods"] = {PREPARE: (succeeded(PREPARE),)}
    _, body = plans(body, merged(known, stages_done(PREPARE)), 900)
    assert condition(body, "DatasetReady")["status"] == "True"
