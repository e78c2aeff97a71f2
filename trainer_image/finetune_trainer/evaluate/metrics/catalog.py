"""All metrics by name, and which of them fit the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, get_args

from finetune_api.v1alpha1.evaluation.judging import METRIC_OF_MODE
from finetune_api.v1alpha1.evaluation.scoring import MetricName
from finetune_api.v1alpha1.evaluation.spec import Evaluation
from finetune_trainer.evaluate.metrics import (
    judged,
    labels,
    likelihood,
    numbers,
    overlap,
    refusal,
    shape,
    structured,
)
from finetune_trainer.evaluate.metrics.answers import Answers, Measured, References
from finetune_trainer.evaluate.metrics.custom import Scorer, score_by

ROW_METRICS = frozenset(get_args(MetricName))
"""What is measured on the held-out rows; a gate may name other measures as well."""

OfTexts = Callable[[Sequence[str], References], Measured]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the job tells some metrics; None where it tells nothing.

    Attributes:
        schema_check: Tells whether a JSON value matches ``evaluation.jsonSchema``.
        answer_pattern: ``evaluation.answerPattern``.
        absolute: ``evaluation.numberTolerance.absolute``.
        relative: ``evaluation.numberTolerance.relative``.
        scorer: The function of ``evaluation.customMetric``.
        scorer_path: Its file.
        scorer_digest: The sha256 of that file, in hex digits.
    """

    schema_check: Callable[[Any], bool] | None = None
    answer_pattern: str | None = None
    absolute: Decimal = Decimal(0)
    relative: Decimal = Decimal(0)
    scorer: Scorer | None = None
    scorer_path: Path = Path()
    scorer_digest: str = ""

    @property
    def scorer_words(self) -> str:
        """The user's own metric, named so that nobody mistakes it for another; empty without."""
        return f"{self.scorer_path.name} sha256:{self.scorer_digest}" if self.scorer else ""


NO_SETTINGS = Settings()

_OF_TEXTS: Mapping[str, OfTexts] = {
    "exactMatch": labels.exact_match,
    "macroF1": labels.macro_f1,
    "rougeL": overlap.rouge_l,
    "chrF": overlap.chrf,
    "bleu": overlap.bleu,
    "contains": overlap.contains,
    "jsonValid": structured.json_valid,
    "jsonEqual": structured.json_equal,
    "jsonFieldF1": structured.json_field_f1,
    "refusalRate": refusal.refusals,
    "answerLength": shape.answer_length,
}
_OF_ANSWERS: Mapping[str, Callable[[Answers], Measured]] = {
    "loss": likelihood.loss,
    "perplexity": likelihood.perplexity,
    "bitsPerByte": likelihood.bits_per_byte,
    "preferenceAccuracy": likelihood.preference_accuracy,
    "secondsPerAnswer": likelihood.seconds_per_answer,
    **{name: partial(judged.judged_as, name) for name in METRIC_OF_MODE.values()},
}


def choose_metrics(
    references: References,
    goal_metric: str | None,
    *,
    has_pairs: bool = False,
    evaluation: Evaluation | None = None,
) -> list[str]:
    """Return the metrics to compute, the goal's first.

    Args:
        references: Accepted answers of each question that has a prompt.
        goal_metric: The goal's metric, if there is a goal.
        has_pairs: The rows have a better and a worse answer.
        evaluation: The job's ``spec.evaluation``: ``metrics`` are computed instead of those that
            fit the data. What it tells a metric is a reason to compute that one, too, and so is a
            gate.
    """
    asked = list(evaluation.metrics) if evaluation else []
    names = asked or _fitting(references, has_pairs=has_pairs)
    if evaluation is not None:
        names += [name for name, told in _told(evaluation).items() if told is not None]
        names += [gate.metric for gate in evaluation.gates if gate.metric in ROW_METRICS]
    return list(dict.fromkeys([*([goal_metric] if goal_metric else []), *names]))


def _fitting(references: References, *, has_pairs: bool) -> list[str]:
    names = ["preferenceAccuracy"] if has_pairs else []
    if references:
        if structured.looks_like_json(references):
            names += ["jsonValid", "jsonFieldF1", "jsonEqual"]
        elif labels.looks_like_labels(references):
            names += ["exactMatch", "macroF1"]
        else:
            names += ["rougeL", "chrF", "bleu"]
    return [*names, "loss", "perplexity"]


def _told(evaluation: Evaluation) -> dict[str, object]:
    judge = evaluation.judge
    return {
        "jsonSchemaValid": evaluation.json_schema,
        "regexMatch": evaluation.answer_pattern,
        "numberClose": evaluation.number_tolerance,
        "custom": evaluation.custom_metric,
        **{
            metric: judge if judge is not None and judge.mode == mode else None
            for mode, metric in METRIC_OF_MODE.items()
        },
    }


def measure(
    name: str,
    answers: Answers,
    references: References,
    *,
    settings: Settings = NO_SETTINGS,
    prompts: Sequence[Any] = (),
) -> Measured:
    """Compute one metric of one model.

    Args:
        name: The metric.
        answers: What the model said.
        references: Accepted answers of each question that has a prompt.
        settings: What the job tells metrics.
        prompts: What these questions ask, for a metric of the user's own.

    Raises:
        UserError: A pattern takes too long, or the user's own metric failed.
    """
    if name in _OF_ANSWERS:
        return _OF_ANSWERS[name](answers)
    of_texts = _OF_TEXTS.get(name) or _of_settings(name, settings, prompts)
    return of_texts(answers.texts, references)


def _of_settings(name: str, settings: Settings, prompts: Sequence[Any]) -> OfTexts:
    if name == "numberClose":
        return partial(numbers.number_close, settings.absolute, settings.relative)
    if name == "regexMatch" and settings.answer_pattern is not None:
        return partial(shape.regex_match, settings.answer_pattern)
    if name == "jsonSchemaValid" and settings.schema_check is not None:
        return partial(structured.json_schema_valid, settings.schema_check)
    if name == "custom" and settings.scorer is not None:
        return partial(score_by, settings.scorer, settings.scorer_path, prompts)
    raise ValueError(f"metric {name!r} is not told what it needs")
