"""What every source of evidence is, from what the job asks for to its section of the report.

A source is opened, asks, and measures: ``registry.SOURCES`` -> :class:`EvidenceSource` ->
:class:`Inquiry` -> :class:`Measured`. The defaults are those of a source that adds nothing, so each
source says only what it adds. Sources do not import each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from finetune_api.protocol.evaluation_result import EvaluateResult
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.inference.vllm_server import Conversing
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.metrics.catalog import Settings
from finetune_trainer.evaluate.question_set import QuestionSet
from finetune_trainer.evaluate.scores.alarms import Alarm
from finetune_trainer.model.encoding import ChatTokenizer
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.run import BaseModel, RunStorage, Workspace
from finetune_trainer.storage import Manifest
from finetune_trainer.verdict.gates import Standing

Place: TypeAlias = Literal["scores", "gates", "answers", "safety", "people"]
"""Parts of the page, in its order: in the section of the scores, else behind what they name."""
_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """What a source may use: the run's storage, its work folder, the base model, and events."""

    storage: RunStorage
    workspace: Workspace
    model: BaseModel
    emit: EventEmitter


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write dataclasses as a file of JSON lines."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")


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
        asked: The held-out questions.
        settings: What the job tells its metrics.
        config_dir: Folder with the base model's configuration and tokenizer.
        revision: Revision of the base model.
        room: Tokens that the base model takes; None where nobody knows.
    """

    job: ResolvedJob
    prepared: Prepared
    adapter: Manifest
    adapter_dir: Path
    record: dict[str, Any]
    encoder: ChatTokenizer
    asked: QuestionSet
    settings: Settings
    config_dir: Path
    revision: str
    room: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What the models said.

    Attributes:
        answers: The answers of each side, as ``ask_models`` returns them.
        problem: Why the published version could not be asked; empty if it could.
    """

    answers: Mapping[str, Answers]
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What an evaluation came to.

    Attributes:
        result: Scores and verdicts.
        comparison: The answers to the held-out questions.
        row_scores: Of each question asked, by metric, the scores of base and tuned model.
    """

    result: EvaluateResult
    comparison: Comparison
    row_scores: Sequence[Mapping[str, tuple[float, float]]]

    @property
    def uri(self) -> str:
        """URI of the evaluation: the folder of its report."""
        return self.result.report_uri.rpartition("/")[0]


class Section(Protocol):
    """A section of the page; its template finds it under the name ``section``."""

    template: ClassVar[str]
    """File of the template, from the folder ``sources``."""
    anchor: ClassVar[str]
    """Target of links to it."""
    title: ClassVar[str]
    """Its name in the list of contents."""
    place: ClassVar[Place]
    """Where on the page it stands."""


class Measured:
    """What a source measured."""

    def add_to(self, comparison: Comparison) -> Comparison:
        """Return the answers to the held-out questions with what the source adds to them."""
        return comparison

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

    def to_report(self) -> dict[str, Any]:
        """Return the source's fields of ``report.json``, beside those of the result."""
        return {}

    def describe(self, outcome: Outcome) -> Section | None:
        """Return the source's section of the page; None where it shows none."""
        return None

    def write(self, folder: Path, outcome: Outcome) -> None:
        """Write the source's files into the folder of the report."""


class Inquiry:
    """What a source asks in one evaluation."""

    def extend(self, asked: QuestionSet) -> QuestionSet:
        """Return the questions of all sources with those of this one."""
        return asked

    @property
    def conversing(self) -> Conversing | None:
        """How the server must converse with the source after it has answered all questions."""
        return None

    def measure(self, job: ResolvedJob, said: Said, comparison: Comparison) -> Measured:
        """Ask what the source asks by itself, and measure the answers.

        Args:
            job: The job as it is judged: with the certainty and the resamples of this look.
            said: The answers of each side.
            comparison: The answers to the held-out questions, as the sources before left them.

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
