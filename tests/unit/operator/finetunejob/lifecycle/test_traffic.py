"""Sources ``traffic://``: found in the job's own namespace, recorded, and fixed from then on."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.protocol.trainer import ResolvedJob, Stage
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import CreateStage
from kit.builders.jobs import (
    CONFIG,
    after,
    at,
    child,
    condition,
    job,
    observe,
    running,
    stages_done,
)

PLACE = {"uri": "s3://answers/kept", "credentialsSecret": "answers"}


def endpoint(kept: dict[str, Any] | None = PLACE, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "live", "namespace": "team-a"},
        "spec": {"jobRef": {"name": "x"}, "capture": {"include": "All"}, **spec},
        "status": {"capture": kept} if kept else {},
    }


def asking(*uris: str, **source: Any) -> dict[str, Any]:
    return job(dataset={"sources": [{"uri": uri, **source} for uri in uris or ("traffic://live",)]})


def settle(
    body: dict[str, Any],
    endpoints: dict[str, Any] | None,
    *,
    seconds: float = 61,
    config: OperatorConfig = CONFIG,
    **known: Any,
) -> tuple[Any, dict[str, Any]]:
    """Plan until nothing is to be written or something is created."""
    for _ in range(5):
        made = plan(observe(body, endpoints=endpoints, **known), at(seconds), config)
        if made.first or made.status is None:
            return made, body
        body = after(body, made)
    raise AssertionError("the status never comes to rest")


def refusal(endpoints: dict[str, Any] | None, *uris: str, **settings: Any) -> dict[str, Any]:
    _, body = settle(asking(*uris), endpoints, **settings)
    assert body["status"]["phase"] == "Failed"
    found = condition(body, "Accepted")
    assert found is not None
    assert "traffic" not in body["status"]
    return found


def created(made: Any) -> CreateStage:
    (action,) = made.first
    assert isinstance(action, CreateStage)
    return action


def job_file(action: CreateStage) -> ResolvedJob:
    (config_map,) = action.needs
    return ResolvedJob.from_json(config_map["data"]["job.json"])


def volumes_of(action: CreateStage) -> str:
    return str(action.job["spec"]["template"]["spec"]["volumes"])


def test_the_place_is_recorded_and_handed_to_who_reads_it() -> None:
    first = plan(observe(asking(), endpoints={"live": endpoint()}), at(1), CONFIG)
    assert first.first == ()
    assert first.status is not None
    assert first.status["traffic"] == [{"endpoint": "live", **PLACE}]
    made, body = settle(asking(until="2026-11-30T00:00:00Z"), {"live": endpoint()})
    resolved = job_file(created(made))
    assert resolved.traffic is not None
    assert [each.to_wire() for each in resolved.traffic] == [{"endpoint": "live", **PLACE}]
    (source,) = resolved.spec.dataset.sources
    assert (source.uri, source.until) == ("traffic://live", "2026-11-30T00:00:00Z")
    assert "'secretName': 'answers'" in volumes_of(created(made))
    later, body = settle(body, {"live": endpoint()}, **stages_done(Stage.PREPARE))
    assert created(later).stage is Stage.TRAIN
    assert "'secretName': 'answers'" in volumes_of(created(later))
    later, _ = settle(body, {"live": endpoint()}, **stages_done(Stage.PREPARE, Stage.TRAIN))
    assert created(later).stage is Stage.EVALUATE
    assert "answers" not in volumes_of(created(later))


def test_a_claim_is_mounted_read_only_and_named_by_its_folder() -> None:
    made, _ = settle(asking(), {"live": endpoint({"uri": "pvc://kept/x"})})
    action = created(made)
    (place,) = job_file(action).traffic or [None]
    assert place is not None
    assert place.uri == "file:///var/lib/finetune/claims/kept/x"
    assert "'claimName': 'kept'" in volumes_of(action)
    (container,) = action.job["spec"]["template"]["spec"]["containers"]
    (mount,) = [m for m in container["volumeMounts"] if m["mountPath"].endswith("/kept")]
    assert mount["readOnly"] is True


def test_a_later_change_of_the_endpoint_moves_nothing() -> None:
    made, body = settle(asking(), {"live": endpoint()})
    digest = created(made).job_digest
    # The operator may stop between the creation of the Job and the status that tells of it.
    known: dict[str, Any] = {
        "jobs": {Stage.PREPARE: child(Stage.PREPARE, asking(), status=running())}
    }
    for now in ({"live": endpoint({"uri": "s3://elsewhere"})}, {}, None):
        for stored in (body, after(body, made)):
            _, kept = settle(stored, now, **known)
            assert kept["status"]["jobDigest"] == digest
            assert kept["status"]["traffic"] == [{"endpoint": "live", **PLACE}]


def test_what_somebody_else_wrote_to_the_status_is_not_believed() -> None:
    body = asking() | {"status": {"traffic": [{"endpoint": "live", "uri": "file:///etc"}]}}
    made, _ = settle(body, {"live": endpoint()})
    (place,) = job_file(created(made)).traffic or [None]
    assert place is not None
    assert place.uri == PLACE["uri"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, "names no FineTuneEndpoint of namespace 'team-a'"),
        ({"live": endpoint(None, capture=None)}, "captures nothing"),
        ({"live": endpoint(None)}, "has captured nothing yet"),
        ({"live": endpoint({"uri": 7})}, "has captured nothing yet"),
    ],
)
def test_what_captures_nothing_is_refused(found: dict[str, Any], words: str) -> None:
    told = refusal(found)
    assert told["reason"] == "TrafficNotCaptured"
    assert "spec.dataset.sources[0].uri" in told["message"]
    assert "'traffic://live'" in told["message"]
    assert words in told["message"]


def test_a_new_job_waits_a_minute_for_an_endpoint_made_with_it() -> None:
    waiting = plan(observe(asking(), endpoints={}), at(5), CONFIG)
    assert waiting.first == ()
    assert waiting.requeue_after == 5.0
    told = condition(waiting, "Accepted")
    assert told is not None
    assert (told["status"], told["reason"]) == ("False", "TrafficNotCaptured")
    assert condition(waiting, "Failed") is None
    body = after(asking(), waiting)
    made, body = settle(body, {"live": endpoint()}, seconds=10)
    assert created(made).stage is Stage.PREPARE


def test_endpoints_that_cannot_be_read_are_waited_for() -> None:
    body = asking()
    for seconds in (1.0, 3600.0):
        made = plan(observe(body, endpoints=None), at(seconds), CONFIG)
        body = after(body, made)
        assert (made.first, made.requeue_after) == ((), 5.0)
        assert "may not read FineTuneEndpoints" in str(condition(body, "Accepted"))
        assert condition(body, "Failed") is None


def test_an_endpoints_folder_is_held_to_the_administrators_list() -> None:
    for uri in ("file:///etc", "file:///data/../etc", "pvc://claim/../other"):
        told = refusal({"live": endpoint({"uri": uri})}, seconds=1)
        assert told["reason"] == "URINotAllowed"
        assert f"{uri!r}" in told["message"]
    allowed = OperatorConfig(allowed_file_paths=["/data"])
    made, _ = settle(asking(), {"live": endpoint({"uri": "file:///data/kept"})}, config=allowed)
    assert created(made).stage is Stage.PREPARE


def test_more_than_four_endpoints_are_refused() -> None:
    told = refusal({}, *(f"traffic://e{number}" for number in range(5)))
    assert told["reason"] == "InvalidSpec"
    assert "5 endpoints" in told["message"]


def test_an_endpoint_of_another_namespace_has_no_name_here() -> None:
    body = asking()
    body["spec"]["dataset"]["sources"][0]["uri"] = "traffic://victim/live"
    made = plan(observe(body, endpoints={"live": endpoint()}), at(61), CONFIG)
    told = condition(made, "Accepted")
    assert told is not None
    assert made.first == ()
    assert told["status"] == "False"
    assert made.status is not None
    assert made.status["phase"] == "Failed"


def test_a_job_without_such_sources_is_rendered_as_before() -> None:
    made, body = settle(job(), None)
    assert job_file(created(made)).traffic is None
    assert "traffic" not in body.get("status", {})
