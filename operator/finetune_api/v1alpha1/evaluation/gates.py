"""Gates: what else must hold of a tuned model before it is published, beside the goal."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import NAME_PATTERN, APIModel, DecimalString, SignedDecimal, decimal_of
from finetune_api.rule import Rule
from finetune_api.v1alpha1.evaluation.scoring import (
    DIRECTION_UNKNOWN,
    JUDGE_METRICS,
    UNBOUNDED_METRICS,
    GateMetric,
)

MAX_GATES = 16
_LEAST, _MOST = "0.5", "0.999"


class GateSlice(APIModel):
    """Which held-out rows a gate looks at; `label`, `source`, or `column` with `value`."""

    label: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Those with this answer, compared as `exactMatch` compares labels. `exactMatch` on it is the
    label's recall."""
    source: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Those that came from this file, as the data report names it (`source` in `test.jsonl`)."""
    column: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Those with `value` in this column, which `columns.slices` of their source names."""
    value: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """The value as it is written; `true`, `5` and `null` as JSON writes them."""


class Gate(APIModel):
    """One thing that must hold of the tuned model on the held-out side; one bound.

    As with the goal, the near end of the interval is compared. The chance that any gate is passed
    wrongly is held over all of its severity (Holm's correction): the more gates, the surer each
    must be. Gates that ask the same count once. What could not be measured is missed.
    """

    name: Annotated[str, Field(min_length=1, max_length=40, pattern=NAME_PATTERN)]
    """What reports and the status call it."""
    metric: GateMetric
    """What is measured; it is computed because a gate names it."""
    slice: GateSlice | None = None
    """Which held-out rows. Default: all. One without rows is refused before training."""
    at_least: DecimalString | None = None
    """Lowest acceptable score of the tuned model."""
    at_most: DecimalString | None = None
    """Highest acceptable score of the tuned model."""
    over_base: SignedDecimal | None = None
    """Smallest acceptable improvement over the base model, in the unit of the metric, row by row.
    `"-0.02"` lets the tuned model be worse by that much."""
    over_published: SignedDecimal | None = None
    """The same over the newest published version of this job's name. Does not apply where there is
    none; missed where it cannot be asked."""
    certainty: DecimalString = "0.95"
    """How sure it must be, from 0.5 to 0.999, as `goal.certainty`."""
    severity: Literal["Block", "Warn"] = "Block"
    """`Block`: nothing is published where it is missed. `Warn`: it is reported."""

    @property
    def asked(self) -> tuple[str, str]:
        """The field of its bound, and what that says."""
        bounds = {
            "atLeast": self.at_least,
            "atMost": self.at_most,
            "overBase": self.over_base,
            "overPublished": self.over_published,
        }
        return next((field, bound) for field, bound in bounds.items() if bound is not None)

    @property
    def claim(self) -> tuple[str, GateSlice | None, str, Decimal]:
        """The claim of the gate: metric, rows, prompt and threshold.

        Gates with equal claims pass or fail together.
        """
        field, bound = self.asked
        return self.metric, self.slice, field, decimal_of(bound)


def _all(condition: str) -> str:
    # The API server fills in no empty list.
    return f"!has(self.evaluation.gates) || self.evaluation.gates.all(g, {condition})"


def _names(metrics: frozenset[str]) -> str:
    return "[" + ", ".join(f"'{metric}'" for metric in sorted(metrics)) + "]"


def _is_one_slice(part: GateSlice | None) -> bool:
    if part is None:
        return True
    chosen = (part.label, part.source, part.column)
    is_whole = (part.column is None) == (part.value is None)
    return is_whole and sum(name is not None for name in chosen) == 1


def _bounds(gate: Gate) -> int:
    bounds = (gate.at_least, gate.at_most, gate.over_base, gate.over_published)
    return sum(bound is not None for bound in bounds)


def _is_empty_ceiling(gate: Gate) -> bool:
    """Whether every score meets ``atMost``, such as one meant in percent."""
    return (
        gate.at_most is not None
        and gate.metric not in UNBOUNDED_METRICS
        and decimal_of(gate.at_most) >= 1
    )


def _is_empty_gain(gate: Gate) -> bool:
    """Whether all scores between 0 and 1, or none, have the required difference."""
    gain = gate.over_base if gate.over_base is not None else gate.over_published
    return gain is not None and gate.metric not in UNBOUNDED_METRICS and abs(decimal_of(gain)) >= 1


# No messageExpression: over a list of gates its estimated cost is a hundred times too high.
_IS_BOUNDED = f"!(g.metric in {_names(UNBOUNDED_METRICS)})"
_EMPTY_CEILING = f"has(g.atMost) && {_IS_BOUNDED} && double(g.atMost) >= 1.0"
_EMPTY_GAIN = " || ".join(
    f"(has(g.{field}) && {_IS_BOUNDED} && (double(g.{field}) <= -1.0 || double(g.{field}) >= 1.0))"
    for field in ("overBase", "overPublished")
)

GATE_RULES: tuple[Rule, ...] = (
    Rule(
        rule=_all(
            "(has(g.atLeast) ? 1 : 0) + (has(g.atMost) ? 1 : 0) + (has(g.overBase) ? 1 : 0) + "
            "(has(g.overPublished) ? 1 : 0) == 1"
        ),
        message=(
            "evaluation.gates: each gate needs exactly one of atLeast, atMost, overBase or "
            "overPublished"
        ),
        field="evaluation.gates",
        check=lambda s: all(_bounds(gate) == 1 for gate in s.evaluation.gates),
    ),
    Rule(
        rule=_all(
            "!has(g.slice) || (has(g.slice.column) == has(g.slice.value) && "
            "(has(g.slice.label) ? 1 : 0) + (has(g.slice.source) ? 1 : 0) + "
            "(has(g.slice.column) ? 1 : 0) == 1)"
        ),
        message=("evaluation.gates: slice needs one of label, source, or column with value"),
        field="evaluation.gates",
        check=lambda s: all(_is_one_slice(gate.slice) for gate in s.evaluation.gates),
    ),
    Rule(
        rule=_all(f"double(g.certainty) >= {_LEAST} && double(g.certainty) <= {_MOST}"),
        message=(
            f"evaluation.gates: certainty must be from {_LEAST} to {_MOST}: write 0.95 for 95 "
            "percent"
        ),
        field="evaluation.gates",
        check=lambda s: all(
            decimal_of(_LEAST) <= decimal_of(gate.certainty) <= decimal_of(_MOST)
            for gate in s.evaluation.gates
        ),
    ),
    Rule(
        rule=_all(
            f"!has(g.atLeast) || double(g.atLeast) <= 1.0 || g.metric in "
            f"{_names(UNBOUNDED_METRICS)}"
        ),
        message=(
            "evaluation.gates: atLeast must be at most 1 for scores between 0 and 1: write 0.9 for "
            "90 percent"
        ),
        field="evaluation.gates",
        check=lambda s: all(
            gate.at_least is None
            or decimal_of(gate.at_least) <= 1
            or gate.metric in UNBOUNDED_METRICS
            for gate in s.evaluation.gates
        ),
    ),
    Rule(
        rule=_all(f"!({_EMPTY_CEILING})"),
        message=(
            "evaluation.gates: atMost must be below 1 for scores between 0 and 1: write 0.05 for 5 "
            "percent"
        ),
        field="evaluation.gates",
        check=lambda s: not any(map(_is_empty_ceiling, s.evaluation.gates)),
    ),
    Rule(
        rule=_all(f"!({_EMPTY_GAIN})"),
        message=(
            "evaluation.gates: overBase and overPublished must be above -1 and below 1 for scores "
            "between 0 and 1: write -0.05 for 5 percentage points worse"
        ),
        field="evaluation.gates",
        check=lambda s: not any(map(_is_empty_gain, s.evaluation.gates)),
    ),
    Rule(
        rule=_all(
            "!(has(g.overBase) || has(g.overPublished)) || "
            f"!(g.metric in {_names(DIRECTION_UNKNOWN)})"
        ),
        message=(
            "evaluation.gates: overBase and overPublished do not fit "
            f"{', '.join(sorted(DIRECTION_UNKNOWN))}, of which neither side is better: use "
            "atLeast or atMost"
        ),
        field="evaluation.gates",
        check=lambda s: all(
            (gate.over_base is None and gate.over_published is None)
            or gate.metric not in DIRECTION_UNKNOWN
            for gate in s.evaluation.gates
        ),
    ),
    Rule(
        rule=_all("!(g.metric == 'macroF1' && has(g.slice) && has(g.slice.label))"),
        message=(
            "evaluation.gates: macroF1 of the rows with one label does not see where else a model "
            "gives it, and always giving it scores 1: use exactMatch there, which is the label's "
            "recall, and macroF1 over all rows"
        ),
        field="evaluation.gates",
        check=lambda s: (
            not any(
                gate.metric == "macroF1" and gate.slice is not None and gate.slice.label is not None
                for gate in s.evaluation.gates
            )
        ),
    ),
    Rule(
        rule=_all(f"!has(g.overPublished) || !(g.metric in {_names(JUDGE_METRICS)})"),
        message=(
            "evaluation.gates: the judge is shown no answers of the published version, so "
            f"overPublished does not fit {' and '.join(sorted(JUDGE_METRICS))}: use atLeast, or "
            "overPublished of another metric"
        ),
        field="evaluation.gates",
        check=lambda s: all(
            gate.over_published is None or gate.metric not in JUDGE_METRICS
            for gate in s.evaluation.gates
        ),
    ),
)
