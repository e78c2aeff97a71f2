"""Why publishing waits, after the evaluation and before a version is claimed. Pure.

Where nothing can stand between the two, which is the default, the evaluation's own pod publishes at
its end. Where something may, ``FineTuneJobSpec.publishes_at_once`` is false: the evaluation's pod
leaves the candidate unpublished, and Job ``publish`` is created once nothing in this room waits.

What may stand between plugs in here with two steps: a field of the spec that makes
``publishes_at_once`` false, so that the pod knows too, and a function in ``_ASKED`` that says what
is waited for. A human review, for example, returns a :class:`Wait` until a FineTuneApproval names
the panel's result. The digest of what was evaluated is ``status.evaluation.digest``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.decisions import Decision

Status = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """One reason why a candidate is not published yet.

    Attributes:
        reason: CamelCase cause, stable; told in the condition ``Published``.
        message: What is waited for, and what to do, in a sentence.
        is_final: Whether waiting cannot help: somebody has said no.
    """

    reason: str
    message: str
    is_final: bool = False


Ask = Callable[[FineTuneJobSpec, Status, tuple[Decision, ...] | None], Wait | None]
"""Called with the spec, the status as planned, and all decisions of people on the job, the
earliest first; None for those if FineTuneApprovals cannot be read, which is no yes."""

_ASKED: tuple[Ask, ...] = ()


def why_publishing_waits(
    spec: FineTuneJobSpec, status: Status, decisions: tuple[Decision, ...] | None
) -> tuple[Wait, ...]:
    """Return all that a candidate's publication waits for; nothing if it may be published.

    Args:
        spec: The job's spec.
        status: Its status as planned, ``evaluation`` included.
        decisions: What people have decided on the job; None if that cannot be read.
    """
    waits = (ask(spec, status, decisions) for ask in _ASKED)
    return tuple(wait for wait in waits if wait is not None)
