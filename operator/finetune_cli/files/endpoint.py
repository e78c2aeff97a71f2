"""Judges a FineTuneEndpoint in a file."""

from __future__ import annotations

from pydantic import ValidationError

from finetune_api.messages.messages import Problem, explain
from finetune_api.meta import ENDPOINT_KIND
from finetune_api.v1alpha1.finetuneendpoint import FineTuneEndpoint
from finetune_cli.files.documents import Document


def find_endpoint_problems(document: Document) -> list[Problem]:
    """Return the problems of a FineTuneEndpoint that are visible without a cluster."""
    try:
        FineTuneEndpoint.from_wire(document.body)
    except ValidationError as error:
        return explain(error, document.body, kind=ENDPOINT_KIND)
    return []
