"""Judges a FineTuneApproval in a file, such as ``finetune approve -o yaml`` prints for Git."""

from __future__ import annotations

from pydantic import ValidationError

from finetune_api.messages import Problem, explain
from finetune_api.meta import APPROVAL_KIND
from finetune_api.v1alpha1.approval import FineTuneApproval
from finetune_cli.documents import Document


def find_approval_problems(document: Document) -> list[Problem]:
    """Return everything wrong with a FineTuneApproval, in the order of the text.

    Whether a job waits for it, and whether its user may decide, is the cluster's to say.
    """
    body, line_of = document.body, document.line_of
    found = []
    if body.get("apiVersion") is None:
        found.append(Problem(location=("apiVersion",), message="Required value", line=line_of(())))
    try:
        FineTuneApproval.from_wire(body)
    except ValidationError as error:
        found += explain(error, body, kind=APPROVAL_KIND, line_of=line_of)
    return found
