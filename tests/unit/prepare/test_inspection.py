"""What an inspection tolerates, so that one refusal hides no other."""

from __future__ import annotations

import pytest

from finetune_api.protocol.reasons import TRAINER_REASONS
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.prepare.inspection import TOLERATED, tolerate
from kit.cases.spec_cases import minimal_job


@pytest.fixture
def job() -> ResolvedJob:
    spec = minimal_job()["spec"]
    spec["dataset"]["contamination"] = {
        "against": [{"uri": "file:///b.jsonl"}],
        "onMatch": "Refuse",
    }
    spec["dataset"]["onConflict"] = "Refuse"
    return ResolvedJob.model_validate(
        {"namespace": "team-a", "name": "example", "uid": "u", "spec": spec}
    )


@pytest.mark.parametrize("reason", TOLERATED)
def test_what_is_tolerated_is_a_reason_of_the_stage_and_a_valid_job(
    job: ResolvedJob, reason: str
) -> None:
    assert reason in TRAINER_REASONS
    relaxed = tolerate(job, reason)
    assert relaxed is not None
    assert relaxed != job
    assert tolerate(relaxed, reason) == relaxed


def test_what_no_setting_allows_is_not_tolerated(job: ResolvedJob) -> None:
    assert tolerate(job, "EmptyDataset") is None
