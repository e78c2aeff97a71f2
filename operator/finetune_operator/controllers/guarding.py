"""What every reconciler does with an error, an Event and a status, whatever its kind."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from finetune_operator.controllers.parents import ParentGone, read_parent
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import (
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
    TooManyRequests,
)
from finetune_operator.kube.api.resource import Object, ObjectKey, Resource, key_of
from finetune_operator.kube.backoff import Pauses, exponential
from finetune_operator.kube.cache.store import Store
from finetune_operator.kube.clock import Clock
from finetune_operator.kube.leader import LeadershipLost
from finetune_operator.kube.queue.workers import Done, RequeueAfter, Result, Retry
from finetune_operator.kube.recorder import EventRecorder
from finetune_operator.status.conditions import Reason, shorten
from finetune_operator.status.draft import Announce
from finetune_operator.status.fitting import OTHER, FittedStatus, StatusSchema

Reconcile = Callable[[ObjectKey, Object], Awaitable[Result]]
FIELD_MANAGER = "finetune-operator"
CRD_RETRY_SECONDS = 30.0
"""Between two tries to write a status that the CRD has no place for."""
FIRST_RETRY_SECONDS = 2.0
"""The first pause after a refused status; each further one is twice as long."""
MAX_RETRY_SECONDS = 60.0
MIN_RETRY_SECONDS = 0.05
"""The shortest wait for a retry: a key that comes back at once blocks the event loop."""
_UNDECLARED = "field not declared in schema"
"""The API server's message for a field that the CRD lacks, in a server-side apply."""
_WORDS = 600
"""Most characters of the server's answer in a message, to leave room for the remedy."""
_FIELD = re.compile(r"\bstatus\.([A-Za-z]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Unwritten:
    """A status that the API server refuses.

    Attributes:
        before: The stored fields of the operator instead.
        pauses: Pauses between the tries to write it, on the monotonic clock.
    """

    status: FittedStatus
    before: Object
    error: KubeError
    pauses: Pauses


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """Reports errors on objects of one kind, and turns them into retries.

    A status that the API server refuses is kept here. The next plans use it as if it were written,
    and it is written again after a pause.

    Attributes:
        meanwhile: A sentence on what continues while its status cannot be written.
        owned: The fields of the status that the operator's field manager owns.
        client: Writes statuses, fenced by the leader election.
        clock: Monotonic time of the pauses.
    """

    resource: Resource
    noun: str
    meanwhile: str
    schema: StatusSchema
    owned: tuple[str, ...]
    client: KubeClient
    clock: Clock
    recorder: EventRecorder
    logger: logging.Logger
    _unwritten: dict[str, _Unwritten] = field(default_factory=dict)

    async def reconcile(self, store: Store, key: ObjectKey, reconcile: Reconcile) -> Result:
        """Reconcile an object that the cache holds; drop it from there if it turns out to be gone.

        Raises:
            Exception: There is a defect, which an Event on the object reports.
        """
        obj = store.get(*key)
        if obj is None:
            return Done()
        try:
            return await self.run(obj, reconcile(key, obj))
        except ParentGone:
            store.discard(obj)
            return Done()

    async def run(self, obj: Object, reconciling: Awaitable[Result]) -> Result:
        """Return the result of a reconcile, or the time of its retry.

        Raises:
            ParentGone: A live read found no object. Other 404 do not mean that it is gone.
            Exception: There is a defect, which an Event on the object reports.
        """
        try:
            return self._or_write_again(obj, await reconciling)
        except ParentGone:
            raise
        except TooManyRequests as error:
            return Retry(error, after_seconds=error.retry_after)
        except NotFound as error:
            self.announce(obj, (self._other_not_found(error),))
            return Retry(error)
        except (KubeError, LeadershipLost) as error:
            return Retry(error)
        except Exception as error:
            # A defect: the queue retries without limit, and only the log would show it.
            self.announce(obj, (self._reconcile_error(error),))
            raise

    def announce(self, obj: Object, events: Iterable[Announce]) -> None:
        """Record Events about an object, and log them."""
        metadata = obj["metadata"]
        for event in events:
            self.recorder.record(self.resource, obj, event.kind, event.reason, event.message)
            self.logger.log(
                logging.WARNING if event.kind == "Warning" else logging.INFO,
                "%s: %s",
                event.reason,
                event.message,
                extra={"job": f"{metadata['namespace']}/{metadata['name']}"},
            )

    # ---- statuses --------------------------------------------------------------------------------

    def as_planned(self, obj: Object) -> Object:
        """Return the object with its last planned status, even if that was refused."""
        uid = obj["metadata"]["uid"]
        unwritten = self._unwritten.get(uid)
        if unwritten is None:
            return obj
        stored = obj.get("status") or {}
        if self._own_part(stored) != unwritten.before:
            # Another replica has written one since.
            self.forget(uid)
            return obj
        others = {name: value for name, value in stored.items() if name not in self.owned}
        return {**obj, "status": {**unwritten.status, **others}}

    async def write_status(
        self, obj: Object, status: FittedStatus | None, conditions: list[Object] | None = None
    ) -> Object | None:
        """Write a status over the version that it was planned for.

        Args:
            obj: The object that it was planned for.
            status: The status; None if unchanged. A refused one is then written again once its
                pause is over.
            conditions: The conditions alone, where the rest of the stored status has to stay.

        Returns:
            The server's answer; None if nothing was written. An Event on the object reports a
                refusal.

        Raises:
            ParentGone: The object does not exist any more.
            KubeError: No answer, or a conflict: plan again.
        """
        if conditions is not None:
            return await self._write_conditions(obj, conditions)
        uid = obj["metadata"]["uid"]
        unwritten = self._unwritten.get(uid)
        if unwritten is not None and status in (None, unwritten.status):
            if self.clock.monotonic() < unwritten.pauses.until:
                return None
            status = unwritten.status
        if status is None:
            return None
        try:
            answer = await self.client.apply_status(
                self.resource, self._over(obj, status), field_manager=FIELD_MANAGER
            )
        except KubeError as error:
            if not _is_refusal(error):
                if isinstance(error, NotFound):
                    # It may be about another object: only a live read says that this one is gone.
                    await read_parent(self.client, self.resource, key_of(obj), uid)
                raise
            self._keep(obj, status, error)
            return None
        self.forget(uid)
        return answer

    async def _write_conditions(self, obj: Object, conditions: list[Object]) -> Object:
        """Write conditions over the stored ones; all other fields stay."""
        kept = {name: obj["metadata"][name] for name in ("uid", "resourceVersion")}
        patch = {"metadata": kept, "status": {"conditions": conditions}}
        where, by = (self.resource, *key_of(obj)), FIELD_MANAGER
        try:
            return await self.client.merge_patch(
                *where, patch, subresource="status", field_manager=by
            )
        except KubeError as error:
            if _is_refusal(error):
                self.tell_refused(obj, error)
            raise

    def is_written(self, uid: str) -> bool:
        """Return whether the server has the status that was planned last."""
        return uid not in self._unwritten

    def forget(self, uid: str) -> None:
        """Drop the status of an object that is gone, or whose status was written."""
        self._unwritten.pop(uid, None)

    def tell_refused(self, obj: Object, error: KubeError) -> None:
        """Report a refused status by an Event on the object and by the metric."""
        refused = self.client.metrics.status_rejections
        for section in self._sections_of(error):
            refused.labels(self.resource.kind, section).inc()
        self.announce(obj, (self._refusal(error),))

    def _keep(self, obj: Object, status: FittedStatus, error: KubeError) -> None:
        """Remember a refused status and the time of its retry."""
        uid = obj["metadata"]["uid"]
        known = self._unwritten.get(uid)
        stored = obj.get("status") or {}
        before = known.before if known else self._own_part(stored)
        first = CRD_RETRY_SECONDS if _UNDECLARED in str(error) else FIRST_RETRY_SECONDS
        pauses = (known.pauses if known else Pauses()).after_failure(
            self.clock.monotonic(), partial(exponential, base=first, cap=MAX_RETRY_SECONDS)
        )
        self._unwritten[uid] = _Unwritten(status=status, before=before, error=error, pauses=pauses)
        self.tell_refused(obj, error)

    def _or_write_again(self, obj: Object, result: Result) -> Result:
        """Return the result, or the earlier retry of a refused status."""
        unwritten = self._unwritten.get(obj["metadata"]["uid"])
        if unwritten is None or not isinstance(result, Done | RequeueAfter):
            return result
        wait = unwritten.pauses.until - self.clock.monotonic()
        if isinstance(result, RequeueAfter):
            wait = min(wait, result.seconds)
        return Retry(unwritten.error, after_seconds=max(MIN_RETRY_SECONDS, wait))

    def _own_part(self, status: Object) -> Object:
        """Return the fields that the operator writes."""
        return {name: value for name, value in status.items() if name in self.owned}

    def _over(self, obj: Object, status: FittedStatus) -> Object:
        kept = ("name", "namespace", "uid", "resourceVersion")
        return {
            "apiVersion": self.resource.api_version,
            "kind": self.resource.kind,
            "metadata": {name: obj["metadata"][name] for name in kept},
            "status": status,
        }

    def _sections_of(self, error: KubeError) -> set[str]:
        """Return the sections of the status that the error names, of a fixed set."""
        causes = error.details.get("causes") or ()
        told = " ".join((*(str(cause.get("field")) for cause in causes), error.message))
        return {self.schema.section_of(name) for name in _FIELD.findall(told)} or {OTHER}

    # ---- words -----------------------------------------------------------------------------------

    def _reconcile_error(self, error: Exception) -> Announce:
        message = (
            f"The operator cannot handle this {self.noun}: {type(error).__name__}: {error}. It"
            " tries again; its log has the traceback."
        )
        return Announce(kind="Warning", reason="ReconcileError", message=message)

    def _other_not_found(self, error: NotFound) -> Announce:
        message = (
            f"The API server does not find what the operator asked for, and this {self.noun} is"
            f" still there: {error}. It is tried again."
        )
        return Announce(kind="Warning", reason=Reason.API_SERVER_ERROR, message=message)

    def _refusal(self, error: KubeError) -> Announce:
        if _UNDECLARED in str(error):
            return self._outdated_crd(error)
        message = (
            f"The API server refuses this {self.noun}'s status: {shorten(str(error), _WORDS)}."
            f" {self.meanwhile} Suspension, deadlines and deletion work. The status is written"
            f" again, every {MAX_RETRY_SECONDS:.0f} s at last. Is the CustomResourceDefinition that"
            " of the chart, and does an admission policy forbid the write?"
        )
        return Announce(kind="Warning", reason="StatusRefused", message=message)

    def _outdated_crd(self, error: KubeError) -> Announce:
        message = (
            f"The operator cannot write this {self.noun}'s status: the CustomResourceDefinition is"
            " older than the operator. Apply that of the chart: kubectl apply --server-side"
            f" --force-conflicts -f charts/finetune-operator/crds/. {self.meanwhile} {error}"
        )
        return Announce(kind="Warning", reason="OutdatedCRD", message=message)


def _is_refusal(error: KubeError) -> bool:
    """Return whether the server would refuse the same write again until somebody acts."""
    if isinstance(error, Invalid | Forbidden):
        return True
    return error.is_admission_denial or error.is_webhook_failure
