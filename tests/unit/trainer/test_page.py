"""The report for people: complete, harmless whatever the texts say, and the same each time."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from finetune_api.protocol.evaluation_result import (
    EvaluateResult,
    GateResult,
    PublishedVersion,
    Score,
)
from finetune_api.v1alpha1.evaluation.spec import Goal
from finetune_trainer.evaluate.report.curve import draw_picture
from finetune_trainer.evaluate.report.label_section import count_both, describe_labels
from finetune_trainer.evaluate.sources.prompt_baseline.section import describe_baseline
from finetune_trainer.publish.card import scores_section
from finetune_trainer.statistics.confidence import Interval
from finetune_trainer.verdict.goal import Measurement, find_criteria
from kit.reports.evaluation_pages import (
    RECORD,
    REMARKED,
    REMARKS,
    baseline_section,
    label_section,
    page,
    sample,
    three_ways,
)
from kit.reports.page_reading import Reading

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}</div>"


def test_page_tells_scores_goal_data_and_answers() -> None:
    text = Reading(page()).text
    for words in (
        "team-a/example",
        "1,200 held-out samples",
        "Goal met. exactMatch 0.910",
        "0.2600 to 0.4000",
        "without a model 0.3500",
        "The score without a model is that of the most frequent label as every answer.",
        "0.3300 0.2600 to 0.4000 without a model 0.3500 0.9100 0.8600 to 0.9500 +0.5800 0.5000 to "
        "0.6600",
        "exactMatch goal: at least 0.80, 0.30 above the base model 0.3300",
        "improvement row 1: exactMatch base 0, tuned 1 system Be brief.",
        "loss 2.5000 0.4000 -2.1000",
        "d" * 64,
        "system Be brief. user Good?",
        "expected positive base wrong I think so tuned right Positive.",
    ):
        assert words in text


def test_the_verdict_is_a_table_of_what_the_goal_asks() -> None:
    goal = Goal.model_validate({"metric": "exactMatch", "atLeast": "0.95", "overBase": "0.30"})
    measured = Measurement(
        base=Interval(value=0.33, low=0.26, high=0.4),
        tuned=Interval(value=0.91, low=0.86, high=0.95),
        gain=Interval(value=0.58, low=0.5, high=0.66),
        num_prompts=100,
    )
    criteria = find_criteria(goal, measured)
    missed = EvaluateResult(
        scores=[Score(name="exactMatch", base="0.3300", tuned="0.9100")],
        num_samples=100,
        goal_met=False,
        goal_message="exactMatch never shown",
        report_uri="x",
    )
    told = Reading(page(result=missed, criteria=criteria)).text.partition("Scores metric")[0]
    for words in (
        "Goal missed, nothing is published. By exactMatch, at 95 % certainty.",
        "score MISSED 0.910 0.860 at least 0.95",
        "gain over base (0.330) met +0.580 +0.500 at least 0.30",
        "The score itself misses, which no number of held-out prompts changes.",
    ):
        assert words in told
    assert "never shown" not in told
    withheld = missed.model_copy(update={"goal_message": "MISSED 3 distinct held-out prompts"})
    text = Reading(page(result=withheld, criteria=criteria)).text
    assert "Goal missed, nothing is published. MISSED 3 distinct held-out prompts." in text


@pytest.mark.parametrize(
    "settings",
    [
        {"samples": [sample(base=HOSTILE, tuned=HOSTILE, references=(HOSTILE, "b"))]},
        {"samples": [sample(prompt=HOSTILE)]},
        {"samples": [sample(prompt=[{"role": HOSTILE, "content": HOSTILE}])]},
        {"lineage": {HOSTILE: HOSTILE}, "licence": HOSTILE},
        {"sections": [baseline_section(HOSTILE)]},
    ],
)
def test_strange_text_is_shown_and_never_obeyed(settings: dict[str, Any]) -> None:
    read = Reading(page(**settings))
    assert read.tags.count("script") == 1  # the page's own
    assert "img" not in read.tags
    assert " ".join(HOSTILE.split()) in read.text


def test_page_shows_each_way_that_the_base_was_asked_and_its_prompt() -> None:
    result = EvaluateResult(scores=three_ways(), num_samples=9, report_uri="x")
    text = Reading(page(result=result, sections=[baseline_section()])).text
    for words in (
        "asked as is, and behind a prompt of an instruction, 1 label and 1 example of the train "
        "side, drawn by the seed, and behind it for the likeliest of 2 labels. Of each metric the "
        "tuned model is compared with the best of these.",
        "The prompt shows 1 of 8 examples: more do not fit.",
        "metric base as is base with a prompt base by likelihood tuned",
        "above the base model 0.0000 0.0000 to 0.9000 0.1000 0.1000 to 0.9000 0.2000 0.2000 to "
        "0.9000 compared 0.9 +0.7000",
        "loss 1 compared 1 +0.0000",
        "chance favours the base, never the tuned model",
        "The prompt user Answer with one of these labels: - Thing 1? Thing 1? assistant Thing 1? "
        "user (the question)",
    ):
        assert words in text
    alone = describe_baseline(None, "evaluation.baseline is AsIs")
    text = Reading(page(sections=[alone])).text
    assert "asked the questions alone: evaluation.baseline is AsIs." in text
    assert "chance favours" not in text


def test_what_to_know_beside_the_verdict_stands_before_the_scores() -> None:
    first_page = Reading(page(result=REMARKED)).text.partition("Scores metric")[0]
    assert all(words in first_page for words in REMARKS)


def test_page_and_card_tell_the_best_constant_answer_beside_the_base() -> None:
    known = Score(name="exactMatch", base="0.4000", tuned="0.9000", constant="0.5000",
                  constant_words="the most frequent label", over_constant="+0.4000",
                  over_constant_low="+0.3010")  # fmt: skip
    loss = Score(name="loss", base="2.0000", tuned="1.0000")
    result = EvaluateResult(scores=[known, loss], num_samples=90, report_uri="x")
    text = Reading(page(result=result)).text
    assert "metric base best constant answer tuned" in text
    assert "0.5000 the most frequent label tuned +0.4000, at least +0.3010 0.9000" in text
    assert (
        "Best constant answer, one text or its own words for every prompt: "
        "exactMatch 0.5000 (the most frequent label; tuned +0.4000, at least +0.3010)."
    ) in scores_section(result, certainty="0.95")
    alone = EvaluateResult(scores=[loss], num_samples=90, report_uri="x")
    assert "constant" not in Reading(page(result=alone)).text


def test_large_figures_are_told_without_digits_that_nobody_reads() -> None:
    huge = Score(name="perplexity", base="420325.4603", base_low="314357.8704", base_high="inf",
                 tuned="1.4529", delta_low="-420323.1", delta_high="-1.2")  # fmt: skip
    result = EvaluateResult(scores=[huge], num_samples=9, report_uri="x")
    assert (
        "perplexity 420,325 314,357 to inf 1.4529 -420,324 -420,324 to -1.2"
        in Reading(page(result=result)).text
    )


def test_bounds_are_told_no_better_than_they_are() -> None:
    near = Score(name="exactMatch", base="0.8000", base_low="0.7001", base_high="0.8999",
                 tuned="0.9316", tuned_low="0.8999", tuned_high="0.9551",
                 delta_low="0.0999", delta_high="0.2001")  # fmt: skip
    result = EvaluateResult(scores=[near], num_samples=351, report_uri="x")
    assert (
        "exactMatch 0.932 [0.899, 0.956], base model 0.800 [0.700, 0.900]: +0.132 [0.099, 0.201]."
        in Reading(page(result=result)).text
    )


def test_page_loads_nothing_and_runs_its_own_script_alone() -> None:
    text = page()
    read = Reading(text)
    assert not {"link", "img", "iframe", "object"} & set(read.tags)
    names = {name for name, _ in read.attributes}
    assert "src" not in names
    assert {
        value for name, value in read.attributes if name == "href" and value[:1] != "#"
    } == set()
    assert not [name for name in names if name.startswith("on")]
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "default-src 'none'" in text
    script = text.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "script" not in Reading(page(samples=[])).tags


def test_missed_goal_no_goal_and_plain_text_are_told() -> None:
    result = EvaluateResult(
        scores=[Score(name="loss", base="2", tuned="3")],
        num_samples=3,
        goal_met=False,
        goal_message="loss MISSED 3.000",
        report_uri="x",
    )
    missed = Reading(page(result=result, samples=[])).text
    assert "Goal missed, nothing is published. loss MISSED" in missed
    assert "plain text" in missed
    none = Reading(page({"spec.goal": None}, result=result.model_copy(update={"goal_met": None})))
    assert "The job set no goal. loss 3.000, base model 2.000: +1.000." in none.text


def test_gates_are_told_and_what_they_missed() -> None:
    gates = [
        GateResult(name="refunds", met=False, message="exactMatch 0.2 <b>", metric="exactMatch",
                   slice=f"label {HOSTILE}", asked="at least 0.8", value="0.2000", bound="0.100"),
        GateResult(name="short", severity="Warn", met=False, message="not measured: no time",
                   metric="answerLength", asked="at most 9"),
        GateResult(name="valid", met=True, message="fine", metric="jsonValid", value="1.0000",
                   bound="0.980", asked="at least 0.9"),
    ]  # fmt: skip
    scores = [Score(name="loss", base="2", tuned="3")]
    result = EvaluateResult(scores=scores, num_samples=3, gates=gates, report_uri="x")
    read = Reading(page(result=result))
    assert "1 of 3 gates missed, nothing is published. refunds: exactMatch 0.2 <b>." in read.text
    assert "refunds MISSED exactMatch label" in read.text
    assert "short missed (warning) answerLength all not measured at most 9" in read.text
    assert "valid met jsonValid all 1.0000 0.980 at least 0.9" in read.text
    assert "short (a warning): not measured: no time" in read.text
    assert read.tags.count("script") == 1
    passed = result.model_copy(update={"gates": gates[1:]})
    told = "No gate prevents publication. 1 of 2 met; 1 missed as a warning."
    assert told in Reading(page(result=passed)).text


def test_texts_are_not_marked_right_or_wrong() -> None:
    result = EvaluateResult(
        scores=[Score(name="rougeL", base="0.2", tuned="0.4", tuned_low="0.3", tuned_high="0.5")],
        num_samples=3,
        report_uri="x",
    )
    text = Reading(page(result=result)).text
    assert "base I think so tuned Positive." in text


def test_same_input_gives_the_same_page() -> None:
    assert page() == page()


def test_curve_is_told_in_words_and_numbers_beside_its_picture() -> None:
    reading = Reading(page(curve=draw_picture(RECORD)))
    words = (
        "Loss over 30 steps. Training: from 3.000 to 1.000. Validation: from 2.000 to 1.900. The "
        "weights after step 20 were kept, validation loss 1.5000. Training ended early and saved "
        "30 steps."
    )
    assert words in reading.text
    assert ("aria-label", words) in reading.attributes
    assert "20 1.5000" in reading.text
    assert reading.tags.count("polyline") == 2


def test_curve_tells_the_standard_error_and_the_rows_of_a_sample() -> None:
    picture = draw_picture(
        {
            **RECORD,
            "selection": {**RECORD["selection"], "validation_error": 0.0321},
            "recipe": {"num_measured_rows": 100, "num_validation_rows": 2500},
        }
    )
    assert picture is not None
    assert picture.words.endswith(
        "Its standard error is 0.0321. It was measured on 100 of 2,500 validation rows."
    )


@pytest.mark.parametrize("field", ["curve", "selection"])
def test_run_without_a_curve_has_no_picture(field: str) -> None:
    assert draw_picture({**RECORD, field: None}) is None
    assert "polyline" not in Reading(page()).tags


def test_marks_of_the_curve_lie_within_its_frame() -> None:
    picture = draw_picture(RECORD)
    assert picture is not None
    assert picture.chosen in picture.dots
    for x, y in picture.dots:
        assert picture.left <= x <= picture.right
        assert picture.top <= y <= picture.bottom
    highest = min(y for _, y in picture.dots)
    assert picture.dots[0][1] == highest  # the largest loss


def test_labels_are_told_with_the_worst_first_and_what_they_are_mistaken_for() -> None:
    reading = Reading(page(labels=label_section()))
    for words in (
        # label, rows, base's recall and F1, tuned precision, recall and F1
        "<b>so so, mostly</b> 2 0.000 0.000 1.000 0.500 0.667 positive 6 1.000 0.800",
        "true label positive negative <b>so so, mostly</b> other positive 5 1 0 0 negative 0 3 0 0",
        "<b>so so, mostly</b> (no label of the data) 2 0",
        "negative positive 3 0",
    ):
        assert words in reading.text
    assert "b" not in reading.tags


def test_many_labels_are_drawn_and_listed_from_the_worst() -> None:
    truth = [f"label {i}" for i in range(60)] * 2
    said = [f"label {(i + 1) % 60}" for i in range(60)] * 2
    tables = count_both(truth, said, [[label] for label in truth])
    assert tables is not None
    section = describe_labels(*tables)
    assert (section.matrix, len(section.mistakes), section.num_mistakes) == ([], 20, 60)
    text = Reading(page(labels=section)).text
    assert "The 12 labels of 60 that the tuned model is worst at" in text
    assert "label 5, answered label 6: 2" in text
    assert "The 20 most frequent of 60 kinds of mistakes" in text
    assert text.count("label 59") >= 1


def test_answers_that_are_no_labels_have_no_table_of_labels() -> None:
    texts = ["a long answer that is unlike any other", "and one more that is as long as the first"]
    assert count_both(texts, texts, [[text] for text in texts]) is None
    assert "true label" not in Reading(page()).text


def test_the_published_version_stands_beside_base_and_tuned_model() -> None:
    text = Reading(page(samples=[sample(published="It is <i>so</i>")])).text
    assert "Version 3 (s3://models/versions/team-a/example/3) was the newest" in text
    assert "7 of 1200 held-out prompts were in the data that version 3 was trained on." in text
    assert "+0.0300 (-0.0100 to 0.0700)" in text
    assert "published version wrong It is <i>so</i>" in text


@pytest.mark.parametrize(
    ("published", "words"),
    [
        (PublishedVersion(), "Nothing is published under this job's name yet"),
        (PublishedVersion(version=2, problem="it is damaged; do"), "was not asked: it is damaged"),
    ],
)
def test_without_a_version_to_ask_the_page_says_so(published: PublishedVersion, words: str) -> None:
    gate = GateResult(name="better", met=True, applicable=False, message="does not apply: none")
    result = EvaluateResult(
        scores=[Score(name="loss", base="2", tuned="1")],
        num_samples=9,
        published=published,
        gates=[gate],
        report_uri="x",
    )
    text = Reading(page(result=result)).text
    assert words in text
    assert "not applicable" in text
    assert "does not apply: none" in text
