"""The result of a human review, as far as publishing has to believe it."""

from __future__ import annotations

import hashlib
import json

from finetune_api.v1alpha1.evaluation.review import Review
from finetune_trainer.errors import UserError
from finetune_trainer.run import RunStorage
from finetune_trainer.storage import ObjectNotFound

KIND = "ReviewPanel"


def require_panel(storage: RunStorage, digest: str, *, evaluation: str) -> None:
    """Refuse to publish unless the run's folder holds the named panel result.

    ``evaluation`` is the digest of the evaluation that it must be about.

    Raises:
        UserError: ``PanelUnusable``: the file is missing, has other bytes, is about another
            evaluation, or too few people have judged.
        StorageError: Storage failed.
    """
    key = f"{storage.job.run_prefix}/review/{digest}.json"
    uri = storage.uri_of(key)
    try:
        data = storage.output.read_bytes(key)
    except ObjectNotFound:
        raise _refuse(f"there is no panel's result {uri}") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise _refuse(f"{uri} is not what its name says: somebody has changed it")
    review = storage.job.spec.evaluation.review or Review()
    try:
        body = json.loads(data)
        about, people = body["evaluation"], {str(name).casefold() for name in body["reviewers"]}
        is_panel = body["kind"] == KIND
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _refuse(f"{uri} is no panel's result") from None
    if not is_panel or about != evaluation:
        raise _refuse(f"{uri} is about evaluation {about}, this run's is {evaluation}")
    if len(people) < review.reviewers:
        raise _refuse(
            f"{uri} is of {len(people)} reviewer(s), evaluation.review.reviewers asks for "
            f"{review.reviewers}"
        )


def _refuse(what: str) -> UserError:
    return UserError(
        "PanelUnusable",
        f"{what}; nothing is published. Submit the reviewers' files again: finetune review submit",
    )
