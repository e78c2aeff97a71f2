"""The cause for which the API server does not create a child, and the time of the retry.

Only an object that the server calls malformed is final. Refusals by policies, webhooks, quotas and
server errors can change, so they do not end a job.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from finetune_api.protocol.trainer import Stage
from finetune_operator.controllers.guarding import FIELD_MANAGER
from finetune_operator.controllers.parents import find_live
from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import (
    AlreadyExists,
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
    ServerUnavailable,
)
from finetune_operator.kube.api.resource import Object, Resource
from finetune_operator.kube.backoff import Pauses, exponential
from finetune_operator.kube.clock import Clock
from finetune_operator.status.conditions import Reason, shorten

FIRST_RETRY_SECONDS = 2.0
"""The first pause after what a person has decided: a policy, a quota, a right."""
FIRST_RETRY_OF_ILL_SERVER_SECONDS = 0.25
"""First pause after a server error; most are over soon, as while etcd elects a leader."""
MAX_RETRY_SECONDS = 60.0
AGAIN = f"It is tried again, every {MAX_RETRY_SECONDS:.0f} s at last"
_WORDS = 800
"""Most characters of the server's answer in a message, to leave room for the remedy."""


class NameTaken(Exception):  # noqa: N818 - a state of the world
    """The name of a child belongs to an object of somebody else."""


def taken(kind: str, name: str) -> NameTaken:
    """Return the error for an object that somebody else has written."""
    return NameTaken(
        f"{kind} {name} exists, and somebody else has written it; the endpoint waits until it is"
        f" gone. Rename it or delete it: kubectl delete {kind.lower()} {name}"
    )


async def create_owned(
    client: KubeClient,
    resource: Resource,
    manifest: Object,
    is_own: Callable[[Object], bool],
    *,
    noun: str,
    strict: bool = False,
) -> Object:
    """Create a child, or return the one that an earlier attempt has created.

    Args:
        client: The API client.
        resource: Kind of the child.
        manifest: The child.
        is_own: Tells whether an object of this name is that child.
        noun: Kind of the parent, for people.
        strict: Refuse fields that the server does not know. It would drop them otherwise.

    Raises:
        NameTaken: The name belongs to another object.
        AlreadyExists: The object was deleted meanwhile.
    """
    metadata = manifest["metadata"]
    try:
        return await client.create(resource, manifest, field_manager=FIELD_MANAGER, strict=strict)
    except AlreadyExists as error:
        live = await find_live(client, resource, (metadata["namespace"], metadata["name"]))
        if live is None:
            raise
        if not is_own(live):
            raise NameTaken(
                f"{resource.kind} {metadata['name']} exists and belongs to another object; the"
                f" {noun} waits until it is gone"
            ) from error
        return live


class Refusals:
    """Remembers the pauses after refusals in a row, so that they grow. Event loop only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pauses: dict[tuple[str, Stage], Pauses] = {}

    def explain(self, uid: str, stage: Stage, error: KubeError | NameTaken) -> Refusal | None:
        """Return the failed creation for the plan; None if it is not about the object."""
        reason, remedy, is_final = judge(error)
        if not reason:
            return None
        is_ill = reason == Reason.API_SERVER_ERROR
        first = FIRST_RETRY_OF_ILL_SERVER_SECONDS if is_ill else FIRST_RETRY_SECONDS
        text = shorten(str(error), _WORDS)
        return Refusal(
            reason=reason,
            message=f"{text}. {remedy}" if remedy else text,
            is_final=is_final,
            retry_seconds=self._pause(uid, stage, first),
        )

    def _pause(self, uid: str, stage: Stage, first: float) -> float:
        """Return the seconds until the next try, in the present pause or a longer one."""
        now = self._clock.monotonic()
        length_of = partial(exponential, base=first, cap=MAX_RETRY_SECONDS)
        pauses = self._pauses.get((uid, stage), Pauses()).after_failure(now, length_of)
        self._pauses[uid, stage] = pauses
        return pauses.until - now

    def forget(self, uid: str, stage: Stage | None = None) -> None:
        """Begin with short pauses again: it was created, or the job (no stage) is gone."""
        for key in [(uid, each) for each in Stage] if stage is None else [(uid, stage)]:
            self._pauses.pop(key, None)


def judge(error: KubeError | NameTaken) -> tuple[str, str, bool]:
    """Return reason, remedy, and whether trying again cannot help; no reason if unexplained."""
    if isinstance(error, NameTaken):
        return Reason.NAME_TAKEN, "", False
    if error.is_admission_denial:
        remedy = f"{AGAIN}; ask who runs that policy, or ask for what it allows in a new job."
        return Reason.ADMISSION_DENIED, remedy, False
    if isinstance(error, Forbidden):
        # A ResourceQuota, missing rights, a namespace that ends: all can change.
        return Reason.FORBIDDEN, f"{AGAIN}.", False
    if isinstance(error, NotFound):
        # The namespace, or the type: a starting API server lacks it for a moment.
        remedy = f"{AGAIN}; are the namespace and the CustomResourceDefinition there?"
        return Reason.API_SERVER_ERROR, remedy, False
    if isinstance(error, Invalid) and error.reason:
        return Reason.INVALID, "", True
    if isinstance(error, Invalid | ServerUnavailable):
        # A refusal without a reason comes from a proxy, not from the API server.
        if error.is_webhook_failure:
            remedy = f"{AGAIN}; is the controller that serves this webhook running?"
            return Reason.WEBHOOK_UNAVAILABLE, remedy, False
        return Reason.API_SERVER_ERROR, f"{AGAIN}.", False
    return "", "", False
