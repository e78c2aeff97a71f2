"""The FineTuneSweep kind: several FineTuneJobs that differ in some fields, of which the best wins.

A sweep creates FineTuneJobs, reads their status, and stops or releases them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, model_validator

from finetune_api.meta import (
    API_VERSION,
    ATOMIC_LIST,
    NAME_PATTERN,
    APIModel,
    DecimalString,
    Integer,
    decimal_of,
)
from finetune_api.patterns import STORED
from finetune_api.rule import Rule, check_rules
from finetune_api.v1alpha1.approval import UserName
from finetune_api.v1alpha1.evaluation.objective import OBJECTIVE_RULES, Objective
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.spec.sweep_parameters import SEED_PATH, Parameter
from finetune_api.v1alpha1.status.sweep import FineTuneSweepStatus

MAX_TRIALS = 100
MAX_REPLICATES = 10
DEFAULT_TRIALS = 8
MAX_SWEEP_NAME_LENGTH = 47
"""Longest name: its FineTuneJobs add up to five characters, and may have 52."""


class SweepEarlyStopping(APIModel):
    """When a trial is stopped whose validation loss is hopeless beside the others'."""

    method: Literal["ASHA", "Halving", "Median", "None"] | None = None
    """`ASHA`: at steps `minSteps`, `minSteps` x `reduction` and so on, only the best of every
    `reduction` trials that came so far go on (Li et al. 2020). `Halving`: there every trial saves,
    stops and waits for all others, and only then the best of every `reduction` go on from where
    they stopped; eight trials, in thirds from a ninth of their steps, train a quarter of what they
    would. `Median`: a trial is stopped whose best loss is above the median of five or more complete
    ones at its step. `None`: nothing is stopped. Default: `Halving` for search `Halving`, else
    `ASHA`."""
    min_steps: Annotated[Integer, Field(ge=1, le=1000000)] = 50
    """No trial is stopped before this step. The validation loss must be measured by then
    (`checkpoint.validateEverySteps`)."""
    reduction: Annotated[Integer, Field(ge=2, le=10)] = 3
    """For `ASHA` and `Halving`: one of so many goes on, to a rung so many times as far."""


class SweepBudget(APIModel):
    """Limits of the search.

    At a limit no new trial begins, running ones save and stop, and the best trained trial is
    chosen. Its evaluation comes on top.
    """

    trials: Annotated[Integer, Field(ge=1, le=MAX_TRIALS)] | None = None
    """Trials that are created at most, without replicates."""
    gpu_hours: DecimalString | None = None
    """GPU hours of all trials."""
    duration_seconds: Annotated[Integer, Field(ge=1, le=31536000)] | None = None
    """Time since the first trial was created, in seconds, suspended or not."""


def _size(sweep: Any) -> int | None:
    """Return the number of settings; None with a range of decimals."""
    size = 1
    for parameter in sweep.parameters:
        if parameter.values is not None:
            size *= len(parameter.values)
        elif parameter.int_range is not None:
            size *= parameter.int_range.max - parameter.int_range.min + 1
        else:
            return None
    return size


SWEEP_RULES: tuple[Rule, ...] = (
    Rule(
        rule="self.parameters.all(p, self.parameters.exists_one(q, q.path == p.path))",
        message="two parameters have the same path: join them into one",
        field="parameters",
        check=lambda s: len({p.path for p in s.parameters}) == len(s.parameters),
    ),
    *OBJECTIVE_RULES,
    Rule(
        rule="!self.template.suspend",
        message="template.suspend would hold every trial: set suspend of the sweep",
        field="template.suspend",
        check=lambda s: not s.template.suspend,
    ),
    Rule(
        rule="!has(self.template.holdAfter) && !(has(self.template.prune) && self.template.prune)",
        message="template.holdAfter and template.prune are the sweep's: leave them out",
        field="template.holdAfter",
        check=lambda s: s.template.hold_after is None and not s.template.prune,
    ),
    Rule(
        rule="!has(self.template.ttlSecondsAfterFinished)",
        message="template.ttlSecondsAfterFinished would delete trials that the sweep compares: set "
        "ttlSecondsAfterFinished of the sweep, which takes its trials along",
        field="template.ttlSecondsAfterFinished",
        check=lambda s: s.template.ttl_seconds_after_finished is None,
    ),
    Rule(
        rule="!has(self.template.requestedBy)",
        message="template.requestedBy is the sweep's, which gives it to its trials: set requestedBy"
        " of the sweep",
        field="template.requestedBy",
        check=lambda s: s.template.requested_by is None,
    ),
    Rule(
        rule="self.search != 'Grid' || self.parameters.all(p, has(p.values) || has(p.int))",
        message="search Grid tries every setting, and a range of decimals has no end of them: list "
        "values, or use Random",
        field="search",
        check=lambda s: s.search != "Grid" or _size(s) is not None,
    ),
    Rule(
        rule=f"self.replicates == 0 || self.parameters.all(p, p.path != '{SEED_PATH}')",
        message="replicates differ by seed, and the seed is a parameter: leave one of both out",
        field="replicates",
        check=lambda s: s.replicates == 0 or all(p.path != SEED_PATH for p in s.parameters),
    ),
    Rule(
        rule="!has(self.budget) || has(self.budget.trials) || has(self.budget.gpuHours) || "
        "has(self.budget.durationSeconds)",
        message="budget needs trials, gpuHours or durationSeconds; leave budget out to set none",
        field="budget",
        check=lambda s: (
            s.budget is None
            or s.budget.trials is not None
            or s.budget.gpu_hours is not None
            or s.budget.duration_seconds is not None
        ),
    ),
    Rule(
        rule="!has(self.budget) || !has(self.budget.gpuHours) || "
        "double(self.budget.gpuHours) > 0.0",
        message="budget.gpuHours must be above 0",
        field="budget.gpuHours",
        check=lambda s: (
            s.budget is None or s.budget.gpu_hours is None or decimal_of(s.budget.gpu_hours) > 0
        ),
    ),
    Rule(
        rule="!has(self.budget) || !has(self.budget.gpuHours) || "
        "self.template.resources.gpusPerNode > 0",
        message="budget.gpuHours counts GPU hours, and template.resources.gpusPerNode is 0: use "
        "budget.durationSeconds",
        field="budget.gpuHours",
        check=lambda s: (
            s.budget is None or s.budget.gpu_hours is None or s.template.resources.gpus_per_node > 0
        ),
    ),
)


def default_stopping(search: str) -> Literal["ASHA", "Halving"]:
    """Return how trials are stopped where ``earlyStopping.method`` does not say."""
    return "Halving" if search == "Halving" else "ASHA"


SWEEP_FIXED_FIELDS = (
    "template",
    "parameters",
    "search",
    "trials",
    "objective",
    "earlyStopping",
    "replicates",
    "requestedBy",
)
"""Fields of search, comparison and requester: fixed once the sweep exists."""


def fixed_in_sweep_message(field: str) -> str:
    """Return what the API server says when ``spec.<field>`` of a sweep is changed."""
    return (
        f"{field} is fixed once the sweep exists, or its trials could not be compared: create "
        "another sweep"
    )


class FineTuneSweepSpec(APIModel):
    """Parameters and size of the search, and the comparison of trials."""

    template: FineTuneJobSpec
    """What all trials have in common: the spec of a FineTuneJob."""
    parameters: Annotated[
        list[Parameter],
        Field(min_length=1, max_length=8, json_schema_extra=ATOMIC_LIST),
    ]
    """What differs from trial to trial; each field once."""
    search: Literal["Grid", "Random", "Halving"] = "Random"
    """`Grid`: every setting, the last parameter changing fastest. `Random`: drawn. `Halving`: drawn
    too, and halted at rungs (`earlyStopping`), from where only the best go on. No setting of
    a space that can be counted is tried twice, and a search ends when all were tried."""
    trials: Annotated[Integer, Field(ge=1, le=MAX_TRIALS)] | None = None
    """How many settings are tried. Default: 8; for `Grid` all of them, at most 100."""
    parallelism: Annotated[Integer, Field(ge=1, le=MAX_TRIALS)] = 2
    """Trials under way at once, waiting in a queue or running. May be changed at any time."""
    objective: Objective = Objective()
    """What decides which trial is best."""
    early_stopping: SweepEarlyStopping = SweepEarlyStopping()
    """When hopeless trials are stopped."""
    replicates: Annotated[Integer, Field(ge=0, le=MAX_REPLICATES)] = 0
    """How often the best setting is trained again, with another seed each time, before one of these
    runs is chosen. Shows how much of a difference is chance."""
    budget: SweepBudget | None = None
    """Where the search ends. May be changed at any time. Default: no limit but `trials`."""
    suspend: StrictBool = False
    """Hold the sweep: trials under way save and stop, no new one begins. False goes on."""
    ttl_seconds_after_finished: Annotated[Integer, Field(ge=0, le=31536000)] | None = None
    """Delete the finished FineTuneSweep, and its FineTuneJobs with it, after this many seconds.
    Files in object storage stay, published versions too."""
    requested_by: UserName | None = None
    """Who asks for the sweep and its trials; as `requestedBy` of a FineTuneJob."""

    @model_validator(mode="after")
    def _check_rules(self) -> FineTuneSweepSpec:
        check_rules(self, SWEEP_RULES)
        return self

    @property
    def stopping_method(self) -> Literal["ASHA", "Halving", "Median", "None"]:
        """How hopeless trials are stopped."""
        return self.early_stopping.method or default_stopping(self.search)

    @property
    def num_trials(self) -> int:
        """Settings that are tried, as far as the space and the budget allow."""
        size = _size(self)
        asked = self.trials
        if asked is None:
            asked = MAX_TRIALS if self.search == "Grid" else DEFAULT_TRIALS
        if size is not None:
            asked = min(asked, size)
        if self.budget is not None and self.budget.trials is not None:
            asked = min(asked, self.budget.trials)
        return asked


class SweepMeta(APIModel):
    """The part of Kubernetes' ObjectMeta that is read here; the rest passes unread."""

    model_config = {**APIModel.model_config, "extra": "ignore"}

    name: Annotated[
        str, Field(min_length=1, max_length=MAX_SWEEP_NAME_LENGTH, pattern=NAME_PATTERN)
    ]
    """At most 47 characters: names of its FineTuneJobs are derived from it."""
    namespace: Annotated[str, Field(max_length=63)] | None = None
    """Namespace."""
    uid: str | None = None
    """Set by the API server."""
    generation: int | None = None
    """Set by the API server."""


class FineTuneSweep(APIModel):
    """Several FineTuneJobs that differ in some fields; the best is evaluated and published."""

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]
    kind: Literal["FineTuneSweep"] = "FineTuneSweep"
    metadata: SweepMeta
    spec: FineTuneSweepSpec
    status: FineTuneSweepStatus | None = None

    @classmethod
    def from_wire(cls, body: dict[str, Any]) -> FineTuneSweep:
        """Parse a Kubernetes object, wire names only; raises pydantic's ValidationError."""
        return cls.model_validate(body, by_alias=True, by_name=False)

    @classmethod
    def from_stored(cls, body: dict[str, Any]) -> FineTuneSweep:
        """Parse an object that the API server holds, as ``FineTuneJob.from_stored`` does."""
        return cls.model_validate(
            body, by_alias=True, by_name=False, extra="ignore", context=STORED
        )
