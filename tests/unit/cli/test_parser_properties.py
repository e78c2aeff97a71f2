"""Whatever the input is, it is judged: never a traceback, never two verdicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.messages.messages import InvalidJobError, parse_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_cli.errors import CliError
from finetune_cli.files.documents import find_problems, parse_documents
from kit.cases.spec_cases import FULL_SPEC, changed, minimal_job

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-10, 10**12), st.floats(), st.text(max_size=12)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


def paths(value: Any, prefix: str) -> list[str]:
    found = [prefix]
    if isinstance(value, dict):
        for key, child in value.items():
            found += paths(child, f"{prefix}.{key}")
    elif isinstance(value, list):
        for position, child in enumerate(value):
            found += paths(child, f"{prefix}.{position}")
    return found


def refused(call: Callable[..., object], *arguments: object) -> Exception | None:
    """Return the refusal; any other exception passes and fails the test."""
    try:
        call(*arguments)
    except (InvalidJobError, CliError) as error:
        return error
    return None


PATHS = paths(FULL_SPEC, "spec")


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(path=st.sampled_from(PATHS), value=VALUES)
def test_any_value_at_any_field_is_accepted_or_explained(path: str, value: Any) -> None:
    body = changed({**minimal_job(), "spec": FULL_SPEC}, {path: value})
    refusal = refused(parse_job, body)
    if refusal is None:
        job = parse_job(body)
        assert FineTuneJob.from_wire(job.to_wire()) == job
    else:
        assert isinstance(refusal, InvalidJobError)
        assert refusal.problems
        assert all(problem.message for problem in refusal.problems)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_is_parsed_or_refused_in_words(text: str) -> None:
    refusal = refused(lambda: list(parse_documents(text, "job.yaml")))
    if refusal is not None:
        assert isinstance(refusal, CliError)
        assert refusal.message.startswith("job.yaml")
        return
    for document in parse_documents(text, "job.yaml"):
        assert all(line.startswith("job.yaml:") for line in find_problems(document))
