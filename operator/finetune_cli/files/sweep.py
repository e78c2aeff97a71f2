"""Judges a FineTuneSweep in a file: the sweep, its template as a job, and the values it names."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from finetune_api.messages.messages import InvalidJobError, Problem, explain, parse_job
from finetune_api.meta import API_VERSION, KIND, SWEEP_KIND
from finetune_api.v1alpha1.finetunesweep import FineTuneSweep
from finetune_api.v1alpha1.spec.sweep_parameters import Parameter, Value, set_at, value_for
from finetune_cli.files.documents import Document

_TEMPLATE = ("spec", "template")


def find_sweep_problems(document: Document) -> list[Problem]:
    """Return the problems of a FineTuneSweep, with the first bad value of each parameter."""
    body = document.body
    try:
        sweep = FineTuneSweep.from_wire(body)
    except ValidationError as error:
        return explain(error, body, kind=SWEEP_KIND)
    template = body["spec"]["template"]
    return [
        problem
        for number, parameter in enumerate(sweep.spec.parameters)
        for problem in _find_value_problem(template, number, parameter)
    ]


def _find_job_problems(template: dict[str, Any]) -> list[Problem]:
    """Return what is wrong with a template as the spec of a job, by its place in the sweep."""
    job = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": "trial"},
        "spec": template,
    }
    try:
        parse_job(job)
    except InvalidJobError as error:
        return [
            Problem(location=(*_TEMPLATE, *each.location[1:]), message=each.message)
            for each in error.problems
        ]
    return []


def _find_value_problem(
    template: dict[str, Any], number: int, parameter: Parameter
) -> Iterator[Problem]:
    """Yield the first value of a parameter that the template's schema refuses."""
    for place, value in _values_of(parameter):
        changed = copy.deepcopy(template)
        set_at(changed, parameter.path, value_for(parameter.path, value))
        problems = _find_job_problems(changed)
        if problems:
            yield Problem(
                location=("spec", "parameters", number, *place),
                message=f"{parameter.path}: {value} would be refused in a trial: {problems[0]}",
            )
            return


def _values_of(parameter: Parameter) -> Iterator[tuple[tuple[str | int, ...], Value]]:
    """Yield the values of a parameter, of a range its ends, each with its place below it."""
    for index, value in enumerate(parameter.values or ()):
        yield ("values", index), value
    for name, given in (
        ("logUniform", parameter.log_uniform),
        ("uniform", parameter.uniform),
        ("int", parameter.int_range),
    ):
        if given is not None:
            yield (name, "min"), given.min
            yield (name, "max"), given.max
