"""A goal that the held-out side could not show is refused, with what would be enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_api.v1alpha1.finetunejob import FineTuneJob, FineTuneJobSpec
from finetune_trainer.data.asking import most_asked
from finetune_trainer.data.held_out import read_held_out
from finetune_trainer.errors import DataError
from finetune_trainer.evaluate.questions import gather_questions, group_questions
from finetune_trainer.evaluate.scores.comparing import number_clusters
from finetune_trainer.statistics.paired import compare_means
from finetune_trainer.verdict.decidable import require_decidable_goal
from kit.cases.spec_cases import changed, minimal_job


def spec_with(goal: dict[str, str], **evaluation: Any) -> FineTuneJobSpec:
    change: dict[str, Any] = {"spec.goal": goal, "spec.evaluation": evaluation}
    if goal["metric"] == "preferenceAccuracy":
        change["spec.method"] = {"objective": "DPO"}
    return FineTuneJob.from_wire(changed(minimal_job(), change)).spec


def refusal(
    folder: Path, rows: list[dict[str, Any]], goal: dict[str, str], **evaluation: Any
) -> str:
    (folder / "test.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    try:
        spec = spec_with(goal, **evaluation)
        most = most_asked(spec.evaluation)
        side = read_held_out(folder, (), seed=spec.dataset.split.seed)
        require_decidable_goal(spec, side, num_questions=most)
    except DataError as error:
        return f"{error.reason}: {error}"
    return ""


def labelled(*labels: str, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"p{i}", "completion": label, **more} for i, label in enumerate(labels)]


def texts(count: int, **more: Any) -> list[dict[str, Any]]:
    answer = "a text that is no label because it is long"
    return [{"prompt": f"p{i}", "completion": f"{answer} {i}", **more} for i in range(count)]


EXACT = {"metric": "exactMatch", "atLeast": "0.9"}


def test_as_many_prompts_as_a_perfect_score_needs_are_enough(tmp_path: Path) -> None:
    assert refusal(tmp_path, texts(36), EXACT) == ""
    words = refusal(tmp_path, texts(35), EXACT)
    assert words.startswith("GoalUndecidable: goal.atLeast 0.9 cannot be met on 35 independent")
    assert "36 are the least that could show it: add examples" in words


def test_certainty_and_overbase_change_how_many(tmp_path: Path) -> None:
    assert refusal(tmp_path, texts(22), {**EXACT, "certainty": "0.8"}) == ""
    assert "51 are the least" in refusal(tmp_path, texts(36), {**EXACT, "certainty": "0.99"})
    gain = {"metric": "contains", "overBase": "0.8"}
    assert refusal(tmp_path, texts(36), gain) == ""
    assert "goal.overBase 0.8 cannot be met on 35" in refusal(tmp_path, texts(35), gain)


@pytest.mark.parametrize(
    "goal", [{"atLeast": "0.9"}, {"overBase": "0.8"}, {"atLeast": "0.99", "certainty": "0.99"}]
)
@pytest.mark.parametrize("metric", ["rougeL", "chrF", "jsonFieldF1"])
def test_scores_between_right_and_wrong_are_refused_where_hits_are(
    tmp_path: Path, metric: str, goal: dict[str, str]
) -> None:
    words = refusal(tmp_path, texts(10), {"metric": metric, **goal})
    assert "cannot be met on 10 independent held-out prompt(s)" in words
    assert words == refusal(tmp_path, texts(10), {"metric": "contains", **goal})
    never = refusal(tmp_path, texts(10), {"metric": metric, "atLeast": "1"})
    assert "cannot be shown by any number" in never


@pytest.mark.parametrize("asked", ["overBase", "atLeast"])
def test_macro_f1_is_refused_where_no_label_could_show_it(tmp_path: Path, asked: str) -> None:
    goal = {"metric": "macroF1", asked: "0.8"}
    assert refusal(tmp_path, labelled(*["yes", "no"] * 6), goal) == ""
    words = refusal(tmp_path, labelled(*["yes", "no"] * 4), goal)
    assert "on 8 independent" in words
    assert "its lower bound would be 0.773 at most" in words


def test_prompts_with_several_pairs_count_once(tmp_path: Path) -> None:
    goal = {"metric": "preferenceAccuracy", "atLeast": "0.9"}
    pairs = [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad"} for i in range(20)]
    assert "36 are the least" in refusal(tmp_path, pairs, goal)
    several = [*pairs, {**pairs[0], "rejected": "worse"}]
    assert "36 are the least" in refusal(tmp_path, several, goal)


def test_rows_that_belong_together_count_once(tmp_path: Path) -> None:
    together = texts(60, metadata={"group": "one"})
    assert "on 1 independent" in refusal(tmp_path, together, EXACT)
    same = [{"prompt": "p", "completion": f"an answer of its own, number {i}"} for i in range(60)]
    assert "on 1 independent" in refusal(tmp_path, same, EXACT)
    unwanted = texts(60, label=False)
    assert "on 0 independent" in refusal(tmp_path, unwanted, EXACT)


def test_what_is_asked_bounds_what_is_there(tmp_path: Path) -> None:
    words = refusal(tmp_path, texts(60), EXACT, maxSamples=35, minPrompts=1)
    assert "raise evaluation.maxSamples from 35 to 36," in words


def one_customer(num_rows: int, *, others: int) -> list[dict[str, Any]]:
    rows = texts(num_rows + others)
    for number, row in enumerate(rows):
        row["metadata"] = {"group": "big" if number < num_rows else f"{number}"}
    return rows


def test_one_question_of_each_group_is_drawn_before_the_second_of_any(tmp_path: Path) -> None:
    rows = one_customer(10_000, others=39)
    seed = spec_with(EXACT).dataset.split.seed
    asked = gather_questions(rows, max_questions=40, seed=seed)
    assert len({question.group for question in asked}) == 40
    more = gather_questions(rows, max_questions=50, seed=seed)
    assert {str(q.prompt) for q in asked} < {str(q.prompt) for q in more}
    words = refusal(tmp_path, rows, {**EXACT, "atLeast": "0.95"})
    assert "on 40 independent held-out prompt(s)" in words


@pytest.mark.parametrize("goal", [EXACT, {"metric": "contains", "overBase": "0.7"}])
def test_groups_of_unequal_size_are_bounded_as_they_are_measured(
    tmp_path: Path, goal: dict[str, str]
) -> None:
    rows = one_customer(400, others=20)
    words = refusal(tmp_path, rows, goal)
    questions = gather_questions(rows, max_questions=500, seed=0)
    best = compare_means(
        np.zeros(len(questions)),
        np.ones(len(questions)),
        number_clusters(group_questions(questions)),
        seed=spec_with(goal).dataset.split.seed,
    )
    low = (best.gain if "overBase" in goal else best.tuned).interval().low
    assert low < float(goal.get("overBase", "0.9"))
    assert "on 21 independent held-out prompt(s)" in words
    assert f"its lower bound would be {low:.3f} (goal" in words
    assert refusal(tmp_path, one_customer(400, others=39), goal) == ""


def test_labels_are_counted_of_the_questions_that_are_drawn(tmp_path: Path) -> None:
    rows = labelled(*["fine"] * 990, *["fraud"] * 10)
    goal = {"metric": "exactMatch", "overBase": "0.1"}
    assert refusal(tmp_path, rows, goal, maxSamples=1000) == ""
    words = refusal(tmp_path, rows, goal, maxSamples=100)
    assert "of 100 held-out rows have another label" in words
    assert "raise evaluation.maxSamples from 100" in words


def test_a_judge_that_is_asked_too_little_is_named(tmp_path: Path) -> None:
    judge = {"endpoint": "https://judge.example/v1", "model": "m", "sample": 30}
    goal = {"metric": "judgeWinRate", "atLeast": "0.9"}
    words = refusal(tmp_path, texts(60), goal, judge=judge)
    assert "raise evaluation.judge.sample and maxCalls from 30" in words
    assert "maxSamples" not in words
    both = refusal(tmp_path, texts(60), goal, judge=judge, maxSamples=31)
    assert "raise evaluation.maxSamples from 31 to 36, raise evaluation.judge.sample" in both


@pytest.mark.parametrize("metric", ["exactMatch", "macroF1"])
def test_labels_that_are_nearly_all_alike_show_nothing(tmp_path: Path, metric: str) -> None:
    goal = {"metric": metric, "overBase": "0.1"}
    words = refusal(tmp_path, labelled(*["fine"] * 97, "fraud", "Fraud.", "fraud"), goal)
    assert words.startswith(f"GoalUndecidable: goal.metric {metric} cannot be met: 3 of 100 held-")
    assert "6 are the least that could show it (goal.certainty 0.95): add examples" in words
    assert "fine" not in words  # text of rows
    assert refusal(tmp_path, labelled(*["fine"] * 94, *["fraud"] * 6), goal) == ""
    assert "0 of 60" in refusal(tmp_path, labelled(*["ok"] * 60), goal)


@pytest.mark.parametrize(
    "goal",
    [
        {"metric": "loss", "atMost": "0.1"},
        {"metric": "rougeL", "atLeast": "0.5"},
        {"metric": "exactMatch", "overBase": "0.1"},
    ],
)
def test_what_can_be_decided_is_let_through(tmp_path: Path, goal: dict[str, str]) -> None:
    assert refusal(tmp_path, labelled(*["a", "b", "c"] * 12), goal) == ""
    assert refusal(tmp_path, texts(30), goal) == ""


def test_contains_does_not_fit_labels_which_one_answer_can_list(tmp_path: Path) -> None:
    goal = {"metric": "contains", "atLeast": "0.8"}
    words = refusal(tmp_path, labelled(*["positive", "negative", "neutral"] * 20), goal)
    assert words.startswith("MetricUnsuitable: goal.metric contains does not fit: the held-out")
    assert "answers are 3 labels" in words
    assert "Use goal.metric exactMatch, or macroF1" in words
    assert refusal(tmp_path, texts(60), goal) == ""
    assert refusal(tmp_path, labelled(*map(str, range(60))), goal) == ""  # no two are alike
