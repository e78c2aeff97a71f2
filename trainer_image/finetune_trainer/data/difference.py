"""Compares two data sets: rows added, removed and changed, labels and lengths. Pure.

Metadata does not count. Memory holds two digests and the place of each row.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_trainer.data.rows import prompt_of

NUM_PLACES = 20
"""Rows of each kind that are named."""

_OWN = ("metadata",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a row comes from."""

    file: str
    line: int


@dataclass(kw_only=True, slots=True)
class Contents:
    """The compared content of one data set.

    Attributes:
        rows: Digest, prompt digest, side and place of each row.
        labels: Count of each answer that may be a label.
        num_words: Words of all rows.
    """

    rows: list[tuple[bytes, bytes, str, Place]] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)
    num_words: int = 0

    def add(self, row: Mapping[str, Any], *, side: str, place: Place, label: str | None) -> None:
        """Add one canonical row; ``label`` is its answer if that may be a label.

        An undivided data set has an empty ``side``.
        """
        bare = {key: value for key, value in row.items() if key not in _OWN}
        self.rows.append((_digest(bare), _digest(prompt_of(bare)), side, place))
        if label is not None:
            self.labels[label] += 1
        self.num_words += count_words(bare)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The differences.

    Attributes:
        num_before: Rows of the first.
        num_after: Rows of the second.
        num_added: Rows that only the second has.
        num_removed: Rows that only the first has.
        num_changed: Rows with the same prompt and another answer; not among the two above.
        num_moved: Rows on another side, where both are divided.
        added: Places of the first added rows.
        removed: Places of the first removed rows.
        changed: Pairs of places of the first changed rows.
        labels: Of each label whose share differs: rows before and after.
        words: Mean words of a row before and after.
    """

    num_before: int
    num_after: int
    num_added: int
    num_removed: int
    num_changed: int
    num_moved: int
    added: tuple[Place, ...] = ()
    removed: tuple[Place, ...] = ()
    changed: tuple[tuple[Place, Place], ...] = ()
    labels: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    words: tuple[float, float] = (0.0, 0.0)

    @property
    def is_empty(self) -> bool:
        """Whether both hold the same rows on the same sides."""
        return not (self.num_added or self.num_removed or self.num_changed or self.num_moved)

    def to_wire(self) -> dict[str, Any]:
        """Return it for machines, in camelCase."""
        return {
            "rows": {"before": self.num_before, "after": self.num_after},
            "added": self.num_added,
            "removed": self.num_removed,
            "changed": self.num_changed,
            "moved": self.num_moved,
            "firstAdded": [_wire(place) for place in self.added],
            "firstRemoved": [_wire(place) for place in self.removed],
            "firstChanged": [
                {"before": _wire(before), "after": _wire(after)} for before, after in self.changed
            ],
            "labels": {
                label: {"before": before, "after": after}
                for label, (before, after) in self.labels.items()
            },
            "meanWords": {"before": f"{self.words[0]:.1f}", "after": f"{self.words[1]:.1f}"},
        }


def compare(before: Contents, after: Contents) -> Difference:
    """Compare two data sets; equal rows are matched one to one, however often they occur."""
    gone, come, num_moved = _match(before, after)
    by_prompt: dict[bytes, list[Place]] = {}
    for _, prompt, _, place in come:
        by_prompt.setdefault(prompt, []).append(place)
    changed: list[tuple[Place, Place]] = []
    removed: list[Place] = []
    for _, prompt, _, place in gone:
        others = by_prompt.get(prompt)
        if others:
            changed.append((place, others.pop(0)))
        else:
            removed.append(place)
    taken = {id(other) for _, other in changed}
    added = [place for _, _, _, place in come if id(place) not in taken]
    return Difference(
        num_before=len(before.rows),
        num_after=len(after.rows),
        num_added=len(added),
        num_removed=len(removed),
        num_changed=len(changed),
        num_moved=num_moved,
        added=tuple(added[:NUM_PLACES]),
        removed=tuple(removed[:NUM_PLACES]),
        changed=tuple(changed[:NUM_PLACES]),
        labels=_shifted(before.labels, after.labels),
        words=(_mean(before), _mean(after)),
    )


_Row = tuple[bytes, bytes, str, Place]


def _match(before: Contents, after: Contents) -> tuple[list[_Row], list[_Row], int]:
    """Return the unmatched rows of each, and the number of matches on another side.

    Rows on the same side match first.
    """
    gone, come = _pair(before.rows, after.rows, with_side=True)
    num_unpaired = len(gone)
    gone, come = _pair(gone, come, with_side=False)
    is_divided = all(row[2] for row in (*before.rows, *after.rows))
    return gone, come, num_unpaired - len(gone) if is_divided else 0


def _pair(
    before: Sequence[_Row], after: Sequence[_Row], *, with_side: bool
) -> tuple[list[_Row], list[_Row]]:
    """Return the rows of each that are left when equal ones are paired, one to one, in order."""

    def key(row: _Row) -> tuple[bytes, str]:
        return row[0], row[2] if with_side else ""

    left = Counter(map(key, before))
    come = []
    for row in after:
        if left[key(row)] > 0:
            left[key(row)] -= 1
        else:
            come.append(row)
    gone = []
    for row in reversed(before):  # the first ones of equal rows were paired
        if left[key(row)] > 0:
            left[key(row)] -= 1
            gone.append(row)
    return gone[::-1], come


def _shifted(before: Counter[str], after: Counter[str]) -> dict[str, tuple[int, int]]:
    totals = before.total() or 1, after.total() or 1

    def shift(label: str) -> float:
        return abs(after[label] / totals[1] - before[label] / totals[0])

    labels = [label for label in {*before, *after} if before[label] != after[label]]
    labels.sort(key=lambda label: (-shift(label), label))
    return {label: (before[label], after[label]) for label in labels}


def count_words(value: Any) -> int:
    """Count the words in all texts of a row, roles and weights left out."""
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, list):
        return sum(map(count_words, value))
    if isinstance(value, Mapping):
        left_out = ("metadata", "role", "weight")
        return sum(count_words(item) for key, item in value.items() if key not in left_out)
    return 0


def _mean(contents: Contents) -> float:
    return contents.num_words / (len(contents.rows) or 1)


def _wire(place: Place) -> dict[str, Any]:
    return {"file": place.file, "line": place.line}


def _digest(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).digest()[:16]
