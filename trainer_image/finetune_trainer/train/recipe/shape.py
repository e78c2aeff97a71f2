"""The lengths of a training side: as ``prepare`` wrote its tokens, or counted its rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.report import DatasetReport
from finetune_trainer.data.rows import Side
from finetune_trainer.train.recipe.recipe import DataShape


def shape_of_train_split(job: ResolvedJob, report: DatasetReport) -> DataShape:
    """Return the lengths of the training side, exact but for preferences, which ranks encode."""
    if job.spec.method.objective != "SFT":
        return _estimate_preferences(job, report)
    train, validation = report.trained[Side.TRAIN], report.trained.get(Side.VALIDATION)
    mean = train.tokens / train.examples
    return DataShape(
        num_rows=train.examples,
        num_tokens=train.tokens,
        mean_tokens=mean,
        longest_tokens=train.longest,
        std_tokens=math.sqrt(max(0.0, train.squares / train.examples - mean**2)),
        num_validation_rows=validation.examples if validation else 0,
        num_validation_tokens=validation.tokens if validation else 0,
    )


def shape_of_preferences(lengths: Sequence[int], validation: Sequence[int] = ()) -> DataShape:
    """Return the shape of encoded preferences, which are two sequences each.

    ``lengths`` are of the training side, ``validation`` of the other.
    """
    return DataShape(
        num_rows=len(lengths),
        num_tokens=sum(lengths),
        mean_tokens=sum(lengths) / len(lengths),
        longest_tokens=max(lengths),
        std_tokens=statistics.pstdev(lengths),
        num_sequences=2,
        num_validation_rows=len(validation),
        num_validation_tokens=sum(validation),
    )


def _estimate_preferences(job: ResolvedJob, report: DatasetReport) -> DataShape:
    limit = job.spec.hyperparameters.max_sequence_length
    sides = report.tokens_of(job.spec.model)
    tokens, validation = sides[Side.TRAIN], sides.get(Side.VALIDATION)
    # Learning from preferences looks at two answers at a time: a pair's, or two rows'.
    times = 2 if job.spec.method.objective == "KTO" else 1
    mean = min(float(limit * 2), times * tokens.tokens / tokens.rows)
    return DataShape(
        num_rows=tokens.rows,
        num_tokens=int(mean * tokens.rows),
        mean_tokens=mean,
        longest_tokens=2 * min(tokens.longest, limit),
        num_sequences=2,
        num_validation_rows=validation.rows if validation else 0,
        num_validation_tokens=times * validation.tokens if validation else 0,
    )
