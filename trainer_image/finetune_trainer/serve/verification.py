"""Whether a loaded version answers as its evaluation recorded. Pure.

The evaluation stored the answers of the base model and of the tuned model to held-out questions.
The same questions are asked again, and the answers are compared with both.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.metrics.catalog import choose_metrics, measure
from finetune_trainer.model.answers import compose
from finetune_trainer.statistics.bounded import confidence_of_mean
from finetune_trainer.statistics.claims import doubt_of_equality
from finetune_trainer.statistics.confidence import Interval

NUM_QUESTIONS = 50
"""Questions to ask; all, if an evaluation has fewer."""
TIES_PER_QUESTION = 0.02
TIES_PER_WORD = 0.005
"""Ties of arithmetic: two next tokens are equally likely, and another batch or kernel decides
otherwise. So many answers may differ, per question and per word that agreed until then."""
CERTAINTY = 0.99
NUM_PERMUTATIONS = 2000
MAX_DIFFERING = 5
_TEXT_METRICS = (
    *("exactMatch", "jsonEqual", "jsonFieldF1", "jsonValid", "rougeL", "chrF", "bleu", "contains"),
)
"""Metrics of texts alone, which need no setting of the job."""

Refusal = Literal["AnswersDiffer", "AnswersLikeBase", "NothingToCompare"]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A held-out question with the answers that the evaluation stored.

    Attributes:
        prompt: Messages, or a text.
        tools: Tools that the prompt offers, in OpenAI's shape; None for none.
        references: Accepted answers.
        base: Answer of the base model.
        tuned: Answer of the tuned model.
        group: Names the cluster of the question. Questions of one cluster are not independent.
        is_cut: The limit of tokens cut the tuned model's answer.
    """

    prompt: list[dict[str, Any]] | str
    tools: list[dict[str, Any]] | None = None
    references: tuple[str, ...] = ()
    base: str
    tuned: str
    group: str = ""
    is_cut: bool = False
    line: int = 0

    @property
    def differs(self) -> bool:
        """Whether base and tuned model answered differently."""
        return self.base != self.tuned

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the question, in hex digits."""
        return _digest(json.dumps([self.prompt, self.tools], sort_keys=True))

    def accepts(self, answer: str) -> bool:
        """Whether an answer equals the stored one. Of a cut one, the beginning is enough."""
        return answer == self.tuned or (self.is_cut and answer.startswith(self.tuned))


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the answers show.

    Attributes:
        reason: Why the version is refused; None if it is verified.
        message: The verdict with its numbers, as a sentence.
        num_asked: Questions that were asked.
        num_equal: Answers that equal the stored ones of the tuned model.
        num_like_base: Answers that equal those of the base model, where these two differ.
        metric: Metric of ``score``; empty without one.
        score: Mean score of the answers.
        differing: Lines of some questions whose answers differ, in `samples.jsonl`.
    """

    reason: Refusal | None
    message: str
    num_asked: int = 0
    num_equal: int = 0
    num_like_base: int = 0
    metric: str = ""
    score: float | None = None
    differing: tuple[int, ...] = ()


def read_samples(text: str) -> list[Stored]:
    """Read an evaluation's ``samples.jsonl``.

    Raises:
        ValueError: It is not such a file.
    """
    stored = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            row = json.loads(line)
            if not row["prompt"]:
                continue
            stored.append(
                Stored(
                    prompt=row["prompt"],
                    tools=row.get("tools"),
                    references=tuple(row["references"]),
                    base=normalize(row["base"]),
                    tuned=normalize(row["tuned"]).rstrip("\ufffd"),
                    group=row.get("group") or str(number),
                    is_cut="tuned" in row.get("cut", ()),
                    line=number,
                )
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number} is not a sample: {error!r}") from error
    return stored


def normalize(text: str) -> str:
    """Return a text as the evaluation stores answers: composed and stripped."""
    return compose(text).strip()


def choose_questions(
    stored: Sequence[Stored], *, seed: str, number: int = NUM_QUESTIONS
) -> list[Stored]:
    """Return the questions to ask, the same for the same seed.

    Questions whose stored base and tuned answers differ come first: only these tell the two apart.
    Cut answers without any text are left out, because any answer begins like them.
    """
    useful = [each for each in stored if each.tuned or not each.is_cut]
    useful.sort(key=lambda each: (not each.differs, each.is_cut, _digest(seed + each.digest)))
    return useful[:number]


def judge(
    questions: Sequence[Stored],
    answers: Sequence[str],
    *,
    is_same_engine: bool,
    metrics: Sequence[str] = (),
) -> Verdict:
    """Decide whether a version is the one that was evaluated.

    Equal answers show it, whatever the engine. Another engine than the evaluation's may compute
    with other kernels. There a version is also accepted if its answers score within the interval of
    the stored ones, follow the questions, and are closer to the tuned model's answers than to the
    base model's.

    Args:
        questions: What was asked, as :func:`choose_questions` returns it.
        answers: One answer per question.
        is_same_engine: The engine that computed the stored answers computed these.
        metrics: Metrics of the evaluation, the most important first.
    """
    compared = _Compared(questions, [normalize(answer) for answer in answers])
    if not compared.told_apart:
        return Verdict(
            reason="NothingToCompare",
            message=(
                "The evaluation stored no question that base and tuned model answered differently, "
                "so nothing can show which of them answers. Evaluate the version with more "
                "questions, or publish one that answers differently."
            ),
            num_asked=len(questions),
        )
    metric = _choose_metric(metrics, questions)
    score = float(compared.scores(metric, compared.answers).mean())
    reason, words = _decide(compared, metric, score, is_same_engine=is_same_engine)
    return Verdict(
        reason=reason,
        message=f"{compared.describe()}; {words}.",
        num_asked=len(questions),
        num_equal=sum(compared.are_equal),
        num_like_base=compared.num_like_base,
        metric=metric,
        score=score,
        differing=tuple(stored.line for stored, _, is_equal in compared.rows() if not is_equal)[
            :MAX_DIFFERING
        ],
    )


class _Compared:
    """Answers beside the stored ones."""

    def __init__(self, questions: Sequence[Stored], answers: Sequence[str]) -> None:
        self.questions, self.answers = list(questions), list(answers)
        self.are_equal = [
            stored.accepts(answer) for stored, answer in zip(questions, answers, strict=True)
        ]
        self.told_apart = [row for row in self.rows() if row[0].differs]
        self.num_like_base = sum(answer == stored.base for stored, answer, _ in self.told_apart)
        closer = [
            1.0 if is_equal else _likeness(answer, stored.tuned) - _likeness(answer, stored.base)
            for stored, answer, is_equal in self.told_apart
        ]
        self.num_closer_tuned = sum(each > 0 for each in closer)
        self.num_closer_base = sum(each < 0 for each in closer)

    def rows(self) -> list[tuple[Stored, str, bool]]:
        """Return the questions with the answers and whether these equal the stored ones."""
        return list(zip(self.questions, self.answers, self.are_equal, strict=True))

    def describe(self) -> str:
        return (
            f"{sum(self.are_equal)} of {len(self.questions)} answers equal the evaluation's; of "
            f"{len(self.told_apart)} that tell base and tuned model apart, "
            f"{self.num_closer_tuned} are the tuned model's or closer to it, "
            f"{self.num_closer_base} the base model's or closer to it"
        )

    @property
    def num_ties_allowed(self) -> int:
        """Answers that may differ by ties of arithmetic alone."""
        num_words = sum(_count_agreeing(stored.tuned, answer) for stored, answer, _ in self.rows())
        return int(TIES_PER_QUESTION * len(self.questions) + TIES_PER_WORD * num_words)

    @property
    def follow_questions(self) -> bool:
        """Whether the answers fit the stored answers of their own questions best.

        A permutation test: answers that ignore the questions fit those of others as well.
        """
        bags = [Counter(answer.split()) for answer in self.answers]
        stored = [Counter(each.tuned.split()) for each in self.questions]
        likeness = np.array([[_overlap(a, b) for b in stored] for a in bags])
        rng = np.random.default_rng(0)
        rows = np.arange(len(bags))
        own = likeness.trace()
        drawn = [likeness[rows, rng.permutation(len(bags))].sum() for _ in range(NUM_PERMUTATIONS)]
        num_as_good = int(np.sum(np.array(drawn) >= own - 1e-9))
        return (1 + num_as_good) / (1 + NUM_PERMUTATIONS) <= 1 - CERTAINTY

    def scores(self, metric: str, texts: Sequence[str]) -> NDArray[np.float64]:
        zeros = np.zeros(len(texts))
        said = Answers(texts=texts, nll_sums=zeros, num_tokens=zeros)
        return measure(metric, said, [each.references for each in self.questions]).rows

    def interval(self, metric: str) -> Interval:
        """Return the interval of the stored answers' mean score."""
        names = list(dict.fromkeys(each.group for each in self.questions))
        clusters = np.array([names.index(each.group) for each in self.questions])
        scores = self.scores(metric, [each.tuned for each in self.questions])
        return confidence_of_mean(scores, clusters).interval(CERTAINTY)


def _decide(
    compared: _Compared, metric: str, score: float, *, is_same_engine: bool
) -> tuple[Refusal | None, str]:
    num_apart = len(compared.told_apart)
    if 2 * compared.num_closer_tuned <= num_apart:
        is_base = 2 * compared.num_closer_base > num_apart
        return (
            "AnswersLikeBase" if is_base else "AnswersDiffer",
            "a version that was loaded whole sides with the tuned model",
        )
    num_different = len(compared.questions) - sum(compared.are_equal)
    allowed = compared.num_ties_allowed
    if num_different <= allowed:
        return None, f"ties of arithmetic may make {allowed} differ"
    if is_same_engine:
        return "AnswersDiffer", f"ties of arithmetic make at most {allowed} differ on one engine"
    doubt = doubt_of_equality(compared.num_closer_tuned, compared.num_closer_base)
    if doubt > 1 - CERTAINTY:
        return "AnswersDiffer", "this does not show that the tuned model answers"
    if not compared.follow_questions:
        return "AnswersDiffer", "the answers do not follow the questions"
    interval = compared.interval(metric)
    words = (
        f"{metric} is {score:.4f}, that of the evaluation's answers to the same questions "
        f"{interval.value:.4f} ({interval.low:.4f} to {interval.high:.4f})"
    )
    is_within = interval.low - 1e-9 <= score <= interval.high + 1e-9
    return None if is_within else "AnswersDiffer", words


def _choose_metric(metrics: Sequence[str], questions: Sequence[Stored]) -> str:
    fitting = choose_metrics([each.references for each in questions], None)
    return next(name for name in [*metrics, *fitting, "chrF"] if name in _TEXT_METRICS)


def _likeness(answer: str, other: str) -> float:
    return 1.0 if answer == other else _overlap(Counter(answer.split()), Counter(other.split()))


def _overlap(first: Mapping[str, int], second: Mapping[str, int]) -> float:
    """Return the F1 of two bags of words; two empty ones are equal."""
    total = sum(first.values()) + sum(second.values())
    common = sum(min(count, second.get(word, 0)) for word, count in first.items())
    return 2 * common / total if total else 1.0


def _count_agreeing(expected: str, got: str) -> int:
    """Return the words up to where two answers part, with the one that parts them."""
    words, others = expected.split(), got.split()
    for number, (word, other) in enumerate(zip(words, others, strict=False)):
        if word != other:
            return number + 1
    return max(1, min(len(words), len(others)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
