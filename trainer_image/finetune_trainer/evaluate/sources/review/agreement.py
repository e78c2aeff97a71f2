"""How far reviewers agree beyond chance. Pure.

Each figure is 1 where they always agree and about 0 where they agree as often as if each had drawn
lots. None where it is not defined, as where everybody chose the same every time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations


def share_of_agreement(ratings: Sequence[Sequence[str | None]]) -> float | None:
    """Return the share of pairs of reviewers who chose the same, over all items.

    Args:
        ratings: Of each reviewer the choice for each item; None for none.
    """
    pairs = [
        first == second
        for item in zip(*ratings, strict=True)
        for first, second in combinations([choice for choice in item if choice is not None], 2)
    ]
    return sum(pairs) / len(pairs) if pairs else None


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Return Cohen's kappa of two reviewers who judged the same items.

    Source: Cohen 1960, "A coefficient of agreement for nominal scales"; equal to scikit-learn's
        ``cohen_kappa_score``.
    """
    number = len(first)
    if not number or len(second) != number:
        return None
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / number
    counts = Counter(first), Counter(second)
    expected = sum(counts[0][name] * counts[1][name] for name in counts[0]) / number**2
    return _beyond_chance(observed, expected)


def fleiss_kappa(ratings: Sequence[Sequence[str]]) -> float | None:
    """Return Fleiss' kappa of reviewers who all judged the same items.

    Args:
        ratings: Of each reviewer the choice for each item.

    Source: Fleiss 1971, "Measuring nominal scale agreement among many raters"; equal to
        statsmodels' ``fleiss_kappa``.
    """
    num_raters = len(ratings)
    items = [Counter(item) for item in zip(*ratings, strict=True)]
    if num_raters < 2 or not items:
        return None
    pairs = num_raters * (num_raters - 1)
    observed = sum(
        sum(count * (count - 1) for count in item.values()) / pairs for item in items
    ) / len(items)
    totals = sum(items, Counter[str]())
    number = num_raters * len(items)
    expected = sum((count / number) ** 2 for count in totals.values())
    return _beyond_chance(observed, expected)


def krippendorff_alpha(ratings: Sequence[Sequence[str | None]]) -> float | None:
    """Return Krippendorff's alpha for choices without an order; items may be left out.

    Args:
        ratings: Of each reviewer the choice for each item; None for none.

    Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability"; equal to the package
        ``krippendorff``.
    """
    items = [
        Counter(choice for choice in item if choice is not None)
        for item in zip(*ratings, strict=True)
    ]
    # An item that one reviewer judged says nothing on agreement.
    items = [item for item in items if item.total() > 1]
    totals = sum(items, Counter[str]())
    number = totals.total()
    if number < 2:
        return None
    disagreed = sum(
        sum(count * (item.total() - count) for count in item.values()) / (item.total() - 1)
        for item in items
    )
    expected = sum(count * (number - count) for count in totals.values()) / (number - 1)
    return None if expected == 0 else 1 - disagreed / expected


def _beyond_chance(observed: float, expected: float) -> float | None:
    return None if expected >= 1 else (observed - expected) / (1 - expected)
