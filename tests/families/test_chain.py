"""Families through the real stages; all others of the table run in `make families`."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.families.chain import run_chain
from kit.families.family import Family
from kit.families.table import FAMILIES
from kit.models.real_tokenizers import TokenizerUnavailableError

CHOSEN = [family for family in FAMILIES if family.in_every_test_run]


@pytest.mark.slow
@pytest.mark.parametrize("family", [pytest.param(family, id=family.name) for family in CHOSEN])
def test_eight_rows_are_learned_by_heart_and_asked_without_us(
    family: Family, tmp_path: Path
) -> None:
    try:
        outcome = run_chain(family, tmp_path)
    except TokenizerUnavailableError as error:
        pytest.skip(str(error))
    assert outcome.refused is None, outcome.message
    assert outcome.answers == outcome.references
    assert outcome.plain == outcome.references, "plain PEFT answers otherwise"
    assert all(outcome.stopped), "an answer went on to the length limit"
    assert outcome.packing in ("off", "exact")
    assert outcome.exact_match == 1.0
