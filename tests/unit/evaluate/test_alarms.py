"""When a probe shows that tuning did harm, and what that costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

from finetune_api.protocol.evaluation_result import EvaluateResult, GateResult
from finetune_api.v1alpha1.evaluation.probing import MAX_ALARMS, ProbeMetric
from finetune_api.v1alpha1.evaluation.red_teaming import MAX_RED_TEAM_PROBES
from finetune_api.v1alpha1.evaluation.scoring import LOWER_IS_BETTER
from finetune_api.v1alpha1.evaluation.spec import Evaluation
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.scores.alarms import judge_alarms
from finetune_trainer.evaluate.sources.probes.alarms import ALARMS, settle_alarms
from finetune_trainer.evaluate.sources.probes.measuring import ProbeScores, measure_probes, score_of
from finetune_trainer.evaluate.sources.probes.probe import Heard, Probe, Probes, join
from finetune_trainer.evaluate.sources.probes.section import WORDS, describe_probes
from finetune_trainer.model.encoding import TokenizedExample
from finetune_trainer.statistics.confidence import Confidence
from finetune_trainer.statistics.paired import Compared
from finetune_trainer.verdict.gates import Found, check_gates

ON: dict[str, Any] = {"forgetting": {}, "safety": {}}


def probe(metric: ProbeMetric, number: int, **settings: Any) -> Probe:
    """A probe whose score the model says."""
    return Probe(
        metric=metric,
        cluster=str(number),
        shown=f"prompt {number}",
        prompts=[[1]],
        judge=lambda heard: float(heard.answers[0]),
        **settings,
    )


def measured(
    metric: ProbeMetric,
    base: list[float],
    tuned: list[float],
    *,
    is_whole: bool = False,
    unended: frozenset[int] = frozenset(),
    num_unknown: int = 0,
) -> ProbeScores:
    """Scores of what both models said; to the prompts in ``unended`` the tuned one did not."""
    probes = Probes(
        items=[probe(metric, number) for number in range(len(base))],
        whole=frozenset([metric] if is_whole else []),
        num_unknown={metric: num_unknown},
    )
    said = [
        Answers(
            texts=[str(score) for score in scores],
            nll_sums=np.zeros(0),
            num_tokens=np.zeros(0),
            unended=lost,
        )
        for scores, lost in ((base, frozenset()), (tuned, unended))
    ]
    return measure_probes(probes, *said, num_samples=100, seed=0)


def alarm(scores: ProbeScores, change: dict[str, Any] | None = None) -> GateResult:
    (result,) = alarms(scores, {**ON, **(change or {})})
    return result


def alarms(scores: ProbeScores, spec: dict[str, Any]) -> list[GateResult]:
    evaluation = Evaluation.model_validate(spec)
    rules = settle_alarms(evaluation)
    return judge_alarms(evaluation.gates, scores.standings, replace(scores, rules=rules).alarms)


@pytest.mark.parametrize(
    ("metric", "base", "tuned", "is_met"),
    [
        ("safety.refusals", [1.0] * 30, [1.0] * 30, True),
        ("safety.refusals", [1.0] * 30, [1.0] * 27 + [0.0] * 3, True),
        ("safety.refusals", [1.0] * 30, [0.0] * 10 + [1.0] * 20, False),
        ("safety.refusals", [0.0] * 30, [1.0] * 30, True),
        ("safety.refusals", [0.0] * 30, [0.0] * 30, True),
        ("safety.overRefusal", [0.0] * 16, [1.0] * 16, False),
        ("safety.overRefusal", [1.0] * 16, [0.0] * 16, True),
        ("safety.jailbreak", [0.0] * 16, [1.0] * 12 + [0.0] * 4, False),
        ("safety.bias", [0.2] * 24, [0.2] * 24, True),
        ("forgetting.instructions", [1.0] * 40, [0.0] * 40, False),
    ],
)
def test_harm_is_told_where_it_is_sure(
    metric: ProbeMetric, base: list[float], tuned: list[float], is_met: bool
) -> None:
    result = alarm(measured(metric, base, tuned))
    assert result.met is is_met
    assert ("no harm is shown" in result.message) is is_met
    assert result.severity == ALARMS[metric].severity


@pytest.mark.parametrize(("tuned", "is_met"), [([0.0, 0.0], True), ([0.0, 1.0], False)])
def test_one_of_few_secrets_that_is_said_is_enough(tuned: list[float], is_met: bool) -> None:
    scores = measured("safety.memorisation", [0.0, 0.0], tuned, is_whole=True)
    result = alarm(scores)
    assert (result.met, result.severity) == (is_met, "Block")
    score = score_of("safety.memorisation", scores.found["safety.memorisation"], 0.95)
    assert score.tuned == score.tuned_low == score.tuned_high


@pytest.mark.parametrize(
    ("num_lost", "num_prompts", "is_met", "words"),
    [
        (0, 30, False, "harm is shown"),
        (15, 15, False, "harm is shown"),
        (16, 0, False, "was not measured: both models answered 14 of 30 prompts"),
        (30, 0, False, "was not measured: both models answered 0 of 30 prompts"),
    ],
)
def test_a_thought_that_was_cut_is_no_refusal(
    num_lost: int, num_prompts: int, is_met: bool, words: str
) -> None:
    """The base declines all, and the tuned model helps with all that it comes to answer."""
    tuned = [1.0] * num_lost + [0.0] * (30 - num_lost)  # nothing said withholds all that is asked
    scores = measured("safety.refusals", [1.0] * 30, tuned, unended=frozenset(range(num_lost)))
    result = alarm(scores)
    assert (result.met, result.severity) == (is_met, "Block")
    assert words in result.message
    assert len(scores.probed) == num_prompts
    notes = scores.to_result(0.95)["probe_notes"]
    assert set(notes) == ({"safety.refusals"} if num_lost else set())


def test_a_gate_on_what_was_not_measured_is_missed_and_says_why() -> None:
    gate = {"name": "mine", "metric": "safety.refusals", "atLeast": "0.5"}
    scores = measured("safety.refusals", [1.0] * 4, [1.0] * 4, unended=frozenset(range(4)))
    evaluation = Evaluation.model_validate({**ON, "gates": [gate]})
    assert alarms(scores, {**ON, "gates": [gate]}) == []
    (result,) = check_gates(evaluation.gates, lambda gate: scores.standings[gate.metric])
    assert not result.met
    assert "both models answered 0 of 4 prompts" in result.message


@pytest.mark.parametrize(("said", "is_met"), [(0.0, True), (1.0, False)])
def test_of_what_could_not_be_attacked_either_may_be_true(said: float, is_met: bool) -> None:
    scores = measured(
        "safety.memorisation", [0.0] * 3, [said, 0.0, 0.0], is_whole=True, num_unknown=1
    )
    assert alarm(scores).met is is_met
    score = score_of("safety.memorisation", scores.found["safety.memorisation"], 0.95)
    low, high = (f"{(said + more) / 4:.4f}" for more in (0, 1))
    assert (score.tuned_low, score.tuned_high) == (low, high)
    gate = {"name": "none", "metric": "safety.memorisation", "atMost": "0"}
    gates = Evaluation.model_validate({**ON, "gates": [gate]}).gates
    (result,) = check_gates(gates, lambda gate: scores.standings[gate.metric])
    assert not result.met


def measured_texts(base: list[float], tuned: list[float]) -> ProbeScores:
    """Bits that texts of various lengths take."""
    sizes = [100 + 7 * number for number in range(len(base))]
    items = [
        Probe(
            metric="forgetting.bitsPerByte",
            cluster=str(number),
            shown="text",
            texts=[TokenizedExample(input_ids=[1, 2], spans=((0, 2),), num_cut=0)],
            num_bytes=size,
            judge=lambda heard, size=size: heard.nats[0] / size,  # type: ignore[misc]
        )
        for number, size in enumerate(sizes)
    ]
    said = [
        Answers(texts=[], nll_sums=np.array(rates) * sizes, num_tokens=np.ones(len(sizes)))
        for rates in (base, tuned)
    ]
    return measure_probes(Probes(items=items), *said, num_samples=200, seed=0)


RATES = [float(rate) for rate in np.random.default_rng(0).uniform(0.8, 1.6, 40)]


@pytest.mark.parametrize(("factor", "is_met"), [(1.0, True), (1.08, True), (1.25, False)])
def test_bits_per_byte_may_rise_by_a_tenth(factor: float, is_met: bool) -> None:
    scores = measured_texts(RATES, [factor * rate for rate in RATES])
    (score,) = scores.to_result(0.95)["probes"]
    sizes = 100 + 7 * np.arange(len(RATES))
    assert float(score.base) == pytest.approx(np.average(RATES, weights=sizes), abs=1e-4)
    result = alarm(scores)
    assert (result.met, result.severity) == (is_met, "Block")


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("base", "tuned", "told"),
    [
        (RATES, [NAN, *RATES[1:]], "tuned nan"),
        (RATES, [INFINITE, *(2 * rate for rate in RATES[1:])], "tuned inf"),
        ([INFINITE, *RATES[1:]], RATES, "base inf"),
        ([NAN] * 40, [NAN] * 40, "base nan, tuned nan"),
    ],
)
def test_what_is_no_finite_number_is_not_told_as_no_harm(
    base: list[float], tuned: list[float], told: str
) -> None:
    with np.errstate(invalid="ignore"):
        scores = measured_texts(base, tuned)
    other = measured("safety.refusals", [1.0] * 30, [1.0] * 30)
    fine, result = alarms(replace(scores, found={**scores.found, **other.found}), ON)
    assert (result.name, result.met, result.severity) == (
        "forgetting-bits-per-byte", False, "Block",
    )  # fmt: skip
    assert "forgetting.bitsPerByte was not measured: " in result.message
    assert told in result.message
    assert "harm is shown" not in result.message
    assert (fine.name, fine.met) == ("safety-refusals", True)
    told_too = EvaluateResult(
        scores=[], num_samples=1, report_uri="x", **scores.to_result(0.95), gates=[result]
    )
    assert describe_probes(told_too, scores.probed) is not None
    gate = {"name": "mine", "metric": "forgetting.bitsPerByte", "overBase": "-1"}
    assert alarms(scores, {**ON, "gates": [gate]}) == []


def test_a_job_may_be_warned_or_decide_by_a_gate_of_its_own() -> None:
    lost = measured("safety.refusals", [1.0] * 30, [0.0] * 30)
    warned = alarm(lost, {"safety": {"severity": "Warn"}})
    assert (warned.met, warned.severity) == (False, "Warn")
    gate = {"name": "safety-refusals", "metric": "safety.bias", "atMost": "1"}
    assert alarm(lost, {"gates": [gate]}).name == "safety-refusals-alarm"
    own = {"name": "mine", "metric": "safety.refusals", "overBase": "-1"}
    assert alarms(lost, {**ON, "gates": [own]}) == []


@pytest.mark.parametrize(
    ("metric", "base", "worse", "low", "told"),
    [
        ("safety.jailbreak", 0.5, 0.2, 0.0004, "+0.0004 (not worse than base); harm is shown"),
        ("safety.jailbreak", 0.5, 0.2, -0.0004, "-0.001 (not worse than base); no harm is shown"),
        (
            "forgetting.bitsPerByte",
            1.2345,
            0.3,
            0.1236,
            "lower bound +0.1236 (at most 0.123 worse than base); harm is shown",
        ),
        (
            "forgetting.bitsPerByte",
            1.2345,
            0.12349,
            0.1231,
            "worse by 0.1235, lower bound +0.123 (at most 0.1234 worse than base); no harm is",
        ),
    ],
)
def test_figures_do_not_contradict_what_is_shown(
    metric: str, base: float, worse: float, low: float, told: str
) -> None:
    def bounds(value: float, lowest: float) -> Confidence:
        return Confidence(
            value=value, lower=np.full(1000, lowest), upper=np.full(1000, 2 * value - lowest)
        )

    compared = Compared(
        base=bounds(base, base), tuned=bounds(base + worse, base), gain=bounds(worse, low)
    )
    found = {metric: Found(compared=compared, num_prompts=16)}
    (result,) = judge_alarms([], found, ALARMS)
    assert told in result.message
    assert result.met is ("no harm" in told)


def test_what_could_not_be_measured_misses_its_verdict_or_the_gate_in_its_place() -> None:
    scores = ProbeScores(
        found={},
        probed=(),
        notes={"safety.bias": "no held-out prompt names a person"},
        unmeasured={"safety.exposure": "the train side is too large"},
    )
    assert set(scores.to_result(0.95)["probe_notes"]) == {"safety.bias", "safety.exposure"}
    on = {**ON, "safety": {"canaries": ["kx-48291187"]}}
    (verdict,) = alarms(scores, on)
    assert (verdict.name, verdict.met) == ("safety-exposure", False)
    gates = [
        {"name": "secrets", "metric": "safety.exposure", "atMost": "0"},
        {"name": "fair", "metric": "safety.bias", "atMost": "0.2"},
    ]
    gated = Evaluation.model_validate({**on, "gates": gates})
    assert alarms(scores, {**on, "gates": gates}) == []
    standings = scores.standings
    results = check_gates(gated.gates, lambda gate: standings[gate.metric])
    assert [result.met for result in results] == [False, False]
    assert "was not measured: the train side is too large" in results[0].message
    assert "was not measured: no held-out prompt names a person" in results[1].message


def test_every_metric_has_an_alarm_and_words() -> None:
    names = set(get_args(ProbeMetric))
    assert names == set(ALARMS) == set(WORDS)
    assert len(names) + MAX_RED_TEAM_PROBES == MAX_ALARMS
    assert {name for name in names if "less is better" in WORDS[name]} == names & LOWER_IS_BETTER


def test_each_probe_hears_its_own_answers() -> None:
    items = [
        Probe(metric="safety.bias", cluster="a", shown="", prompts=[[1], [2]], judge=len_of_all),
        Probe(
            metric="safety.exposure",
            cluster="b",
            shown="",
            texts=[TokenizedExample(input_ids=[1], spans=(), num_cut=0)] * 3,
            judge=len_of_all,
        ),
        Probe(metric="safety.bias", cluster="c", shown="", prompts=[[3]], judge=len_of_all),
    ]
    probes = join([Probes(items=items[:1]), Probes(items=items[1:], notes={"x": "why"})])
    encoded = probes.encode()
    assert encoded is not None
    assert (encoded.prompts, len(encoded.examples)) == ([[1], [2], [3]], 3)
    heard = probes.hear(
        Answers(texts=["a", "b", "c"], nll_sums=np.array([1.0, 2.0, 3.0]), num_tokens=np.ones(3))
    )
    assert [(list(h.answers), list(h.nats)) for h in heard] == [
        (["a", "b"], []),
        ([], [1.0, 2.0, 3.0]),
        (["c"], []),
    ]
    assert probes.metrics() == ["safety.bias", "safety.exposure"]
    assert probes.notes == {"x": "why"}


def len_of_all(heard: Heard) -> float:
    return float(len(heard.answers) + len(heard.nats))
