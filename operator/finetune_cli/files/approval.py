"""Judges a FineTuneApproval in a file, such as ``finetune approve -o yaml`` prints for Git."""

from __future__ import annotations

from pydantic import ValidationError

from finetune_api.messages.messages import Problem, explain
from finetune_api.meta import APPROVAL_KIND
from finetune_api.v1alpha1.approval import FineTuneApproval
from finetune_cli.files.documents import Document


def find_approval_problems(document: Document) -> list[Problem]:
    """Return what is wrong with a FineTuneApproval.

    Whether a job waits for it, and whether its user may decide, is the cluster's to say.
    """
    try:
        FineTuneApproval.from_wire(document.body)
    except ValidationError as error:
        return explain(error, document.body, kind=APPROVAL_KIND)
    return []
