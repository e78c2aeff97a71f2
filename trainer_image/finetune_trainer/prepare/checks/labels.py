"""Finds out whether the answers of a data set are labels, and counts them by side."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_trainer.data.answers.label_text import MAX_LABELS
from finetune_trainer.data.normal import normalise_text
from finetune_trainer.data.report import LabelReport
from finetune_trainer.data.responses import RESPONSES_NAME
from finetune_trainer.data.rows import RESPONSE_ID, Side, answer_of, prompt_of
from finetune_trainer.prepare.checks.checks import Finding

MAX_SPELLINGS = 1000
"""With more different answers than these, they are texts."""
MAX_LABEL_CHARACTERS = 64

DOMINANT_PERCENT = 80
"""From this share of the rows on, always saying the most frequent label looks like success."""
RARE_ROWS = 10
"""A label with fewer training rows is hardly learned."""
NUM_LABELS_SHOWN = 5
"""Labels that a message names."""

_SENTENCE_ENDS = ".!?\u3002\uff01\uff1f"
_POLITE = re.compile(
    r"\b(?:welcome|pleasure|happy to|glad to|anytime|any time|no problem|goodbye|bye|take care)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """The labels of a data set; none where its answers are texts.

    Two spellings are one label if their rows compare as equal.

    Attributes:
        counts: Each label in its most frequent spelling, the most frequent label first.
        spellings: Rows of each spelling, of the labels that have several, in the same order.
        num_spelled: Number of labels with several.
        new: The labels that only rows of captured answers have.
    """

    counts: tuple[LabelReport, ...] = ()
    spellings: Mapping[str, int] = field(default_factory=dict)
    num_spelled: int = 0
    new: tuple[LabelReport, ...] = ()


def count_labels(
    sides: Mapping[Side, Iterable[Mapping[str, Any]]], *, show: Callable[[str], str] = str
) -> Labels:
    """Count the answers if they are labels: short, few, and twice as many rows as labels.

    Reading ends at the first answer that is no label. Polite endings of conversations are no
    labels. ``show`` masks a label that may hold personal data.
    """
    found, in_files = _count_spellings(sides)
    of_label: dict[str, list[str]] = {}
    for spelling in sorted(found, key=lambda name: (-found[name].total(), name)):
        of_label.setdefault(normalise_text(spelling), []).append(spelling)
    labels = [
        (sum((found[spelling] for spelling in spellings), Counter()), spellings)
        for spellings in of_label.values()
    ]
    num_rows = sum(counts.total() for counts, _ in labels)
    if not 0 < len(labels) <= min(MAX_LABELS, num_rows // 2):
        return Labels()
    labels.sort(key=lambda label: (-label[0].total(), label[1][0]))
    shown: Counter[str] = Counter()
    for _, spellings in labels:
        if len(spellings) > 1:
            for spelling in spellings:
                shown[show(spelling)] += found[spelling].total()
    reports = tuple(
        LabelReport(
            label=show(spellings[0]),
            train=counts[Side.TRAIN],
            validation=counts[Side.VALIDATION],
            test=counts[Side.TEST],
        )
        for counts, spellings in labels
    )
    return Labels(
        counts=reports,
        spellings=shown,
        num_spelled=sum(len(spellings) > 1 for _, spellings in labels),
        new=tuple(
            report
            for report, (_, spellings) in zip(reports, labels, strict=True)
            if in_files and in_files.isdisjoint(spellings)
        ),
    )


def _count_spellings(
    sides: Mapping[Side, Iterable[Mapping[str, Any]]],
) -> tuple[dict[str, Counter[Side]], set[str]]:
    """Count the answers as they are written, by side; empty if one is no label.

    The second value are those of rows that no captured answer made.
    """
    found: dict[str, Counter[Side]] = {}
    in_files: set[str] = set()
    num_rows = num_endings = 0
    for side, rows in sides.items():
        for row in rows:
            label = label_of(row)
            num_rows += 1
            num_endings += label is not None and _is_ending(row, label)
            if label is None or (label not in found and len(found) == MAX_SPELLINGS):
                return {}, set()
            found.setdefault(label, Counter())[side] += 1
            if RESPONSE_ID not in row.get("metadata", ()):
                in_files.add(label)
    return ({} if 2 * num_endings > num_rows else found), in_files


def _is_ending(row: Mapping[str, Any], label: str) -> bool:
    """Whether an answer ends a conversation politely, as "You are welcome." does."""
    earlier = prompt_of(dict(row))
    turns = earlier if isinstance(earlier, list) else []
    is_after_answer = any(turn["role"] == "assistant" for turn in turns)
    is_sentence = len(label.split()) > 1 and label[-1] in _SENTENCE_ENDS
    return is_after_answer and (is_sentence or _POLITE.search(label) is not None)


def check_labels(found: Labels) -> list[Finding]:
    """Report uneven labels; rare ones and new ones are named as ``show`` has masked them."""
    labels = found.counts
    if not labels:
        return []
    num_rows = sum(label.total for label in labels)
    most = labels[0].total
    if len(labels) == 1:
        message = (
            f"all {num_rows} rows have the same answer: a model that always says it is right, and "
            "nothing is learned about when to say it"
        )
        one = Finding(name="oneLabel", num_flagged=num_rows, message=message)
        return [one, *_check_spellings(found)]
    findings = _check_spellings(found)
    if found.new:
        named = [f"{each.label} ({each.total})" for each in found.new]
        message = (
            f"new in feedback: {', '.join(named[:NUM_LABELS_SHOWN])}; no other source has such a "
            f"label. If it is a typing error, correct the answer again: {RESPONSES_NAME} names it"
        )
        findings.append(Finding(name="newLabels", num_flagged=len(named), message=message))
    if 100 * most >= DOMINANT_PERCENT * num_rows:
        message = (
            f"{most} of {num_rows} rows have the same of {len(labels)} labels: a model that always "
            f"says it is right in {100 * most // num_rows} % of them. Set the goal on macroF1, or "
            "leave out some of these rows"
        )
        findings.append(Finding(name="labelImbalance", num_flagged=most, message=message))
    rare = [f"{each.label} ({each.train})" for each in labels if each.train < RARE_ROWS]
    if rare:
        message = (
            f"{len(rare)} of {len(labels)} labels have fewer than {RARE_ROWS} training rows, too "
            f"few to learn them well: {', '.join(rare[: -NUM_LABELS_SHOWN - 1 : -1])}; add examples"
        )
        findings.append(Finding(name="rareLabels", num_flagged=len(rare), message=message))
    unseen = [label for label in labels if not label.test]
    if unseen:
        message = (
            f"{len(unseen)} of {len(labels)} labels have no held-out row: the evaluation says "
            "nothing of them"
        )
        findings.append(Finding(name="labelsWithoutTest", num_flagged=len(unseen), message=message))
    return findings


def _check_spellings(found: Labels) -> list[Finding]:
    if not found.spellings:
        return []
    message = (
        f"{found.num_spelled} of {len(found.counts)} labels are written in several ways "
        f"({len(found.spellings)} spellings), which differ only in case, white space, Unicode form "
        "or punctuation at the ends; each is counted as one label, and the model learns to write "
        "all of its spellings: write each in one way"
    )
    return [
        Finding(
            name="labelSpellings",
            num_flagged=sum(found.spellings.values()),
            message=message,
            # In quotes: the names of other counts are words of ours.
            counts={f'"{name}"': count for name, count in found.spellings.items()},
        )
    ]


def label_of(row: Mapping[str, Any]) -> str | None:
    """Return the answer of a row if it may be a label: one line, not too long."""
    answer = answer_of(row)
    if answer is None:
        return None
    answer = answer.strip()
    is_short = 0 < len(answer) <= MAX_LABEL_CHARACTERS and "\n" not in answer
    return answer if is_short else None
