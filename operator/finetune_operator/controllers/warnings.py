"""The cause for which a pod does not start or is not created, read from Events.

A list by field is expensive for the API server. So each object is looked up once, and again after a
growing pause while no warning is found. All jobs share a rate. An unreadable Event delays nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from finetune_operator.finetunejob.pods.unstarted import VOLUME_REASONS, waited_for
from finetune_operator.finetunejob.state.actions import LookUpWarnings
from finetune_operator.finetunejob.state.observed import Observed, WarningEvent
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import Forbidden, KubeError
from finetune_operator.kube.api.resource import EVENTS, Object
from finetune_operator.kube.backoff import exponential
from finetune_operator.kube.clock import Clock
from finetune_operator.kube.ratelimit import TokenBucket
from finetune_operator.status.conditions import parse_timestamp, shorten

logger = logging.getLogger(__name__)

LOOK_UPS_PER_SECOND = 10.0
LOOK_UP_BURST = 40
REPEAT_SECONDS = 25.0
"""A known warning is read again after so long; a job with one is planned every 30 s."""
MAX_REASON_CHARACTERS = 128
MAX_AGE_SECONDS = 120.0
"""The kubelet repeats what lasts at least this often: older answers tell nothing."""

_OVER = {
    # The kubelet has reached the container itself: volumes are mounted by then.
    "Pod": frozenset({"Pulling", "Pulled", "Created", "Started"}),
    # A pod was created, or a pause has come in between.
    "Job": frozenset({"SuccessfulCreate", "Suspended", "Resumed"}),
}
"""Reasons of Events that tell, by kind of object, that warnings before them are over."""
_MOUNTED = "FailedCreatePodSandBox"
"""The reason of a warning that comes only once all volumes of the pod are mounted."""
_NO_HINDRANCE = frozenset(
    {
        "FailedScheduling",  # older: these pods have a node
        "DNSConfigForming",
        "FailedToRetrieveImagePullSecret",
        "Unhealthy",  # of a container that runs
    }
)
"""Reasons of a pod's warnings in spite of which it goes on."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """The Events of an object.

    Attributes:
        warning: The present warning, or None.
        at: Monotonic time of the lookup.
        num_empty: Lookups in a row without a warning.
    """

    warning: WarningEvent | None
    at: float
    num_empty: int

    @property
    def repeat_seconds(self) -> float:
        """After how long it is worth another look."""
        return exponential(self.num_empty, base=REPEAT_SECONDS, cap=MAX_AGE_SECONDS)


class PodWarnings:
    """Looks up warnings, and remembers them. Event loop only."""

    def __init__(self, client: KubeClient, *, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._bucket = TokenBucket(clock, rate=LOOK_UPS_PER_SECOND, burst=LOOK_UP_BURST)
        self._known: dict[tuple[str, str], dict[tuple[str, str], _Answer]] = {}

    def forget(self, uid: str) -> None:
        """Drop the memory of a FineTuneJob that is gone or has ended."""
        for kind in _OVER:
            self._known.pop((uid, kind), None)

    async def look_up(
        self, observed: Observed, action: LookUpWarnings
    ) -> dict[str, WarningEvent | None]:
        """Return the present warning of each object by name; None where none is known."""
        now = self._clock.monotonic()
        known = self._known.get((observed.uid, action.kind), {})
        keys = _keys_of(observed, action)
        answers = {key: known[key] for key in keys.values() if key in known}
        due = {
            name: key
            for name, key in keys.items()
            if (key not in answers or now - answers[key].at >= answers[key].repeat_seconds)
            and self._bucket.try_take()
        }
        looks = (self._look(observed.namespace, name, action) for name in due)
        for key, warning in zip(due.values(), await asyncio.gather(*looks), strict=True):
            before = answers.get(key)
            num_empty = 0 if warning else (before.num_empty if before else 0) + 1
            answers[key] = _Answer(warning, now, num_empty)
        self._known[observed.uid, action.kind] = answers
        return {name: self._believed(answers.get(key), now) for name, key in keys.items()}

    @staticmethod
    def _believed(answer: _Answer | None, now: float) -> WarningEvent | None:
        return answer.warning if answer and now - answer.at <= MAX_AGE_SECONDS else None

    async def _look(self, namespace: str, name: str, action: LookUpWarnings) -> WarningEvent | None:
        selector = f"involvedObject.kind={action.kind},involvedObject.name={name}"
        try:
            found = await self._client.list(EVENTS, namespace, field_selector=selector, limit=50)
        except Forbidden:
            return None
        except KubeError as error:
            what = f"{action.kind} {namespace}/{name}"
            logger.warning("cannot look up why %s waits: %s", what, error)
            return None
        return _present_warning(found.items, action)


def _keys_of(observed: Observed, action: LookUpWarnings) -> dict[str, tuple[str, str]]:
    """Return UID and, of a pod, the cause of its wait: a change of either needs a new lookup."""
    wanted = set(action.names)
    keys = {name: (name, "") for name in wanted}
    if action.kind == "Job":
        for job in observed.jobs.values():
            if job["metadata"]["name"] in wanted:
                keys[job["metadata"]["name"]] = (job["metadata"]["uid"], "")
        return keys
    for pods in observed.pods.values():
        for pod in pods:
            metadata = pod["metadata"]
            if metadata["name"] in wanted:
                container, waiting = waited_for(pod)
                question = f"{container}:{waiting.get('reason') or ''}"
                keys[metadata["name"]] = (metadata["uid"], question)
    return keys


def _present_warning(events: Iterable[Object], action: LookUpWarnings) -> WarningEvent | None:
    """Return the latest valid warning, of a pod's volumes first, or None."""
    told = [(moment, event) for event in events if (moment := _event_time(event)) is not None]
    begun = [moment for moment, event in told if event.get("reason") in _OVER[action.kind]]
    over = max([action.since, *begun])
    present = [
        (moment, _warning_of(event))
        for moment, event in told
        if event.get("type") == "Warning" and _is_hindrance(action, event.get("reason") or "")
        if moment > over
    ]
    # Other troubles of a node pass; without its volumes no pod starts.
    mounted = max((moment for moment, each in present if each.reason == _MOUNTED), default=over)
    volumes = [
        (moment, each)
        for moment, each in present
        if each.reason in VOLUME_REASONS and moment > mounted
    ]
    return max(volumes or present)[1] if present else None


def _warning_of(event: Object) -> WarningEvent:
    """Return the text of an Event, cut: users who create Events control its length."""
    reason, message = str(event["reason"]), str(event.get("message") or "")
    return WarningEvent(reason[:MAX_REASON_CHARACTERS], shorten(message))


def _is_hindrance(action: LookUpWarnings, reason: str) -> bool:
    if action.kind == "Job":
        return reason == "FailedCreate"
    return bool(reason) and reason not in _NO_HINDRANCE


def _event_time(event: Object) -> datetime | None:
    series = event.get("series") or {}
    told = [event.get("lastTimestamp"), series.get("lastObservedTime"), event.get("eventTime")]
    # Events without a time get the API server's.
    told.append((event.get("metadata") or {}).get("creationTimestamp"))
    return max(filter(None, map(parse_timestamp, told)), default=None)
