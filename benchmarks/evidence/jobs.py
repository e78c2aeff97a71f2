"""Jobs whose score looks well and means nothing: what the product says of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.evaluation.spec import MOST_SAMPLES
from finetune_trainer.data.held_out import read_held_out
from finetune_trainer.errors import DataError
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.questions import gather_questions
from finetune_trainer.evaluate.scores.gating import judge_goal
from finetune_trainer.evaluate.scores.measuring import score_all
from finetune_trainer.prepare.refusals.refusals import require_prompts
from finetune_trainer.verdict.decidable import require_decidable_goal


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What became of a job.

    Attributes:
        job: The job in words.
        stage: The stage that decided.
        is_published: Whether its adapter would be published.
        words: What it was told.
    """

    job: str
    stage: str
    is_published: bool
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    words: str
    prompts: Sequence[str]
    truth: Sequence[str]
    tuned: Sequence[str]
    goal: dict[str, str]
    evaluation: dict[str, Any]


def tell_all() -> Iterator[Told]:
    """Yield what each job is told; the base model's answers are all wrong, as a bare one's are."""
    for job in _JOBS:
        yield _tell(job)


def _tell(job: _Job) -> Told:
    rows = [
        {"prompt": prompt, "completion": label}
        for prompt, label in zip(job.prompts, job.truth, strict=True)
    ]
    spec = {
        "model": {"uri": "hf://example/model"},
        "dataset": {"sources": [{"uri": "s3://data/rows.jsonl"}]},
        "output": {"uri": "s3://models"},
        "goal": job.goal,
        "evaluation": {"numBootstrapSamples": 200, **job.evaluation},
    }
    resolved = ResolvedJob.model_validate(
        {"namespace": "default", "name": "job", "uid": "uid", "spec": spec}
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        side = read_held_out(folder, (), seed=resolved.spec.dataset.split.seed)
    try:
        require_prompts(resolved.spec, side, num_questions=MOST_SAMPLES)
        require_decidable_goal(resolved.spec, side, num_questions=MOST_SAMPLES)
    except DataError as error:
        return Told(job=job.words, stage="prepare", is_published=False, words=str(error))
    met, words = _evaluate(resolved, rows, job)
    return Told(job=job.words, stage="evaluate", is_published=met is not False, words=words)


def _evaluate(
    resolved: ResolvedJob, rows: Sequence[dict[str, Any]], job: _Job
) -> tuple[bool | None, str]:
    questions = gather_questions(rows, max_questions=MOST_SAMPLES, seed=0)
    number = len(questions)
    likely = partial(Answers, nll_sums=np.ones(number), num_tokens=np.ones(number))
    comparison = Comparison(
        questions=questions,
        base=likely(texts=["I think that"] * number),
        tuned=likely(texts=job.tuned[:number]),
    )
    _, measured = score_all(resolved, comparison)
    return judge_goal(resolved.spec, comparison, measured)


def _different(number: int) -> list[str]:
    return [f"question {index}" for index in range(number)]


_ACCURATE = {"metric": "exactMatch", "atLeast": "0.90"}
_RARE = ["fraud"] * 5 + ["fine"] * 495
_LESS_RARE = ["fraud"] * 10 + ["fine"] * 490
_MANY = ["yes", "no"] * 30
_JOBS = (
    _Job(
        words="three rows, all answered ok",
        prompts=_different(3),
        truth=["ok"] * 3,
        tuned=["ok"] * 3,
        goal=_ACCURATE,
        evaluation={},
    ),
    _Job(
        words="the same, with minPrompts: 1",
        prompts=_different(3),
        truth=["ok"] * 3,
        tuned=["ok"] * 3,
        goal=_ACCURATE,
        evaluation={"minPrompts": 1},
    ),
    _Job(
        words="60 rows, all answered ok",
        prompts=_different(60),
        truth=["ok"] * 60,
        tuned=["ok"] * 60,
        goal=_ACCURATE,
        evaluation={},
    ),
    _Job(
        words="1 % fraud, never found",
        prompts=_different(500),
        truth=_RARE,
        tuned=["fine"] * 500,
        goal=_ACCURATE,
        evaluation={},
    ),
    _Job(
        words="2 % fraud, never found",
        prompts=_different(500),
        truth=_LESS_RARE,
        tuned=["fine"] * 500,
        goal=_ACCURATE,
        evaluation={},
    ),
    _Job(
        words="2 % fraud, 7 of 10 found, 3 false alarms",
        prompts=_different(500),
        truth=_LESS_RARE,
        tuned=["fraud"] * 7 + ["fine"] * 490 + ["fraud"] * 3,
        goal=_ACCURATE,
        evaluation={},
    ),
    _Job(
        words="60 rows with one prompt",
        prompts=["question"] * 60,
        truth=_MANY,
        tuned=["yes"],
        goal=_ACCURATE,
        evaluation={"minPrompts": 1},
    ),
    _Job(
        words="30 rows, goal 0.95",
        prompts=_different(30),
        truth=_MANY[:30],
        tuned=_MANY[:30],
        goal={"metric": "exactMatch", "atLeast": "0.95"},
        evaluation={},
    ),
    _Job(
        words="60 rows of two labels, 57 right",
        prompts=_different(60),
        truth=_MANY,
        tuned=[*_MANY[:57], "yes", "no", "yes"],
        goal=_ACCURATE,
        evaluation={},
    ),
    _Job(
        words="the same, goal 0.80",
        prompts=_different(60),
        truth=_MANY,
        tuned=[*_MANY[:57], "yes", "no", "yes"],
        goal={"metric": "exactMatch", "atLeast": "0.80", "overBase": "0.30"},
        evaluation={},
    ),
)
