"""What the stages ``prepare`` and ``train`` found and made, in the words of the protocol."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from finetune_api.meta import APIModel
from finetune_api.v1alpha1.spec.tracking import MAX_TRACKERS
from finetune_api.v1alpha1.status.dataset import AnchorStatus, InvalidRowPlace
from finetune_api.v1alpha1.status.fields import Count, Number, ShortText, StoredURI, check_number

INVALID_ROWS_BYTES = 1700
"""Of a termination message, what places of invalid rows may take; the rest is for its words."""

MAX_INVALID_ROWS_REPORTED = 20


def decimal_text(value: float) -> str:
    """Return a number as a status holds it: counts whole, others to six digits."""
    is_count = float(value).is_integer() and abs(value) < 1e15
    return str(int(value)) if is_count else f"{value:.6g}"


def is_empty(text: str) -> bool:
    """Leave out of a message what says nothing: its room is small."""
    return not text


class MetricValue(APIModel):
    """One named number; the value is a decimal string."""

    name: Annotated[str, Field(max_length=63)]
    value: Number


class RowCounts(APIModel):
    """Rows per side of the split."""

    train: Count
    validation: Count
    test: Count


def limit_places(places: Iterable[InvalidRowPlace]) -> list[InvalidRowPlace]:
    """Return the first places that fit status and termination message."""
    kept: list[InvalidRowPlace] = []
    num_bytes = 0
    for place in islice(places, MAX_INVALID_ROWS_REPORTED):
        num_bytes += len(json.dumps(place.to_wire(), separators=(",", ":"))) + 1
        if num_bytes > INVALID_ROWS_BYTES:
            break
        kept.append(place)
    return kept


class TimeEstimate(APIModel):
    """Estimated durations of training and evaluation, without start-up.

    They are computed from the speed of a kind of GPU, not measured.
    """

    train_seconds: Count
    """Until its pods end: with answers to validation rows, where these are asked for."""
    evaluate_seconds: Count
    validation_seconds: Count = 0
    """Of ``train_seconds``: those answers, which come after the last step."""
    least_train_seconds: Count = 0
    """Training at the device's full peak, which nothing reaches; 0 where that cannot be known."""
    tokens: Count
    """Tokens that training would see, repeated ones as often as they are."""
    tokens_per_second: Number
    """Speed that is assumed, over all ranks."""
    device: Annotated[str, Field(max_length=63)]
    """What it would run on."""
    is_device_known: bool = True
    """False where the kind of GPU is assumed, too."""


class QuestionCount(APIModel):
    """How many held-out questions the evaluation will ask, where ``maxSamples`` is ``auto``."""

    number: Count
    """Questions."""
    enough: bool = True
    """Whether goal and gates have as many as they take."""
    message: Annotated[str, Field(max_length=512)] = ""
    """Why, for people."""


class TakenOver(APIModel):
    """A complete run of an earlier FineTuneJob of the same name and content."""

    uid: Annotated[str, Field(min_length=1, max_length=64)]
    """UID of that FineTuneJob."""
    is_published: bool
    """Whether its candidate is a version already."""
    uri: StoredURI
    """Folder of its adapter."""
    sha256: ShortText
    """Digest of the weights file."""
    num_bytes: Count


class PrepareResult(APIModel):
    """What ``prepare`` found and wrote."""

    stage: Literal["prepare"] = "prepare"
    digest: ShortText
    """Content digest of the prepared data set, its version."""
    uri: StoredURI
    """Folder of the prepared data set, with its manifest."""
    test_sha256: Annotated[ShortText, Field(exclude_if=is_empty)] = ""
    """SHA-256 of the file of its test side."""
    rows: RowCounts
    num_tokens: Count
    """Tokens of the training side after the chat template, before truncation."""
    num_invalid_rows: Count
    invalid_rows: Annotated[list[InvalidRowPlace], Field(max_length=MAX_INVALID_ROWS_REPORTED)] = []
    """The first of them, as many as :func:`limit_places` lets through."""
    num_truncated_rows: Count
    questions: QuestionCount | None = None
    """None where the job says itself how many are asked."""
    estimate: TimeEstimate | None = None
    """How long the stages after it would take; None where that cannot be said."""
    reused: bool = False
    """True when a data set with the same source and recipe was there already."""
    taken_over: TakenOver | None = None
    """The run whose adapter and evaluation stand for this job's; None where it trains."""
    anchor: AnchorStatus | None = None
    """The sealed rows on record of the job's schedule, where the job itself names none."""


class TrackingResult(APIModel):
    """What became of telling the job's trackers."""

    uris: Annotated[list[StoredURI], Field(max_length=MAX_TRACKERS)] = []
    """Page of the run in each tracker that has one."""
    problem: Annotated[str, Field(max_length=300)] = ""
    """Why a tracker does not have everything; empty if all have."""


def _check_number_if_any(text: str) -> str:
    return check_number(text) if text else text


NumberIfAny = Annotated[str, Field(max_length=32), AfterValidator(_check_number_if_any)]
"""A number as text, empty where there is none."""
Brief = Annotated[NumberIfAny, Field(exclude_if=is_empty)]
"""A number as text; left out where it is empty."""


class ValidationScore(APIModel):
    """What the tuned model's answers to validation rows score, or why they have no score."""

    metric: Annotated[str, Field(max_length=63)]
    value: Brief = ""
    """Empty where there is none."""
    low: Brief = ""
    """Lower end of its interval, with the certainty of the goal, or 0.95."""
    high: Brief = ""
    num_samples: Count = 0
    """Validation rows, as questions, that were answered."""
    reason: Annotated[str, Field(max_length=63, exclude_if=is_empty)] = ""
    """CamelCase cause, where there is no score."""
    message: Annotated[str, Field(max_length=300, exclude_if=is_empty)] = ""
    """The same for people."""


class StepSelection(APIModel):
    """The step whose weights are published, among the steps that were trained."""

    step: Count
    """Its weights are the published ones."""
    validation_loss: NumberIfAny = ""
    """Validation loss after it; empty if it was not measured."""
    last_step: Count
    """The last step that was trained."""
    last_validation_loss: NumberIfAny = ""
    """Validation loss after the last step; empty if it was not measured."""
    planned_steps: Count
    """Steps that would have been trained without early stopping."""
    score: ValidationScore | None = None
    """What their answers to validation rows score; None where nobody asked."""


class TrainResult(APIModel):
    """What ``train`` produced."""

    stage: Literal["train"] = "train"
    uri: StoredURI
    """Folder of the adapter, with its manifest."""
    sha256: ShortText
    """Digest of ``adapter_model.safetensors`` (or ``model.safetensors`` for full fine-tuning)."""
    num_bytes: Count
    manifest_sha256: ShortText
    """Digest of the adapter's ``manifest.json``."""
    step: Count
    """Optimiser steps trained."""
    selection: StepSelection | None = None
    metrics: list[MetricValue] = []
    """Last training metrics and the effective settings: loss, learning_rate, global_batch_size."""
    resumed_from_step: Count = 0
    num_trainable_parameters: Count = 0
    out_of_memory_at: Count = 0
    """Largest micro batch that ran out of memory in an earlier attempt of the run; 0 for none."""
    origin_digest: ShortText = ""
    """Manifest digest of the weights the run began from (``spec.initFrom``); empty for none."""
    tracking: TrackingResult | None = None
    reused: bool = False
