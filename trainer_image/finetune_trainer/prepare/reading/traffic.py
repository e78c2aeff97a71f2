"""Turn captured answers that people corrected or rated into rows of a source.

The rows go through the same steps as rows of files. If several people correct an answer, the last
correction counts. Of its ratings the majority counts. A correction without a rating counts as one
thumb down.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from finetune_api.v1alpha1.spec.dataset import TRAFFIC, Columns, Source
from finetune_trainer.data.rows import ORIGIN
from finetune_trainer.errors import UserError
from finetune_trainer.prepare.reading.people import DEFAULT_PERCENT, limit_people
from finetune_trainer.prepare.reading.sources import SourceFile, describe_file
from finetune_trainer.storage import ObjectStore
from finetune_trainer.traffic.reading import find_exchanges, read_feedback
from finetune_trainer.traffic.rows import Exchange, Feedback, write_time

CORRECTION, RATING = "Correction", "Rating"
_OF_PAIRS = frozenset({"DPO", "ORPO"})
_GROUP = "group"

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A captured answer, and what people said of it.

    Attributes:
        is_wanted: By the majority; None without ratings, or if they are balanced.
        num_ratings: Thumbs that people gave.
        author: Who wrote the correction, else the last one whose rating is the majority's.
    """

    row: Exchange
    correction: str | None = None
    is_wanted: bool | None = None
    num_ratings: int = 0
    author: str = ""


def endpoint_of(source: Source) -> str:
    """Return the FineTuneEndpoint that a source names."""
    return source.uri.removeprefix(TRAFFIC)


def settle_traffic(source: Source) -> Source:
    """Return the source with the columns of the rows that are made here."""
    if not source.is_traffic:
        return source
    return source.model_copy(update={"columns": Columns(group=_GROUP, time="time")})


def fetch_traffic(
    source: Source, store: ObjectStore, folder: Path, *, objective: str
) -> tuple[SourceFile, str]:
    """Write the rows of a source to a file, and count the feedback in words.

    Args:
        source: The source.
        store: The endpoint's traffic.
        folder: Where the file goes.
        objective: ``method.objective``, which decides what rows are made.

    Raises:
        UserError: ``SettingNotApplicable``: the objective cannot learn from this feedback.
        StorageError: The traffic cannot be read.
    """
    kinds = _kinds_of(source, objective)
    since, until = (_read_time(each) for each in (source.since, source.until))
    entries = read_feedback(store, since=since, until=until)
    answers = find_exchanges(store, {entry.id for entry in entries})
    judged = judge(answers, entries)
    made = {each.row.id: list(make_rows(each, objective, kinds)) for each in judged}
    people = limit_people(
        {each.row.id: each.author for each in judged if made[each.row.id]},
        source.max_percent_per_person or DEFAULT_PERCENT,
    )
    rows = [row for name, each in made.items() if name not in people.left_out for row in each]
    path = folder / f"{endpoint_of(source)}.jsonl"
    path.touch(mode=0o600)  # it holds what prepare has not searched for personal data yet
    path.write_bytes(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))
    num_ratings = sum(each.num_ratings for each in judged)
    words = (
        f"{len(judged)} answers with {sum(each.correction is not None for each in judged)} "
        f"corrections and {num_ratings} ratings make {len(rows)} rows"
    )
    if num_ratings and RATING not in kinds:
        words += f"; ratings make none here (method.objective {objective})"
    words += f"; {people.message}"
    file = describe_file(path, name=path.name, wanted_encoding="UTF-8")
    return replace(file, people=people), words


def judge(answers: Iterable[Exchange], entries: Sequence[Feedback]) -> list[Judged]:
    """Join answers to what people said of them, oldest first. ``entries`` are in order of time."""
    of_answer: dict[str, list[Feedback]] = {}
    for entry in entries:
        of_answer.setdefault(entry.id, []).append(entry)
    found = []
    for row in answers:
        said = of_answer.get(row.id, [])
        corrections = [entry for entry in said if entry.correction is not None]
        balance = sum(map(_vote, said))
        deciding = corrections or [entry for entry in said if _vote(entry) * balance > 0]
        found.append(
            Judged(
                row=row,
                correction=corrections[-1].correction if corrections else None,
                is_wanted=balance > 0 if balance else None,
                num_ratings=sum(entry.rating is not None for entry in said),
                author=deciding[-1].who if deciding else "",
            )
        )
    return found


def make_rows(judged: Judged, objective: str, kinds: Collection[str]) -> Iterator[Row]:
    """Yield the rows that an objective learns from: at most two of one answer.

    Args:
        judged: The answer, and what people said of it.
        objective: ``method.objective``.
        kinds: :data:`CORRECTION`, :data:`RATING`, or both.
    """
    row, text = judged.row, judged.correction
    given = _answer_of(row)
    if text is not None and CORRECTION in kinds:
        text = text.rstrip()  # a line break at the end of a file is no part of the answer
        said = given.rstrip() if isinstance(given, str) else given
        differs = said is not None and said != text
        if objective in _OF_PAIRS:
            if differs:
                yield _row(row, CORRECTION, chosen=text, rejected=given)
            return
        labels = objective == "KTO"
        yield _row(row, CORRECTION, completion=text, **({"label": True} if labels else {}))
        if labels and differs:
            yield _row(row, CORRECTION, completion=given, label=False)
    elif given is not None and RATING in kinds and judged.is_wanted is not None:
        # An answer that was cut off is no example of a wanted one.
        if judged.is_wanted and row.finish_reason == "length":
            return
        if objective == "KTO":
            yield _row(row, RATING, completion=given, label=judged.is_wanted)
        elif judged.is_wanted:
            yield _row(row, RATING, completion=given)


def _kinds_of(source: Source, objective: str) -> set[str]:
    asked = {each.removesuffix("s") for each in source.feedback or ()}
    if objective in _OF_PAIRS:
        if asked == {RATING}:
            raise UserError(
                "SettingNotApplicable",
                f"dataset.sources: feedback of {source.uri} is Ratings, and method.objective "
                f"{objective} learns from pairs, which only corrections make; add Corrections, or "
                "set method.objective: KTO",
            )
        return {CORRECTION}
    if objective == "SFT" and not asked:
        return {CORRECTION}
    return asked or {CORRECTION, RATING}


def _vote(entry: Feedback) -> int:
    if entry.rating is None:
        return 0 if entry.correction is None else -1
    return 1 if entry.rating == "up" else -1


def _row(row: Exchange, kind: str, **answers: Any) -> Row:
    is_chat = isinstance(row.request.get("messages"), list)
    made: Row = {"prompt": row.messages if is_chat else row.request.get("prompt"), **answers}
    if row.request.get("tools"):
        made["tools"] = row.request["tools"]
    return {
        **made,
        _GROUP: _group_of(row),
        **dict(zip(ORIGIN, (row.id, row.user, write_time(row.time)), strict=True)),
        "kind": kind,
    }


def _group_of(row: Exchange) -> str:
    """Return whose rows stay on one side: the user's, else those of the conversation.

    The messages up to the first of the user stand for a conversation. Later turns repeat them.
    """
    if row.user is not None:
        return f"user {row.user}"
    messages = row.messages
    first = next((n for n, each in enumerate(messages, 1) if each.get("role") == "user"), None)
    opening = orjson.dumps(messages[:first], option=orjson.OPT_SORT_KEYS)
    return f"conversation {hashlib.sha256(opening).hexdigest()}"


def _answer_of(row: Exchange) -> str | list[Row] | None:
    """Return the answer: text, or a message that calls tools; None if there is none."""
    if row.is_error:
        return None
    message = row.message
    if message.get("tool_calls"):
        return [{"role": "assistant", "content": row.text, "tool_calls": message["tool_calls"]}]
    return row.text if row.text.strip() else None


def _read_time(given: str | None) -> datetime | None:
    return None if given is None else datetime.fromisoformat(given)
