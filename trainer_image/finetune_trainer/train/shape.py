"""The lengths of a training side, as ``prepare`` counted them."""

from __future__ import annotations

from finetune_api.trainer import ResolvedJob
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.data.rows import Side
from finetune_trainer.train.recipe import DataShape


def shape_of_training_side(job: ResolvedJob, prepared: Prepared) -> DataShape:
    """Return the lengths of the training side as ``prepare`` counted them, cut to the limit."""
    limit = job.spec.hyperparameters.max_sequence_length
    model = job.spec.model
    tokens = prepared.report.tokens[f"{model.uri}@{model.revision}"][Side.TRAIN]
    # Learning from preferences looks at two answers at a time: a pair's, or two rows'.
    num_sequences = 1 if job.spec.method.objective == "SFT" else 2
    times = 2 if job.spec.method.objective == "KTO" else 1
    mean = min(float(limit * num_sequences), times * tokens.tokens / tokens.rows)
    return DataShape(
        num_rows=tokens.rows,
        num_tokens=int(mean * tokens.rows),
        mean_tokens=mean,
        longest_tokens=num_sequences * min(tokens.longest, limit),
        num_sequences=num_sequences,
    )
