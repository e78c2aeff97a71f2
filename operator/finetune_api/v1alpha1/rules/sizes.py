"""Rules on the sizes of parts of a spec: together they bound the size of an object.

Single fields have generous bounds, which no job needs all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from finetune_api.meta import APIModel
from finetune_api.rule import Rule
from finetune_api.schema.sizes import Schema, length_reader, varying_length_cel
from finetune_api.schema.structural import schema_of
from finetune_api.v1alpha1.evaluation.spec import Evaluation
from finetune_api.v1alpha1.spec.dataset import Dataset
from finetune_api.v1alpha1.spec.model import Model
from finetune_api.v1alpha1.spec.podtemplate import PodTemplate

MAX_SPEC_LENGTH = 88 * 1024
"""Characters of a FineTuneJob's spec, written as JSON."""
MAX_SWEEP_SPEC_LENGTH = 117 * 1024
"""Characters of a FineTuneSweep's spec: a job's, and the parameters."""
MAX_PART_LENGTHS = {
    "model": 20 * 1024,
    "dataset": 16 * 1024,
    "evaluation": 12 * 1024,
    "podTemplate": 16 * 1024,
}
"""Characters of the texts, lists and maps in the parts of a spec that hold most."""


@cache
def _schema_of(model: type[APIModel]) -> Schema:
    return schema_of(model)


@cache
def _reader_of(model: type[APIModel]) -> Callable[[Any], int]:
    return length_reader(_schema_of(model))


def _length_of(part: APIModel | None) -> int:
    if part is None:
        return 0
    wire = part.model_dump(by_alias=True, exclude_none=True)
    return _reader_of(type(part))(wire)


def _rule(field: str, attribute: str, model: type[APIModel], remedy: str) -> Rule:
    longest = MAX_PART_LENGTHS[field]

    def expression() -> str:
        length = varying_length_cel(_schema_of(model), f"self.{field}")
        guard = f"!has(self.{field}) || " if field == "podTemplate" else ""
        return f"{guard}{length} <= {longest}"

    return Rule(
        rule=expression,
        message=f"{field} has more than {longest} characters of texts, lists and maps: {remedy}",
        field=field,
        check=lambda spec: _length_of(getattr(spec, attribute)) <= longest,
        only_new=True,
    )


SIZE_RULES: tuple[Rule, ...] = (
    _rule(
        "model",
        "model",
        Model,
        "put a long chat template into a file and name it in model.chatTemplate.uri",
    ),
    _rule(
        "dataset",
        "dataset",
        Dataset,
        "name a folder instead of single files, and shorten templates, system messages and lists",
    ),
    _rule(
        "evaluation",
        "evaluation",
        Evaluation,
        "put a long JSON schema into a file and name it in evaluation.jsonSchema.uri",
    ),
    _rule(
        "podTemplate",
        "pod_template",
        PodTemplate,
        "put long values into a ConfigMap and mount it, and shorten labels, annotations and "
        "affinity",
    ),
)
