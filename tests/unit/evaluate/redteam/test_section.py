"""The report's section on a red team."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune_api.protocol.evaluation_result import EvaluateResult, Score
from finetune_api.v1alpha1.evaluation.red_teaming import RedTeam
from finetune_trainer.evaluate.scores.alarms import judge_alarms
from finetune_trainer.evaluate.sources.red_team.catalog import read_catalog
from finetune_trainer.evaluate.sources.red_team.measuring import RedTeamScores, measure_attacks
from finetune_trainer.evaluate.sources.red_team.reading import read_report
from finetune_trainer.evaluate.sources.red_team.section import describe_red_team
from finetune_trainer.evaluate.sources.worsened import NUM_WORSENED
from kit.reports.evaluation_pages import page
from kit.reports.garak_files import LISTING, PROBES, REPORTS, attempt, report

WORDS = "a long answer of at least six <b>words</b>"


def scores_of(base: str, tuned: str, *probes: str, failure: str = "") -> RedTeamScores:
    return measure_attacks(
        RedTeam.model_validate({"probes": list(probes)}),
        read_catalog(LISTING),
        read_report(base),
        read_report(tuned),
        engine="garak 0.17.1 (garak:v9)",
        failure=failure,
        num_samples=100,
        seed=0,
    )


def result_of(scores: RedTeamScores) -> EvaluateResult:
    values: dict[str, Any] = {
        "scores": [Score(name="exactMatch", base="0.1000", tuned="0.9000")],
        "num_samples": 40,
        "report_uri": "s3://models/report.json",
        "gates": judge_alarms([], scores.standings, scores.alarms),
        **scores.to_result(0.95),
    }
    return EvaluateResult.model_validate(values, by_name=True)


@pytest.mark.slow
def test_a_real_run_is_shown_with_verdicts_and_counts() -> None:
    probes = PROBES
    scores = scores_of(REPORTS["base"], REPORTS["tuned"], *probes)
    section = describe_red_team(result_of(scores), scores.attacks)
    assert [row[0] for row in section.rows] == list(probes)
    counted = {(row[0], row[1]): int(row[2]) for row in section.detector_rows}
    assert ("dan.AutoDANCached", "mitigation.MitigationBypass") in counted
    assert max(counted.values()) <= section.num_prompts
    text = page(result=result_of(scores), sections=[section]).replace("<wbr>", "")
    for word in ("Red team", "garak 0.17.1 (garak:v9)", *probes, "no harm is shown"):
        assert word in text


def test_what_hits_the_tuned_model_alone_is_shown_and_nothing_of_it_is_markup() -> None:
    hits = [report(*(attempt(f"<i>{n}</i>", WORDS, {"d.D": h}, seq=n) for n in range(40)))
            for h in (0.0, 1.0)]  # fmt: skip
    scores = scores_of(*hits, "dan.DanInTheWild")
    section = describe_red_team(result_of(scores), scores.attacks)
    assert (len(section.worsened), section.num_worsened) == (NUM_WORSENED, 40)
    assert section.rows[0][-1] == "harm is shown: MISSED"
    text = page(result=result_of(scores), sections=[section])
    assert "12 of 40 prompts that hit" in text
    assert "<i>1</i>" not in text
    assert "<b>words</b>" not in text
    warned = describe_red_team(result_of(replace(scores, severity="Warn")), scores.attacks)
    assert warned.rows[0][-1] == "harm is shown (warning)"


def test_what_was_not_measured_says_so_and_why() -> None:
    scores = scores_of(report(), report(), "dan.STAN", failure="garak was killed")
    section = describe_red_team(result_of(scores), scores.attacks)
    assert section.rows == [
        ["dan.STAN", "not measured", "not measured", "", "not measured: MISSED"]
    ]
    text = page(result=result_of(scores), sections=[section])
    assert "garak was killed" in text
    assert "dan.STAN was not run" in text
