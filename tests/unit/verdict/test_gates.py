"""Gates hold with their near bound, all together, and what was not measured is missed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from finetune_api.protocol.evaluation_result import PublishedVersion
from finetune_api.protocol.trainer import ResolvedJob, resolve_job
from finetune_api.v1alpha1.evaluation.gates import Gate
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.data.rows import slice_digest
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.questions import Question
from finetune_trainer.evaluate.scores.gating import judge_gates
from finetune_trainer.statistics.bounded import confidence_of_share
from finetune_trainer.statistics.confidence import Confidence, difference_of
from finetune_trainer.statistics.paired import Compared
from finetune_trainer.verdict.gates import Found, Inapplicable, Unmeasured, check_gates
from kit.cases.spec_cases import changed, minimal_job


def gate(name: str = "a", metric: str = "exactMatch", **bound: Any) -> Gate:
    return Gate.model_validate({"name": name, "metric": metric, **bound})


def found(base: float, tuned: float, number: int = 200) -> Found:
    before, after = (confidence_of_share(share * number, number) for share in (base, tuned))
    compared = Compared(base=before, tuned=after, gain=difference_of(before, after))
    return Found(compared=compared, num_prompts=number)


def part(number: int) -> dict[str, str]:
    """Return a slice for each number: gates on one slice that ask the same count once."""
    return {"source": f"{number}.jsonl"}


def check(of: Found | Unmeasured, *gates: Gate) -> list[Any]:
    return check_gates(gates, lambda _: of)


@pytest.mark.parametrize(
    ("bound", "met", "words"),
    [
        ({"atLeast": "0.8"}, True, "0.900, lower bound 0.849 (at least 0.8), at 95 % certainty"),
        ({"atLeast": "0.85"}, False, "if the score stays, about"),
        ({"atLeast": "0.95"}, False, "the score itself misses"),
        ({"atLeast": "0.85", "certainty": "0.8"}, True, "at 80 % certainty"),
        ({"atMost": "0.95"}, True, "upper bound 0.938 (at most 0.95)"),
        ({"atMost": "0.93"}, False, "if the score stays, about"),
        ({"overBase": "0.3"}, True, "+0.400 over base 0.500, lower bound +0.3"),
        ({"overBase": "0.5"}, False, "the score itself misses"),
        ({"overBase": "-0.02"}, True, "(-0.02 above base)"),
    ],
)
def test_the_near_bound_decides(bound: dict[str, str], met: bool, words: str) -> None:
    (result,) = check(found(0.5, 0.9), gate(**bound))
    assert result.met is met
    assert words in result.message
    assert "doubt" not in result.message  # one gate needs no correction


def test_of_a_loss_less_is_better() -> None:
    better = found(0.9, 0.5)
    assert check(better, gate(metric="loss", overBase="0.3"))[0].met
    assert not check(found(0.5, 0.9), gate(metric="loss", overBase="-0.02"))[0].met
    assert check(better, gate(metric="loss", overBase="0.3"))[0].asked == "0.3 below base"


def test_many_gates_must_each_be_surer() -> None:
    of = found(0.5, 0.9)
    alone = gate(atLeast="0.849")
    assert check(of, alone)[0].met
    many = [gate(f"g{number}", atLeast="0.849", slice=part(number)) for number in range(4)]
    results = check(of, *many)
    assert not any(result.met for result in results)
    assert "corrected for the number of gates" in results[0].message
    assert "that 4 gates of severity Block may have" in results[0].message
    easy = [gate(f"e{number}", atLeast="0.5", slice=part(number)) for number in range(3)]
    # What is beyond doubt costs the others nothing.
    assert [result.met for result in check(of, alone, *easy)] == [True] * 4


@pytest.mark.parametrize(
    "beside",
    [found(0.5, 0.5), Unmeasured(why="no question was drawn"), found(1, 1, 3)],
    ids=["missed", "unmeasured", "of three rows"],
)
def test_a_gate_that_stops_nothing_costs_those_that_do_nothing(beside: Found | Unmeasured) -> None:
    of = {"a": found(0.5, 0.89, 100), "short": beside}
    blocks = gate("a", atLeast="0.8")
    warns = gate("short", metric="jsonValid", atLeast="0.99", severity="Warn")
    for gates in ([blocks], [blocks, warns], [warns, blocks]):
        results = {r.name: r for r in check_gates(gates, lambda each: of[each.name])}
        assert results["a"].met
        assert "doubt" not in results["a"].message  # it is the only one of its severity
    assert not results["short"].met
    # Two that stop publication are corrected together as ever.
    also = warns.model_copy(update={"severity": "Block"})
    results = {r.name: r for r in check_gates([blocks, also], lambda each: of[each.name])}
    assert not results["a"].met


@pytest.mark.slow
def test_what_would_decide_a_gate_does_although_there_are_others() -> None:
    gates = [gate(f"g{number}", atLeast="0.8", slice=part(number)) for number in range(5)]
    missed = check(found(0.5, 0.88, 100), *gates)
    wanted = number_told(missed[0].message)
    assert wanted > 130
    # The first number at which they are met, if the score stays.
    least = next(n for n in range(100, 400) if check(found(0.5, 0.88, n), *gates)[0].met)
    assert wanted == pytest.approx(least, rel=0.15)
    # What the others' certainty leaves is more: once they are beyond doubt, one alone counts.
    of = {each.name: found(0.5, 1, 400) for each in gates} | {"g0": found(0.5, 0.88, 100)}
    alone = check_gates(gates, lambda each: of[each.name])
    assert number_told(alone[0].message) == 101


def number_told(message: str) -> int:
    more, so_far = re.findall(r"about ([\d,]+) independent .* these ([\d,]+) would", message)[0]
    return int(more.replace(",", "")) + int(so_far.replace(",", ""))


@pytest.mark.parametrize(
    ("metric", "bound", "tuned"),
    [("refusalRate", {"atMost": "0.05"}, 0.0), ("exactMatch", {"atLeast": "0.95"}, 1.0)],
)
def test_at_the_end_of_its_scale_a_score_needs_prompts_in_proportion(
    metric: str, bound: dict[str, str], tuned: float
) -> None:
    (result,) = check(found(0.5, tuned, 30), gate(metric=metric, **bound))
    wanted = number_told(result.message)
    assert not check(found(0.5, tuned, wanted - 1), gate(metric=metric, **bound))[0].met
    assert check(found(0.5, tuned, wanted), gate(metric=metric, **bound))[0].met


def test_gates_on_probes_are_told_another_remedy_than_held_out_prompts() -> None:
    of = found(0.5, 0.95, 30)
    (result,) = check(of, gate(metric="safety.refusals", atLeast="0.9"))
    assert result.message.endswith(
        "it rests on 30 probes, to which more held-out prompts add few or none: ask for less or "
        "ask for the change alone with overBase or set severity: Warn"
    )
    change = gate(metric="safety.refusals", overBase="0.4", severity="Warn")
    assert check(of, change)[0].message.endswith(": ask for less")
    (result,) = check(of, gate(metric="safety.refusals", atLeast="0.96"))
    assert "the score itself misses" in result.message


@pytest.mark.parametrize(
    ("bound", "number", "right", "told"),
    [
        ({"atLeast": "0.9005"}, 2000, 1828, "0.914, lower bound 0.9008"),
        ({"atLeast": "0.9"}, 1999, 1799, "0.8999, lower bound 0.885 (at least 0.9)"),
        ({"atLeast": "0.9"}, 2000, 1800, "0.900, lower bound 0.886 (at least 0.9)"),
    ],
)
def test_figures_do_not_contradict_the_verdict(
    bound: dict[str, str], number: int, right: int, told: str
) -> None:
    of = found(0.1, right / number, number)
    (result,) = check(of, gate(**bound))
    assert told in result.message
    threshold = float(bound["atLeast"])
    assert (float(result.bound) >= threshold) is result.met
    assert (float(result.value) >= threshold) is (right / number >= threshold)
    assert ("just what is asked" in result.message) is (right / number == threshold)


@pytest.mark.parametrize(
    ("certainty", "failing", "told"),
    [
        ("0.95", 13, "doubt 0.052 of 0.050"),
        ("0.948", 13, "doubt 0.052 of 0.052"),
        ("0.9485", 13, "doubt 0.052 of 0.0515"),
        ("0.9475", 13, "doubt 0.052 of 0.0525"),
    ],
)
def test_doubts_are_told_on_their_side_of_what_is_allowed(
    certainty: str, failing: int, told: str
) -> None:
    # Of a thousand bounds so many fail; two gates double the two-sided doubt of each.
    bounds = np.concatenate([np.full(failing, 0.7), np.full(1000 - failing, 0.9)])
    score = Confidence(value=0.95, lower=bounds, upper=np.full(1000, 1.0))
    of = Found(compared=Compared(base=score, tuned=score, gain=score), num_prompts=50)
    gates = [gate(f"g{n}", atLeast="0.8", certainty=certainty, slice=part(n)) for n in range(2)]
    result = check(of, *gates)[0]
    assert told in result.message
    doubt, allowed = re.findall(r"doubt ([\d.]+) of ([\d.]+) ", result.message)[0]
    assert (float(doubt) <= float(allowed)) is result.met


def test_a_bound_that_is_just_short_is_not_passed_by_a_coarse_doubt() -> None:
    # 25 of 1,000 fail: a doubt of 0.05, and the bound lies between the last of them and the next.
    bounds = np.concatenate([np.full(25, 0.7), np.full(975, 0.82)])
    score = Confidence(value=0.95, lower=bounds, upper=np.full(1000, 1.0))
    of = Found(compared=Compared(base=score, tuned=score, gain=score), num_prompts=50)
    (result,) = check(of, gate(atLeast="0.8"))
    assert (result.met, result.bound) == (False, "0.760")


def test_gates_that_stop_nothing_are_corrected_among_themselves() -> None:
    of = found(0.5, 0.9)
    warns = [
        gate(f"g{number}", atLeast="0.849", slice=part(number), severity="Warn")
        for number in range(4)
    ]
    results = check(of, *warns, gate("b", atLeast="0.849"))
    assert [result.met for result in results] == [False] * 4 + [True]
    assert "4 gates of severity Warn" in results[0].message


@pytest.mark.parametrize(
    ("again", "counts_once"),
    [
        ({"atLeast": "0.8"}, True),
        ({"atLeast": "0.80"}, True),  # the same threshold, written otherwise
        ({"atLeast": "0.8", "certainty": "0.9"}, True),  # the luck that passes it is the same
        ({"atLeast": "0.81"}, False),
        ({"atLeast": "0.8", "slice": {"source": "de.jsonl"}}, False),
        ({"atLeast": "0.8", "metric": "contains"}, False),
        ({"overBase": "0.8"}, False),
    ],
)
def test_gates_that_claim_the_same_count_once(again: dict[str, Any], counts_once: bool) -> None:
    of = found(0.01, 0.89, 100)
    results = check(of, gate("a", atLeast="0.8"), gate("b", **again))
    assert results[0].met is counts_once
    assert ("doubt" in results[0].message) is not counts_once


def test_what_was_not_measured_is_missed_and_says_why() -> None:
    for severity in ("Block", "Warn"):
        (result,) = check(Unmeasured(why="nobody ran it"), gate(atLeast="0", severity=severity))
        assert (result.met, result.value, result.severity) == (False, "", severity)
        assert result.message == "exactMatch (at least 0) was not measured: nobody ran it"
    nothing = Confidence(value=float("nan"), lower=np.array([np.nan]), upper=np.array([np.nan]))
    of = Found(compared=Compared(base=nothing, tuned=nothing, gain=nothing), num_prompts=9)
    (result,) = check(of, gate(metric="secondsPerAnswer", atMost="9"))
    assert not result.met
    assert "no finite number" in result.message


def test_a_published_version_stands_in_the_base_s_place() -> None:
    over = replace(found(0.5, 0.9), version=3)
    (result,) = check(over, gate(overPublished="0.3"))
    assert result.met
    assert "+0.400 over published version 3 0.500" in result.message
    assert result.asked == "0.3 above the published version"
    (worse,) = check(replace(found(0.9, 0.5), version=3), gate(overPublished="-0.02"))
    assert not worse.met
    less = check(replace(found(0.9, 0.5), version=3), gate(metric="loss", overPublished="0.3"))
    assert less[0].met


def test_what_asks_for_nothing_is_no_gate_that_could_be_passed_by_luck() -> None:
    gates = [gate("first", overPublished="0.1"), gate("alone", atLeast="0.849")]
    nothing = Inapplicable(why="nothing is published as n/job yet")
    results = check_gates(gates, lambda g: nothing if g.name == "first" else found(0.5, 0.9))
    assert (results[0].met, results[0].applicable, results[0].value) == (True, False, "")
    assert results[0].message.endswith(f" does not apply: {nothing.why}")
    assert results[1].met
    assert "doubt" not in results[1].message


# ---- measured on rows ----------------------------------------------------------------------------


def question(label: str, number: int, source: str) -> Question:
    return Question(
        prompt=f"p{number}",
        references=(label,),
        rows=(
            {
                "prompt": f"p{number}",
                "metadata": {
                    "source": source,
                    "slices": {"month": slice_digest(str(number % 3))},
                },
            },
        ),
        group=f"g{number}",
    )


def asked(
    job_gates: list[dict[str, Any]],
    published: PublishedVersion | None = None,
    *,
    has_other_tokens: bool = False,
) -> list[Any]:
    """Judge gates on 60 rows each of two labels; the tuned model sees every fourth Refund."""
    labels = ["Refund.", "other"] * 60
    questions = [
        question(label, i, "de.jsonl" if i % 4 < 2 else "fr.jsonl")
        for i, label in enumerate(labels)
    ]

    def said(*texts: str) -> Answers:
        return Answers(
            texts=texts,
            nll_sums=np.arange(120) / 120 + 1,
            num_tokens=np.ones(120),
            num_bytes=np.full(120, 5.0),
        )

    champion = said(*["refund"] * 90, *["?"] * 30)
    comparison = Comparison(
        questions=questions,
        base=said(*["refund"] * 120),
        tuned=said(*("?" if i % 2 == 0 and i % 16 > 2 else labels[i] for i in range(120))),
        published=replace(champion, num_tokens=np.full(120, 2.0)) if has_other_tokens else champion,
    )
    return judge_gates(job_with(job_gates), comparison, published=published)


def job_with(gates: list[dict[str, Any]]) -> ResolvedJob:
    body = changed(minimal_job(), {"spec.evaluation": {"gates": gates}})
    return resolve_job(FineTuneJob.from_wire(body), namespace="n", uid="u")


def test_a_slice_is_looked_at_alone() -> None:
    wanted = {"metric": "exactMatch", "atLeast": "0.9"}
    results = asked(
        [
            {"name": "all", **wanted},
            {"name": "other", **wanted, "slice": {"label": "OTHER"}},
            {"name": "refund", **wanted, "slice": {"label": "refund"}},
            {"name": "french", **wanted, "slice": {"source": "fr.jsonl"}},
            {"name": "loss", "metric": "loss", "atMost": "9", "slice": {"source": "de.jsonl"}},
            {"name": "may", **wanted, "slice": {"column": "month", "value": "2"}},
        ]
    )
    assert [(r.name, r.met, r.value) for r in results] == [
        ("all", False, "0.6333"),
        ("other", True, "1.0000"),
        ("refund", False, "0.2667"),
        ("french", False, "0.6333"),
        ("loss", True, results[4].value),
        ("may", False, "0.6250"),
    ]
    assert results[5].slice == 'month "2"'
    assert results[2].message.startswith('exactMatch of label "refund" 0.267')


def test_a_slice_of_the_longest_name_and_value_is_told_as_far_as_it_fits() -> None:
    part = {"column": "c" * 128, "value": "\n" * 256}
    (result,) = asked([{"name": "a", "metric": "loss", "atMost": "9", "slice": part}])
    assert (result.met, len(result.slice)) == (False, 300)


def test_a_slice_that_no_question_was_drawn_from_is_missed() -> None:
    part = {"slice": {"source": "it.jsonl"}}
    (result,) = asked([{"name": "it", "metric": "exactMatch", "atLeast": "0.1", **part}])
    assert not result.met
    assert "none of the 120 held-out prompts that were asked belongs there" in result.message


def test_a_slice_is_compared_with_what_the_published_version_said_there() -> None:
    results = asked(
        [
            {"name": "all", "metric": "exactMatch", "overPublished": "0.2"},
            {
                "name": "other",
                "metric": "exactMatch",
                "overPublished": "0.8",
                "slice": {"label": "other"},
            },
            {"name": "base", "metric": "exactMatch", "overBase": "-0.9"},
        ],
        PublishedVersion(version=2),
    )
    assert [(r.name, r.met, r.value) for r in results] == [
        ("all", False, "+0.2583"),
        ("other", True, "+1.0000"),
        ("base", True, "+0.1333"),
    ]


@pytest.mark.parametrize(
    ("published", "met", "words"),
    [
        (PublishedVersion(), True, "does not apply: nothing is published as n/"),
        (PublishedVersion(version=4, problem="it is damaged"), False, "version 4: it is damaged"),
        (None, False, "was not measured: nobody looked"),
    ],
)
def test_without_a_version_to_ask_a_gate_fails_closed_or_does_not_apply(
    published: PublishedVersion | None, met: bool, words: str
) -> None:
    wanted = {"name": "a", "metric": "exactMatch", "overPublished": "0"}
    (result,) = asked([wanted], published)
    assert (result.met, result.value) == (met, "")
    assert words in result.message


def test_losses_over_other_tokens_are_not_compared() -> None:
    gates = [
        {"name": "loss", "metric": "loss", "overPublished": "-9"},
        {"name": "exact", "metric": "exactMatch", "overPublished": "-0.9"},
    ]
    results = asked(gates, PublishedVersion(version=1), has_other_tokens=True)
    assert [result.met for result in results] == [False, True]
    assert "has another chat format" in results[0].message


def test_a_column_that_is_called_label_is_no_label() -> None:
    wanted = {"metric": "exactMatch", "atLeast": "0.9"}
    results = asked(
        [
            {"name": "answer", **wanted, "slice": {"label": "other"}},
            {"name": "column", **wanted, "slice": {"column": "label", "value": "other"}},
        ]
    )
    assert [(r.name, r.met, r.value) for r in results] == [
        ("answer", True, "1.0000"),
        ("column", False, ""),  # no row has such a column
    ]


def test_no_gate_is_surer_than_its_bounds_can_tell() -> None:
    bounds = np.full(1000, 0.9)
    sure = Confidence(value=0.95, lower=bounds, upper=bounds + 0.1)
    of = Found(compared=Compared(base=sure, tuned=sure, gain=sure), num_prompts=50)
    gates = [
        gate(f"g{number}", atLeast="0.8", certainty="0.99", slice=part(number))
        for number in range(12)
    ]
    (result, *_) = check(of, *gates)
    assert not result.met  # of a thousand bounds the outermost is wrong in up to one in a thousand
    assert "doubt 0.012 of 0.010" in result.message
    assert result.message.endswith(
        "can be shown by no number of prompts: it takes fewer of them or less certainty or "
        "evaluation.numBootstrapSamples 1200"
    )
    fine = Confidence(value=0.95, lower=np.full(1200, 0.9), upper=np.full(1200, 1.0))
    enough = Found(compared=Compared(base=fine, tuned=fine, gain=fine), num_prompts=50)
    assert check(enough, *gates)[0].met
    assert check(of, *gates[:9])[0].met
