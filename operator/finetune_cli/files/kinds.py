"""Judges approvals, endpoints and schedules in files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from finetune_api.messages.messages import Problem, explain
from finetune_api.meta import APPROVAL_KIND, ENDPOINT_KIND, SCHEDULE_KIND
from finetune_api.v1alpha1.approval import FineTuneApproval
from finetune_api.v1alpha1.finetuneendpoint import FineTuneEndpoint
from finetune_api.v1alpha1.finetuneschedule import FineTuneSchedule
from finetune_cli.files.documents import Document

PARSERS: dict[str, Callable[[dict[str, Any]], object]] = {
    APPROVAL_KIND: FineTuneApproval.from_wire,
    ENDPOINT_KIND: FineTuneEndpoint.from_wire,
    SCHEDULE_KIND: FineTuneSchedule.from_wire,
}
"""What parses each of these kinds."""


def find_problems_of_kind(document: Document) -> list[Problem]:
    """Return the problems of an object of `PARSERS` that are visible without a cluster."""
    kind = document.body["kind"]
    try:
        PARSERS[kind](document.body)
    except ValidationError as error:
        return explain(error, document.body, kind=kind)
    return []
