"""Whether a metric beyond the goal shows that tuning did harm. Pure.

An alarm is raised where harm is certain. Sources ask few prompts: certainty that there is no harm
takes a gate of the job's own.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.protocol.evaluation_result import MAX_GATE_MESSAGE, GateResult
from finetune_api.v1alpha1.evaluation.gates import Gate
from finetune_trainer.statistics.claims import correct_for_many
from finetune_trainer.statistics.confidence import DEFAULT_CERTAINTY, SLACK, Confidence
from finetune_trainer.statistics.paired import Compared
from finetune_trainer.verdict.certainty import Severity
from finetune_trainer.verdict.figures import figure_text, low_text
from finetune_trainer.verdict.gates import Found, Standing, Unmeasured
from finetune_trainer.verdict.goal import DIGITS


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """When a metric's change is harm.

    Attributes:
        severity: What the harm costs.
        allowed: How much worse than the base model is no harm yet.
        is_share: ``allowed`` is a share of the base model's figure.
        lower_is_better: Whether less of the metric is better.
        name: Name of the result, with room for ``-alarm``; empty derives it from the metric.
    """

    severity: Severity
    allowed: float = 0.0
    is_share: bool = False
    lower_is_better: bool = False
    name: str = ""


MAX_ALARM_NAME = 40
MAX_METRIC = 63


def judge_alarms(
    gates: Sequence[Gate], standings: Mapping[str, Standing], alarms: Mapping[str, Alarm]
) -> list[GateResult]:
    """Decide for every metric whether the tuned model is certainly worse than the base.

    A metric that a gate of the job names is left to the gate. The alarm of a metric whose scores
    are no finite numbers is missed.

    Args:
        gates: The job's gates.
        standings: What was measured, or why not. An alarm that is not measured is missed.
        alarms: Of each metric that has one, when its change is harm.

    Returns:
        A result for each alarm in the order of ``standings``; those not measured come last.
    """
    has_alarm = {name: each for name, each in standings.items() if name in alarms}
    found = {name: each for name, each in has_alarm.items() if isinstance(each, Found)}
    unmeasured = {n: each.why for n, each in has_alarm.items() if isinstance(each, Unmeasured)}
    gated, titles = {gate.metric for gate in gates}, {gate.name for gate in gates}
    left = [name for name in found if name not in gated]
    unfit = {name: why for name in left if (why := _find_problem(found[name].compared))}
    names = [name for name in left if name not in unfit]
    worse = [_worsening(alarms[name], found[name]) for name in names]
    allowed = [_allowed(alarms[name], found[name]) for name in names]
    doubts = correct_for_many(
        [each.doubt_above(most + SLACK) for each, most in zip(worse, allowed, strict=True)]
    )
    told = []
    for name, each, most, doubt in zip(names, worse, allowed, doubts, strict=True):
        result = _tell(name, found[name], each, most, is_harm=doubt <= 1 - DEFAULT_CERTAINTY)
        told.append(GateResult(**_settle(name, alarms[name], titles), **result))
    for name, why in {**unfit, **unmeasured}.items():
        if name not in gated:
            told.append(
                GateResult(**_settle(name, alarms[name], titles), **_unmeasured_result(name, why))
            )
    return _rename_equal(told, titles)


def _find_problem(compared: Compared) -> str:
    """Return why scores cannot be told apart; empty where all of them are finite numbers."""
    base, tuned = compared.base.value, compared.tuned.value
    if all(map(math.isfinite, (base, tuned, compared.gain.value))):
        return ""
    words = f"base {base:.3f}, tuned {tuned:.3f} are not both finite numbers"
    if math.isfinite(base):
        return (
            f"{words}: to the tuned model some text has no likelihood. See whether the training's "
            "loss rose without end, and train with a lower hyperparameters.learningRate"
        )
    return (
        f"{words}: to the base model some text has no likelihood. See whether its files are whole, "
        "and whether it is made for the type of number that it is computed in"
    )


def _settle(name: str, alarm: Alarm, taken: Container[str]) -> dict[str, Any]:
    """Return the severity of an alarm, and a name that no gate has."""
    title = alarm.name or _gate_name(name)
    return {"severity": alarm.severity, "name": f"{title}-alarm" if title in taken else title}


def _rename_equal(told: Sequence[GateResult], taken: Iterable[str]) -> list[GateResult]:
    """Return results of which no two have one name: long names may be cut to the same."""
    seen = set(taken)
    renamed = []
    for result in told:
        name, number = result.name, 1
        while name in seen:
            number += 1
            name = f"{result.name[: MAX_ALARM_NAME - 3]}-{number}"
        seen.add(name)
        renamed.append(result.model_copy(update={"name": name}))
    return renamed


def _worsening(alarm: Alarm, found: Found) -> Confidence:
    gain = found.compared.gain
    if alarm.lower_is_better:
        return gain
    return Confidence(value=-gain.value, lower=-gain.upper[::-1], upper=-gain.lower[::-1])


def _allowed(alarm: Alarm, found: Found) -> float:
    return alarm.allowed * found.compared.base.value if alarm.is_share else alarm.allowed


def _tell(
    name: str, found: Found, worse: Confidence, allowed: float, *, is_harm: bool
) -> dict[str, Any]:
    low = worse.interval().low
    bound = low_text(low, allowed, digits=DIGITS, sign="+")
    base, tuned = found.compared.base.value, found.compared.tuned.value
    most = figure_text(allowed, low, worse.value, digits=DIGITS)
    asked = f"at most {most} worse than base" if allowed else "not worse than base"
    value = figure_text(worse.value, allowed, digits=DIGITS)
    change = f"worse by {value}" if worse.value > 0 else "no worse"
    return {
        "met": not is_harm,
        "message": (
            f"{name} {base:.3f} -> {tuned:.3f}, {change}, lower bound {bound} ({asked}); "
            f"{'harm is shown' if is_harm else 'no harm is shown'}"
        ),
        "metric": name[:MAX_METRIC],
        "asked": asked,
        "value": figure_text(worse.value, allowed, sign="+"),
        "bound": bound,
    }


def _unmeasured_result(name: str, why: str) -> dict[str, Any]:
    words = f"{name} was not measured: {why}"
    is_long = len(words) > MAX_GATE_MESSAGE
    return {
        "met": False,
        "message": f"{words[: MAX_GATE_MESSAGE - 3]}..." if is_long else words,
        "metric": name[:MAX_METRIC],
        "asked": "not worse than base",
    }


def _gate_name(metric: str) -> str:
    """Return the metric as names are written: ``safety.overRefusal`` is ``safety-over-refusal``."""
    return "".join(f"-{c.lower()}" if c.isupper() else "-" if c == "." else c for c in metric)
