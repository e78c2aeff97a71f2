"""``report.html`` of a prepared data set: input, changes, training rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.data.report import (
    DatasetReport,
    FileReport,
    LabelReport,
    SourceReport,
    TokenReport,
)
from finetune_trainer.pages.histogram import Bin, Histogram, draw_histogram
from finetune_trainer.pages.rendering import render, size_text
from finetune_trainer.prepare.report.samples import Sample

PAGE_NAME = "report.html"
NUM_LABELS_OPEN = 12
"""More labels than these are folded away."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FindingRow:
    """One line of the table of findings, all in words.

    Attributes:
        what: The check, or the reason of an invalid row.
        where: File and line; empty for a finding about all rows.
        rows: Affected rows.
        left_out: Rows of these that are not in the data set; empty if unknown.
        message: What was found.
    """

    what: str
    where: str
    rows: int
    left_out: int | str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitTable:
    """Lengths of the sides with one tokenizer."""

    tokenizer: str
    rows: list[tuple[str | int, ...]]


def render_page(
    report: DatasetReport,
    samples: Sequence[Sample],
    *,
    reason_hidden: str,
    lists: Sequence[str] = (),
) -> str:
    """Render the page; the same report gives the same bytes.

    ``reason_hidden`` explains why there are no ``samples``. ``lists`` are files beside the page
    that list rows in full.
    """
    rows = report.rows
    return render(
        "page.html.j2",
        folder=Path(__file__).parent,
        script="filter.js",
        report=report,
        total=rows.train + rows.validation + rows.test,
        sources=[_source_row(i, source) for i, source in enumerate(report.sources)],
        files=[row for source in report.sources for row in _file_rows(source)],
        findings=[
            (each.what, each.where, each.rows, each.left_out, each.message)
            for each in list_findings(report)
        ],
        personal=_personal_rows(report),
        invalid=report.invalid_rows,
        sides=[_split_table(name, tokens) for name, tokens in report.tokens.items()],
        histogram=draw_lengths(report),
        labels=_label_rows(report.labels),
        labels_words=describe_labels(report.labels),
        labels_open=len(report.labels) <= NUM_LABELS_OPEN,
        split=describe_split(report),
        samples=samples,
        reason_hidden=reason_hidden,
        lists=lists,
    )


def list_findings(report: DatasetReport) -> list[FindingRow]:
    """Return the findings of the checks, then their rows, then the invalid rows.

    Every count and place of a check is shown.
    """
    findings, places = [], []
    for check in report.checks:
        wire = check.to_wire()
        counts = [
            f"{words_of(name)} {count:,}"
            for value in wire.values()
            if isinstance(value, Mapping)
            for name, count in value.items()
        ]
        message = check.message or ("" if check.flagged else "nothing found")
        findings.append(
            FindingRow(
                what=words_of(check.name),
                where="",
                rows=check.flagged,
                left_out=check.removed,
                message=": ".join(filter(None, (message, ", ".join(counts)))),
            )
        )
        places += _places_of(wire)
    findings += places
    for row in report.invalid_rows.first:
        findings.append(
            FindingRow(
                what=words_of(row.reason),
                where=f"{row.file}:{row.line}",
                rows=1,
                left_out=1,
                message=row.message,
            )
        )
    return findings


def _places_of(wire: Mapping[str, Any]) -> list[FindingRow]:
    rows = []
    are_all_left_out = wire["removed"] == wire["flagged"]
    for entries in (value for value in wire.values() if isinstance(value, list)):
        for entry in entries:
            if not isinstance(entry, Mapping) or not {"file", "line"} <= entry.keys():
                continue
            other = f"{entry['otherFile']}:{entry['otherLine']}" if "otherFile" in entry else ""
            rows.append(
                FindingRow(
                    what=words_of(wire["name"]),
                    where=f"{entry['file']}:{entry['line']}",
                    rows=1,
                    left_out=1 if are_all_left_out else "",
                    message=f"together with {other}" if other else "",
                )
            )
    return rows


def words_of(name: str) -> str:
    """Write a camelCase name as words: ``duplicateRows`` as ``duplicate rows``; quotes stay."""
    if name.startswith('"'):
        return name
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    words = " ".join(word if word.isupper() else word.lower() for word in words.split())
    return re.sub(r"^num ", "number of ", words)


def describe_split(report: DatasetReport) -> dict[str, str | int]:
    """Return the division of the rows, by label, without unknown values."""
    facts: dict[str, str | int] = {}
    for name, value in report.split.to_wire().items():
        words = words_of(name)
        label = words[0].upper() + words[1:]
        if isinstance(value, str | int) and not isinstance(value, bool):
            facts[label] = value
    return facts


def draw_lengths(report: DatasetReport) -> Histogram | None:
    """Draw the lengths of the training side, with the limit if it is within them."""
    for sides in report.tokens.values():
        train = sides.get("train")
        if train is not None:
            bins = [Bin(at_least=each.at_least, count=each.rows) for each in train.histogram]
            return draw_histogram(
                bins, longest=train.longest, unit="tokens", limit=report.max_sequence_length
            )
    return None


def describe_labels(labels: Sequence[LabelReport]) -> str:
    """Say how many labels there are and how even they are; empty where there are none."""
    if not labels:
        return ""
    total = sum(each.total for each in labels)
    most, least = labels[0], labels[-1]
    return (
        f"{len(labels)} labels. The most frequent, {most.label}, has {most.total:,} rows "
        f"({100 * most.total / total:.1f} %), the rarest, {least.label}, {least.total:,} "
        f"({100 * least.total / total:.1f} %). A model that always gave the most frequent one "
        f"would be right in {100 * most.total / total:.1f} % of all rows."
    )


def _label_rows(labels: Sequence[LabelReport]) -> list[tuple[str | int, ...]]:
    total = sum(each.total for each in labels) or 1
    return [
        (each.label, each.train, each.validation, each.test, f"{100 * each.total / total:.1f} %")
        for each in labels
    ]


def _personal_rows(report: DatasetReport) -> list[tuple[str | int, ...]]:
    """Return how many rows of each side have personal data of each kind, and of any."""
    sides = {one.side: one for check in report.checks for one in check.sides}
    kinds = dict.fromkeys(kind for one in sides.values() for kind in one.kinds)
    wanted = [sides[side] for side in ("train", "validation", "test") if side in sides]
    if not kinds:
        return []
    rows: list[tuple[str | int, ...]] = [
        (kind, *(one.kinds.get(kind, 0) for one in wanted)) for kind in kinds
    ]
    return [*rows, ("any of these", *(one.rows for one in wanted))]


def _source_row(index: int, source: SourceReport) -> tuple[str | int, ...]:
    return (
        f"sources[{index}]",
        source.side,
        source.format or "unknown",
        source.format_reason,
        source.weight,
        source.rows,
        source.invalid_rows,
    )


def _file_rows(source: SourceReport) -> list[tuple[str | int, ...]]:
    return [
        (file.name, size_text(file.bytes), _encoding_words(file), file.rows, file.sha256)
        for file in source.files
    ]


def _encoding_words(file: FileReport) -> str:
    if file.encoding is None:
        return "not text"
    return f"{file.encoding}: {file.encoding_reason}" if file.encoding_reason else file.encoding


def _split_table(tokenizer: str, sides: Mapping[str, TokenReport]) -> SplitTable:
    return SplitTable(
        tokenizer=tokenizer,
        rows=[
            (
                side,
                tokens.rows,
                tokens.tokens,
                tokens.p50,
                tokens.p95,
                tokens.longest,
                tokens.truncated_rows,
                tokens.rows_without_answer,
            )
            for side, tokens in sides.items()
        ],
    )
