"""The key of a judge's endpoint; its value never enters a message."""

from __future__ import annotations

from collections.abc import Mapping

from finetune_api.v1alpha1.evaluation.judging import Judge
from finetune_trainer.errors import UserError
from finetune_trainer.storage import StorageAccess

KEY_NAME = "OPENAI_API_KEY"


def read_judge_key(
    judge: Judge, access: StorageAccess, environment: Mapping[str, str]
) -> str | None:
    """Return the key for the judge; None where the job names no Secret.

    On one machine an environment variable replaces the Secret.

    Raises:
        UserError: ``CredentialsMissing``.
    """
    if judge.credentials_ref is None:
        return None
    if access.has_secret:
        return access.read_credential(KEY_NAME)
    key = environment.get(KEY_NAME, "").strip()
    if not key:
        raise UserError(
            "CredentialsMissing",
            f"evaluation.judge.credentialsRef names the Secret {judge.credentials_ref.name!r}, and "
            f"no Secret is mounted on this machine: set {KEY_NAME}, or leave credentialsRef out to "
            "send no key",
        )
    return key
