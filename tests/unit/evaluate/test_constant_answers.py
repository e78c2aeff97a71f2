"""One answer to everything meets no goal and no gate; a model that is better than it does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_api.protocol.evaluation_result import GateResult, Score
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.metrics.catalog import NO_SETTINGS, Settings
from finetune_trainer.evaluate.metrics.custom import MODULE_NAME, load_scorer
from finetune_trainer.evaluate.questions import gather_questions
from finetune_trainer.evaluate.scores.constants import NUM_COSTLY_SCREENED, OWN, list_constants
from finetune_trainer.evaluate.scores.copies import PROMPT
from finetune_trainer.evaluate.scores.gating import judge_gates, judge_goal
from finetune_trainer.evaluate.scores.measuring import measure_one
from finetune_trainer.evaluate.scores.score_text import score_from
from kit.cases.spec_cases import changed, minimal_job

NUM_KINDS = 24
"""Kinds of answers that need no model."""
LABELS = ("positive", "negative", "neutral")


def said(texts: Sequence[str]) -> Answers:
    ones = np.ones(len(texts))
    return Answers(texts=list(texts), nll_sums=ones, num_tokens=ones)


def compared(
    truth: Sequence[str],
    tuned: Sequence[str],
    *,
    sources: Sequence[str] = ("a.jsonl",),
    prompts: Sequence[str] = (),
) -> Comparison:
    rows = [
        {
            "prompt": prompts[i] if prompts else f"p{i}",
            "completion": answer,
            "metadata": {"source": sources[i % len(sources)]},
        }
        for i, answer in enumerate(truth)
    ]
    questions = gather_questions(rows, max_questions=1000, seed=0)
    base = said(["I do not know"] * len(truth))
    return Comparison(questions=questions, base=base, tuned=said(tuned))


def job_with(goal: dict[str, str] | None, **evaluation: Any) -> ResolvedJob:
    told = {
        "numBootstrapSamples": 200,
        "judge": {"endpoint": "https://judge/v1", "model": "m"},
        "customMetric": {"path": "/m.py"},
    }
    change: dict[str, Any] = {"spec.evaluation": {**told, **evaluation}}
    if goal is not None:
        change["spec.goal"] = goal
    spec = changed(minimal_job(), change)["spec"]
    return ResolvedJob.model_validate({"namespace": "n", "name": "j", "uid": "u", "spec": spec})


def judged(
    goal: dict[str, str], comparison: Comparison, settings: Settings = NO_SETTINGS
) -> tuple[bool | None, str, Score]:
    job = job_with(goal)
    found = measure_one(job, comparison, goal["metric"], settings)
    met, words = judge_goal(job.spec, comparison, {goal["metric"]: found})
    return met, words, score_from(goal["metric"], found, job.spec.goal)


def gates_of(comparison: Comparison, *gates: dict[str, Any]) -> list[GateResult]:
    named = [{"name": f"g{number}", **gate} for number, gate in enumerate(gates)]
    return judge_gates(job_with(None, gates=named), comparison)


def words_of(number: int, seed: int) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(f"w{word}" for word in rng.integers(0, 400, number))


def honest(truth: Sequence[str], every: int) -> list[str]:
    """Return right answers, but for one in so many rows, which gets that of the row before."""
    return [truth[i - 1] if i % every == every - 1 else truth[i] for i in range(len(truth))]


SENTIMENT = [LABELS[i % 3] for i in range(99)]
FINE = ["fine"] * 95 + [f"fault number {i}" for i in range(5)]
REPEATED = [
    "we thank you for your message and answer soon" if i % 10 else words_of(9, i)
    for i in range(100)
]
JSON = [f'{{"name": "n{i}", "age": {i % 50}}}' for i in range(60)]


@pytest.mark.parametrize(
    ("goal", "truth", "text"),
    [
        ({"metric": "contains", "atLeast": "0.9"}, SENTIMENT, "positive negative neutral"),
        ({"metric": "contains", "overBase": "0.5"}, SENTIMENT, "neutral, positive or negative"),
        ({"metric": "contains", "atLeast": "0.8"}, FINE, "fine"),
        ({"metric": "rougeL", "atLeast": "0.8"}, FINE, "fine"),
        ({"metric": "chrF", "atLeast": "0.8"}, FINE, "fine"),
        ({"metric": "bleu", "atLeast": "0.6"}, REPEATED, REPEATED[1]),
        ({"metric": "rougeL", "atLeast": "0.6"}, REPEATED, REPEATED[1]),
        ({"metric": "rougeL", "overBase": "0.3"}, REPEATED, REPEATED[1] + "!"),
        ({"metric": "jsonValid", "atLeast": "0.9"}, JSON, "{}"),
        ({"metric": "jsonValid", "atLeast": "0.9"}, JSON, JSON[7]),
        ({"metric": "numberClose", "atLeast": "0.5"}, ["7"] * 70 + ["8"] * 30, "it is 7"),
        ({"metric": "jsonEqual", "atLeast": "0.6"}, ['{"a": 1}'] * 80 + JSON[:20], '{"a":1}'),
    ],
)
def test_a_constant_meets_no_goal(goal: dict[str, str], truth: list[str], text: str) -> None:
    met, words, score = judged(goal, compared(truth, [text] * len(truth)))
    assert met is False
    assert "(must be above 0)" in words
    assert float(score.over_constant_low) <= 0
    assert score.constant_words


@pytest.mark.parametrize(
    ("goal", "truth"),
    [
        ({"metric": "rougeL", "atLeast": "0.6"}, REPEATED),
        ({"metric": "contains", "atLeast": "0.8"}, FINE),
    ],
)
def test_a_model_that_seldom_says_something_else_meets_no_goal(
    goal: dict[str, str], truth: list[str]
) -> None:
    tuned = [truth[1] if i % 20 else f"other {i}" for i in range(len(truth))]
    assert judged(goal, compared(truth, tuned))[0] is False


def test_a_constant_that_no_row_has_is_found_among_the_models_own_answers() -> None:
    truth = [f"the parcel {i} arrives in the town on day {i * 7}" for i in range(60)]
    text = "the parcel arrives in the town on day"
    met, words, score = judged({"metric": "rougeL", "atLeast": "0.5"}, compared(truth, [text] * 60))
    assert met is False
    assert "MISSED +0.000 over always giving the tuned model's own most frequent" in words
    assert (score.constant_words, score.over_constant) == (OWN, "+0.0000")


def test_the_most_central_answer_of_the_train_side_is_a_constant() -> None:
    truth = [f"the parcel {i} arrives in the town on day {i * 7}" for i in range(60)]
    # Never twice the same, and no more than what every answer has.
    tuned = [f"x{i} the parcel arrives in the town on day" for i in range(60)]
    trained = tuple(f"the parcel {i} arrives in the town on day {i * 3}" for i in range(900, 990))
    comparison = replace(compared(truth, tuned), trained=[("", text) for text in trained])
    goal = {"metric": "rougeL", "atLeast": "0.5"}
    met, words, _ = judged(goal, comparison)
    assert met is False
    assert "MISSED +0.000 over always giving an answer of the tuned model" in words
    references = [question.references for question in comparison.asked]
    constants = list_constants(references, (), trained)
    scored = [measure_one(job_with(goal), compared(truth, [each.text] * 60), "rougeL").tuned.value
              for each in constants]  # fmt: skip
    best = constants[scored.index(max(scored))]
    assert best.what == "an answer of the train side"


@pytest.mark.parametrize("metric", ["rougeL", "chrF", "exactMatch"])
def test_saying_the_prompt_again_meets_no_goal(metric: str) -> None:
    prompts = [words_of(9, i) for i in range(100)]
    truth = [f"{each} {words_of(9, 500 + i)}" if i % 2 else each for i, each in enumerate(prompts)]
    goal = {"metric": metric, "atLeast": "0.4"}
    for tuned, is_met in ((prompts, False), (truth, True)):
        comparison = compared(truth, tuned, prompts=prompts)
        met, words, score = judged(goal, comparison)
        assert met is is_met, words
        assert "over always giving the prompt itself" in words
        assert (score.constant_words, float(score.over_constant_low) > 0) == (PROMPT, is_met)
        assert gates_of(comparison, goal)[0].met is is_met


def test_saying_the_prompt_again_is_a_rival_of_the_users_own_metric() -> None:
    truth = [words_of(9, i) for i in range(60)]
    settings = scorer(lambda text, references, _: float(text == references[0]))
    goal = {"metric": "custom", "atLeast": "0.5"}
    met, words, score = judged(goal, compared(truth, truth, prompts=truth), settings)
    assert met is False, words
    # It is right everywhere, and so is the prompt: what answers say decides, and is the same too.
    assert score.constant_words == f"{PROMPT}, by rougeL"


def test_a_constant_behind_a_character_that_changes_is_found() -> None:
    truth = [words_of(1, i) for i in range(60)]
    everything = " ".join(dict.fromkeys(truth))
    tuned = [f"{everything} ({i})" for i in range(60)]
    met, words, _ = judged({"metric": "contains", "atLeast": "0.8"}, compared(truth, tuned))
    assert met is False
    assert "MISSED" in words


def test_a_right_model_meets_a_gate_on_a_slice_with_nearly_one_label() -> None:
    truth = [
        ("ok" if i % 2 or i > 3 else "broken") if i % 3 == 0 else LABELS[i % 2] for i in range(150)
    ]
    comparison = compared(truth, truth, sources=("a.jsonl", "b.jsonl", "c.jsonl"))
    slice_of_one = {"slice": {"source": "a.jsonl"}}
    (gate,) = gates_of(comparison, {"metric": "exactMatch", "atLeast": "0.9", **slice_of_one})
    assert gate.met, gate.message
    always = replace(comparison, tuned=said(["ok"] * 150))
    (gate,) = gates_of(always, {"metric": "exactMatch", "atLeast": "0.9", **slice_of_one})
    assert not gate.met


@pytest.mark.parametrize("number", [30, 60, 100])
@pytest.mark.parametrize(
    ("goal", "truth_of", "every"),
    [
        ({"metric": "exactMatch", "atLeast": "0.6"}, lambda i: LABELS[i % 2], 10),
        ({"metric": "macroF1", "atLeast": "0.5"}, lambda i: LABELS[i % 2], 10),
        ({"metric": "macroF1", "overBase": "0.2"}, lambda i: LABELS[i % 3], 5),
        ({"metric": "rougeL", "atLeast": "0.6"}, lambda i: words_of(12, i), 10),
        ({"metric": "chrF", "atLeast": "0.6"}, lambda i: words_of(12, i), 10),
        ({"metric": "contains", "atLeast": "0.6"}, lambda i: words_of(12, i), 10),
        ({"metric": "numberClose", "atLeast": "0.6"}, lambda i: f"{i * 13}", 10),
        ({"metric": "jsonValid", "atLeast": "0.8"}, lambda i: f'{{"a": {i}, "b": "{i}"}}', 1000),
        ({"metric": "jsonFieldF1", "atLeast": "0.6"}, lambda i: f'{{"a": {i}, "k": 1}}', 20),
    ],
)
def test_a_model_that_is_clearly_better_than_a_constant_meets_its_goal(
    goal: dict[str, str], truth_of: Callable[[int], str], every: int, number: int
) -> None:
    truth = [truth_of(i) for i in range(number)]
    met, words, score = judged(goal, compared(truth, honest(truth, every)))
    assert met is True, words
    assert "MISSED" not in words
    assert float(score.over_constant_low) > 0


def test_labels_in_turn_do_not_pass_as_a_little_better_than_one_label() -> None:
    rng = np.random.default_rng(3)
    truth = [LABELS[i] for i in rng.integers(0, 3, 300)]
    tuned = [LABELS[i % 3] for i in range(300)]
    met, words, _ = judged({"metric": "macroF1", "atLeast": "0.2"}, compared(truth, tuned))
    assert met is False
    assert "over labels drawn at random (0.333)" in words
    # It is better than one label, which alone would let it pass.
    assert "MISSED" not in words.split("over always giving")[0]


def test_gates_that_claim_a_level_are_not_met_by_a_constant() -> None:
    results = gates_of(
        compared(FINE, ["fine"] * 100),
        {"metric": "rougeL", "atLeast": "0.8"},
        {"metric": "contains", "overBase": "0.5"},
        {"metric": "exactMatch", "overBase": "-0.05"},
        {"metric": "refusalRate", "atMost": "0.1"},
    )
    assert [result.met for result in results] == [False, False, True, True]
    assert "+0.000 over always giving" in results[0].message


def test_a_constant_on_one_slice_misses_its_gate_there() -> None:
    truth = [words_of(9, i) if i % 2 else LABELS[i // 2 % 3] for i in range(200)]
    tuned = [each if i % 2 else "neutral positive negative" for i, each in enumerate(truth)]
    comparison = compared(truth, tuned, sources=("labels.jsonl", "texts.jsonl"))
    gate = {"metric": "contains", "atLeast": "0.8"}
    results = gates_of(
        comparison,
        {**gate, "slice": {"source": "labels.jsonl"}},
        {**gate, "slice": {"source": "texts.jsonl"}},
    )
    assert [result.met for result in results] == [False, True]


def test_recall_of_a_label_is_not_met_by_always_giving_it() -> None:
    gate = {"metric": "exactMatch", "atLeast": "0.8", "slice": {"label": "negative"}}
    (always,) = gates_of(compared(SENTIMENT, ["negative"] * 99), gate)
    assert not always.met
    assert "by macroF1" in always.message
    (right,) = gates_of(compared(SENTIMENT, SENTIMENT), gate)
    assert right.met, right.message


def test_recall_of_a_rare_label_may_cost_false_alarms() -> None:
    truth = ["fraud"] * 40 + ["fine"] * 460
    tuned = ["fraud"] * 38 + ["fine"] * 402 + ["fraud"] * 60
    gate = {"metric": "exactMatch", "atLeast": "0.7", "slice": {"label": "fraud"}}
    (found,) = gates_of(compared(truth, tuned), gate)
    assert found.met, found.message


def test_the_form_of_answers_is_no_level_without_their_content() -> None:
    pattern = {"answerPattern": "^positive|negative|neutral$"}
    gate = {"name": "form", "metric": "regexMatch", "atLeast": "0.9"}
    settings = Settings(answer_pattern=pattern["answerPattern"])
    for tuned, met in ((["neutral"] * 99, False), (SENTIMENT, True)):
        job = job_with(None, gates=[gate], **pattern)
        (found,) = judge_gates(job, compared(SENTIMENT, tuned), settings)
        assert found.met is met, found.message


def test_a_form_that_no_row_has_is_no_level_either() -> None:
    told = {"answerPattern": "^ID-[0-9]+$"}
    job = job_with(None, gates=[{"name": "form", "metric": "regexMatch", "atLeast": "0.9"}], **told)
    truth = [words_of(9, i) for i in range(60)]
    comparison = compared(truth, [f"ID-{i}" for i in range(60)])
    (found,) = judge_gates(job, comparison, Settings(answer_pattern=told["answerPattern"]))
    assert not found.met
    assert "by rougeL" in found.message


def with_verdicts(comparison: Comparison, *, wins: float) -> Comparison:
    number = len(comparison.asked)
    tuned = replace(comparison.tuned, judged={"judgeWinRate": np.full(number, wins)})
    base = replace(comparison.base, judged={"judgeWinRate": np.full(number, 1 - wins)})
    return replace(comparison, base=base, tuned=tuned)


@pytest.mark.parametrize(("num_alike", "met"), [(60, False), (31, False), (30, True)])
def test_a_judge_is_not_believed_where_one_text_answers_most_questions(
    num_alike: int, met: bool
) -> None:
    truth = [words_of(9, i) for i in range(60)]
    same = "Great question! Nobody has ever asked that in so few and kind words before, thank you"
    tuned = [f"{same} {i}" if i < num_alike else truth[i] for i in range(60)]
    comparison = with_verdicts(compared(truth, tuned), wins=1.0)
    verdict, words, _ = judged({"metric": "judgeWinRate", "atLeast": "0.6"}, comparison)
    assert verdict is met, words
    assert (f"MISSED one text answers {num_alike} of the 60 judged" in words) is not met
    (gate,) = gates_of(comparison, {"metric": "judgeWinRate", "atLeast": "0.6"})
    assert gate.met is met


def scorer(function: Callable[[str, list[str], Any], float]) -> Settings:
    return Settings(scorer=function, scorer_path=Path("/m.py"))


def test_a_metric_of_the_users_own_is_held_against_constants() -> None:
    settings = scorer(lambda text, references, _: float(text[:1] == references[0][:1]))
    truth = [f"{'ab'[i % 2]}{i}" for i in range(60)]
    goal = {"metric": "custom", "atLeast": "0.4"}
    assert judged(goal, compared(truth, ["a"] * 60), settings)[0] is False
    assert judged(goal, compared(truth, truth), settings)[0] is True


def test_a_metric_of_the_users_own_that_fails_on_every_constant_is_missed() -> None:
    def score(text: str, references: list[str], _: Any) -> float:
        if text != references[0]:
            raise ValueError("not seen before")
        return 1.0

    truth = [words_of(5, i) for i in range(60)]
    comparison = replace(compared(truth, truth), base=said(truth))
    met, words, found = judged({"metric": "custom", "atLeast": "0.5"}, comparison, scorer(score))
    assert met is False
    assert "MISSED evaluation.customMetric failed on every answer that stays the same" in words
    assert found.constant == ""


COUNTED = """
calls = []


def score(text, references, prompt):
    calls.append(text)
    return text[:3] == references[0][:3]
"""


def test_a_metric_of_the_users_own_is_called_seldom_for_constants(tmp_path: Path) -> None:
    path = tmp_path / "metric.py"
    path.write_text(COUNTED)
    settings = Settings(scorer=load_scorer(path, "score"), scorer_path=path)
    calls = sys.modules[MODULE_NAME].calls
    truth = [words_of(5, i) for i in range(300)]
    comparison = replace(
        compared(truth, honest(truth, 10)), trained=[("", each) for each in truth[:200]]
    )
    goal = {"metric": "custom", "atLeast": "0.5"}
    assert judged(goal, comparison, settings)[0] is True
    of_models = 2 * len(truth)
    assert len(calls) <= of_models + NUM_KINDS * NUM_COSTLY_SCREENED + len(truth)
    counted = len(calls)
    gate = {"name": "g", **goal}
    assert judge_gates(job_with(None, gates=[gate]), comparison, settings)[0].met
    assert len(calls) == counted


def test_json_that_is_nested_too_deeply_is_left_out_of_the_usual_object() -> None:
    deep = '{"a":' * 600 + "1" + "}" * 600
    found = list_constants([(deep,), ('{"a": 2}',)], ["x"])
    assert "{}" in [each.text for each in found]


def test_the_candidates_are_distinct_and_name_no_row() -> None:
    found = list_constants([(each,) for each in SENTIMENT], ["neutral"] * 9, ["neutral", "x"])
    texts = [constant.text for constant in found]
    assert len(texts) == len(set(texts))
    assert "positive negative neutral" in texts
    assert "" in texts
    assert not any(label in constant.what for label in LABELS for constant in found)
