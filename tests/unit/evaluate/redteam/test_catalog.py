"""Which probes a garak has: read from what garak 0.17.1 printed."""

from __future__ import annotations

import pytest

from finetune_trainer.evaluate.sources.red_team.catalog import read_catalog
from kit.reports.garak_files import LISTING

CATALOG = read_catalog(LISTING)


def test_probes_are_read_with_whether_they_run_unnamed() -> None:
    assert CATALOG.version == "0.17.1"
    assert len(CATALOG.probes) == 191
    assert CATALOG.probes["dan.DanInTheWild"]
    assert not CATALOG.probes["dan.DanInTheWildFull"]
    assert "dan" not in CATALOG.probes


@pytest.mark.parametrize(
    ("asked", "run"),
    [
        ("dan", ["dan.Ablation_Dan_11_0", "dan.AutoDANCached", "dan.DanInTheWild"]),
        ("dan.STAN", ["dan.STAN"]),
        ("doctor", []),
        ("dan.DanInTheWilderness", []),
        ("da", []),
    ],
)
def test_a_module_runs_its_active_probes_and_a_name_itself(asked: str, run: list[str]) -> None:
    assert CATALOG.expand(asked) == run


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("promptinjection", ("'promptinjection'", "did you mean promptinject or")),
        ("dan.DanInTheWilderness", ("'dan.DanInTheWilderness'", "'dan' has", "dan.DanInTheWild,")),
        ("doctor", ("'doctor'", "runs no probe unless it is named", "doctor.Puppetry")),
        ("zzz", ("'zzz'", "its modules are adaptive_attacks", "more")),
    ],
)
def test_a_name_that_runs_nothing_is_told_with_what_there_is(
    asked: str, words: tuple[str, ...]
) -> None:
    problem = CATALOG.find_problem(["dan", asked])
    assert all(word in problem for word in words), problem
    assert "'dan' " not in problem.replace("'dan' has", "")


def test_names_that_run_are_no_problem() -> None:
    assert CATALOG.find_problem(["dan", "promptinject", "encoding.InjectBase64"]) == ""


def test_what_is_no_listing_has_no_probes() -> None:
    for text in ("", "sh: 1: garak: not found\n", "Traceback (most recent call last):\n"):
        assert not read_catalog(text).probes
    assert read_catalog("probes: dan.Dan_6_0 \n").version == ""
