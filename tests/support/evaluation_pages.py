"""The evaluation's page over a small made-up result."""

from __future__ import annotations

from typing import Any

from finetune_api.trainer import EvaluateResult, GateResult, ResolvedJob, Score
from finetune_trainer.evaluate.label_section import (
    LabelSection,
    count_both,
    describe_labels,
)
from finetune_trainer.evaluate.page import render_page
from support.spec_cases import changed, minimal_job

RECORD: dict[str, Any] = {
    "curve": {
        "train": [[1, 3.0], [10, 1.0], [30, float("nan")]],
        "validation": [[10, 2.0], [20, 1.5], [30, 1.9]],
    },
    "selection": {
        "step": 20,
        "validation_loss": 1.5,
        "last_step": 30,
        "last_validation_loss": 1.9,
        "planned_steps": 60,
    },
}


def label_section() -> LabelSection:
    """Three labels, one of them hostile, and answers that are none."""
    truth = ["positive"] * 6 + ["negative"] * 3 + ["<b>so so, mostly</b>"] * 2
    base = ["positive"] * 9 + ["I think so"] * 2
    tuned = [*truth[:5], "negative", *truth[6:9], "positive", "<b>so so, mostly</b>"]
    tables = count_both(base, tuned, [[label] for label in truth])
    assert tables is not None
    return describe_labels(*tables)


def page(change: dict[str, Any] | None = None, **settings: Any) -> str:
    goal = {"spec.goal": {"metric": "exactMatch", "atLeast": "0.80", "overBase": "0.30"}}
    body = changed(minimal_job(), {**goal, **(change or {})})
    job = ResolvedJob.model_validate(
        {"namespace": "team-a", "name": "example", "uid": "u", "spec": body["spec"]}
    )
    values: dict[str, Any] = {
        "result": EvaluateResult(
            scores=[
                Score(
                    name="exactMatch",
                    base="0.3300",
                    base_low="0.2600",
                    base_high="0.4000",
                    trivial="0.3500",
                    tuned="0.9100",
                    tuned_low="0.8600",
                    tuned_high="0.9500",
                    delta_low="0.5000",
                    delta_high="0.6600",
                ),
                Score(name="loss", base="2.5000", tuned="0.4000"),
            ],
            trivial="the most frequent label",
            num_samples=1200,
            goal_met=True,
            goal_message="exactMatch 0.910 (goal: at least 0.80)",
            gates=[
                GateResult(
                    name="a-gate-of-the-longest-name-there-may-be1",
                    severity="Warn",
                    met=False,
                    message="loss of label x 0.400, upper bound 0.500 (at most 0.3)",
                    metric="loss",
                    slice=f'label "{"averyverylonglabel" * 4}"',
                    asked="at most 0.3",
                    value="0.4000",
                    bound="0.500",
                )
            ],
            report_uri="s3://models/report.json",
        ),
        "facts": {"Base model": "org/name @ abc", "Data set version": "d" * 64, "Seed": 42},
        "samples": [sample()],
        "num_samples": 1200,
        **settings,
    }
    return render_page(job=job, **values)


def sample(**change: Any) -> dict[str, Any]:
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Good?"}]
    return {
        "prompt": prompt,
        "references": ("positive",),
        "base": "I think so",
        "tuned": "Positive.",
        **change,
    }
