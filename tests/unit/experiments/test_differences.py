"""Which differences between runs are real, and which are only told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from finetune_trainer.experiments.comparison import Comparison, best_run, compare_runs, to_wire
from finetune_trainer.experiments.differences import Difference
from finetune_trainer.experiments.reading import read_run
from finetune_trainer.experiments.run import Run
from kit.reports.experiment_runs import Made, documents

METRICS = ["exactMatch", "macroF1", "loss"]


def run(made: Made) -> Run:
    return read_run(made.name, documents(made), place=f"s3://models/{made.name}")


def of(comparison: Comparison, metric: str) -> list[Difference]:
    return [each for each in comparison.differences if each.metric == metric]


def test_runs_on_the_same_rows_are_paired_and_a_clear_difference_is_real() -> None:
    worse, better = run(Made(name="a", accuracy=0.7)), run(Made(name="b", accuracy=0.9))
    comparison = compare_runs([worse, better])
    assert [each.metric for each in comparison.differences] == METRICS
    for each in comparison.differences[::2]:
        assert (each.is_paired, each.verdict, each.better) == (True, "Real", 1)
        assert each.gain is not None
        assert each.gain.low <= each.gain.value <= each.gain.high
    (hits,) = of(comparison, "exactMatch")
    share = [sum(row.scores["exactMatch"] for row in each.rows) / 120 for each in (worse, better)]
    assert hits.gain is not None
    assert hits.gain.value == pytest.approx(share[1] - share[0])


def test_the_order_of_the_rows_does_not_matter() -> None:
    one, other = run(Made(name="a", accuracy=0.7)), run(Made(name="b", accuracy=0.9))
    turned = replace(other, rows=list(reversed(other.rows)))
    straight, reverse = (compare_runs([one, each]) for each in (other, turned))
    assert straight.differences == reverse.differences


def test_equal_answers_are_no_difference() -> None:
    one = run(Made(name="a"))
    comparison = compare_runs([one, replace(one, name="b")])
    assert {each.verdict for each in comparison.differences} == {"WithinNoise"}
    assert {each.doubt for each in comparison.differences} == {1.0}


def test_other_rows_are_not_paired_and_that_is_said() -> None:
    one, other = run(Made(name="a", accuracy=0.8)), run(Made(name="b", data="support"))
    (hits,) = of(compare_runs([one, other]), "exactMatch")
    assert not hits.is_paired
    assert "different held-out questions" in hits.why
    paired = of(compare_runs([one, run(Made(name="b", accuracy=0.8))]), "exactMatch")[0]
    assert hits.gain is not None
    assert paired.gain is not None
    assert hits.gain.high - hits.gain.low > paired.gain.high - paired.gain.low


@pytest.mark.slow
def test_pairs_of_one_metric_share_their_doubt() -> None:
    runs = [run(Made(name=name, accuracy=a)) for name, a in (("a", 0.7), ("b", 0.79), ("c", 0.71))]
    alone = of(compare_runs(runs[:2]), "exactMatch")[0]
    together = of(compare_runs(runs), "exactMatch")[0]
    assert alone.doubt is not None
    assert together.doubt is not None
    assert together.doubt > alone.doubt


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"rows": ()}, "the answers of b are not stored or could not be read"),
        ({"rows": "old"}, "b stored no lengths of its references: an earlier version made it"),
    ],
)
def test_what_cannot_be_judged_says_why(change: dict[str, object], why: str) -> None:
    other = run(Made(name="b"))
    if change["rows"] == "old":
        rows = [replace(row, num_tokens=None, group=None) for row in other.rows]
        other = replace(other, rows=rows)
    else:
        other = replace(other, rows=())
    (loss,) = of(compare_runs([run(Made(name="a")), other]), "loss")
    assert (loss.verdict, loss.gain, loss.why) == ("NotJudged", None, why)


def test_a_metric_that_is_told_other_things_is_another_metric() -> None:
    def told(name: str, pattern: str) -> Run:
        made = run(Made(name=name, settings={"evaluation": {"answerPattern": pattern}}))
        score = made.scores[0].model_copy(update={"name": "regexMatch"})
        return replace(made, scores=[score])

    (each,) = compare_runs([told("a", "x+"), told("b", "y+")]).differences
    assert each.verdict == "NotJudged"
    assert "evaluation.answerPattern differs" in each.why


@pytest.mark.slow
def test_many_runs_are_compared_with_the_best_on_validation() -> None:
    runs = [run(Made(name=f"t{i}", rank=2**i)) for i in range(1, 7)]
    pairs = {(each.first, each.second) for each in compare_runs(runs).differences}
    assert pairs == {(5, other) for other in range(5)}
    asked = compare_runs(runs, against=0)
    assert {each.first for each in asked.differences} == {0}


def test_answers_to_validation_rows_are_compared_before_any_run_is_evaluated() -> None:
    made = [
        Made(name="a", accuracy=0.6, num_questions=0, num_validation=200),
        Made(name="b", accuracy=0.9, num_questions=0, num_validation=200, rank=4),
        Made(name="c", num_questions=0),
    ]
    comparison = compare_runs([run(each) for each in made], against=0)
    (hits,) = comparison.differences
    assert hits.metric == "exactMatch on validation rows"
    assert (hits.is_paired, hits.num_rows, hits.verdict, hits.better) == (True, 200, "Real", 1)
    assert comparison.metrics == []
    wire = to_wire(comparison)
    assert wire["runs"][0]["validationScore"]["numSamples"] == 200
    assert "validationScore" not in wire["runs"][2]


def test_the_best_on_validation_is_so_by_its_score_and_by_its_loss_where_scores_are_equal() -> None:
    by_rank = [Made(name=f"t{i}", rank=2**i, num_validation=60) for i in range(1, 4)]
    runs = [run(each) for each in (replace(by_rank[0], accuracy=0.99), *by_rank[1:])]
    assert best_run(runs) == 0
    same = [replace(each, validation_score=runs[0].validation_score) for each in runs]
    assert best_run(same) == 2


def test_machines_get_names_and_figures() -> None:
    wire = to_wire(compare_runs([run(Made(name="a", accuracy=0.7)), run(Made(name="b"))]))
    assert wire["sameData"] is True
    assert [each["name"] for each in wire["runs"]] == ["a", "b"]
    first = wire["differences"][0]
    assert (first["first"], first["second"], first["isPaired"]) == ("a", "b", True)
    assert wire["runs"][0]["tokens"] == 48_000


def test_losses_over_other_tokens_are_not_compared() -> None:
    one, other = run(Made(name="a", accuracy=0.7)), run(Made(name="b", accuracy=0.9))
    rows = [replace(row, num_tokens=(row.num_tokens or 0) + 1) for row in other.rows]
    (loss,) = of(compare_runs([one, replace(other, rows=rows)]), "loss")
    assert (loss.verdict, loss.gain) == ("NotJudged", None)
    assert loss.why.startswith("they count other tokens of the same answers (another tokenizer")


@pytest.mark.slow
def test_losses_of_other_rows_compare_where_the_same_is_counted() -> None:
    model = {"model": {"uri": "s3://models/another", "revision": "main"}}
    one = run(Made(name="a"))
    same = of(compare_runs([one, run(Made(name="b", data="support"))]), "loss")[0]
    assert same.gain is not None
    other = run(Made(name="b", data="support", settings=model))
    (loss,) = of(compare_runs([one, other]), "loss")
    assert loss.why == "model.uri differs: it is not the same metric"


def test_verdicts_of_other_judges_are_not_compared() -> None:
    def judged(name: str, judge: dict[str, object], left_out: int = 0) -> Run:
        judge = {"endpoint": "https://judge/v1", "model": "m", **judge}
        made = run(Made(name=name, settings={"evaluation": {"judge": judge}}))
        rows = [replace(row, scores={"judgeWinRate": i % 2}) for i, row in enumerate(made.rows)]
        rows = [replace(r, scores={}) if i < left_out else r for i, r in enumerate(rows)]
        score = made.scores[0].model_copy(update={"name": "judgeWinRate"})
        return replace(made, scores=[score], rows=rows)

    (each,) = compare_runs([judged("a", {}), judged("b", {"concurrency": 9})]).differences
    assert each.verdict == "WithinNoise"
    (each,) = compare_runs([judged("a", {}), judged("b", {"model": "n"})]).differences
    assert each.why.startswith("evaluation.judge.model ")
    (each,) = compare_runs([judged("a", {}), judged("b", {}, left_out=20)]).differences
    assert each.why == "b has no judgeWinRate of some of its questions"


def test_scores_that_are_no_numbers_are_no_difference() -> None:
    one, other = run(Made(name="a")), run(Made(name="b"))
    rows = [replace(row, scores={**row.scores, "exactMatch": float("nan")}) for row in other.rows]
    comparison = compare_runs([one, replace(other, rows=rows)])
    (hits,) = of(comparison, "exactMatch")
    assert hits.verdict == "WithinNoise"
    json.dumps(to_wire(comparison), allow_nan=False)
