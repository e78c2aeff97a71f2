"""The JSON Schema that a job holds answers against."""

from __future__ import annotations

from finetune_api.messages.answer_checks import find_schema_error
from finetune_api.v1alpha1.evaluation.spec import Evaluation
from finetune_trainer.errors import UserError
from finetune_trainer.storage import ObjectNotFound, StorageAccess, open_store


def fetch_schema(evaluation: Evaluation, access: StorageAccess) -> str | None:
    """Return the text of ``evaluation.jsonSchema``, or None if the job has none.

    Raises:
        UserError: ``JsonSchemaNotFound``, ``JsonSchemaUnusable``; the message names the place.
        StorageError: Storage failed.
    """
    given = evaluation.json_schema
    if given is None:
        return None
    text, name = given.text, "evaluation.jsonSchema.text"
    if given.uri is not None:
        name = f"evaluation.jsonSchema.uri {given.uri}"
        text = _read(given.uri, access, name)
    assert text is not None
    if problem := find_schema_error(text):
        raise UserError("JsonSchemaUnusable", f"{name} is no valid JSON Schema: {problem}")
    return text


def _read(uri: str, access: StorageAccess, name: str) -> str:
    folder, _, file = uri.rpartition("/")
    try:
        return open_store(folder, access).read_bytes(file).decode("utf-8")
    except ObjectNotFound as error:
        raise UserError("JsonSchemaNotFound", f"{name}: {error.message}") from error
    except UnicodeDecodeError as error:
        raise UserError("JsonSchemaUnusable", f"{name} is not text in UTF-8") from error
