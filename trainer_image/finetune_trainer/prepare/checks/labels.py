"""Finds out whether the answers of a data set are labels, and counts them by side."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_trainer.data.answers.label_text import MAX_LABELS
from finetune_trainer.data.report import LabelReport
from finetune_trainer.data.rows import Side, answer_of, prompt_of
from finetune_trainer.prepare.checks.checks import Finding
from finetune_trainer.prepare.rows.normal import normalise_text

MAX_SPELLINGS = 1000
"""With more different answers than these, they are texts."""
MAX_LABEL_CHARACTERS = 64

DOMINANT_PERCENT = 80
"""From this share of the rows on, always saying the most frequent label looks like success."""
RARE_ROWS = 10
"""A label with fewer training rows is hardly learned."""

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
    """

    counts: tuple[LabelReport, ...] = ()
    spellings: Mapping[str, int] = field(default_factory=dict)
    num_spelled: int = 0


def count_labels(
    sides: Mapping[Side, Iterable[Mapping[str, Any]]], *, show: Callable[[str], str] = str
) -> Labels:
    """Count the answers if they are labels: short, few, and twice as many rows as labels.

    Reading ends at the first answer that is no label. Polite endings of conversations are no
    labels. ``show`` masks a label that may hold personal data.
    """
    found = _count_spellings(sides)
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
    return Labels(
        counts=tuple(
            LabelReport(
                label=show(spellings[0]),
                train=counts[Side.TRAIN],
                validation=counts[Side.VALIDATION],
                test=counts[Side.TEST],
            )
            for counts, spellings in labels
        ),
        spellings=shown,
        num_spelled=sum(len(spellings) > 1 for _, spellings in labels),
    )


def _count_spellings(
    sides: Mapping[Side, Iterable[Mapping[str, Any]]],
) -> dict[str, Counter[Side]]:
    """Count the answers as they are written, by side; empty if one is no label."""
    found: dict[str, Counter[Side]] = {}
    num_rows = num_endings = 0
    for side, rows in sides.items():
        for row in rows:
            label = label_of(row)
            num_rows += 1
            num_endings += label is not None and _is_ending(row, label)
            if label is None or (label not in found and len(found) == MAX_SPELLINGS):
                return {}
            found.setdefault(label, Counter())[side] += 1
    return {} if 2 * num_endings > num_rows else found


def _is_ending(row: Mapping[str, Any], label: str) -> bool:
    """Whether an answer ends a conversation politely, as "You are welcome." does."""
    earlier = prompt_of(dict(row))
    turns = earlier if isinstance(earlier, list) else []
    is_after_answer = any(turn["role"] == "assistant" for turn in turns)
    is_sentence = len(label.split()) > 1 and label[-1] in _SENTENCE_ENDS
    return is_after_answer and (is_sentence or _POLITE.search(label) is not None)


def check_labels(found: Labels) -> list[Finding]:
    """Report uneven labels without naming one; their finding counts the spellings."""
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
    if 100 * most >= DOMINANT_PERCENT * num_rows:
        message = (
            f"{most} of {num_rows} rows have the same of {len(labels)} labels: a model that always "
            f"says it is right in {100 * most // num_rows} % of them. Set the goal on macroF1, or "
            "leave out some of these rows"
        )
        findings.append(Finding(name="labelImbalance", num_flagged=most, message=message))
    rare = [label for label in labels if label.train < RARE_ROWS]
    if rare:
        message = (
            f"{len(rare)} of {len(labels)} labels have fewer than {RARE_ROWS} training rows, too "
            "few to learn them well; add examples"
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
