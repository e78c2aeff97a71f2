"""The FineTuneEndpoint kind: an API whose answers come from the versions that a job publishes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from finetune_api.meta import (
    API_VERSION,
    NAME_PATTERN,
    SET_LIST,
    APIModel,
    DecimalString,
    Integer,
    Unique,
    decimal_of,
)
from finetune_api.patterns import LABEL_RULE, STORED, Texts
from finetune_api.rule import Rule, check_rules
from finetune_api.v1alpha1.spec.serving import SERVE_RULES, KeysSource, Serve
from finetune_api.v1alpha1.status.endpoint import FineTuneEndpointStatus
from finetune_api.v1alpha1.traffic import TRAFFIC_RULES, Capture, Monitor

MAX_VERSION = 1_000_000
MAX_STEPS = 10


class JobReference(APIModel):
    """The FineTuneJobs of one name, in the same namespace."""

    name: Annotated[str, Field(min_length=1, max_length=52), Texts(LABEL_RULE)]
    """Name of the FineTuneJob. A later job of the same name publishes further versions of it."""


class Rollout(APIModel):
    """How a new version takes over: by steps, each of which needs evidence."""

    steps: Annotated[
        list[Annotated[Integer, Field(ge=1, le=100)]],
        Field(min_length=1, max_length=MAX_STEPS, json_schema_extra=SET_LIST),
        Unique,
    ] = [5, 25, 100]
    """Shares of requests, in percent, that the new version gets one after another. They rise, and
    the last is 100."""
    min_requests: Annotated[Integer, Field(ge=1, le=1000000)] = 200
    """Requests that the new version must have answered at a step before the next one begins."""
    certainty: DecimalString = "0.99"
    """Certainty at which the new version counts as worse. At `0.99`, at most 1 % of versions that
    are no worse are rolled back, however often the counts are looked at."""
    on_worse: Literal["RollBack", "Hold"] = "RollBack"
    """What happens to a version that is shown to be worse. `RollBack` takes it out of rotation.
    `Hold` leaves it at its step until somebody decides."""
    latency_seconds: DecimalString | None = None
    """An answer that begins later than this counts as slow. Default: none does."""


class Shadow(APIModel):
    """Requests that the candidate answers too. Its answers are measured, then discarded."""

    percent: Annotated[Integer, Field(ge=1, le=100)]
    """Share of requests that are copied, in percent."""


class Access(APIModel):
    """Who may ask, and how often."""

    keys_from: KeysSource | None = None
    """Keys, one of which a request must bring. Default: none is asked for."""
    requests_per_minute: Annotated[Integer, Field(ge=1, le=1000000)] | None = None
    """Requests that each key may make in a minute at each pod of the front; without keys, all
    askers together. Default: no limit."""


ENDPOINT_RULES: tuple[Rule, ...] = (
    *SERVE_RULES,
    *TRAFFIC_RULES,
    Rule(
        rule="!has(self.rollout) || self.rollout.steps.isSorted()",
        message="rollout.steps must rise, such as [5, 25, 100]",
        field="rollout.steps",
        check=lambda s: s.rollout is None or s.rollout.steps == sorted(s.rollout.steps),
    ),
    Rule(
        rule=(
            "!has(self.rollout) || !has(self.serve) || !has(self.serve.routing) ||"
            " self.serve.routing != 'Gateway' || (has(self.access) && has(self.access.keysFrom))"
        ),
        message=(
            "a rollout behind a gateway needs access.keysFrom: without keys all clients are one"
            " sender, and no step would ever get its evidence"
        ),
        field="access.keysFrom",
        check=lambda s: (
            s.rollout is None
            or s.serve.routing != "Gateway"
            or (s.access is not None and s.access.keys_from is not None)
        ),
    ),
    Rule(
        rule="!has(self.rollout) || 100 in self.rollout.steps",
        message="rollout.steps must end at 100, or the new version would never take over",
        field="rollout.steps",
        check=lambda s: s.rollout is None or 100 in s.rollout.steps,
    ),
    Rule(
        rule=(
            "!has(self.rollout) || (double(self.rollout.certainty) >= 0.5 && "
            "double(self.rollout.certainty) <= 0.99999)"
        ),
        message='rollout.certainty must be from 0.5 to 0.99999, such as "0.99"',
        field="rollout.certainty",
        check=lambda s: (
            s.rollout is None
            or decimal_of("0.5") <= decimal_of(s.rollout.certainty) <= decimal_of("0.99999")
        ),
    ),
    Rule(
        rule=(
            "!has(self.rollout) || !has(self.rollout.latencySeconds) || "
            "double(self.rollout.latencySeconds) > 0.0"
        ),
        message="rollout.latencySeconds must be above 0; leave it out to judge no latency",
        field="rollout.latencySeconds",
        check=lambda s: (
            s.rollout is None
            or s.rollout.latency_seconds is None
            or decimal_of(s.rollout.latency_seconds) > 0
        ),
    ),
    Rule(
        rule=(
            "!has(self.access) || has(self.access.keysFrom) || has(self.access.requestsPerMinute)"
        ),
        message="access needs keysFrom or requestsPerMinute; leave access out to let all ask",
        field="access",
        check=lambda s: (
            s.access is None
            or s.access.keys_from is not None
            or s.access.requests_per_minute is not None
        ),
    ),
)

ENDPOINT_FIXED_FIELDS = ("jobRef",)
"""Whose versions are served: fixed, because the status counts versions of one job name."""


def fixed_in_endpoint_message(field: str) -> str:
    """Return what the API server says when ``spec.<field>`` of an endpoint is changed."""
    return (
        f"{field} is fixed once the endpoint exists, because its status is about that job's "
        "versions: create another endpoint"
    )


class FineTuneEndpointSpec(APIModel):
    """Whose versions are served, on what, and how a new one takes over."""

    job_ref: JobReference
    """The FineTuneJob whose published versions are served."""
    version: Annotated[Integer, Field(ge=1, le=MAX_VERSION)] | None = None
    """Serve this version; an older one is a rollback. It must be verified like any other. Default:
    the newest that was not rejected."""
    serve: Serve = Serve()
    """The server."""
    rollout: Rollout | None = None
    """How a new version takes over. Default: at once, when it is verified."""
    shadow: Shadow | None = None
    """Requests that the candidate answers too, for measurements alone. Default: none."""
    access: Access | None = None
    """Who may ask, and how often. Default: everybody who reaches the URL, without a limit."""
    capture: Capture | None = None
    """Store requests and answers, for feedback, monitoring and training. Default: nothing is
    stored."""
    monitor: Monitor | None = None
    """Watch captured answers for drift. Default: nobody does."""

    @model_validator(mode="after")
    def _check_rules(self) -> FineTuneEndpointSpec:
        check_rules(self, ENDPOINT_RULES)
        return self


class EndpointMeta(APIModel):
    """The part of Kubernetes' ObjectMeta that is read here; the rest passes unread."""

    model_config = {**APIModel.model_config, "extra": "ignore"}

    name: Annotated[str, Field(min_length=1, max_length=52, pattern=NAME_PATTERN)]
    """At most 52 characters. It is the name of the model in requests."""
    namespace: Annotated[str, Field(max_length=63)] | None = None
    """Namespace."""
    uid: str | None = None
    """Set by the API server."""
    generation: int | None = None
    """Set by the API server."""


class FineTuneEndpoint(APIModel):
    """An OpenAI-compatible API whose answers come from the versions that a FineTuneJob publishes.

    Its name is the name of the model in requests.
    """

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]
    kind: Literal["FineTuneEndpoint"] = "FineTuneEndpoint"
    metadata: EndpointMeta
    spec: FineTuneEndpointSpec
    status: FineTuneEndpointStatus | None = None

    @classmethod
    def from_wire(cls, body: dict[str, Any]) -> FineTuneEndpoint:
        """Parse a Kubernetes object, wire names only; raises pydantic's ValidationError."""
        return cls.model_validate(body, by_alias=True, by_name=False)

    @classmethod
    def from_stored(cls, body: dict[str, Any]) -> FineTuneEndpoint:
        """Parse an object that the API server holds, as ``FineTuneJob.from_stored`` does."""
        return cls.model_validate(
            body, by_alias=True, by_name=False, extra="ignore", context=STORED
        )
