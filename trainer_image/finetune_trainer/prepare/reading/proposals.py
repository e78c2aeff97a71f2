"""Proposes how rows are read: format, columns, template, objective.

Pure. Unless ``Auto`` recognises rows, their columns are chosen by name and content.
"""

from __future__ import annotations

import contextlib
import json
import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1.spec.dataset import Columns, Source
from finetune_trainer.data.answers.label_text import MAX_LABELS
from finetune_trainer.data.answers.values import read_json_value
from finetune_trainer.data.rows import BadRow, Side, answer_of
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.checks.labels import count_labels
from finetune_trainer.prepare.reading.columns.columns import (
    find_giveaways,
    find_group,
    is_date,
    is_identifier,
    write_text,
)
from finetune_trainer.prepare.reading.columns.names import (
    COMPLETION_NAMES,
    PROMPT_NAMES,
    find_named,
    is_bookkeeping,
)
from finetune_trainer.prepare.reading.columns.values import is_missing
from finetune_trainer.prepare.reading.files.header import MAX_NAME_CHARACTERS
from finetune_trainer.prepare.reading.formats.formats import CHAT_FORMATS, build_convert
from finetune_trainer.prepare.reading.formats.paired import find_pair, is_worse, is_worse_answer
from finetune_trainer.prepare.reading.formats.preferences import has_prompt
from finetune_trainer.prepare.reading.formats.recognition import format_of_row, recognise_format
from finetune_trainer.prepare.reading.formats.turns import open_request
from finetune_trainer.prepare.reading.formats.verdicts import are_verdicts

MAX_LABEL_CHARACTERS = 40

_ANSWER_OF_FORMAT = {"PromptCompletion": "completion", "Alpaca": "output"}
"""Field of the answer, in formats whose answers may be labels."""

_PLAIN_LABEL = re.compile(r"[^\W_][\w .,()/-]*")
_JINJA_WORDS = frozenset(
    {*keyword.kwlist, "true", "false", "none", "row", "loop", "self", "set", "block", "range"}
)

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A column that is kept out of the prompt, and why: words that follow "it"."""

    name: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """How rows may be read.

    Attributes:
        format: Of the API's formats.
        objective: Of the API's objectives.
        fields: Field or column names seen.
        prompt: Column of the input, for ``Csv``; None where a template joins several.
        completion: Column of the answer, for ``Csv``.
        chosen: Column of the better answer, for ``Preference`` under another name.
        rejected: Column of the worse answer, likewise.
        text: Column of the text, for ``Text`` under another name.
        group: Column that should stay together, if any.
        template: Jinja template over several input columns, for ``Csv``.
        has_labels: The answers are few and short: a classification.
        has_json: Every answer is a JSON object or list.
        left_out: Columns that a prompt should not hold, for ``Csv``.
    """

    format: str
    objective: str
    fields: tuple[str, ...]
    prompt: str | None = None
    completion: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    text: str | None = None
    group: str | None = None
    template: str | None = None
    has_labels: bool = False
    has_json: bool = False
    left_out: tuple[LeftOut, ...] = ()

    @property
    def columns(self) -> dict[str, str]:
        """The API's columns."""
        named = {
            "prompt": self.prompt,
            "completion": self.completion,
            "chosen": self.chosen,
            "rejected": self.rejected,
            "text": self.text,
            "group": self.group,
        }
        return {name: column for name, column in named.items() if column is not None}

    def make_source(self, uri: str, *, header: str = "Auto") -> Source:
        """Return the source that reads rows in this way."""
        return Source.model_validate(
            {
                "uri": uri,
                "format": self.format,
                "header": header,
                "columns": Columns.model_validate(self.columns) if self.columns else None,
                "template": self.template,
            }
        )


def propose_reading(rows: Rows, *, where: str) -> Proposal:
    """Propose how the first rows of a file, at least one, are read.

    Raises:
        DataError: The rows hold nothing that can be learned from.
    """
    fields = tuple(dict.fromkeys(name for row in rows for name in row))
    group = find_group([name for name in fields if _is_nameable(name)], rows)
    pair = find_pair(rows)
    if pair is not None and (proposal := _propose_pair(rows, fields, group, pair)) is not None:
        return proposal
    objective = "KTO" if are_verdicts(rows) else "SFT"
    try:
        found = recognise_format(Source(uri="file:///data"), rows, where=where, objective=objective)
    except DataError as error:
        return _propose_table(rows, fields, group, error)
    recognised = found.format
    is_mixed = found.by_fields and any(format_of_row(row, recognised) != recognised for row in rows)
    answer = _ANSWER_OF_FORMAT.get(recognised)
    if recognised == "Text" and any(_is_text(name, rows) for name in fields if name != "text"):
        # More likely a table that has a column `text` among others.
        return _propose_table(rows, fields, group, DataError("UnknownFormat", where))
    has_labels = answer is not None and _are_labels(rows, answer)
    if recognised in CHAT_FORMATS:
        chats = _read_chats(rows, recognised)
        said = [chat for chat in chats if answer_of(chat) is not None]
        if 5 * len(said) >= 4 * len(chats):  # a few calls of tools are no other task
            chats = said
        answer, rows = "answer", [{"answer": answer_of(chat)} for chat in chats]
        has_labels = bool(count_labels({Side.TRAIN: chats}).counts)
    return Proposal(
        format="Auto" if is_mixed else recognised,
        objective=objective,
        fields=fields,
        group=group,
        has_labels=has_labels,
        has_json=answer is not None and _are_json(rows, answer),
    )


def _read_chats(rows: Rows, format_name: str) -> list[dict[str, Any]]:
    source = Source(uri="file:///data")
    convert = build_convert(source, format_name, conversational=True, where="the data")
    chats = []
    for row in rows:
        with contextlib.suppress(BadRow):
            chats.append(convert(row))
    return chats


def _propose_pair(
    rows: Rows, fields: tuple[str, ...], group: str | None, pair: tuple[str, str]
) -> Proposal | None:
    """Return how pairs of answers are read; None where nothing is their prompt."""
    better, worse = pair
    request = next((n for n in fields if all(open_request(row.get(n))[1] for row in rows)), None)
    inputs: tuple[str, ...] = () if request is None else (request,)
    if request is None and not has_prompt(rows[0], better):
        inputs = tuple(
            name
            for name in fields
            if name not in pair and _is_text(name, rows) and _is_input(name, rows)
        )
        named = find_named(inputs, PROMPT_NAMES)
        inputs = inputs if named is None else (named,)
        if not inputs:
            return None
    return Proposal(
        format="Preference",
        objective="DPO",
        fields=fields,
        prompt=inputs[0] if len(inputs) == 1 else None,
        chosen=None if better == "chosen" else better,
        rejected=None if worse == "rejected" else worse,
        group=group,
        template=make_template(inputs) if len(inputs) > 1 else None,
    )


def _propose_table(
    rows: Rows, fields: tuple[str, ...], group: str | None, problem: DataError
) -> Proposal:
    usable = tuple(
        name for name in fields if _is_nameable(name) and not is_worse_answer(name, rows)
    )
    texts = tuple(name for name in usable if _is_text(name, rows))
    completion = find_named(
        tuple(name for name in usable if _holds_answers(name, rows)), COMPLETION_NAMES
    )
    inputs = tuple(name for name in usable if _is_input(name, rows))
    telling = tuple(name for name in inputs if name in texts) or texts
    wanted = tuple(name for name in telling if not is_worse(name))
    if completion is None and len(telling) > 1 and wanted:
        completion = _choose_answer(wanted, group, rows)
    inputs = tuple(name for name in inputs if name != completion)
    group = None if group == completion or inputs == (group,) else group
    inputs = tuple(name for name in inputs if name != group)
    if completion is None or not inputs:
        return _propose_text(fields, group, telling, problem)
    others = tuple(name for name in fields if name not in (completion, group))
    left_out = _find_left_out(others, inputs, completion, rows)
    # A prompt needs a column, whatever it holds.
    inputs = tuple(name for name in inputs if name not in left_out) or inputs
    single = inputs[0] if len(inputs) == 1 else None
    return Proposal(
        format="Csv",
        objective="SFT",
        fields=fields,
        prompt=single,
        completion=completion,
        group=group,
        template=None if single else make_template(inputs),
        has_labels=_are_labels(rows, completion),
        has_json=_are_json(rows, completion),
        left_out=tuple(
            LeftOut(name=name, why=why) for name, why in left_out.items() if name not in inputs
        ),
    )


def _choose_answer(names: tuple[str, ...], group: str | None, rows: Rows) -> str:
    """Return the column of labels, or the last; an identifier or a group only where need be."""
    likely = tuple(name for name in names if name != group and not is_identifier(name, rows))
    names = likely if len(likely) > 1 else names
    labels = [name for name in names if _are_labels(rows, name)]
    return labels[-1] if labels else names[-1]


def _find_left_out(
    others: tuple[str, ...], inputs: tuple[str, ...], completion: str, rows: Rows
) -> dict[str, str]:
    """Return the identifiers of a table and what gives the answer away, with why.

    Dates are among them where answers are labels; another answer may need them.
    """
    found = {
        name: "has another value in every row, so no prompt would have a duplicate"
        for name in others
        if is_identifier(name, rows)
    }
    if _are_labels(rows, completion):
        why = "holds dates, so equal texts of two days would not be duplicates"
        found |= {name: why for name in inputs if name not in found and is_date(name, rows)}
    for name, share in find_giveaways(inputs, completion, rows).items():
        found[name] = f"predicts the answer in {_percent(share)} % of rows"
    return found


def _percent(share: float) -> str:
    return f"{int(1000 * share) / 10:g}"


def _propose_text(
    fields: tuple[str, ...], group: str | None, texts: tuple[str, ...], problem: DataError
) -> Proposal:
    if len(texts) != 1:
        raise problem
    return Proposal(
        format="Text",
        objective="SFT",
        fields=fields,
        text=None if texts == ("text",) else texts[0],
        group=group,
    )


def make_template(columns: Sequence[str]) -> str:
    """Return a template that writes several columns, each on a line with its name before it."""
    return "\n".join(f"{_label(name)}: {{{{ {_expression(name)} }}}}" for name in columns)


def _label(name: str) -> str:
    if _PLAIN_LABEL.fullmatch(name):
        return name
    return f"{{{{ {json.dumps(name)} }}}}"  # Jinja would read a part of it as its own


def _expression(name: str) -> str:
    plain = name.isidentifier() and name.isascii() and name not in _JINJA_WORDS
    return name if plain else f"row[{json.dumps(name)}]"


def _is_input(name: str, rows: Rows) -> bool:
    """Whether a column is part of the input: it has values, and they differ."""
    if is_bookkeeping(name):
        return False
    values = [row.get(name) for row in rows]
    present = [write_text(value) for value in values if not is_missing(value)]
    if not any(text.strip() for text in present):
        return False
    # In every row, or the template fails where a row lacks the field.
    return all(name in row for row in rows) and (len(set(present)) > 1 or len(rows) == 1)


def _holds_answers(name: str, rows: Rows) -> bool:
    values = [row.get(name) for row in rows]
    return all(not is_missing(value) and write_text(value).strip() for value in values)


def _is_text(name: str, rows: Rows) -> bool:
    values = [value for row in rows if (value := row.get(name)) is not None]
    return (
        _is_nameable(name)
        and all(isinstance(value, str) for value in values)
        and any(value.strip() for value in values)
    )


def _is_nameable(name: str) -> bool:
    return len(name) <= MAX_NAME_CHARACTERS and name.splitlines() == [name]


def _are_json(rows: Rows, name: str) -> bool:
    values = [row.get(name) for row in rows]
    read = [read_json_value(value) if isinstance(value, str) else value for value in values]
    return bool(read) and all(isinstance(value, dict | list) and value for value in read)


def _are_labels(rows: Rows, column: str) -> bool:
    answers = [write_text(row.get(column, "")) for row in rows]
    distinct = set(answers)
    return (
        0 < len(distinct) <= min(MAX_LABELS, len(answers) // 2)
        and max(map(len, distinct)) <= MAX_LABEL_CHARACTERS
    )
