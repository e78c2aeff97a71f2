"""Take deleted answers out of what a monitor has written: their ids, and the hashes of their users.

A monitor writes no texts. Its next look would leave them out too, but it may never come.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import orjson

from finetune_trainer.storage import ObjectNotFound, ObjectStore
from finetune_trainer.traffic.places import read_id, time_of

FOLDER = "monitor/"
_ID = re.compile(r"\d{14}-[A-Za-z0-9_]{22}-[0-9a-f]{10}")
IsGone = Callable[[str, str | None, datetime], bool]
"""Tells by id, user (None where it is not known) and time whether an answer is deleted."""


def purge_looks(store: ObjectStore, is_gone: IsGone) -> None:
    """Rewrite the objects of a monitor without the answers that are gone.

    In JSON an answer is its id, or a list that begins with its id and its user. Elsewhere the word
    *deleted* stands for the id.
    """

    def name(found: re.Match[str]) -> str:
        return "deleted" if is_gone(found[0], None, time_of(found[0])) else found[0]

    for info in list(store.list(FOLDER)):
        try:
            data = store.read_bytes(info.key)
        except ObjectNotFound:
            continue
        try:
            before = orjson.loads(data)
        except ValueError:
            text = data.decode("utf-8", "replace")
            changed = _ID.sub(name, text)
            if changed != text:
                store.write_bytes(info.key, changed.encode())
            continue
        after = _without(before, is_gone)
        if after != before:
            store.write_bytes(info.key, orjson.dumps(after))


def _without(value: Any, is_gone: IsGone) -> Any:
    if isinstance(value, dict):
        return {name: _without(each, is_gone) for name, each in value.items()}
    if isinstance(value, list):
        return [_without(each, is_gone) for each in value if not _is_of(each, is_gone)]
    return value


def _is_of(value: Any, is_gone: IsGone) -> bool:
    user = None
    if isinstance(value, list) and len(value) > 1 and isinstance(value[1], str):
        value, user = value[:2]
    if not isinstance(value, str) or read_id(value) != value:
        return False
    return is_gone(value, user, time_of(value))
