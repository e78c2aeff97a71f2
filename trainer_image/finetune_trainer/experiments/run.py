"""One finished or running run, as far as it is compared. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from finetune_api.protocol.evaluation_result import Score
from finetune_api.protocol.stage_results import ValidationScore

Points = Sequence[tuple[int, float]]
"""Steps and losses, in the order of the steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A tuned model's answer to one held-out question.

    Attributes:
        question: Digest of prompt and references.
        group: Group of dependent questions; None where the run did not store it.
        references: Accepted answers.
        text: The answer.
        scores: The answer's score by metric.
        num_tokens: Reference tokens behind the loss; None where not stored.
        num_bytes: Bytes of their text; None as well.
    """

    question: str
    group: str | None
    references: tuple[str, ...]
    text: str
    scores: Mapping[str, float]
    num_tokens: float | None = None
    num_bytes: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFacts:
    """The data set of a run.

    Attributes:
        digest: Its version; empty before it is prepared.
        train: Rows to learn from.
        validation: Rows that choose the step.
        test: Held-out rows.
        num_tokens: Tokens of the training side; None if unknown.
        uri: Its address.
    """

    digest: str = ""
    train: int = 0
    validation: int = 0
    test: int = 0
    num_tokens: int | None = None
    uri: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """The effort of a run; None where unknown.

    Attributes:
        tokens: Tokens that training has read, without padding.
        seconds: From its first start to its end with waiting; of a run on one machine the logged
            training time.
        is_training_only: Whether `seconds` and `gpu_hours` are of training alone.
        gpu_hours: GPUs times running time.
        cost: At the price of a GPU hour.
    """

    tokens: int | None = None
    seconds: float | None = None
    is_training_only: bool = False
    gpu_hours: float | None = None
    cost: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run.

    Attributes:
        name: What it is called here; different from all others it is compared with.
        place: Folder of the run.
        state: Its phase in words.
        recipe: Effective settings by path, as text; what an ``auto`` came to stands before it.
        data: Its data set.
        certainty: That of its intervals.
        scores: Of base and tuned model; empty before it is evaluated.
        num_samples: Held-out questions that the goal's metric scores; without a goal all asked.
        rows: The answers; empty where there are none, or they could not be read.
        validation_score: What answers to validation rows score; None where nobody asked.
        validation_rows: These answers, as ``rows``.
        train: Training losses.
        validation: Validation losses.
        step: The step whose weights were kept.
        last_step: The last one that was trained.
        planned_steps: Steps without early stopping.
        effort: Its tokens, time and cost.
        version: Published version.
        notes: How it was read.
    """

    name: str
    place: str = ""
    state: str = ""
    recipe: Mapping[str, str] = field(default_factory=dict)
    data: DataFacts = field(default_factory=DataFacts)
    certainty: float = 0.95
    scores: Sequence[Score] = ()
    num_samples: int = 0
    rows: Sequence[Row] = ()
    validation_score: ValidationScore | None = None
    validation_rows: Sequence[Row] = ()
    train: Points = ()
    validation: Points = ()
    step: int | None = None
    last_step: int | None = None
    planned_steps: int | None = None
    effort: Effort = field(default_factory=Effort)
    version: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def validation_loss(self) -> float | None:
        """Validation loss of the kept step, else the lowest so far."""
        at_step = [loss for step, loss in self.validation if step == self.step]
        losses = at_step or [loss for _, loss in self.validation]
        return min(losses) if losses else None

    @property
    def validation_text(self) -> str:
        """Score of the answers to validation rows: ``exactMatch 0.91 [0.84, 0.95]``; or empty."""
        told = self.validation_score
        if told is None:
            return ""
        bounds = f" [{told.low}, {told.high}]" if told.low else ""
        return f"{told.metric} {told.value or 'not measured'}{bounds}"
