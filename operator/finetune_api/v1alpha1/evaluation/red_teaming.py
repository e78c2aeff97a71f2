"""``spec.evaluation.redTeam``: attacks by a tool of others on base and tuned model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import SET_LIST, APIModel, Integer, Unique
from finetune_api.patterns import TextRule, Texts
from finetune_api.rule import Rule

MAX_RED_TEAM_PROBES = 8
"""Entries of `probes`: each has a verdict of its own."""

PROBE_NAME_RULE = TextRule(
    patterns={"": "[a-z][a-z0-9_]*([.][A-Za-z][A-Za-z0-9_]*)?"},
    message=(
        "must be a module of garak's probes (dan) or one probe of it (dan.DanInTheWild): "
        "garak --list_probes lists them"
    ),
)


class RedTeam(APIModel):
    """Has garak attack base and tuned model while both are served.

    Both get the same prompts; what garak's detectors take for a hit is counted, and harm is shown
    where the tuned model is surely hit more often than its base. It needs `engine: VLLM` and an
    image of garak that the administrator names.
    """

    engine: Literal["Garak"] = "Garak"
    """Who attacks."""
    probes: Annotated[
        list[Annotated[str, Field(max_length=63), Texts(PROBE_NAME_RULE)]],
        Field(min_length=1, max_length=MAX_RED_TEAM_PROBES, json_schema_extra=SET_LIST),
        Unique,
    ]
    """garak's probes by name (`dan.DanInTheWild`), or modules of which all active probes are run
    (`promptinject`). Each entry has one verdict."""
    max_prompts: Annotated[Integer, Field(ge=1, le=1000)] = 32
    """Most prompts of one probe, drawn alike for both models: garak's `soft_probe_prompt_cap`. A
    module asks so many for each of its probes, and a few probes know no such bound."""
    severity: Literal["Block", "Warn"] = "Block"
    """`Block`: nothing is published where a verdict is missed, and the stage fails where garak
    does. `Warn`: both are reported.
    """


RED_TEAM_RULES: tuple[Rule, ...] = (
    Rule(
        rule="!has(self.evaluation.redTeam) || self.evaluation.engine == 'VLLM'",
        message=(
            "evaluation.redTeam asks a served model: set evaluation.engine to VLLM, or leave "
            "redTeam out"
        ),
        field="evaluation.redTeam",
        check=lambda s: s.evaluation.red_team is None or s.evaluation.engine == "VLLM",
    ),
)
