"""The models' verdict on the table of good and bad specs; the API server's is in control_plane."""

from __future__ import annotations

import pytest

from finetune_api.messages.messages import InvalidJobError, parse_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_api.v1alpha1.rules.spec import SPEC_RULES
from finetune_api.v1alpha1.spec.podtemplate import POD_TEMPLATE_RULES
from kit.cases.spec_cases import CASES, FULL_SPEC, Case


def test_names_of_cases_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))


def test_every_rule_has_a_case_that_breaks_it() -> None:
    expected = [case.expected for case in CASES if case.expected]
    for rule in (*SPEC_RULES, *POD_TEMPLATE_RULES):
        if rule.explain is None:  # else the message holds the case's numbers
            assert any(text in rule.message for text in expected), rule.message


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_models_judge_as_the_table_says(case: Case) -> None:
    if case.expected is None:
        parse_job(case.body)
        return
    with pytest.raises(InvalidJobError) as caught:
        parse_job(case.body)
    assert case.expected in str(caught.value)


def test_full_spec_sets_every_field() -> None:
    assert set(FULL_SPEC) == {f.alias for f in _spec_fields().values()}


def _spec_fields():
    return FineTuneJob.model_fields["spec"].annotation.model_fields


@pytest.mark.parametrize("case", [c for c in CASES if c.expected is None], ids=lambda c: c.name)
def test_good_specs_survive_a_round_trip(case: Case) -> None:
    job = FineTuneJob.from_wire(case.body)
    assert FineTuneJob.from_wire(job.to_wire()) == job
