"""Forms from public specifications are found in both halves, and their look-alikes are left."""

from __future__ import annotations

from collections import Counter

import pytest
from benchmarks.data_quality import measure_published

from finetune_api.v1alpha1.spec.privacy import ENTITIES
from kit.published.forms import CLEAN, Half, make_rows, read_forms


@pytest.fixture(scope="module")
def measured() -> dict[Half, list[tuple[str, int, int]]]:
    return measure_published(per_form=4)


@pytest.mark.parametrize("half", ["tuned", "held-out"])
def test_values_of_every_kind_are_found(measured, half: Half) -> None:
    values = [row for row in measured[half] if row[0] != CLEAN]
    assert {kind for kind, _, _ in values} == set(ENTITIES)
    assert [row for row in values if row[2] < 0.9 * row[1]] == []
    assert sum(row[2] for row in values) >= 0.95 * sum(row[1] for row in values)


@pytest.mark.parametrize("half", ["tuned", "held-out"])
def test_look_alikes_are_left(measured, half: Half) -> None:
    ((_, number, damaged),) = [row for row in measured[half] if row[0] == CLEAN]
    assert number >= 300
    assert damaged <= 0.005 * number


def test_both_halves_have_as_many_forms_of_each_kind_and_share_none() -> None:
    forms = read_forms()
    counts = Counter((form.kind, form.half) for form in forms)
    for kind in {form.kind for form in forms}:
        assert abs(counts[kind, "tuned"] - counts[kind, "held-out"]) <= 1
    assert len({form.template for form in forms}) == len(forms)
    assert all(form.source for form in forms)


def test_the_same_seed_makes_the_same_rows() -> None:
    forms = read_forms()[:20]
    assert list(make_rows(forms, per_form=2, seed=1)) == list(make_rows(forms, per_form=2, seed=1))
