"""Where the sources ``traffic://`` of a job lie: found once, before the job is accepted.

A source names an endpoint of the job's own namespace. The folder that the endpoint stores its
answers in is recorded in the status, and job.json is rendered from it. So a later change of the
endpoint does not move what the job reads.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import ValidationError

from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.spec.dataset import TRAFFIC
from finetune_api.v1alpha1.status.traffic import CaptureStatus, TrafficPlace
from finetune_operator.finetunejob.pods.admission import uri_problem
from finetune_operator.finetunejob.pods.podbounds import Violation
from finetune_operator.finetunejob.state.step import TRAFFIC_SECTION, Step
from finetune_operator.status.conditions import ConditionType, Reason, parse_timestamp

PATIENCE_SECONDS = 60.0
"""How long a job waits for an endpoint that was made together with it."""
RETRY_SECONDS = 5.0
MAX_ENDPOINTS = 4


class _Problem(NamedTuple):
    message: str
    reason: Reason = Reason.TRAFFIC_NOT_CAPTURED


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
        field = "spec.dataset.sources"
        return [Violation(reason=Reason.INVALID_SPEC, field=field, message=message)]
    found = {uri: _find(step, uri.removeprefix(TRAFFIC)) for uri in named}
    violations = [
        Violation(reason=each.reason, field=named[uri], message=f"{uri!r} {each.message}")
        for uri, each in found.items()
        if isinstance(each, _Problem)
    ]
    if violations:
        is_forbidden = any(each.reason is Reason.URI_NOT_ALLOWED for each in violations)
        if is_forbidden or not _may_wait(step):
            return violations
        first = violations[0]
        step.draft.conditions.set(ConditionType.ACCEPTED, False, first.reason, f"{first}.")
        step.look_again(RETRY_SECONDS)
        return None
    places = [each for each in found.values() if isinstance(each, TrafficPlace)]
    wire = [place.to_wire() for place in places]
    if stored == wire:
        return []
    step.draft.put(TRAFFIC_SECTION, wire)
    step.look_again(0.0)
    return None


def _find(step: Step, name: str) -> TrafficPlace | _Problem:
    """Return where an endpoint stores its answers, or why the job cannot read them."""
    if step.observed.endpoints is None:
        return _Problem(
            "cannot be looked up: the operator may not read FineTuneEndpoints here; ask the"
            " administrator to turn endpoints on"
        )
    endpoint = step.observed.endpoints.get(name)
    if endpoint is None:
        return _Problem(
            f"names no FineTuneEndpoint of namespace {step.observed.namespace!r}; correct the name,"
            " or create the endpoint first"
        )
    if not (endpoint.get("spec") or {}).get("capture"):
        return _Problem(
            "names a FineTuneEndpoint that captures nothing; set spec.capture there, and come back"
            " when people have said something of its answers"
        )
    try:
        capture = CaptureStatus.model_validate((endpoint.get("status") or {})["capture"])
    except (KeyError, ValidationError):
        return _Problem(
            "names a FineTuneEndpoint that has captured nothing yet; wait until its status.capture"
            " names a place"
        )
    if problem := uri_problem(capture.uri, step.config):
        return _Problem(
            f"stores its answers where this job may not read: {problem}", Reason.URI_NOT_ALLOWED
        )
    secret = capture.credentials_secret
    return TrafficPlace(endpoint=name, uri=capture.uri, credentials_secret=secret)


def _may_wait(step: Step) -> bool:
    created = parse_timestamp(step.observed.job["metadata"].get("creationTimestamp"))
    age = 0.0 if created is None else (step.now - created).total_seconds()
    return step.observed.endpoints is None or age < PATIENCE_SECONDS
