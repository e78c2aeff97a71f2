"""The evaluation's page over a small made-up result."""

from __future__ import annotations

from typing import Any

import numpy as np

from finetune_api.protocol.evaluation_result import (
    BaselineScore,
    EvaluateResult,
    GateResult,
    LookResult,
    PublishedVersion,
    Score,
)
from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.evaluation.scoring import BaselineName
from finetune_trainer.evaluate.report.evidence import Sample
from finetune_trainer.evaluate.report.label_section import (
    LabelSection,
    count_both,
    describe_labels,
)
from finetune_trainer.evaluate.report.page import Sections, render_page
from finetune_trainer.evaluate.report.rows import show_rows
from finetune_trainer.evaluate.sources.champion.section import describe_published
from finetune_trainer.evaluate.sources.prompt_baseline.fitting import Prompted
from finetune_trainer.evaluate.sources.prompt_baseline.material import Example
from finetune_trainer.evaluate.sources.prompt_baseline.prompt import BasePrompt
from finetune_trainer.evaluate.sources.prompt_baseline.section import (
    BaselineSection,
    describe_baseline,
)
from finetune_trainer.evaluate.tokenized import TokenizedQuestions
from kit.cases.spec_cases import changed, minimal_job

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


def baseline_section(text: str = "Thing 1?") -> BaselineSection:
    """A base model asked in three ways, whose prompt shows a row."""
    example = ({"role": "user", "content": text}, {"role": "assistant", "content": text})
    prompt = BasePrompt(
        instruction=f"Answer with one of these labels:\n- {text}",
        examples=(Example(turns=example),),
        labels=(text,),
    )
    empty = TokenizedQuestions(
        examples=[], owners=np.zeros(0, dtype=np.int64), prompts=[], answer_tokens=1
    )
    prompted = Prompted(
        prompt=prompt,
        encoded=empty,
        labels=(text, "b"),
        told=("the prompt shows 1 of 8 examples: more do not fit",),
    )
    return describe_baseline(prompted, "")


def three_ways() -> list[Score]:
    """A metric that the base model was asked for in three ways, and one where it was not."""
    ways: tuple[BaselineName, ...] = ("AsIs", "Prompted", "Likelihood")
    scores = [
        BaselineScore(asked=way, value=f"0.{n}000", low=f"0.{n}000", high="0.9000")
        for n, way in enumerate(ways)
    ]
    score = Score(
        name="exactMatch", base="0.2000", baseline="Likelihood", baselines=scores, tuned="0.9"
    )
    return [score, Score(name="loss", base="1", tuned="1")]


REMARKED = EvaluateResult(
    scores=[Score(name="custom", base="0.1", tuned="0.9")],
    num_samples=9,
    report_uri="x/report.json",
    look=LookResult(number=3, message="This is the 3rd evaluation against this held-out side"),
    num_leaked=12,
    custom_metric=f"tone.py sha256:{'5' * 64}",
)
"""A result with everything that is told beside a verdict."""
REMARKS = (
    "12 held-out prompts also stand in training",
    "This is the 3rd evaluation against this held-out side.",
    f"Custom metric tone.py sha256:{'5' * 64}.",
)


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
                    published="0.8800",
                    published_low="0.8200",
                    published_high="0.9300",
                    over_published_low="-0.0100",
                    over_published_high="0.0700",
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
            published=PublishedVersion(
                version=3,
                uri="s3://models/versions/team-a/example/3",
                num_seen=7,
                seen="7 of 1200 held-out prompts were in the data that version 3 was trained on",
            ),
            report_uri="s3://models/report.json",
        ),
        "lineage": {"Base model": "org/name @ abc", "Data set version": "d" * 64, "Seed": 42},
        "samples": [sample()],
        **settings,
    }
    told = values["result"].published
    published = [describe_published(values["result"].scores, told)] if told else []
    values["sections"] = [*published, *values.get("sections", ())]
    result, samples = values.pop("result"), values.pop("samples")
    has_labels = any(score.name in ("exactMatch", "macroF1") for score in result.scores)
    metric = result.scores[0].name
    rows = show_rows(samples, metric=metric, has_labels=has_labels)
    return render_page(job, result, Sections(rows=rows, **values))


def sample(**change: Any) -> Sample:
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Good?"}]
    values: dict[str, Any] = {
        "prompt": prompt,
        "references": ("positive",),
        "base": "I think so",
        "tuned": "Positive.",
        "scores": {"exactMatch": (0.0, 1.0)},
        **change,
    }
    return Sample(**values)
