"""Judges a FineTuneApproval in a file, such as ``finetune approve -o yaml`` prints for Git."""

from __future__ import annotations

from pydantic import ValidationError

from finetune_api.messages.messages import Problem, explain
from finetune_api.meta import APPROVAL_KIND
from finetune_api.v1alpha1.approval import FineTuneApproval
from finetune_cli.files.documents import Document


def find_approval_problems(document: Document) -> list[Problem]:
    """Return the problems of a FineTuneApproval that are visible without a cluster."""
    try:
        FineTuneApproval.from_wire(document.body)
    except ValidationError as error:
        return explain(error, document.body, kind=APPROVAL_KIND)
    return []
