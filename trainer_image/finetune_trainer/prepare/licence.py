"""Holds the base model's licence against those that an administrator allows."""

from __future__ import annotations

import json
import os
from pathlib import Path

from finetune_api.licences import is_licence_allowed
from finetune_api.protocol.trainer import Environment
from finetune_api.v1alpha1.spec.model import Model
from finetune_trainer.errors import UserError
from finetune_trainer.model.licence import licence_of, read_licence
from finetune_trainer.run import Say


def require_licence(model: Model, folder: Path, say: Say) -> None:
    """Report the base model's licence, and refuse a licence that the job does not allow.

    ``folder`` is the local base model; configuration and card are enough.

    Raises:
        UserError: ``LicenceNotAllowed``: also when nobody states the licence and not all are
            allowed.
    """
    declared, stated = model.licence, read_licence(folder)
    licence = licence_of(model, folder)
    say(_words(stated, declared))
    allowed = json.loads(os.environ.get(Environment.ALLOWED_LICENCES) or '["*"]')
    if "*" in allowed or (licence and is_licence_allowed(licence, allowed)):
        return
    what = (
        f"the base model's licence is {licence!r}, which is not one that base models may have here"
        if licence
        else "the base model states no licence, neither in its card nor in config.json, and only "
        "some are allowed here"
    )
    state = "" if stated or declared else "; if you know it, state it in model.licence"
    raise UserError(
        "LicenceNotAllowed",
        f"model.uri {model.uri}: {what} ({', '.join(allowed) or 'none'}); choose "
        f"another model, or ask the administrator to add it to allowedLicences{state}",
    )


def _words(stated: str | None, declared: str | None) -> str:
    if stated is None and declared is None:
        return "the base model states no licence: look it up before its adapter is used"
    if stated is None:
        return f"licence of the base model: {declared}, as the job states it; the model states none"
    words = f"licence of the base model: {stated}"
    if declared is None or declared.casefold() == stated.casefold():
        return words
    return f"{words}, which counts above model.licence {declared!r}"
