"""Why the API server does not create a child, and when to ask it again.

Only what the server itself calls malformed is final: it reads the same object as before for ever.
Whatever policies, webhooks, quotas and an ill server say can change, and a job that would go on
tomorrow must not end today.
"""

from __future__ import annotations

from functools import partial

from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.kube.api.errors import (
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
    ServerUnavailable,
)
from finetune_operator.kube.backoff import Pauses, exponential
from finetune_operator.kube.clock import Clock
from finetune_operator.status.conditions import Reason, shorten

FIRST_RETRY_SECONDS = 2.0
"""The first pause after what a person has decided: a policy, a quota, a right."""
FIRST_RETRY_OF_ILL_SERVER_SECONDS = 0.25
"""The first pause after an error of the server's own: most are over in a moment, as while etcd
chooses a leader."""
MAX_RETRY_SECONDS = 60.0
AGAIN = f"It is tried again, every {MAX_RETRY_SECONDS:.0f} s at last"
_WORDS = 800
"""Characters of the server's answer that are told: what to do has to fit behind them."""


class NameTaken(Exception):  # noqa: N818 - a state of the world
    """The name of a child belongs to an object of somebody else."""


class Refusals:
    """Remembers the pauses after refusals in a row, so that they grow. Event loop only.

    Args:
        clock: Monotonic time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pauses: dict[tuple[str, Stage], Pauses] = {}

    def explain(self, uid: str, stage: Stage, error: KubeError | NameTaken) -> Refusal | None:
        """Return what the plan is told of a failed creation; None if it is not about the object.

        Args:
            uid: UID of the FineTuneJob.
            stage: Whose child it is.
            error: What came instead.
        """
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
        """Return the seconds until the next try: of the present pause, or of a longer one."""
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
        # The namespace, or the type: an API server that starts lacks it for a moment.
        remedy = f"{AGAIN}; are the namespace and the CustomResourceDefinition there?"
        return Reason.API_SERVER_ERROR, remedy, False
    if isinstance(error, Invalid) and error.reason:
        return Reason.INVALID, "", True
    if isinstance(error, Invalid | ServerUnavailable):
        # Without a reason a refusal is not the API server's own: a proxy in between.
        if error.is_webhook_failure:
            remedy = f"{AGAIN}; is the controller that serves this webhook running?"
            return Reason.WEBHOOK_UNAVAILABLE, remedy, False
        return Reason.API_SERVER_ERROR, f"{AGAIN}.", False
    return "", "", False
