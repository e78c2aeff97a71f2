"""A review in the files of Argilla. Pure.

What goes out is as blind as the page. What comes back becomes one file of verdicts per person.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune_trainer.evaluate.sources.review.blinding import Blind, Item
from finetune_trainer.evaluate.sources.review.verdicts import ReviewFile, ReviewFileError, Verdict

COMMENT = "comment"


def to_argilla(blind: Blind) -> list[dict[str, Any]]:
    """Return the records for ``dataset.records.from_json``."""
    return [
        {
            "id": item.id,
            "fields": _fields_of(item),
            "metadata": {"review": blind.digest},
            "suggestions": {},
            "responses": {},
            "vectors": {},
        }
        for item in blind.items
    ]


def read_argilla(body: object, *, name: str, review: str) -> list[ReviewFile]:
    """Read records as ``dataset.records(with_responses=True).to_json`` writes them.

    Args:
        body: The records.
        name: Name of the file, for messages.
        review: Digest of the review that it must be of.

    Raises:
        ReviewFileError: It is no such file, or of another review.
    """
    choices: dict[tuple[str, str], dict[str, str]] = {}
    comments: dict[tuple[str, str], str] = {}
    for record in _records(body, name, "Argilla's records as JSON"):
        metadata = _object(record.get("metadata"), name)
        item = _item_of({**metadata, "item": record.get("id")}, review, name)
        for question, answers in _object(record.get("responses"), name).items():
            for answer in _list(answers, name):
                answer = _object(answer, name)
                person = _person_of(answer.get("user_id"))
                value = str(answer.get("value") or "")
                if question == COMMENT:
                    comments[person, item] = value
                else:
                    choices.setdefault((person, item), {})[question] = value
    found: dict[str, dict[str, Verdict]] = {}
    for (person, item), chosen in choices.items():
        comment = comments.get((person, item), "")
        found.setdefault(person, {})[item] = Verdict(choices=chosen, comment=comment)
    return _files(found, review, name)


def _fields_of(item: Item) -> dict[str, str]:
    if len(item.turns) == 1:
        prompt = item.turns[0][1]
    else:
        prompt = "\n\n".join(f"{role}: {text}" for role, text in item.turns)
    return {"prompt": prompt, "left": item.left, "right": item.right}


def _person_of(value: object) -> str:
    return " ".join(str(value if value is not None else "unknown").split())


def _item_of(data: Mapping[str, Any], review: str, name: str) -> str:
    if data.get("review") != review:
        raise ReviewFileError(
            f"{name} is about another review, or its records have lost their `review`; import what "
            "`finetune review export` has written for this run"
        )
    return str(data.get("item"))


def _files(found: Mapping[str, Mapping[str, Verdict]], review: str, name: str) -> list[ReviewFile]:
    if not found:
        raise ReviewFileError(f"{name} holds no annotation of anybody; export it after judging")
    return [ReviewFile(review=review, reviewer=person, items=items)
            for person, items in sorted(found.items())]  # fmt: skip


def _records(body: object, name: str, what: str) -> Iterator[Mapping[str, Any]]:
    if not isinstance(body, list):
        raise ReviewFileError(f"{name} is not {what}, which is a list")
    for record in body:
        yield _object(record, name)


def _object(value: object, name: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ReviewFileError(f"{name} is damaged: {json.dumps(value)[:40]} stands for an object")
    return value


def _list(value: object, name: str) -> Sequence[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ReviewFileError(f"{name} is damaged: {json.dumps(value)[:40]} stands for a list")
    return value
