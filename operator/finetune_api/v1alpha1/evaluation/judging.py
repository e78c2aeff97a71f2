"""A judge: a language model behind an OpenAI-compatible endpoint that judges answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool

from finetune_api.meta import (
    MAP_BY_NAME,
    APIModel,
    DecimalString,
    Integer,
    LocalObjectReference,
    UniqueNames,
    decimal_of,
)
from finetune_api.patterns import TextRule, Texts
from finetune_api.rule import Rule
from finetune_api.v1alpha1.evaluation.metric_rules import asks_for, needed_cel
from finetune_api.v1alpha1.evaluation.review import CRITERION_RULE

JudgeMode = Literal["Pairwise", "Rubric"]

METRIC_OF_MODE: dict[JudgeMode, Literal["judgeWinRate", "judgeScore"]] = {
    "Pairwise": "judgeWinRate",
    "Rubric": "judgeScore",
}
"""What a judge measures."""

CALLS_PER_ROW = 2
"""Pairwise: both orders. Rubric: both answers."""

ENDPOINT_URL_RULE = TextRule(
    patterns={"": 'https?://[!"$-.0->A-~]+(/[!"$->@-~]*)?'},
    message=(
        "must be the URL that /chat/completions is appended to, with http:// or https:// and "
        "without user, query or fragment: https://api.example.org/v1"
    ),
)
"""How a judge is reached."""


class JudgePrice(APIModel):
    """What 1,000 tokens cost, in whatever currency."""

    input: DecimalString
    """Of what the judge reads."""
    output: DecimalString
    """Of what it writes."""


class Criterion(APIModel):
    """One thing that answers are judged by."""

    name: Annotated[str, Field(min_length=1, max_length=32), Texts(CRITERION_RULE)]
    """One word."""
    text: Annotated[str, Field(min_length=1, max_length=1024)]
    """What it means, for the judge: what makes an answer good by it, and what makes it bad."""


class Judge(APIModel):
    """A language model judges the answers of base and tuned model.

    Prompts and answers of held-out rows are sent to the endpoint. `Pairwise` asks which of two
    answers is better, each pair in both orders, and measures `judgeWinRate`: 1 where both times the
    tuned model won, 0 where the base did, 0.5 otherwise. `Rubric` asks for 1 to 5 points by each
    criterion, of each answer by itself, and measures `judgeScore`: their mean, brought to 0 to 1.
    """

    endpoint: Annotated[str, Field(max_length=512), Texts(ENDPOINT_URL_RULE)]
    """URL of an OpenAI-compatible server; `/chat/completions` is appended. On a cluster it must be
    on the operator's list, for keys and rows are sent to it."""
    model: Annotated[str, Field(min_length=1, max_length=256)]
    """The judge's name there. Best another model than the base, and one whose version is fixed."""
    mode: JudgeMode = "Pairwise"
    """What it is asked."""
    rubric: Annotated[
        list[Criterion], Field(max_length=6, json_schema_extra=MAP_BY_NAME), UniqueNames
    ] = []
    """What answers are judged by. Default: accuracy, completeness and clarity."""
    show_reference: StrictBool = False
    """Show the judge the first reference as well. Worth it where a stranger could not know the
    right answer."""
    credentials_ref: LocalObjectReference | None = None
    """Secret with the key `OPENAI_API_KEY`. Default: no key is sent. `finetune run` takes the
    environment's variable of this name in its place."""
    sample: Annotated[Integer, Field(ge=1, le=10000)] = 100
    """Held-out questions that are judged at most, drawn by the split's seed. Each takes two calls;
    equal answers take none (`Pairwise`) or one."""
    max_calls: Annotated[Integer, Field(ge=2, le=100000)] = 1000
    """Answers of the judge that the job takes at most, over all attempts. Questions judged by then
    count; the report shows their number.
    """
    max_amount: DecimalString | None = None
    """The same in money, by `price`: no call is begun that could go beyond it."""
    price: JudgePrice | None = None
    """What the judge's tokens cost. With it the report tells the amount."""
    max_answer_tokens: Annotated[Integer, Field(ge=16, le=32768)] = 1024
    """Tokens that the judge may write. Raise it for a judge that reasons first."""
    structured_replies: StrictBool = False
    """Have the server hold replies to the form that is asked for, by a JSON schema
    (`response_format`). For small judges, which often write something else; the server must know
    it, as vLLM, SGLang, llama.cpp and OpenAI do. Leave it for a judge that reasons first, unless
    the server keeps its thoughts apart."""
    on_failure: Literal["Warn", "Fail"] = "Warn"
    """What becomes of the evaluation where the judge stays away for minutes, refuses, or gives too
    few verdicts that can be read. `Warn`: the metric is not measured, and a goal or gate on it is
    missed. `Fail`: the stage fails, and is tried again where that may help; the answers are
    kept."""
    timeout_seconds: Annotated[Integer, Field(ge=1, le=3600)] = 60
    """How long one call may take before it is tried again."""
    concurrency: Annotated[Integer, Field(ge=1, le=64)] = 4
    """Calls at the same time."""

    @property
    def most_rows(self) -> int:
        """Questions that can be judged at most."""
        return min(self.sample, self.max_calls // CALLS_PER_ROW)


def most_scored(evaluation: Any, metric: str, num_questions: int) -> int:
    """Return the most held-out questions that a metric scores.

    Args:
        evaluation: A job's ``spec.evaluation``.
        metric: The metric.
        num_questions: Most questions of the evaluation.
    """
    if evaluation.judge is not None and metric in METRIC_OF_MODE.values():
        most: int = evaluation.judge.most_rows
        return min(num_questions, most)
    return num_questions


def _needs_mode(mode: JudgeMode, metric: str) -> Rule:
    is_given = f"(has(self.evaluation.judge) && self.evaluation.judge.mode == '{mode}')"
    return Rule(
        rule=needed_cel(metric, is_given),
        message=f"metric {metric} needs evaluation.judge with mode: {mode}, the model that judges",
        field="evaluation.judge",
        check=lambda s: (
            (s.evaluation.judge is not None and s.evaluation.judge.mode == mode)
            or not asks_for(s, metric)
        ),
    )


JUDGE_RULES: tuple[Rule, ...] = (
    *(_needs_mode(mode, metric) for mode, metric in METRIC_OF_MODE.items()),
    Rule(
        rule=(
            "!has(self.evaluation.judge) || !has(self.evaluation.judge.maxAmount) || "
            "(has(self.evaluation.judge.price) && "
            "double(self.evaluation.judge.maxAmount) > 0.0)"
        ),
        message=(
            "evaluation.judge.maxAmount must be above 0 and needs evaluation.judge.price, what "
            "1,000 tokens cost; maxCalls needs no price"
        ),
        field="evaluation.judge.maxAmount",
        check=lambda s: (
            s.evaluation.judge is None
            or s.evaluation.judge.max_amount is None
            or (
                s.evaluation.judge.price is not None
                and decimal_of(s.evaluation.judge.max_amount) > 0
            )
        ),
    ),
    Rule(
        rule=(
            "!has(self.evaluation.judge) || !has(self.goal) || "
            "!(self.goal.metric in ['judgeScore', 'judgeWinRate']) || "
            "(self.evaluation.judge.sample >= self.evaluation.minPrompts && "
            "self.evaluation.judge.maxCalls / 2 >= self.evaluation.minPrompts)"
        ),
        message=(
            "evaluation.judge: sample, and half of maxCalls, must be at least "
            "evaluation.minPrompts where the goal is the judge's: nothing could ever be published"
        ),
        field="evaluation.judge",
        check=lambda s: (
            s.evaluation.judge is None
            or s.goal is None
            or s.goal.metric not in METRIC_OF_MODE.values()
            or s.evaluation.judge.most_rows >= s.evaluation.min_prompts
        ),
    ),
)
