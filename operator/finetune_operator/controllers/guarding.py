"""What every reconciler does with an error, an Event and a status, whatever its kind."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass

from finetune_operator.controllers.parents import ParentGone
from finetune_operator.kube.errors import Invalid, KubeError, NotFound, TooManyRequests
from finetune_operator.kube.leader import LeadershipLost
from finetune_operator.kube.recorder import EventRecorder
from finetune_operator.kube.resource import Object, Resource
from finetune_operator.kube.workers import Result, Retry
from finetune_operator.status.conditions import Reason
from finetune_operator.status.draft import Announce

CRD_RETRY_SECONDS = 30.0
"""Between two tries to write a status that the CRD has no place for."""
_UNDECLARED = "field not declared in schema"
"""What the API server says of a field that the CRD does not know, in a server-side apply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """Tells of objects of one kind, and turns what goes wrong with one into a retry.

    Attributes:
        resource: Their kind.
        noun: What one is called in a message.
        meanwhile: What goes on while its status cannot be written, in a sentence.
        recorder: Records the Events.
        logger: The reconciler's.
    """

    resource: Resource
    noun: str
    meanwhile: str
    recorder: EventRecorder
    logger: logging.Logger

    async def run(self, obj: Object, reconciling: Awaitable[Result]) -> Result:
        """Return what a reconcile came to, or when it is tried again.

        Raises:
            ParentGone: A live read said so. No other 404 means that the object is gone.
            Exception: There is a defect, which is told on the object.
        """
        try:
            return await reconciling
        except ParentGone:
            raise
        except TooManyRequests as error:
            return Retry(error, after_seconds=error.retry_after)
        except Invalid as error:
            if _UNDECLARED not in str(error):
                return Retry(error)
            self.announce(obj, (self._outdated_crd(error),))
            return Retry(error, after_seconds=CRD_RETRY_SECONDS)
        except NotFound as error:
            self.announce(obj, (self._other_not_found(error),))
            return Retry(error)
        except (KubeError, LeadershipLost) as error:
            return Retry(error)
        except Exception as error:
            # A defect: the queue tries again for ever, and only the log would know.
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

    def status_over(self, obj: Object, status: Object) -> Object:
        """Return what to apply: a status over exactly the version that it was planned for."""
        kept = ("name", "namespace", "uid", "resourceVersion")
        return {
            "apiVersion": self.resource.api_version,
            "kind": self.resource.kind,
            "metadata": {name: obj["metadata"][name] for name in kept},
            "status": status,
        }

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

    def _outdated_crd(self, error: Invalid) -> Announce:
        message = (
            f"The operator cannot write this {self.noun}'s status: the CustomResourceDefinition is"
            " older than the operator. Apply that of the chart: kubectl apply --server-side -f"
            f" charts/finetune-operator/crds/. {self.meanwhile} {error}"
        )
        return Announce(kind="Warning", reason="OutdatedCRD", message=message)
