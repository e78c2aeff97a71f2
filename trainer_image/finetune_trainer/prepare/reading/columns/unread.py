"""Fields of a row that a source does not read although they look like content.

Ids, links and dates are no content; sentences and lists are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_api.messages.prompt_template import find_template_error
from finetune_api.v1alpha1.spec.dataset import Columns, Source
from finetune_trainer.prepare.checks.checks import Finding
from finetune_trainer.prepare.reading.columns.columns import Rows, is_identifier
from finetune_trainer.prepare.reading.columns.names import is_bookkeeping

NUM_NAMES_SHOWN = 10
MIN_WORDS = 3
"""A text of fewer words is a name, a code or a category."""

_BEFORE = ("system", "history")
_TOOLS = ("tools", "functions")
_OF_FORMAT: Mapping[str, tuple[str, ...]] = {
    "Chat": ("messages", "system", *_TOOLS),
    "ShareGPT": ("conversations", "system", *_TOOLS),
    "PromptCompletion": ("prompt", "completion", *_BEFORE, *_TOOLS),
    "Alpaca": ("instruction", "input", "output", *_BEFORE),
    "Text": ("text",),
    "Csv": ("prompt", "completion"),
    "Preference": (
        *("prompt", "chosen", "rejected", "completion", "label", "kto_tag", "instruction", "input"),
        *("output", "messages", "conversations", *_BEFORE, *_TOOLS),
    ),
}


class Unread:
    """Finds fields that look like content and are not read."""

    def __init__(self, source: Source, format_name: str) -> None:
        columns = (source.columns or Columns()).to_wire()
        named = {name for name in columns.values() if isinstance(name, str)}
        named |= set(columns.get("slices", ()))
        variables = _variables_of(source.template)
        self._is_all_read = variables is None
        self._read = {*_OF_FORMAT[format_name], *named, *(variables or ())}
        if source.template is not None:  # it writes the prompt instead of these
            self._read -= {"prompt", "instruction", "input", *_BEFORE} - {
                *named,
                *(variables or ()),
            }

    def find(self, fields: Mapping[str, Any]) -> list[str]:
        """Return the names of a row's fields that are not read, in their order."""
        if self._is_all_read or fields.keys() <= self._read:
            return []
        return [
            name
            for name, value in fields.items()
            if name not in self._read and not is_bookkeeping(name) and _is_content(value)
        ]


def _is_content(value: object) -> bool:
    if isinstance(value, str):
        return len(value.split(maxsplit=MIN_WORDS)) >= MIN_WORDS
    return isinstance(value, list | dict) and bool(value)


def _variables_of(template: str | None) -> frozenset[str] | None:
    """Return the fields that a template reads; None where it may read any."""
    if template is None:
        return frozenset()
    # Imported here: where there is no template Jinja need not be installed.
    from finetune_trainer.model.template_source import find_variables

    found = find_variables(template)
    return None if "row" in found else found


def check_unread_fields(num_unread: Mapping[str, int], num_rows: int) -> list[Finding]:
    """Report the fields that look like content and are not read, in one finding.

    ``num_unread`` counts rows by field name.
    """
    if not num_unread:
        return []
    ordered = sorted(num_unread.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{name!r} of {count} rows" for name, count in ordered[:NUM_NAMES_SHOWN])
    more = f" and {len(ordered) - NUM_NAMES_SHOWN} more" if len(ordered) > NUM_NAMES_SHOWN else ""
    message = (
        f"of {num_rows} rows these fields hold text or lists and are not read: {shown}{more}; if "
        "the answers rest on them, name them in a template of the source"
    )
    return [Finding(name="unreadFields", num_flagged=max(num_unread.values()), message=message)]


def find_written_identifiers(source: Source, rows: Rows) -> tuple[str, ...]:
    """Return the columns that a source's template writes and that differ in every row."""
    # Who compiles a template says what is wrong with it.
    if source.template is None or find_template_error(source.template):
        return ()
    from finetune_trainer.model.template_source import find_columns

    columns = sorted(find_columns(source.template))
    return tuple(name for name in columns if is_identifier(name, rows))


def check_identifiers(names: Sequence[str], num_rows: int, *, where: str) -> list[Finding]:
    """Report identifiers that a template writes; ``where`` is the source's path in the job."""
    if not names:
        return []
    shown = ", ".join(map(repr, names[:NUM_NAMES_SHOWN]))
    message = (
        f"{where}.template writes {shown} into the prompts, with another value in every row: so "
        "near duplicates are not found, and copies of training rows may be held out. Leave "
        f"{'it' if len(names) == 1 else 'them'} out of the template"
    )
    return [Finding(name="identifiersInPrompts", num_flagged=num_rows, message=message)]
