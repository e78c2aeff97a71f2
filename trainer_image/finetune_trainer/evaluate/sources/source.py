"""What every source of evidence is, from what the job asks for to its section of the report.

A source is opened, asks, and measures: ``registry.SOURCES`` -> :class:`EvidenceSource` ->
:class:`Inquiry` -> :class:`Measured`. The defaults are those of a source that adds nothing, so each
source says only what it adds. Sources do not import each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from finetune_api.protocol.evaluation_result import EvaluateResult
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.evaluate.inference.encoded import EncodedQuestions
from finetune_trainer.evaluate.inference.engine.arguments import Conversing
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.questions import Question
from finetune_trainer.evaluate.scores.alarms import Alarm
from finetune_trainer.model.encoding import Encoder
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.run import BaseModel, RunStorage, Workspace
from finetune_trainer.storage import Manifest
from finetune_trainer.verdict.gates import Standing

_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """What a source may use: the run's storage, its work folder, the base model, and events."""

    storage: RunStorage
    workspace: Workspace
    model: BaseModel
    emit: EventEmitter


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What an evaluation compares, the same for all sources.

    Attributes:
        job: The effective job.
        prepared: The run's data set, of which the held-out side is here.
        adapter: Manifest of the run's adapter.
        adapter_dir: Folder with it.
        record: Content of its ``run.json``.
        encoder: The encoder of training.
        questions: The held-out questions.
        encoded: They as tokens.
        base_dir: Folder with the base model.
        revision: Revision of the base model.
    """

    job: ResolvedJob
    prepared: Prepared
    adapter: Manifest
    adapter_dir: Path
    record: Mapping[str, Any]
    encoder: Encoder
    questions: Sequence[Question]
    encoded: EncodedQuestions
    base_dir: Path
    revision: str


Said: TypeAlias = Mapping[str, Answers]
"""The answers of each side, as ``ask_models`` returns them."""


class Section(Protocol):
    """A section of the page; its template finds it under the name ``section``."""

    template: ClassVar[str]
    """File of the template, from the folder ``sources``."""
    anchor: ClassVar[str]
    """Target of links to it."""
    title: ClassVar[str]
    """Its name in the list of contents."""
    place: ClassVar[Literal["gates", "answers"]]
    """The part of the page that it follows."""


class Measured:
    """What a source measured."""

    @property
    def standings(self) -> Mapping[str, Standing]:
        """Every metric that gates may name, with its figures or with the reason for none."""
        return _NONE

    @property
    def alarms(self) -> Mapping[str, Alarm]:
        """The metrics whose change may be harm, and when it is."""
        return _NONE

    def to_result(self, certainty: float) -> dict[str, Any]:
        """Return the source's fields of the evaluation's result, with intervals of a certainty."""
        return {}

    def describe(self, result: EvaluateResult) -> Section | None:
        """Return the source's section of the page; None where it shows none."""
        return None

    def write(self, folder: Path) -> None:
        """Write the source's files into the folder of the report."""


class Inquiry:
    """What a source asks in one evaluation."""

    @property
    def conversing(self) -> Conversing | None:
        """How the server must converse with the source after it has answered all questions."""
        return None

    def measure(self, said: Said) -> Measured:
        """Ask what the source asks by itself, and measure the answers.

        Raises:
            TrainerError: The source failed, and the job does not go on without it.
            Stopped: This process was asked to stop.
        """
        raise NotImplementedError


class EvidenceSource:
    """A kind of evidence that a job asks for. Nothing is fetched or asked before it is opened."""

    @classmethod
    def open(cls, job: ResolvedJob, services: Services) -> EvidenceSource | None:
        """Return the source, ready to ask; None where the job does not ask for it.

        Raises:
            UserError: The source cannot do what the job asks for.
            RetryableError: The source does not answer now.
        """
        raise NotImplementedError

    def ask(self, task: Task) -> Inquiry:
        """Return what the source asks about a task.

        Raises:
            TrainerError: Something that the source needs cannot be read.
        """
        raise NotImplementedError


def open_sources(
    sources: Sequence[type[EvidenceSource]], job: ResolvedJob, services: Services
) -> list[EvidenceSource]:
    """Open the sources that a job asks for, in their order."""
    opened = [source.open(job, services) for source in sources]
    return [source for source in opened if source is not None]
