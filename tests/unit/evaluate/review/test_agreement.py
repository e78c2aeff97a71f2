"""Agreement beyond chance, equal to the libraries that people know it from.

The figures were computed with scikit-learn 1.9.1 (`cohen_kappa_score`), statsmodels 0.15.0
(`fleiss_kappa`) and krippendorff 0.8.2, which are no dependencies of this project.
"""

from __future__ import annotations

import pytest

from finetune_trainer.evaluate.sources.review.agreement import (
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    share_of_agreement,
)

ANN = "LLSRRLSLRRLSLLRRSLRL"
BEN = "LLSRLLSRRRLSLLRSSLRR"
CAT = "LSSRRLLLRRSSLLRRSLLL"
HOLES = (
    [None if i == 3 else c for i, c in enumerate(ANN)],
    [None if i == 5 else c for i, c in enumerate(BEN)],
    [None if i in (5, 10, 11, 12, 13) else c for i, c in enumerate(CAT)],
)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (ANN, BEN, 0.6911196911196911),
        (ANN, CAT, 0.688715953307393),
        ("LRLR", "RLRL", -1.0),
        ("LLLL", "LLRR", 0.0),
        (ANN, ANN, 1.0),
    ],
)
def test_kappa_of_two_is_scikit_learns(first: str, second: str, expected: float) -> None:
    assert cohen_kappa(first, second) == pytest.approx(expected, abs=1e-9)


def test_kappa_of_more_is_statsmodels() -> None:
    assert fleiss_kappa([ANN, BEN, CAT]) == pytest.approx(0.5876288659793815, abs=1e-9)
    assert fleiss_kappa([ANN, BEN]) == pytest.approx(0.6905222437137333, abs=1e-9)


@pytest.mark.parametrize(
    ("ratings", "expected"),
    [
        ([ANN, BEN, CAT], 0.5945017182130584),
        ([ANN, BEN], 0.6982591876208897),
        (HOLES, 0.5938566552901023),
    ],
)
def test_alpha_is_krippendorffs_also_where_items_are_left_out(
    ratings: list[str], expected: float
) -> None:
    assert krippendorff_alpha(ratings) == pytest.approx(expected, abs=1e-9)


def test_what_is_not_defined_is_none_and_never_a_number() -> None:
    assert cohen_kappa("LLLL", "LLLL") is None
    assert fleiss_kappa(["LL", "LL", "LL"]) is None
    assert krippendorff_alpha(["LLLL", "LLLL"]) is None
    assert cohen_kappa("", "") is None
    assert fleiss_kappa([ANN]) is None
    assert krippendorff_alpha([[None, "L"], ["L", None]]) is None
    assert share_of_agreement([[None], ["L"]]) is None


def test_the_share_of_agreement_counts_pairs_of_reviewers() -> None:
    assert share_of_agreement(["LL", "LR", "LR"]) == pytest.approx((3 + 1) / 6)
