"""Parameters of a sweep: fields that keep validation losses comparable, and their values.

Trials are ranked by their loss on the same validation rows. So fields that change those rows, their
tokens or the loss (the data, the base model, the objective, ``preference.beta``) are left out.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from finetune_api.meta import ATOMIC_LIST, APIModel, DecimalString, Integer, decimal_of
from finetune_api.rule import Rule, check_rules

ParameterPath = Literal[
    "hyperparameters.learningRate",
    "hyperparameters.epochs",
    "hyperparameters.maxSteps",
    "hyperparameters.globalBatchSize",
    "hyperparameters.warmupRatio",
    "hyperparameters.scheduler",
    "hyperparameters.weightDecay",
    "hyperparameters.maxGradNorm",
    "hyperparameters.seed",
    "hyperparameters.neftuneNoiseAlpha",
    "hyperparameters.loraPlusRatio",
    "method.adapter.type",
    "method.adapter.rank",
    "method.adapter.alpha",
    "method.adapter.dropout",
]
SEED_PATH = "hyperparameters.seed"
INTEGER_PATHS = (
    "hyperparameters.maxSteps",
    "hyperparameters.globalBatchSize",
    "hyperparameters.seed",
    "method.adapter.rank",
    "method.adapter.alpha",
)
WORD_PATHS = ("hyperparameters.scheduler", "method.adapter.type")
"""Fields whose values are words of a list; all others are decimal strings."""

MAX_PATH_LENGTH = 63
"""Bounds what the API server reckons that comparing two paths may cost."""
MAX_VALUE_LENGTH = 32

Value: TypeAlias = str | int | float | bool
"""A value as it stands in a FineTuneJob: whole numbers, words, and decimals as text."""


def _as_value(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str):
        if isinstance(value, float):
            raise ValueError(
                f"{value!r} is a number; decimals are strings here: write '{value}' in quotes"
            )
        raise ValueError(f"{value!r} is neither a whole number nor text")
    if isinstance(value, str) and not 1 <= len(value) <= MAX_VALUE_LENGTH:
        raise ValueError(f"{value!r} must have from 1 to {MAX_VALUE_LENGTH} characters")
    return value


SweepValue = Annotated[
    Any,
    BeforeValidator(_as_value),
    WithJsonSchema(
        {"x-kubernetes-int-or-string": True, "minLength": 1, "maxLength": MAX_VALUE_LENGTH}
    ),
]
"""A whole number or text, as the field takes it."""


class Range(APIModel):
    """Decimals from `min` to `max`."""

    min: DecimalString
    """Lowest value."""
    max: DecimalString
    """Highest value."""


class IntRange(APIModel):
    """Whole numbers from `min` to `max`, both included."""

    min: Annotated[Integer, Field(ge=0, le=2147483647)]
    """Lowest value."""
    max: Annotated[Integer, Field(ge=0, le=2147483647)]
    """Highest value."""


def _count(parameter: Any) -> int:
    kinds = (parameter.values, parameter.log_uniform, parameter.uniform, parameter.int_range)
    return sum(kind is not None for kind in kinds)


def _is_rising(given: Range | None) -> bool:
    return given is None or decimal_of(given.min) < decimal_of(given.max)


PARAMETER_RULES: tuple[Rule, ...] = (
    Rule(
        rule="[has(self.values), has(self.logUniform), has(self.uniform), has(self.int)]"
        ".filter(given, given).size() == 1",
        message="a parameter needs one of values, logUniform, uniform or int, and only one",
        field="path",
        check=lambda p: _count(p) == 1,
    ),
    Rule(
        rule="!has(self.logUniform) || double(self.logUniform.min) > 0.0",
        message="logUniform.min must be greater than 0: zero has no logarithm",
        field="logUniform",
        check=lambda p: p.log_uniform is None or decimal_of(p.log_uniform.min) > Decimal(0),
    ),
    Rule(
        rule="!has(self.logUniform) || double(self.logUniform.min) < double(self.logUniform.max)",
        message="logUniform.min must be below logUniform.max",
        field="logUniform",
        check=lambda p: _is_rising(p.log_uniform),
    ),
    Rule(
        rule="!has(self.uniform) || double(self.uniform.min) < double(self.uniform.max)",
        message="uniform.min must be below uniform.max",
        field="uniform",
        check=lambda p: _is_rising(p.uniform),
    ),
    Rule(
        rule="!has(self.int) || self.int.min < self.int.max",
        message="int.min must be below int.max",
        field="int",
        check=lambda p: p.int_range is None or p.int_range.min < p.int_range.max,
    ),
    Rule(
        rule="!(has(self.logUniform) || has(self.uniform)) || "
        f"!(self.path in {list(INTEGER_PATHS + WORD_PATHS)})",
        message="logUniform and uniform draw decimals, which this field does not take: use int or "
        "values",
        field="path",
        check=lambda p: (
            (p.log_uniform is None and p.uniform is None)
            or p.path not in INTEGER_PATHS + WORD_PATHS
        ),
    ),
    Rule(
        rule=f"!has(self.int) || !(self.path in {list(WORD_PATHS)})",
        message="int draws whole numbers, and this field takes words: use values",
        field="path",
        check=lambda p: p.int_range is None or p.path not in WORD_PATHS,
    ),
)


class Parameter(APIModel):
    """One field of the template that differs from trial to trial, and the values it may have."""

    path: Annotated[ParameterPath, Field(json_schema_extra={"maxLength": MAX_PATH_LENGTH})]
    """The field, below the template. Only fields are taken that leave the loss on validation rows
    comparable: not the data, the base model, or what is learned of a row."""
    values: (
        Annotated[
            list[SweepValue],
            Field(min_length=1, max_length=64, json_schema_extra=ATOMIC_LIST),
        ]
        | None
    ) = None
    """These values, each once; decimals that are not whole in quotes."""
    log_uniform: Range | None = None
    """Any decimal in between, each order of magnitude as likely as the next: for learning rates."""
    uniform: Range | None = None
    """Any decimal in between, each as likely as the next."""
    int_range: Annotated[IntRange | None, Field(alias="int")] = None
    """Any whole number in between."""

    @model_validator(mode="after")
    def _check_rules(self) -> Parameter:
        check_rules(self, PARAMETER_RULES)
        return self


def value_for(path: str, value: Value) -> Value:
    """Return a value in the type that its field has in a FineTuneJob.

    So ``values: [1, 2]`` of epochs become decimal strings, and ``"8"`` of a rank a whole number. A
    word that a number's field takes (``auto``) stays one.
    """
    if path in INTEGER_PATHS:
        return int(value) if isinstance(value, str) and value.isdecimal() else value
    return str(value)


def set_at(spec: dict[str, Any], path: str, value: Value) -> None:
    """Put a value at a dotted path, with the objects above it where they are missing."""
    *parents, last = path.split(".")
    target = spec
    for part in parents:
        target = target.setdefault(part, {})
    target[last] = value
