"""Recognise the format of rows by their fields, or say why none fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1.spec.dataset import Columns, Source
from finetune_trainer.errors import DataError, UserError
from finetune_trainer.prepare.reading.columns.names import (
    COMPLETION_NAMES,
    PROMPT_NAMES,
    find_named,
    is_bookkeeping,
)
from finetune_trainer.prepare.reading.formats.paired import find_pair, is_worse
from finetune_trainer.prepare.reading.formats.verdicts import (
    VERDICT_NAMES,
    are_verdicts,
    find_verdict,
    has_answer,
)

NUM_PROBED_ROWS = 20
"""Rows that ``Auto`` looks at."""

KNOWN_FORMATS = (
    "Chat (messages), ShareGPT (conversations), PromptCompletion (prompt, completion), "
    "Alpaca (instruction, output), Text (text), or Csv with `columns` or `template`"
)

# First match wins. A conversation says more than a flat copy of it in the same row.
_FIELDS_OF_FORMAT: Mapping[str, tuple[str, ...]] = {
    "Chat": ("messages",),
    "ShareGPT": ("conversations",),
    "PromptCompletion": ("prompt", "completion"),
    "Alpaca": ("instruction", "output"),
    "Text": ("text",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recognised:
    """A format of the API, the reason, and the columns of a preference pair if found.

    ``by_fields``: the rows' fields decide, so that single rows may have another format.
    """

    format: str
    reason: str
    by_fields: bool = False
    pair: tuple[str, str] | None = None

    def settle(self, source: Source) -> Source:
        """Return the source with the columns that were found and that it does not name."""
        if self.pair is None:
            return source
        named = (source.columns or Columns()).to_wire()
        columns = {"chosen": self.pair[0], "rejected": self.pair[1], **named}
        return source.model_copy(update={"columns": Columns.model_validate(columns)})


def recognise_format(
    source: Source, rows: Sequence[Mapping[str, Any]], *, where: str, objective: str = "SFT"
) -> Recognised:
    """Decide how the rows of a source are read.

    At most :data:`NUM_PROBED_ROWS` rows are looked at.

    Raises:
        UserError: The format does not fit the objective.
        DataError: ``Auto`` and no known format fits; the message lists the fields seen.
    """
    if objective != "SFT":
        return _recognise_preferences(source, rows[:NUM_PROBED_ROWS], where, objective)
    if source.format != "Auto":
        return Recognised(format=source.format, reason="format is set in the job")
    columns = source.columns or Columns()
    if columns.text is not None:
        return Recognised(format="Text", reason="columns.text is set")
    if source.template is not None or columns.prompt is not None or columns.completion is not None:
        return Recognised(format="Csv", reason="template or columns are set")
    rows = rows[:NUM_PROBED_ROWS]
    if are_verdicts(rows):
        raise DataError(
            "VerdictsNotExamples",
            f"{where}: the rows are answers with a label true or false, and objective SFT would "
            "learn the unwanted ones as well; set method.objective: KTO, or leave out the rows "
            "that are false, or set the format of their fields (PromptCompletion, Alpaca, Chat, "
            "ShareGPT) to learn from all",
        )
    votes: Counter[str] = Counter()
    for fields in rows:
        for name, needed in _FIELDS_OF_FORMAT.items():
            if all(fields.get(field) is not None for field in needed):
                votes[name] += 1
                break
    filled = [{name: row[name] for name in row if row[name] is not None} for row in rows]
    texts = [row for row in filled if "text" in row]
    if not votes or (votes.most_common(1)[0][0] == "Text" and find_pair(texts) is not None):
        raise DataError("UnknownFormat", _explain_unknown(rows, where))
    chosen, count = votes.most_common(1)[0]
    if chosen == "Text":
        _refuse_answer_beside_text(texts, where)
    reason = f"{count} of the first {len(rows)} rows have {' and '.join(_FIELDS_OF_FORMAT[chosen])}"
    return Recognised(format=chosen, reason=reason, by_fields=True)


def format_of_row(fields: Mapping[str, Any], usual: str, about: tuple[str, ...] = ()) -> str:
    """Return the format of one row of a source that is recognised by fields.

    It is the ``usual`` one of the source, unless the row has none of its fields and all of another
    format. A text is plain text only beside columns about the row, such as those that the source
    names (``about``): others may hold the answer.
    """
    if any(fields.get(name) not in (None, "") for name in _FIELDS_OF_FORMAT[usual]):
        return usual
    has = {name for name, value in fields.items() if value not in (None, "")}
    for name, needed in _FIELDS_OF_FORMAT.items():
        if has.issuperset(needed) and (
            name != "Text" or all(map(is_bookkeeping, has - {"text", *about}))
        ):
            return name
    return usual


def _refuse_answer_beside_text(rows: Sequence[Mapping[str, Any]], where: str) -> None:
    answer = find_named(tuple(str(field) for row in rows for field in row), COMPLETION_NAMES)
    if answer is None:
        return
    raise DataError(
        "AnswerBesideText",
        f"{where}: the rows have text and {answer}, and format Text would learn the text alone; "
        f"set columns: {{prompt: text, completion: {answer}}} to learn to answer, or format: Text "
        "if the text is all that counts",
    )


def _recognise_preferences(
    source: Source, rows: Sequence[Mapping[str, Any]], where: str, objective: str
) -> Recognised:
    if source.format not in ("Auto", "Preference"):
        raise UserError(
            "FormatNotApplicable",
            f"{where}.format: method.objective {objective} learns from preferences; use Auto or "
            f"Preference instead of {source.format}",
        )
    columns = source.columns or Columns()
    found = None if columns.chosen or columns.rejected else find_pair(rows)
    pair = set(found or (columns.chosen or "chosen", columns.rejected or "rejected"))
    verdict = {columns.completion or "completion", columns.label or "label"}
    wanted = [pair, verdict] if objective == "KTO" else [pair]

    def fits(fields: Mapping[str, Any]) -> bool:
        if any(names <= set(fields) for names in wanted):
            return True
        is_named = columns.completion is not None or columns.label is not None
        is_verdict = find_verdict(fields) is not None and has_answer(fields)
        return objective == "KTO" and not is_named and is_verdict

    count = sum(map(fits, rows))
    if count:
        reason = f"{count} of the first {len(rows)} rows are preferences"
        return Recognised(format="Preference", reason=reason, pair=found)
    seen = list(dict.fromkeys(str(field) for fields in rows for field in fields))
    needed = " or ".join(" and ".join(sorted(names)) for names in wanted)
    has_verdicts = verdict <= set(seen) or bool(set(VERDICT_NAMES) & set(seen))
    hint = "; KTO learns from rows with a label" if has_verdicts else ""
    raise DataError(
        "NoPreferences",
        f"{where}: method.objective {objective} needs rows with {needed}, and these have "
        f"{', '.join(seen[:20])}{hint}; name the columns, or change the objective",
    )


def _explain_unknown(rows: Sequence[Mapping[str, Any]], where: str) -> str:
    seen = list(dict.fromkeys(str(field) for fields in rows for field in fields))
    shown = ", ".join(seen[:20]) + (f" and {len(seen) - 20} more" if len(seen) > 20 else "")
    text = f"{where}: no known format fits the fields {shown}; known are {KNOWN_FORMATS}."
    named = [name for name in seen if not is_worse(name) and not is_bookkeeping(name)]
    if (pair := find_pair(rows)) is not None:
        text += " These are preference pairs: set method.objective: DPO to learn from both answers"
        asked = tuple(name for name in named if name not in pair)
        prompt = find_named(asked, PROMPT_NAMES) or next(iter(asked), None)
        if prompt is None:
            return text
        example = f"{{prompt: {prompt}, completion: {pair[0]}}}"
        return f"{text}, or format: Csv and columns: {example} to learn the better ones alone"
    if len(named) < 2:
        return text
    example = f"columns: {{prompt: {named[0]}, completion: {named[-1]}}}"
    return f"{text} Name the columns, for example {example}"
