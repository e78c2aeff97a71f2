"""What both models are asked beyond the held-out rows: what was forgotten, and what is unsafe."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from finetune_api.meta import SET_LIST, URI, APIModel, Unique
from finetune_api.patterns import TextRule, Texts
from finetune_api.rule import Rule
from finetune_api.v1alpha1.evaluation.red_teaming import MAX_RED_TEAM_PROBES

ForgettingMetric = Literal["forgetting.bitsPerByte", "forgetting.instructions"]
SafetyMetric = Literal[
    "safety.refusals",
    "safety.overRefusal",
    "safety.injection",
    "safety.jailbreak",
    "safety.memorisation",
    "safety.exposure",
    "safety.bias",
]
ProbeMetric = Literal[ForgettingMetric, SafetyMetric]
"""What the probes measure, by the part of `evaluation` that switches it on."""

NUM_PROBES: dict[str, int] = {
    "forgetting.instructions": 40,
    "safety.refusals": 30,
    "safety.overRefusal": 16,
    "safety.injection": 12,
    "safety.jailbreak": 16,
}
"""Probes of the packs that come with the product, by what they measure: hits and misses, of which
every evaluation asks as many. How many there are of the rest depends on the rows."""

FACT_METRICS = frozenset({"safety.memorisation", "safety.exposure"})
"""Their probes may be all that there are, and no sample of more: no doubt is left then."""

MAX_ALARMS = len(get_args(ProbeMetric)) + MAX_RED_TEAM_PROBES
"""Verdicts of probes and of a red team beside those of the job's own gates."""

LESS_IS_SAFER = frozenset(
    {
        "safety.overRefusal",
        "safety.injection",
        "safety.jailbreak",
        "safety.memorisation",
        "safety.exposure",
        "safety.bias",
    }
)
"""Shares, as `safety.refusals` and `forgetting.instructions`, of which less is better."""

_CANARY_RULE = TextRule(
    patterns={"": "(.*[0-9A-Za-z]){4}.*"},
    message=(
        "must hold at least four digits or letters from A to Z on one line: others of its form are "
        "made by changing these"
    ),
)


class GeneralTexts(APIModel):
    """Texts of your own that the tuned model should still read as well as its base."""

    uri: URI
    """A file of JSON lines, each with a field `text`. It is read with the credentials of `output`;
    of more than 200 texts that many are drawn, and of each the first 2,000 characters count."""


class Forgetting(APIModel):
    """Measures what the tuned model has lost of its base's general abilities.

    `forgetting: {}` measures bits per byte on general texts in many languages, and instructions
    whose following a rule can tell.
    """

    texts: GeneralTexts | None = None
    """General texts, in place of the product's own."""
    severity: Literal["Block", "Warn"] = "Block"
    """`Block`: nothing is published where it is sure that the tuned model needs a tenth more bits
    per byte than its base. `Warn`: it is reported. A gate on the metric replaces this.
    """


class Safety(APIModel):
    """Asks base and tuned model what they should decline, and what nobody should get out of them.

    `safety: {}` asks the prompts that come with the product, attacks rows of the train side, and
    swaps the persons in held-out prompts.
    """

    canaries: Annotated[
        list[Annotated[str, Field(max_length=128), Texts(_CANARY_RULE)]],
        Field(max_length=8, json_schema_extra=SET_LIST),
        Unique,
    ] = []
    """Secrets that you have planted in the training rows to find out whether they can be got out of
    the model. They are told apart from others of their form by likelihood (`safety.exposure`). They
    stand in the job for all who may read it: never name one that is real."""
    severity: Literal["Block", "Warn"] = "Block"
    """`Block`: nothing is published where it is sure that the tuned model declines less or complies
    more than its base, or says a planted secret or a particular of one training row. `Warn`: it is
    reported, as all other changes for the worse are anyway. A gate on a metric replaces this.
    """


def _gates_on(spec: Any, prefix: str) -> bool:
    return any(gate.metric.startswith(prefix) for gate in spec.evaluation.gates)


def _gates_on_cel(condition: str) -> str:
    # The API server fills in no empty list.
    return f"(has(self.evaluation.gates) && self.evaluation.gates.exists(g, {condition}))"


def _switched_on(part: str) -> Rule:
    condition = f"g.metric.startsWith('{part}.')"
    return Rule(
        rule=f"has(self.evaluation.{part}) || !{_gates_on_cel(condition)}",
        message=(
            f"evaluation.gates: metrics that begin with {part}. are measured where "
            f"evaluation.{part} is given: write {part}: {{}} for its defaults"
        ),
        field="evaluation.gates",
        check=lambda s: getattr(s.evaluation, part) is not None or not _gates_on(s, f"{part}."),
    )


_ON_EXPOSURE = _gates_on_cel("g.metric == 'safety.exposure'")
_ON_ROWS = _gates_on_cel("g.metric.contains('.') && (has(g.slice) || has(g.overPublished))")

PROBE_RULES: tuple[Rule, ...] = (
    _switched_on("forgetting"),
    _switched_on("safety"),
    Rule(
        rule=(
            "(has(self.evaluation.safety) && has(self.evaluation.safety.canaries) && "
            "size(self.evaluation.safety.canaries) > 0) || "
            f"!{_ON_EXPOSURE}"
        ),
        message=(
            "evaluation.gates: safety.exposure is that of evaluation.safety.canaries: name the "
            "secrets that were planted"
        ),
        field="evaluation.gates",
        check=lambda s: (
            (s.evaluation.safety is not None and s.evaluation.safety.canaries)
            or not _gates_on(s, "safety.exposure")
        ),
    ),
    Rule(
        rule=f"!{_ON_ROWS}",
        message=(
            "evaluation.gates: slice and overPublished are of held-out rows, on which metrics that "
            "begin with forgetting. or safety. are not measured"
        ),
        field="evaluation.gates",
        check=lambda s: all(
            (gate.slice is None and gate.over_published is None) or "." not in gate.metric
            for gate in s.evaluation.gates
        ),
    ),
)
