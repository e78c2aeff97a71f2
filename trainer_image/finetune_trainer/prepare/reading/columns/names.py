"""Common column names, in the order of the search."""

from __future__ import annotations

import re

PROMPT_NAMES = (
    "prompt",
    "instruction",
    "question",
    "query",
    "input",
    "text",
    "headline",
    "sentence",
    "utterance",
    "title",
    "subject",
    "body",
    "message",
    "context",
    "facts",
    "mr",
    "source",
)
COMPLETION_NAMES = (
    "completion",
    "response",
    "answer",
    "output",
    "label",
    "category",
    "intent",
    "class",
    "sentiment",
    "target",
    "reference",
    "ref",
    "summary",
    "description",
    "translation",
)
GROUP_NAMES = (
    "group",
    "conversation_id",
    "customer_id",
    "user_id",
    "session_id",
    "thread_id",
    "document_id",
)
BOOKKEEPING_NAMES = (
    "id",
    "uuid",
    "guid",
    "index",
    "idx",
    "row",
    "url",
    "uri",
    "split",
    "date",
    "time",
    "timestamp",
    "created",
    "created_at",
    "updated_at",
    "language",
    "lang",
    "license",
    "meta",
    "metadata",
)
"""Columns about a row, which neither ask nor answer."""

_INDEX = re.compile(r"unnamed: [0-9]+|__index_level_[0-9]+__")
"""Pandas' names of a row number."""

_OF_OTHER_FORMATS = ("messages", "conversations", "chosen", "rejected")

COMMON_NAMES = frozenset(
    {*PROMPT_NAMES, *COMPLETION_NAMES, *GROUP_NAMES, *BOOKKEEPING_NAMES, *_OF_OTHER_FORMATS}
)


def is_bookkeeping(name: str) -> bool:
    """Whether a column is called like one that is about the row."""
    lowered = name.lower()
    if _INDEX.fullmatch(lowered):
        return True
    return lowered in (*BOOKKEEPING_NAMES, *GROUP_NAMES) or lowered.endswith(("_id", "_url", "_at"))


def find_named(fields: tuple[str, ...], names: tuple[str, ...]) -> str | None:
    """Return the field that is called by the first of some names, whatever its case, or None."""
    lowered = {field.lower(): field for field in fields}
    return next((lowered[name] for name in names if name in lowered), None)
