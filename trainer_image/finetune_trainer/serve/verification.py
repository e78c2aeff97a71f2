"""Whether a loaded version answers as its evaluation recorded. Pure.

The evaluation stored the answers of the base model and of the tuned model to held-out questions.
The same questions are asked again, and the answers are compared with both.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.metrics.catalog import choose_metrics, measure
from finetune_trainer.model.answers import compose

NUM_QUESTIONS = 60
"""Questions to ask; all, if an evaluation has fewer."""
QUESTIONS_PER_DIFFERENCE = 60
"""For each of so many questions one answer may differ without a tie."""
TIE = 0.25
TIE_OF_OTHER_ENGINE = 0.4
"""Largest difference of two tokens' log-probabilities that is a tie. In bfloat16 a logit of 16 to
32 has steps of 0.125, and another batch moves two of them by one step. Between bfloat16 and float32
all ties that were measured were below 0.3."""
LATE_SHARE = 0.1
"""Answers that may differ where the tie was in reasoning, as a share of the questions."""
MIN_CUT_WORDS = 5
"""Any answer may begin like a stored one that was cut after fewer words."""
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
        is_cut: The limit of tokens cut the tuned model's answer.
    """

    prompt: list[dict[str, Any]] | str
    tools: list[dict[str, Any]] | None = None
    references: tuple[str, ...] = ()
    base: str
    tuned: str
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
        """Whether an answer equals the stored one. Of a long cut one, the beginning is enough."""
        if not self.is_cut:
            return answer == self.tuned
        begins = self.is_long and answer.startswith(self.tuned)
        return begins or answer.rstrip("\ufffd") == self.tuned

    @property
    def is_long(self) -> bool:
        """Whether few other answers begin like the stored one."""
        return len(self.tuned.split()) >= MIN_CUT_WORDS


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """A token of an answer.

    Attributes:
        text: Its text.
        logprob: Its log-probability.
        likeliest: Texts and log-probabilities of the likeliest tokens at its place.
    """

    text: str
    logprob: float
    likeliest: Sequence[tuple[str, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An answer of a served version.

    Attributes:
        text: The answer, normalized.
        gap: Log-probability of the chosen token over that of the stored one, where the answers
            part, and infinite if that is none of the likeliest; None where they do not part, or
            where nothing shows it.
        is_late: ``gap`` is the least one in the reasoning before the answer. Evaluations do not
            store theirs.
    """

    text: str
    gap: float | None = None
    is_late: bool = False


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
    stored: Sequence[Stored], *, seed: str, number: int = NUM_QUESTIONS, is_limit_known: bool = True
) -> list[Stored]:
    """Return the questions to ask, the same for the same seed.

    Questions whose stored base and tuned answers differ come first: only these tell the two apart.
    Cut answers without any text are left out, because any answer begins like them, and short ones
    if nobody knows how long answers may be.
    """
    useful = [
        each
        for each in stored
        if not each.is_cut or (each.tuned and (is_limit_known or each.is_long))
    ]
    useful.sort(key=lambda each: (not each.differs, each.is_cut, _digest(seed + each.digest)))
    return useful[:number]


def read_answer(stored: Stored, text: str, tokens: Sequence[Token], *, has_ended: bool) -> Answer:
    """Return an answer with how near it was to the stored one where the two part.

    Only the first difference counts: after a tie the rest may be another text.

    Args:
        stored: The question.
        text: What the evaluation takes for the answer.
        tokens: All tokens that were generated; empty if the engine tells none.
        has_ended: The model ended the answer, no limit.
    """
    text = normalize(text)
    wanted, said = _squeeze(stored.tuned), _squeeze(text)
    if not tokens or wanted == said:
        return Answer(text=text)
    texts = [_squeeze(token.text) for token in tokens]
    has_end = has_ended and "".join(texts[:-1]).endswith(said)
    whole = "".join(texts[:-1] if has_end else texts)
    if not whole.endswith(said):
        return Answer(text=text)
    fork = _Fork.of(stored.tuned, said, end=tokens[-1].text if has_end else None)
    begin = len(said) - len(whole)
    gaps, early = [], []
    for token, squeezed in zip(tokens, texts, strict=True):
        others = [each for each in token.likeliest if each[0] != token.text]
        if begin < 0:
            early += [token.logprob - logprob for _, logprob in others]
        elif begin <= fork.place:
            size = len(squeezed)
            gaps += [token.logprob - p for other, p in others if fork.leads(other, begin, size)]
        begin += len(squeezed)
    gap = min(gaps, default=math.inf)
    if early and gap > TIE:
        return Answer(text=text, gap=min(early), is_late=True)
    return Answer(text=text, gap=gap)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fork:
    """Where an answer parts from the stored one.

    Spaces are not counted, because some engines leave them out of tokens.

    Attributes:
        wanted: The stored answer.
        place: Characters that agree.
        has_space: Space comes next in the stored answer.
        end: Text of the token that ends answers; None if it is not known.
    """

    wanted: str
    place: int
    has_space: bool
    end: str | None

    @classmethod
    def of(cls, stored: str, said: str, *, end: str | None) -> _Fork:
        """Compare a stored answer with another one, of which spaces are left out."""
        wanted = _squeeze(stored)
        pairs = enumerate(zip(wanted, said, strict=False))
        ends = min(len(wanted), len(said))
        place = next((at for at, (one, other) in pairs if one != other), ends)
        places = [number for number, each in enumerate(stored) if not each.isspace()]
        before = stored[: places[place]] if place < len(places) else ""
        has_space = before != before.rstrip()
        return cls(wanted=wanted, place=place, has_space=has_space, end=end)

    def leads(self, text: str, begin: int, size: int) -> bool:
        """Return whether the stored answer may go on with another token than the answer did.

        Args:
            text: Text of the other token.
            begin: Where both tokens begin.
            size: Characters of the token that the answer has.
        """
        other = _squeeze(text)
        if other and self.wanted.startswith(other, begin):
            return begin + max(size, len(other)) > self.place
        if begin != self.place:
            return False
        if self.place == len(self.wanted):
            return text == self.end
        # A token without text is the beginning of a character that several tokens make.
        return not other and (self.has_space if text else self.wanted[self.place] > "\x7f")


def _squeeze(text: str) -> str:
    return "".join(text.split())


def judge(
    questions: Sequence[Stored],
    answers: Sequence[Answer],
    *,
    is_same_engine: bool,
    metrics: Sequence[str] = (),
) -> Verdict:
    """Decide whether a version is the one that was evaluated.

    Equal answers show it, whatever the engine. Answers may differ where the stored one was as
    likely, and one in 60 anyway. Another engine than the evaluation's computes with other kernels,
    so that its ties are wider.

    Args:
        questions: What was asked, as :func:`choose_questions` returns it.
        answers: One answer per question.
        is_same_engine: The engine that computed the stored answers computed these.
        metrics: Metrics of the evaluation, the most important first.
    """
    compared = _Compared(questions, answers)
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
    tie = TIE if is_same_engine else TIE_OF_OTHER_ENGINE
    reason, words = _decide(compared, tie)
    return Verdict(
        reason=reason,
        message=f"{compared.describe()}; {words}.",
        num_asked=len(questions),
        num_equal=sum(compared.are_equal),
        num_like_base=compared.num_like_base,
        metric=metric,
        score=compared.score(metric),
        differing=tuple(stored.line for stored, _, is_equal in compared.rows() if not is_equal)[
            :MAX_DIFFERING
        ],
    )


class _Compared:
    """Answers beside the stored ones."""

    def __init__(self, questions: Sequence[Stored], answers: Sequence[Answer]) -> None:
        self.questions, self.answers = list(questions), list(answers)
        self.are_equal = [
            stored.accepts(answer.text) for stored, answer in zip(questions, answers, strict=True)
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
        texts = [answer.text for answer in self.answers]
        return list(zip(self.questions, texts, self.are_equal, strict=True))

    def describe(self) -> str:
        return (
            f"{sum(self.are_equal)} of {len(self.questions)} answers equal the evaluation's; of "
            f"{len(self.told_apart)} that tell base and tuned model apart, "
            f"{self.num_closer_tuned} are the tuned model's or closer to it, "
            f"{self.num_closer_base} the base model's or closer to it"
        )

    def count_ties(self, tie: float) -> tuple[int, int]:
        """Return the answers that differ by a tie in them, and by one in their reasoning."""
        ties = [
            answer.is_late
            for answer, is_equal in zip(self.answers, self.are_equal, strict=True)
            if not is_equal and answer.gap is not None and answer.gap <= tie + 1e-3
        ]
        return len(ties) - sum(ties), sum(ties)

    def score(self, metric: str) -> float:
        """Return the mean score of the answers."""
        texts, zeros = [each.text for each in self.answers], np.zeros(len(self.answers))
        said = Answers(texts=texts, nll_sums=zeros, num_tokens=zeros)
        rows = measure(metric, said, [each.references for each in self.questions]).rows
        return float(rows.mean())


def _decide(compared: _Compared, tie: float) -> tuple[Refusal | None, str]:
    num_apart, num_asked = len(compared.told_apart), len(compared.questions)
    if 2 * compared.num_closer_tuned <= num_apart:
        is_base = 2 * compared.num_closer_base > num_apart
        return (
            "AnswersLikeBase" if is_base else "AnswersDiffer",
            "a version that was loaded whole sides with the tuned model",
        )
    num_ties, num_late = compared.count_ties(tie)
    num_late = min(num_late, int(LATE_SHARE * num_asked))
    num_left = num_asked - sum(compared.are_equal) - num_ties - num_late
    allowed = num_asked // QUESTIONS_PER_DIFFERENCE
    return (
        None if num_left <= allowed else "AnswersDiffer",
        f"{num_ties + num_late} part where two tokens were as likely, {num_left} elsewhere, of "
        f"which {allowed} may",
    )


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


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
