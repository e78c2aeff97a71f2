"""Where the sources ``traffic://`` of a job lie: found once, before the job is accepted.

A source names an endpoint of the job's own namespace. The folder that the endpoint stores its
answers in is recorded in the status, and job.json is rendered from it. So a later change of the
endpoint does not move what the job reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.spec.dataset import TRAFFIC
from finetune_api.v1alpha1.status.traffic import CaptureStatus, TrafficPlace
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.pods.admission import uri_problem
from finetune_operator.finetunejob.pods.podbounds import Violation
from finetune_operator.finetunejob.state.step import TRAFFIC_SECTION, Step
from finetune_operator.status.conditions import ConditionType, Reason, parse_timestamp

PATIENCE_SECONDS = 60.0
"""How long a job waits for an endpoint that was made together with it."""
RETRY_SECONDS = 5.0
MAX_ENDPOINTS = 4


def settle_traffic(step: Step, spec: FineTuneJobSpec) -> list[Violation] | None:
    """Record where the traffic lies that a job reads.

    Returns:
        Why it cannot be read here: nothing if it is recorded. None if the status must be stored
        first, or an endpoint may come yet.
    """
    sources = enumerate(spec.dataset.sources)
    named = {source.uri: f"spec.dataset.sources[{n}].uri" for n, source in sources}
    named = {uri: field for uri, field in named.items() if uri.startswith(TRAFFIC)}
    stored = (step.observed.job.get("status") or {}).get(TRAFFIC_SECTION)
    if not named or (stored and Stage.PREPARE in step.observed.jobs):
        return []  # job.json was rendered from what is stored
    if len(named) > MAX_ENDPOINTS:
        message = f"{len(named)} endpoints are named; name at most {MAX_ENDPOINTS}"
        return [_violation("spec.dataset.sources", message, Reason.INVALID_SPEC)]
    found = {uri: _find(step, uri.removeprefix(TRAFFIC)) for uri in named}
    problems = {uri: each for uri, each in found.items() if isinstance(each, str)}
    if problems and _may_wait(step):
        uri, problem = next(iter(problems.items()))
        message = f"{named[uri]}: {uri!r} {problem}."
        step.draft.conditions.set(
            ConditionType.ACCEPTED, False, Reason.TRAFFIC_NOT_CAPTURED, message
        )
        step.look_again(RETRY_SECONDS)
        return None
    violations = [_violation(named[uri], f"{uri!r} {each}") for uri, each in problems.items()]
    places = [each for each in found.values() if isinstance(each, TrafficPlace)]
    violations += _forbidden(places, named, step.config)
    if violations:
        return violations
    wire = [place.to_wire() for place in places]
    if stored == wire:
        return []
    step.draft.put(TRAFFIC_SECTION, wire)
    step.look_again(0.0)
    return None


def _find(step: Step, name: str) -> TrafficPlace | str:
    """Return where an endpoint stores its answers, or why nobody can tell."""
    endpoints = step.observed.endpoints
    if endpoints is None:
        return (
            "cannot be looked up: the operator may not read FineTuneEndpoints here; ask the"
            " administrator to turn endpoints on"
        )
    endpoint = endpoints.get(name)
    if endpoint is None:
        return (
            f"names no FineTuneEndpoint of namespace {step.observed.namespace!r}; correct the name,"
            " or create the endpoint first"
        )
    if not (endpoint.get("spec") or {}).get("capture"):
        return (
            "names a FineTuneEndpoint that captures nothing; set spec.capture there, and come back"
            " when people have said something of its answers"
        )
    return _read_place(name, endpoint) or (
        "names a FineTuneEndpoint that has captured nothing yet; wait until its status.capture"
        " names a place"
    )


def _read_place(name: str, endpoint: Mapping[str, Any]) -> TrafficPlace | None:
    try:
        capture = CaptureStatus.model_validate((endpoint.get("status") or {})["capture"])
    except (KeyError, ValidationError):
        return None
    return TrafficPlace(
        endpoint=name, uri=capture.uri, credentials_secret=capture.credentials_secret
    )


def _forbidden(
    places: list[TrafficPlace], fields: Mapping[str, str], config: OperatorConfig
) -> list[Violation]:
    """Hold the folders of endpoints to what the job itself may name."""
    return [
        _violation(
            fields[f"{TRAFFIC}{place.endpoint}"],
            f"FineTuneEndpoint {place.endpoint!r} stores its answers where this job may not read:"
            f" {problem}",
            Reason.URI_NOT_ALLOWED,
        )
        for place in places
        if (problem := uri_problem(place.uri, config))
    ]


def _may_wait(step: Step) -> bool:
    created = parse_timestamp(step.observed.job["metadata"].get("creationTimestamp"))
    age = 0.0 if created is None else (step.now - created).total_seconds()
    return step.observed.endpoints is None or age < PATIENCE_SECONDS


def _violation(field: str, message: str, reason: Reason = Reason.TRAFFIC_NOT_CAPTURED) -> Violation:
    return Violation(reason=reason, field=field, message=message)
