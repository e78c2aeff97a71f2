"""One probe: what both models are given, and what is made of what they say. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from finetune_api.v1alpha1.probing import ProbeMetric
from finetune_trainer.evaluate.encoded import EncodedQuestions
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.model.encoding import Encoded

ANSWER_TOKENS = 32
"""Longest answer to a probe: refusals come at once, and instructions ask for little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """What one model said to one probe.

    Attributes:
        answers: Its answers to the probe's prompts.
        nats: Summed negative log-likelihood of each of the probe's texts.
    """

    answers: Sequence[str]
    nats: Sequence[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One thing that is asked and judged; it may take several prompts or texts.

    Attributes:
        metric: What it counts for.
        cluster: Probes of one cluster are not independent.
        shown: What was asked, for people.
        prompts: Prompts to be answered, as tokens.
        texts: Texts whose likelihood is measured, as tokens.
        num_bytes: Bytes of these texts in UTF-8.
        judge: Returns the score of one model, from what it said.
    """

    metric: ProbeMetric
    cluster: str
    shown: str
    prompts: Sequence[list[int]] = ()
    texts: Sequence[Encoded] = ()
    num_bytes: int = 0
    judge: Callable[[Heard], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Probes:
    """All probes of a job.

    Attributes:
        items: The probes.
        whole: Metrics whose probes are all that there are, and no sample of more: their figures
            are facts, without intervals.
        notes: Of metrics that were asked for and have nothing to measure, why.
        unmeasured: Of metrics that could not be measured though there may be something, why: what
            asks for them is missed.
    """

    items: Sequence[Probe] = ()
    whole: frozenset[str] = frozenset()
    notes: Mapping[str, str] = field(default_factory=dict)
    unmeasured: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> EncodedQuestions | None:
        """Return all prompts and texts, in the order of the probes; None if there are none."""
        if not self.items:
            return None
        texts = [text for probe in self.items for text in probe.texts]
        return EncodedQuestions(
            examples=texts,
            owners=np.arange(len(texts)),
            prompts=[prompt for probe in self.items for prompt in probe.prompts],
            answer_tokens=ANSWER_TOKENS,
        )

    def hear(self, answers: Answers) -> list[Heard]:
        """Return what a model said to each probe.

        Args:
            answers: What it said to all of :meth:`encode`.
        """
        heard, prompts, texts = [], 0, 0
        for probe in self.items:
            first, prompts = prompts, prompts + len(probe.prompts)
            begin, texts = texts, texts + len(probe.texts)
            heard.append(
                Heard(
                    answers=answers.texts[first:prompts],
                    nats=[float(nats) for nats in answers.nll_sums[begin:texts]],
                )
            )
        return heard

    def metrics(self) -> list[str]:
        """Return the metrics that are measured, in the order of their first probe."""
        return list(dict.fromkeys(probe.metric for probe in self.items))


def join(parts: Iterable[Probes]) -> Probes:
    """Put probes together."""
    parts = list(parts)
    return Probes(
        items=[item for part in parts for item in part.items],
        whole=frozenset().union(*(part.whole for part in parts)),
        notes={metric: note for part in parts for metric, note in part.notes.items()},
        unmeasured={metric: why for part in parts for metric, why in part.unmeasured.items()},
    )
