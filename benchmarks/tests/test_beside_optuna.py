"""Optuna as oracle: the same trials stopped, and as good a search. Short forms of `make sweeps`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.slow

optuna = pytest.importorskip("optuna", reason="`make setup` brings the environment up to date")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


def test_the_same_trials_are_stopped() -> None:
    from benchmarks.sweep_evidence.decisions import agreements

    for line in agreements(80):
        assert line.num_different == 0, line
        assert 0 < line.num_pruned < line.num_curves, line
