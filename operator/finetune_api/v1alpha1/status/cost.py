"""What a job has cost, and what it will take."""

from __future__ import annotations

from typing import Literal

from finetune_api.meta import APIModel
from finetune_api.v1alpha1.status.fields import Count, Number, ShortSentence


class CostStatus(APIModel):
    """The cost of ended stages; at the end of a job, of all."""

    gpu_hours: Number = "0"
    """GPUs times running time, over all stages and attempts."""
    amount: Number | None = None
    """The same at the price that held then; absent without a price."""


class EstimateStatus(APIModel):
    """What the job will take."""

    basis: Literal["Spec", "Assumed", "Measured"]
    """What is known: the GPUs that the spec asks for; what rows, tokens and model take at an
    assumed speed; what training has measured of itself."""
    message: ShortSentence | None = None
    """What it rests on."""
    gpus: Count | None = None
    """GPUs that training holds."""
    hourly_amount: Number | None = None
    """What they cost by the hour."""
    train_seconds: Count | None = None
    """Training, without start-up unless it is measured."""
    validation_seconds: Count | None = None
    """Of `trainSeconds`, reckoned: answers to validation rows, after the last step."""
    evaluate_seconds: Count | None = None
    """Evaluation of the held-out rows, without start-up and probes."""
    least_train_seconds: Count | None = None
    """Training with GPUs at the peak of their data sheet, which nothing reaches; absent where the
    kind of GPU or the number of steps is not certain."""
    gpu_hours: Number | None = None
    """GPU hours of both."""
    least_gpu_hours: Number | None = None
    """GPU hours of `leastTrainSeconds`; a budget below is refused before GPUs are asked for."""
    amount: Number | None = None
    """`gpuHours` at the present price."""
