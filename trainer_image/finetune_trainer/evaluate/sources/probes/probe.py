"""One probe: what both models are given, and what is made of what they say. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from finetune_api.v1alpha1.evaluation.probing import ProbeMetric
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.tokenized import TokenizedQuestions
from finetune_trainer.model.encoding import ChatTokenizer, TokenizedExample
from finetune_trainer.planning.answering import REASONING_TOKENS

ANSWER_TOKENS = 32
"""Longest answer to most probes: refusals come at once, and instructions ask for little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """What one model said to one probe.

    Attributes:
        answers: Its answers to the probe's prompts.
        nats: Summed negative log-likelihood of each of the probe's texts.
        is_unended: Whether reasoning had no end before one of the answers: nothing was said then.
    """

    answers: Sequence[str]
    nats: Sequence[float]
    is_unended: bool = False


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
        answer_tokens: Longest answer to a prompt, with reasoning before it.
        judge: Returns the score of one model, from what it said.
    """

    metric: ProbeMetric
    cluster: str
    shown: str
    prompts: Sequence[list[int]] = ()
    texts: Sequence[TokenizedExample] = ()
    num_bytes: int = 0
    answer_tokens: int = ANSWER_TOKENS
    judge: Callable[[Heard], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """One probe with what both models said to it.

    Attributes:
        metric: What it counts for.
        shown: What was asked.
        base: The base model's answers.
        tuned: The tuned model's.
        base_score: The base model's score.
        tuned_score: The tuned model's.
    """

    metric: str
    shown: str
    base: Sequence[str]
    tuned: Sequence[str]
    base_score: float
    tuned_score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Probes:
    """All probes of a job.

    Attributes:
        items: The probes.
        whole: Metrics whose probes are all that there are, and no sample of more: their figures
            are facts, without intervals.
        num_unknown: Of such metrics, what belongs to them and could not be asked: it may be so or
            so, and the facts have bounds.
        notes: Of metrics that were asked for and are not measured, or not whole, why.
        unmeasured: Of metrics that could not be measured though there may be something, why: what
            asks for them is missed.
    """

    items: Sequence[Probe] = ()
    whole: frozenset[str] = frozenset()
    num_unknown: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    unmeasured: Mapping[str, str] = field(default_factory=dict)

    def encode(self, context: int | None = None) -> TokenizedQuestions | None:
        """Return all prompts and texts, in the order of the probes; None if there are none.

        Args:
            context: Tokens that the model takes: reasoning gets what is left of them. None where
                nobody knows.
        """
        if not self.items:
            return None
        texts = [text for probe in self.items for text in probe.texts]
        asks = [(prompt, probe) for probe in self.items for prompt in probe.prompts]
        limits = [
            probe.answer_tokens
            if context is None
            else max(ANSWER_TOKENS, min(probe.answer_tokens, context - len(prompt)))
            for prompt, probe in asks
        ]
        longest = max(limits, default=ANSWER_TOKENS)
        return TokenizedQuestions(
            examples=texts,
            owners=np.arange(len(texts)),
            prompts=[prompt for prompt, _ in asks],
            answer_tokens=longest,
            limits=[] if set(limits) <= {longest} else limits,
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
                    is_unended=not answers.unended.isdisjoint(range(first, prompts)),
                )
            )
        return heard

    def metrics(self) -> list[str]:
        """Return the metrics that are measured, in the order of their first probe."""
        return list(dict.fromkeys(probe.metric for probe in self.items))


def longest_answer_of(encoder: ChatTokenizer, prompts: Iterable[Sequence[int]]) -> int:
    """Return the longest answer to prompts: with room for reasoning where that may come first."""
    may_reason = any(map(encoder.reader.may_reason, prompts))
    return ANSWER_TOKENS + (REASONING_TOKENS if may_reason else 0)


def join(parts: Iterable[Probes]) -> Probes:
    """Put probes together."""
    parts = list(parts)
    return Probes(
        items=[item for part in parts for item in part.items],
        whole=frozenset().union(*(part.whole for part in parts)),
        num_unknown={name: number for p in parts for name, number in p.num_unknown.items()},
        notes={metric: note for part in parts for metric, note in part.notes.items()},
        unmeasured={metric: why for part in parts for metric, why in part.unmeasured.items()},
    )
