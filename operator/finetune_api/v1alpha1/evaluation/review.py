"""What people are asked about the answers of base and tuned model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool

from finetune_api.meta import SET_LIST, APIModel, Integer, Unique
from finetune_api.patterns import TextRule, Texts
from finetune_api.rule import Rule

CRITERION_RULE = TextRule(
    patterns={"": "[a-z][A-Za-z0-9]*"},
    message="must be one word, a small letter and then letters or digits, such as brandVoice",
)
"""Name of a criterion."""


class Review(APIModel):
    """People compare answers of base and tuned model without knowing which is which.

    The evaluation leaves a page for them beside its report; `finetune review` does the rest.
    """

    required: StrictBool = False
    """Hold the publication of a candidate that has passed goal and gates until the panel's result
    is in: a FineTuneApproval that names it, as `finetune review submit` creates. Off: people are
    asked, and nothing waits for them."""
    reviewers: Annotated[Integer, Field(ge=1, le=9)] = 2
    """How many different people must have judged every question that is shown."""
    sample: Annotated[Integer, Field(ge=1, le=500)] = 50
    """Held-out questions that are shown at most: three quarters drawn at random over all labels, of
    which the win rate is counted, and a quarter those where the tuned model did worst. Questions
    that both models answer alike are not shown."""
    rubric: Annotated[
        list[Annotated[str, Field(max_length=32), Texts(CRITERION_RULE)]],
        Field(min_length=1, max_length=6, json_schema_extra=SET_LIST),
        Unique,
    ] = ["voice", "accuracy", "safety"]
    """What is judged of each pair of answers, one word each; your own words are fine. Whichever
    model more criteria speak for is what a reviewer prefers `overall`."""


REVIEW_RULES: tuple[Rule, ...] = (
    Rule(
        rule=(
            "!has(self.evaluation.review) || type(self.evaluation.maxSamples) == string || "
            "self.evaluation.review.sample <= self.evaluation.maxSamples"
        ),
        message="evaluation.review.sample must be at most evaluation.maxSamples: no more questions "
        "are answered",
        field="evaluation.review.sample",
        check=lambda s: (
            s.evaluation.review is None
            or s.evaluation.max_samples == "auto"
            or s.evaluation.review.sample <= s.evaluation.max_samples
        ),
    ),
    Rule(
        rule=(
            "!has(self.evaluation.review) || "
            "!self.evaluation.review.rubric.exists(c, c == 'overall')"
        ),
        message="evaluation.review.rubric: overall is what all criteria come to together; use "
        "another word",
        field="evaluation.review.rubric",
        check=lambda s: s.evaluation.review is None or "overall" not in s.evaluation.review.rubric,
    ),
)
