"""What a job tells its metrics, made ready and tried before a model is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from finetune_api.messages.answer_checks import make_schema_check
from finetune_api.v1alpha1.evaluation.spec import Evaluation
from finetune_trainer.data.answers.schema import fetch_schema
from finetune_trainer.evaluate.metrics.catalog import Settings
from finetune_trainer.evaluate.metrics.custom import load_scorer, score_by
from finetune_trainer.evaluate.questions import Question, with_prompt
from finetune_trainer.storage import StorageAccess


def read_settings(evaluation: Evaluation, access: StorageAccess) -> Settings:
    """Read what the job tells its metrics.

    Args:
        evaluation: The job's ``spec.evaluation``.
        access: How storage is reached with the output's credentials.

    Raises:
        UserError: A schema or a metric of the user's own cannot be used.
        StorageError: Storage failed.
    """
    schema = fetch_schema(evaluation, access)
    tolerance, custom = evaluation.number_tolerance, evaluation.custom_metric
    settings = Settings(
        schema_check=make_schema_check(schema) if schema is not None else None,
        answer_pattern=evaluation.answer_pattern,
        absolute=Decimal(tolerance.absolute) if tolerance else Decimal(0),
        relative=Decimal(tolerance.relative) if tolerance else Decimal(0),
    )
    if custom is None:
        return settings
    path = Path(custom.path)
    scorer = load_scorer(path, custom.function)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return replace(settings, scorer=scorer, scorer_path=path, scorer_digest=digest)


def try_settings(settings: Settings, questions: Sequence[Question]) -> None:
    """Let the user's own metric score the references, as if a model had said them.

    What is wrong with it is better known before models are asked for hours.

    Raises:
        UserError: ``CustomMetricFailed``.
    """
    if settings.scorer is None:
        return
    asked = with_prompt(questions)
    score_by(
        settings.scorer,
        settings.scorer_path,
        [question.prompt for question in asked],
        [question.references[0] for question in asked],
        [question.references for question in asked],
    )
