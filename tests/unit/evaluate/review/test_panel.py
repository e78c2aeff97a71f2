"""What a panel has said, as figures, as a file and as rows to learn from."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from finetune_trainer.evaluate.sources.review.blinding import Blind, Compared, KeyEntry, blind
from finetune_trainer.evaluate.sources.review.panel import choose_overall, judge, panel_to_json
from finetune_trainer.evaluate.sources.review.preferences import prefer
from finetune_trainer.evaluate.sources.review.verdicts import ReviewFile, Verdict
from kit.reports.reviews import RUBRIC, review, verdicts_of


def panel_of(*prefers: str, number: int = 6) -> tuple[Blind, dict[str, KeyEntry], list[ReviewFile]]:
    hidden, key = review(number)
    files = [verdicts_of(f"R{i}", hidden, key, side) for i, side in enumerate(prefers)]
    return hidden, key, files


def test_wins_are_counted_by_model_and_apart_for_the_worst() -> None:
    _, key, files = panel_of("tuned", "base")
    overall, *each = judge(files, key, rubric=RUBRIC)
    assert [judged.name for judged in (overall, *each)] == ["overall", *RUBRIC]
    assert overall.random == {"tuned": 5, "base": 5}
    assert overall.worst == {"tuned": 1, "base": 1}
    assert overall.win_rate is not None
    assert overall.win_rate.value == 0.5


def test_a_tie_counts_one_half_and_two_models_that_tie_have_an_interval_around_it() -> None:
    _, key, files = panel_of("same", "same", number=30)
    rate = judge(files, key, rubric=RUBRIC)[0].win_rate
    assert rate is not None
    assert rate.low < rate.value == 0.5 < rate.high
    assert rate.low > 0.3


def test_more_items_of_one_prompt_are_no_more_evidence() -> None:
    hidden, key, files = panel_of("tuned", "tuned", number=30)
    crowded = {
        name: replace(entry, compared=replace(entry.compared, cluster=i % 5))
        for i, (name, entry) in enumerate(key.items())
    }
    wide, narrow = (judge(files, each, rubric=RUBRIC)[0].win_rate for each in (crowded, key))
    assert wide is not None
    assert narrow is not None
    assert wide.low < narrow.low
    assert hidden.rubric == RUBRIC


def test_agreement_is_on_what_reviewers_saw_so_that_a_better_model_does_not_lower_it() -> None:
    _, key, files = panel_of("tuned", "tuned", number=30)
    overall = judge(files, key, rubric=RUBRIC)[0]
    # By model both always said "tuned", of which no kappa is defined.
    assert (overall.cohen, overall.alpha, overall.agreement) == (1.0, 1.0, 1.0)
    assert overall.fleiss is None


def test_three_reviewers_have_fleiss_kappa_instead_of_cohens() -> None:
    _, key, files = panel_of("tuned", "tuned", "base", number=30)
    overall = judge(files, key, rubric=RUBRIC)[0]
    assert overall.cohen is None
    assert overall.fleiss is not None
    assert overall.agreement == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("choices", "side"),
    [
        ("left left right", "left"),
        ("left same same", "left"),
        ("left right same", "same"),
        ("same same same", "same"),
        ("right right left", "right"),
    ],
)
def test_overall_is_the_side_that_more_criteria_speak_for(choices: str, side: str) -> None:
    assert choose_overall(dict(zip(RUBRIC, choices.split(), strict=True)), RUBRIC) == side


def test_the_file_holds_figures_and_verdicts_by_model_and_is_the_same_every_time() -> None:
    _, key, files = panel_of("tuned", "same")
    judged = judge(files, key, rubric=RUBRIC)
    text = panel_to_json(judged, files, key, facts={"job": "team/parcels"})
    assert text == panel_to_json(judged, files, key, facts={"job": "team/parcels"})
    body = json.loads(text)
    assert body["kind"] == "ReviewPanel"
    assert body["reviewers"] == ["R0", "R1"]
    assert body["judged"][0]["winRate"] == "0.7500"
    said = body["verdicts"][0]["by"]
    assert [set(each["choices"].values()) for each in said] == [{"tuned"}, {"same"}]
    assert not any(isinstance(value, float) for each in body["judged"] for value in each.values())


def test_preferences_are_what_most_reviewers_prefer_and_ties_teach_nothing() -> None:
    asked = [
        Compared(prompt="p0", base="b0", tuned="t0", drawn_as="random"),
        Compared(prompt=[{"role": "user", "content": "p1"}], base="b1", tuned="t1",
                 drawn_as="worst"),
        Compared(prompt="p2", base="", tuned="t2", drawn_as="random"),
        Compared(prompt="p3", base="b3", tuned="t3", drawn_as="random"),
    ]  # fmt: skip
    hidden, key = blind(asked, title="job", rubric=("voice",), secret=bytes(32))
    wanted = {"p0": "tuned", "p1": "base", "p2": "tuned", "p3": "same"}

    def side(name: str) -> str:
        prompt = key[name].compared.prompt
        model = wanted[prompt if isinstance(prompt, str) else "p1"]
        return "same" if model == "same" else "left" if key[name].left == model else "right"

    files = [
        ReviewFile(
            review=hidden.digest,
            reviewer=person,
            items={name: Verdict(choices={"voice": side(name)}) for name in key},
        )
        for person in ("Ann", "Ben")
    ]
    found = prefer(files, key, rubric=("voice",))
    assert (found.num_ties, found.num_empty) == (1, 1)
    rows = sorted(found.rows, key=str)
    assert {"prompt": "p0", "chosen": "t0", "rejected": "b0"} in rows
    assert {
        "prompt": [{"role": "user", "content": "p1"}],
        "chosen": [{"role": "assistant", "content": "b1"}],
        "rejected": [{"role": "assistant", "content": "t1"}],
    } in rows
    assert len(rows) == 2
