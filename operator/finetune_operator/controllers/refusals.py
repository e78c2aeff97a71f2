"""Why the API server does not create a child, and when to ask it again.

Only what the server itself calls malformed is final: it reads the same object as before for ever.
Whatever policies, webhooks, quotas and an ill server say can change, and a job that would go on
tomorrow must not end today.
"""

from __future__ import annotations

from finetune_api.trainer import Stage
from finetune_operator.finetunejob.observed import Refusal
from finetune_operator.kube.backoff import exponential
from finetune_operator.kube.errors import Forbidden, Invalid, KubeError, ServerUnavailable
from finetune_operator.status.conditions import Reason, shorten

FIRST_RETRY_SECONDS = 2.0
MAX_RETRY_SECONDS = 60.0
_WORDS = 800
"""Characters of the server's answer that are told: what to do has to fit behind them."""


class NameTaken(Exception):  # noqa: N818 - a state of the world
    """The name of a child belongs to an object of somebody else."""


class Refusals:
    """Counts refusals in a row, so that the pauses between tries grow. Event loop only."""

    def __init__(self) -> None:
        self._num_in_row: dict[tuple[str, Stage], int] = {}

    def explain(self, uid: str, stage: Stage, error: KubeError | NameTaken) -> Refusal | None:
        """Return what the plan is told of a failed creation; None if it is not about the object.

        Args:
            uid: UID of the FineTuneJob.
            stage: Whose child it is.
            error: What came instead.
        """
        reason, remedy, is_final = _judge(error)
        if not reason:
            return None
        number = self._num_in_row[uid, stage] = self._num_in_row.get((uid, stage), 0) + 1
        text = shorten(str(error), _WORDS)
        return Refusal(
            reason=reason,
            message=f"{text}. {remedy}" if remedy else text,
            is_final=is_final,
            retry_seconds=exponential(number, base=FIRST_RETRY_SECONDS, cap=MAX_RETRY_SECONDS),
        )

    def forget(self, uid: str, stage: Stage | None = None) -> None:
        """Begin with short pauses again: it was created, or the job (no stage) is gone."""
        for key in [(uid, each) for each in Stage] if stage is None else [(uid, stage)]:
            self._num_in_row.pop(key, None)


def is_verdict(error: KubeError) -> bool:
    """Return whether the API server says no to what it was asked, and would again."""
    return bool(_judge(error)[0])


def _judge(error: KubeError | NameTaken) -> tuple[str, str, bool]:
    """Return reason, remedy, and whether trying again cannot help; no reason if unexplained."""
    again = f"It is tried again, every {MAX_RETRY_SECONDS:.0f} s at last"
    if isinstance(error, NameTaken):
        return Reason.NAME_TAKEN, "", False
    if error.is_admission_denial:
        remedy = f"{again}; ask who runs that policy, or ask for what it allows in a new job."
        return Reason.ADMISSION_DENIED, remedy, False
    if isinstance(error, Forbidden):
        # A ResourceQuota, missing rights, a namespace that ends: all can change.
        return Reason.FORBIDDEN, f"{again}.", False
    if isinstance(error, Invalid) and error.reason:
        return Reason.INVALID, "", True
    if isinstance(error, Invalid | ServerUnavailable):
        # Without a reason a refusal is not the API server's own: a proxy in between.
        if error.is_webhook_failure:
            remedy = f"{again}; is the controller that serves this webhook running?"
            return Reason.WEBHOOK_UNAVAILABLE, remedy, False
        return Reason.API_SERVER_ERROR, f"{again}.", False
    return "", "", False
