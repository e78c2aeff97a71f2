"""The part of the report on the version that was published before. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from finetune_api.protocol.evaluation_result import PublishedVersion, Score
from finetune_trainer.evaluate.sources.source import Place

COLUMNS: tuple[dict[str, Any], ...] = tuple(
    {"label": label}
    for label in ("metric", "base", "published", "tuned", "tuned \N{MINUS SIGN} published")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedSection:
    """What the page shows of the published version.

    Attributes:
        words: Which version it is, and what there is to know of the comparison, in sentences.
        columns: Of the table of scores.
        rows: Its cells; empty where it was not asked.
    """

    template: ClassVar[str] = "sources/champion/section.html.j2"
    anchor: ClassVar[str] = "published"
    title: ClassVar[str] = "The published version"
    place: ClassVar[Place] = "gates"

    words: tuple[str, ...]
    columns: tuple[dict[str, Any], ...]
    rows: list[list[object]]


def describe_published(scores: Sequence[Score], published: PublishedVersion) -> PublishedSection:
    """Return the section.

    Args:
        scores: The scores of the evaluation.
        published: The published version as reports show it.
    """
    rows = [_row(score) for score in scores if score.published]
    if published.version is None:
        words = [
            "Nothing is published under this job's name yet: there is nothing to compare with."
        ]
    elif published.problem:
        words = [f"Version {published.version} was not asked: {published.problem}."]
    else:
        words = [
            f"Version {published.version} ({published.uri}) was the newest when the evaluation "
            "began. It answered the same held-out rows in the chat format of its own training.",
            f"{published.seen[:1].upper()}{published.seen[1:]}.",
        ]
    return PublishedSection(words=tuple(words), columns=COLUMNS, rows=rows)


def _row(score: Score) -> list[object]:
    difference = float(score.tuned) - float(score.published)
    return [
        score.name,
        score.base,
        f"{score.published} ({score.published_low} to {score.published_high})",
        score.tuned,
        f"{difference:+.4f} ({score.over_published_low} to {score.over_published_high})",
    ]
