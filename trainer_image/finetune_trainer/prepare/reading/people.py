"""How much of an endpoint's feedback one person may give. Pure.

One person who says more than all others together would decide what the model learns. So of each
person a share of the answers counts at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

DEFAULT_PERCENT = 20
ALWAYS_TAKEN = 100
"""Answers of each person that count in any case, so that a small data set keeps its rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class People:
    """Whose feedback counts.

    Attributes:
        left_out: Answers whose feedback does not count.
        message: Who gave how much, in words.
    """

    left_out: Collection[str] = ()
    message: str


def limit_people(authors: Mapping[str, str], percent: int = DEFAULT_PERCENT) -> People:
    """Return the answers that are left out, so that nobody gives more than a share of them.

    Few people cannot each have a small share: of ``n`` people each may have twice ``100 / (n + 1)``
    percent, if that is more.

    Args:
        authors: Who gave the feedback, by response id. Of who said too much those with the smallest
            ids stay: they begin with the time, and so are the oldest.
        percent: Most of the answers that one person may give.
    """
    counts = Counter(authors.values())
    if not counts:
        return People(message="nobody has given feedback")
    share = max(percent / 100, 2 / (len(counts) + 1))
    most = max(counts.values())
    while True:
        total = sum(min(number, most) for number in counts.values())
        lower = max(ALWAYS_TAKEN, int(share * total))
        if lower >= most:
            break
        most = lower
    taken: Counter[str] = Counter()
    left_out = set()
    for response_id in sorted(authors):
        taken[authors[response_id]] += 1
        if taken[authors[response_id]] > most:
            left_out.add(response_id)
    return People(left_out=left_out, message=_describe(counts, len(left_out), most))


def _describe(counts: Counter[str], num_left_out: int, most: int) -> str:
    number = counts.most_common(1)[0][1]
    if len(counts) == 1:
        return f"one person has given the feedback on all {number} answers"
    said = (
        f"{len(counts)} people have given feedback on {counts.total()} answers, one of them on "
        f"{number}"
    )
    if not num_left_out:
        return said
    return (
        f"{said}; left out {num_left_out} answers, so that at most {most} are of one person "
        "(maxPercentPerPerson of the source)"
    )
