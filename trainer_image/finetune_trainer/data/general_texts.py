"""General texts of the user's own, that a model should not forget how to read."""

from __future__ import annotations

import json
import random

from finetune_trainer.errors import UserError
from finetune_trainer.storage import ObjectNotFound, StorageAccess, open_store

MAX_TEXTS = 200
MAX_CHARACTERS = 2000
"""Of each text; the rest is left out, so that the cost is bounded."""


def fetch_texts(uri: str, access: StorageAccess, *, seed: int) -> list[str]:
    """Return the texts of ``evaluation.forgetting.texts``: JSON Lines with a field ``text``.

    ``seed`` draws :data:`MAX_TEXTS` where there are more.

    Raises:
        UserError: ``GeneralTextsNotFound``, ``GeneralTextsUnusable``; the message names the line.
        StorageError: Storage failed.
    """
    name = f"evaluation.forgetting.texts {uri}"
    folder, _, file = uri.rpartition("/")
    try:
        content = open_store(folder, access).read_bytes(file).decode("utf-8-sig")
    except ObjectNotFound as error:
        raise UserError("GeneralTextsNotFound", f"{name}: {error.message}") from error
    except UnicodeDecodeError as error:
        raise UserError("GeneralTextsUnusable", f"{name} is not text in UTF-8") from error
    lines = [(n, line) for n, line in enumerate(content.split("\n"), 1) if line.strip()]
    texts = [_read_line(line, f"{name}, line {number}") for number, line in lines]
    if not texts:
        raise UserError("GeneralTextsUnusable", f"{name} holds no text")
    if len(texts) > MAX_TEXTS:
        texts = random.Random(seed).sample(texts, MAX_TEXTS)  # noqa: S311 - repeatable
    return [text[:MAX_CHARACTERS] for text in texts]


def _read_line(line: str, place: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise UserError(
            "GeneralTextsUnusable",
            f'{place} is not of the form {{"text": "..."}}; write one JSON object a line',
        )
    return text
