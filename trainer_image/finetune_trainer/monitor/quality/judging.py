"""Has the judge of the evaluation score captured answers, a bounded number in each look."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.v1alpha1.evaluation.judging import Judge
from finetune_trainer.data.judge_key import read_judge_key
from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluate.sources.judge.counting import score_points
from finetune_trainer.evaluate.sources.judge.endpoint import (
    CallRefused,
    JudgeAway,
    JudgeEndpoint,
    JudgeRefuses,
    Reply,
)
from finetune_trainer.evaluate.sources.judge.wording import (
    read_points,
    read_request,
    reply_schema_of,
    rubric_of,
    score_words,
)
from finetune_trainer.storage import StorageAccess
from finetune_trainer.traffic.rows import Exchange

MAX_CALLS = 100
"""Calls of one look. What is left waits for the next one."""
UNREADABLE = 0.5
"""Score of an answer that the judge gives no verdict on. Any fixed number leaves the estimate
without bias, and to leave such answers out would not."""

Asker = Callable[[str], Reply]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What the judge said.

    Attributes:
        scores: From 0 to 1, by response id.
        failure: Why it was not asked about all; empty if it was.
    """

    scores: dict[str, float]
    failure: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveJudge:
    """A judge of single answers, by the rubric. One of pairs is asked in the same way.

    Args:
        open: Returns who answers.
    """

    judge: Judge
    open: Callable[[Judge], Asker]

    @property
    def digest(self) -> str:
        """Digest of all that its scores depend on, besides the answers."""
        parts = [self.judge.endpoint, self.judge.model, str(sorted(rubric_of(self.judge).items()))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def score(self, rows: Sequence[Exchange]) -> Judged:
        """Score answers. A failure ends it, and what was scored before stays."""
        try:
            ask = self.open(self.judge)
        except TrainerError as error:
            return Judged(scores={}, failure=f"{error.reason}: {error.message}")
        scores: dict[str, float] = {}
        failure = ""
        with ThreadPoolExecutor(self.judge.concurrency) as pool:
            calls: dict[str, Future[float]] = {
                row.id: pool.submit(self._score, ask, row) for row in rows[:MAX_CALLS]
            }
            for identity, call in calls.items():
                try:
                    scores[identity] = call.result()
                except (JudgeAway, JudgeRefuses) as error:
                    failure = f"the judge at {self.judge.endpoint} gave no answer: {error}"
                    break
            pool.shutdown(wait=True, cancel_futures=True)
        return Judged(scores=scores, failure=failure)

    def _score(self, ask: Asker, row: Exchange) -> float:
        rubric = rubric_of(self.judge)
        request = read_request(row.messages, None, None)
        try:
            reply = ask(score_words(request, row.text, rubric))
        except CallRefused:
            return UNREADABLE
        points = read_points(reply.text, rubric)
        return UNREADABLE if points is None else score_points(points)


def judge_of(spec: Mapping[str, Any]) -> Judge | None:
    """Return the judge in a job's spec; None if it has none, or one that cannot be read."""
    try:
        return Judge.model_validate(spec["evaluation"]["judge"])
    except (KeyError, TypeError, ValueError):
        return None


def open_judge(judge: Judge | None, credentials_dir: Path | None) -> LiveJudge | None:
    """Return a judge, with the key of its Secret or of the environment; None without one."""

    def open_endpoint(judge: Judge) -> Asker:
        secret = judge.credentials_ref.name if judge.credentials_ref is not None else None
        access = StorageAccess(credentials_dir=credentials_dir, credentials_name=secret)
        endpoint = JudgeEndpoint(
            judge.endpoint,
            judge.model,
            key=read_judge_key(judge, access, os.environ),
            timeout_seconds=judge.timeout_seconds,
            max_answer_tokens=judge.max_answer_tokens,
            reply_schema=reply_schema_of(judge) if judge.structured_replies else None,
        )
        return endpoint.ask

    if judge is None:
        return None
    by_rubric = judge.model_copy(update={"mode": "Rubric"})
    return LiveJudge(judge=by_rubric, open=open_endpoint)
