"""``spec.goal`` and ``spec.evaluation``: what must be reached, and how it is measured."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import (
    MAP_BY_NAME,
    SET_LIST,
    APIModel,
    DecimalString,
    Integer,
    SignedDecimal,
    Unique,
    UniqueNames,
)
from finetune_api.v1alpha1.evaluation.gates import MAX_GATES, Gate
from finetune_api.v1alpha1.evaluation.judging import Judge
from finetune_api.v1alpha1.evaluation.probing import Forgetting, Safety
from finetune_api.v1alpha1.evaluation.red_teaming import RedTeam
from finetune_api.v1alpha1.evaluation.review import Review
from finetune_api.v1alpha1.evaluation.scoring import (
    CustomMetric,
    GoalMetric,
    JsonSchema,
    MetricName,
    NumberTolerance,
    ValidationScoring,
)

DEFAULT_SAMPLES = 500
MOST_SAMPLES = 100_000
MOST_RESAMPLES = 10_000


def share_of_look(number: int) -> float:
    """Return the share of the doubt for look ``number``, from 1, at the same rows.

    The shares of all looks sum to 1, so the total error stays within the doubt.
    """
    return 6 / (math.pi * number) ** 2


def most_looks(certainty: float) -> int:
    """Return the last look that can show a goal: no bounds tell less than 1 / MOST_RESAMPLES."""
    return int(math.sqrt((1 - certainty) * share_of_look(1) * MOST_RESAMPLES))


class Goal(APIModel):
    """The KPI this job must reach on the held-out side before its adapter is published.

    The near end of the interval must meet the goal, not only the mean: a score of 0.91 [0.84, 0.97]
    does not meet `atLeast: "0.90"`, more held-out rows or a better model do.
    A goal that the held-out rows could not show even with every answer right is refused before
    training. The model must also be better than the best answer that stays the same whatever is
    asked, as the label that 99 % of the rows may have.
    """

    metric: GoalMetric
    """What is measured: `exactMatch` and `macroF1` for short labels; `rougeL`, `chrF` and `bleu`
    for text; `contains`, `regexMatch` and `numberClose` for one thing in an answer; `jsonValid`,
    `jsonSchemaValid`, `jsonEqual` and `jsonFieldF1` for JSON; `loss`, `perplexity` and
    `bitsPerByte` for any data; `custom` for a function of your own; `judgeWinRate` and `judgeScore`
    for what a judge says. All but the three of any data lie between 0 and 1."""
    at_least: DecimalString | None = None
    """Lowest acceptable score of the tuned model, for metrics where higher is better."""
    at_most: DecimalString | None = None
    """Highest acceptable score of the tuned model, for `loss`, `perplexity` and `bitsPerByte`."""
    over_base: SignedDecimal | None = None  # a rule refuses a minus sign, and says what takes it
    """Smallest acceptable improvement over the base model, in the unit of the metric. The two
    models are compared row by row, and the bound is that of the difference. The base's best result
    under `evaluation.baseline` counts.
    """
    certainty: DecimalString = "0.95"
    """How sure the verdict must be, from 0.5 to 0.999: that of the interval whose near end is
    compared. A score that does not reach the goal is taken for one that does in at most half of
    what is left, 2.5 % at 0.95."""


class Evaluation(APIModel):
    """How base and tuned model are compared on the held-out side."""

    max_samples: Annotated[Integer, Field(ge=1, le=MOST_SAMPLES)] | Literal["auto"] = (
        DEFAULT_SAMPLES
    )
    """Held-out questions asked, drawn by the split's seed. `auto`: as many as goal and gates take,
    so that a model which is better than they ask by 0.05 (by half of what is left to the best
    score, where that is less) meets them all with 90 % probability, and two of each gate's slice;
    without goal and gates, as many as let the interval of a share of hits reach at most 0.05 to
    either side, and 500 where most rows have no prompt. `status.dataset.questions` tells the
    number, and its cause."""
    min_prompts: Annotated[Integer, Field(ge=1, le=100000)] = 30
    """Fewest distinct held-out prompts that a published adapter may rest on. Only prompts
    that the goal's metric scores count; plain text counts for a goal on a likelihood, or where
    there is no goal. A data set with fewer is refused before it trains; below some 30
    prompts an interval says next to nothing. Lower it only where the rows held out are all there
    will ever be."""
    max_new_tokens: Annotated[Integer, Field(ge=1, le=8192)] | Literal["auto"] = "auto"
    """Longest generated answer in tokens, with reasoning before it. `auto`: the longest reference
    plus a margin, at most 1,024, and 1,024 more where the model may reason first, as far as its
    context reaches. The report tells how many references are longer, to which answers are cut, and
    to how many questions reasoning left no room for an answer: these answers are empty."""
    batch_size: Annotated[Integer, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    """Questions answered together. `auto`: those whose prompts and longest answers are 16,384
    tokens, or half or a quarter of that where memory is short; models that must read a question in
    one piece, as those with states, always take a quarter. On GPUs what finds no room after all is
    asked in halves. With `engine: VLLM` these are questions under way at once, `auto` is 64."""
    engine: Literal["Transformers", "VLLM"] = "Transformers"
    """Who computes the answers. `Transformers`: the stage itself, as training does. `VLLM`: a vLLM
    server beside it, of the image that the administrator names, for long answers; with adapters of
    type `LoRA` and `RsLoRA` without `modulesToSave` and `lm_head`."""
    baseline: Literal["Best", "AsIs"] = "Best"
    """How the base model is asked that the tuned one is compared with. `Best`: as is, and with the
    prompt that a person would write: an instruction, the labels where answers are labels, and up to
    16 examples of the train side, within 1,024 tokens; and where answers are labels also for the
    likeliest label. Of each metric the best of these counts. `AsIs`: the question alone, which
    takes some 40 % less time and also measures whether the base knows the form of the answers."""
    metrics: Annotated[
        list[MetricName], Field(max_length=12, json_schema_extra=SET_LIST), Unique
    ] = []
    """What is computed beside the goal's metric. Default: what fits the data, which is `exactMatch`
    and `macroF1` for labels, `jsonValid`, `jsonFieldF1` and `jsonEqual` for JSON, else `rougeL`,
    `chrF` and `bleu`; with `loss` and `perplexity`. `secondsPerAnswer` is the time that the
    evaluation takes for an answer, in batches; it alone differs from run to run."""
    json_schema: JsonSchema | None = None
    """What answers must match for `jsonSchemaValid`, which is computed where this is given."""
    answer_pattern: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """A regular expression as Python writes it; `regexMatch` is the share of answers in which it
    matches somewhere, and is computed where this is given."""
    number_tolerance: NumberTolerance | None = None
    """How close `numberClose` wants the last number of an answer to the reference's; it is computed
    where this is given. Default: equal."""
    custom_metric: CustomMetric | None = None
    """Your own metric `custom`, which is computed where this is given."""
    gates: Annotated[
        list[Gate], Field(max_length=MAX_GATES, json_schema_extra=MAP_BY_NAME), UniqueNames
    ] = []
    """What else must hold before the adapter is published, beside the goal."""
    forgetting: Forgetting | None = None
    """Whether general abilities were lost. Default: not measured; `{}` measures it."""
    safety: Safety | None = None
    """Whether the tuned model is less safe than its base. Default: not measured; `{}` measures
    it."""
    red_team: RedTeam | None = None
    """Have garak attack both models. Default: nobody does."""
    looks: Literal["Correct", "Report"] = "Correct"
    """What becomes of earlier evaluations that saw at least a tenth of the held-out prompts: each
    is one more chance to pass by luck. They are counted over all jobs below the same `output.uri`.
    The same weights held against the same rows, goal, evaluation, metric file and seed count once.
    `Correct` divides the doubt that goal and gates may have among them, so that all together have
    no more: the k-th evaluation gets the share 6/(pi k)^2, which is 61 % at the first and 0.6 % at
    the tenth. It fails where storage cannot count. `Report` tells the number alone, and goes on
    where storage cannot count. Prompts are compared without case, blanks, template and system
    message, so that a changed row does not begin the count anew."""
    num_bootstrap_samples: Annotated[Integer, Field(ge=100, le=MOST_RESAMPLES)] = 1000
    """Resamples behind the intervals of scores that have no limits, as a loss or a length."""
    gpus: Annotated[Integer, Field(ge=1, le=64)] | Literal["auto"] = "auto"
    """GPUs of the evaluation's one pod, at most `resources.gpusPerNode`. `auto`: as many as a
    training pod has. A model that fits one GPU is put on each, and they share the questions; a
    larger one is spread over all of them. The scores are the same either way."""
    validation: ValidationScoring | None = None
    """Have the tuned model also answer validation rows at the end of training, and score that: what
    jobs are chosen by (`status.selection.score`) without a look at the held-out side. It takes as
    long as these answers do. Default: not scored."""
    review: Review | None = None
    """Have people compare answers of base and tuned model. Default: nobody is asked."""
    judge: Judge | None = None
    """Have a language model judge them; prompts and answers are sent to it. Default: none is
    asked."""
