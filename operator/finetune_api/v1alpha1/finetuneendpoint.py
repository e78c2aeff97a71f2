"""The FineTuneEndpoint kind: an API whose answers come from the versions that a job publishes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, model_validator

from finetune_api.meta import (
    API_VERSION,
    MAP_BY_NAME,
    NAME_PATTERN,
    SET_LIST,
    APIModel,
    DecimalString,
    Integer,
    Unique,
    UniqueNames,
    decimal_of,
)
from finetune_api.patterns import ENTRY_RULE, LABEL_RULE, STORED, Texts
from finetune_api.rule import Rule, check_rules
from finetune_api.v1alpha1.spec.serving import SERVE_RULES, KeysSource, Serve
from finetune_api.v1alpha1.status.endpoint import FineTuneEndpointStatus
from finetune_api.v1alpha1.status.fields import MAX_VERSION
from finetune_api.v1alpha1.traffic import TRAFFIC_RULES, Capture, Monitor

MAX_STEPS = 10
MAX_RATE = 1_000_000_000
"""Most tokens that a limit may allow in a minute."""


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
    """Requests that the new version must have answered at a step before the next one begins. At
    each pod of the front, one user counts for at most a fortieth, and one of several senders for
    at most a half."""
    certainty: DecimalString = "0.99"
    """Certainty at which the new version counts as worse. At `0.99`, at most 1 % of versions that
    are no worse are rolled back, however often the counts are looked at."""
    on_worse: Literal["RollBack", "Hold"] = "RollBack"
    """What happens to a version that is shown to be worse. `RollBack` takes it out of rotation.
    `Hold` leaves it at its step until somebody decides."""
    latency_seconds: DecimalString | None = None
    """An answer that begins later than this counts as slow, and so does a client that gives up
    before. Default: only such clients."""


class KeyLimits(APIModel):
    """Limits of one key."""

    name: Annotated[str, Field(min_length=1, max_length=63), Texts(ENTRY_RULE)]
    """Name of the key: that of its entry in the Secret."""
    requests_per_minute: Annotated[Integer, Field(ge=1, le=1000000)] | None = None
    """Instead of `access.requestsPerMinute`."""
    tokens_per_minute: Annotated[Integer, Field(ge=1, le=MAX_RATE)] | None = None
    """Instead of `access.tokensPerMinute`."""


class Access(APIModel):
    """Who may ask, how often, and how."""

    keys_from: KeysSource | None = None
    """Keys, one of which a request must bring. Default: none is asked for."""
    requests_per_minute: Annotated[Integer, Field(ge=1, le=1000000)] | None = None
    """Requests that each key may make in a minute at each pod of the front; without keys, all
    askers together. The keys of one entry of the Secret count as one. Default: no limit."""
    tokens_per_minute: Annotated[Integer, Field(ge=1, le=MAX_RATE)] | None = None
    """Tokens, of prompts and answers, that each key may use in a minute at each pod of the front;
    without keys, all askers together. An answer may use more than is left: then the key waits until
    the minutes have paid for it. Default: no limit."""
    limits: Annotated[
        list[KeyLimits], Field(max_length=32, json_schema_extra=MAP_BY_NAME), UniqueNames
    ] = []
    """Other limits for some keys."""
    unknown_fields: Literal["Refuse", "Drop"] = "Refuse"
    """What happens to a field of a request that the front does not know. `Refuse` answers 400.
    `Drop` answers without it, and names it in the header `x-finetune-dropped-fields`. A field that
    is known to change the answer, such as `functions` or `guided_json`, is always refused."""
    trust_users: bool = False
    """Whether the `user` in requests is true. Set it if backends of your own send all requests.
    Then a rollout counts by users alone. Otherwise no single sender can roll a version back, unless
    it has the only key. Without keys, each address is one user."""


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
            " || has(self.access.tokensPerMinute)"
            " || (has(self.access.trustUsers) && self.access.trustUsers)"
            " || (has(self.access.unknownFields) && self.access.unknownFields == 'Drop')"
        ),
        message=(
            "access needs keysFrom, requestsPerMinute, tokensPerMinute, trustUsers or"
            " unknownFields: Drop; leave access out to let all ask"
        ),
        field="access",
        check=lambda s: (
            s.access is None
            or s.access.keys_from is not None
            or s.access.requests_per_minute is not None
            or s.access.tokens_per_minute is not None
            or s.access.trust_users
            or s.access.unknown_fields == "Drop"
        ),
    ),
    Rule(
        rule=(
            "!has(self.access) || !has(self.access.limits) || size(self.access.limits) == 0 ||"
            " has(self.access.keysFrom)"
        ),
        message=(
            "access.limits are of keys by name: set access.keysFrom, or give all one limit with"
            " access.requestsPerMinute and access.tokensPerMinute"
        ),
        field="access.limits",
        check=lambda s: s.access is None or not s.access.limits or s.access.keys_from is not None,
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
    access: Access | None = None
    """Who may ask, and how often. Default: everybody who reaches the URL, without a limit."""
    capture: Capture | None = None
    """Store requests and answers, for feedback, monitoring and training. Default: nothing is
    stored."""
    monitor: Monitor | None = None
    """Watch captured answers for drift. Default: nobody does."""

    @model_validator(mode="after")
    def _check_rules(self, info: ValidationInfo) -> FineTuneEndpointSpec:
        check_rules(self, ENDPOINT_RULES, context=info.context)
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
