"""Answers that need no knowledge: what a model must beat to meet a level. Pure.

One text can score high: the label that most rows have, all labels listed in one answer where it is
enough to contain the right one, ``{}`` where it is enough to be JSON. So can the prompt said again,
where answers are much like it. A model that has learned no more meets no goal and no gate.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from finetune_api.v1alpha1.evaluation.gates import Gate
from finetune_api.v1alpha1.evaluation.scoring import ANSWER_METRICS, JUDGE_METRICS
from finetune_trainer.data.answers.label_text import MAX_LABELS
from finetune_trainer.data.answers.values import ABSENT, read_json_value
from finetune_trainer.errors import UserError
from finetune_trainer.evaluate.metrics.answers import Measured, References
from finetune_trainer.evaluate.metrics.catalog import Settings
from finetune_trainer.evaluate.metrics.labels import (
    looks_like_labels,
    normalize_label,
)
from finetune_trainer.evaluate.metrics.structured import looks_like_json
from finetune_trainer.evaluate.questions import Question
from finetune_trainer.evaluate.scores.comparing import Ints
from finetune_trainer.evaluate.scores.trivial import (
    MOST_FREQUENT,
    PROMPT,
    repeat_prompts,
    score_texts,
)
from finetune_trainer.statistics.confidence import Confidence
from finetune_trainer.verdict.hypotheses import Rival

NUM_FREQUENT = 3
NUM_SPREAD = 24
"""Texts of the data that are tried beside the most frequent ones."""
NUM_SCREENED = 64
"""Questions that all constants are scored on; the best of them are scored on every question."""
NUM_FINALISTS = 3
NUM_COSTLY_SCREENED = 16
"""Questions that one constant of each kind is scored on by a metric of the user's own, which may be
slow or cost money."""
MOST = 0.5
"""A judge's verdicts say nothing of a model that answers more than this share with one text."""

LIKE = 0.9
"""Share of their words that two answers have in common which are taken for one."""

OWN = "the tuned model's own most frequent answer"
OWN_TOO = "an answer of the tuned model"


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """One answer to everything, or the prompt itself.

    Attributes:
        what: What it is, in words; never the text, which may be that of a row.
        text: The answer.
        texts: The answer to each question, where it is not the same.
    """

    what: str
    text: str = ""
    texts: Sequence[str] | None = None

    def answer(self, places: Ints) -> list[str]:
        """Return the answers to some questions, by their numbers."""
        if self.texts is None:
            return [self.text] * len(places)
        return [self.texts[place] for place in places.tolist()]


def tests_a_level(gate: Gate) -> bool:
    """Return whether a gate says that answers are good, which one text must not meet.

    "May lose at most so much" says nothing of how good they are, and neither does ``atMost``.
    """
    if gate.metric not in ANSWER_METRICS | JUDGE_METRICS:
        return False
    if gate.at_least is not None:
        return float(gate.at_least) > 0
    gain = gate.over_base if gate.over_base is not None else gate.over_published
    return gain is not None and float(gain) >= 0


def content_metric(references: References) -> str:
    """Return the metric that compares the content of answers, whatever their form."""
    if looks_like_json(references):
        return "jsonFieldF1"
    return "macroF1" if looks_like_labels(references) else "rougeL"


def list_constants(
    references: References, own: Sequence[str], trained: Sequence[str] = ()
) -> list[Constant]:
    """Return the answers that one would try who gives the same one to everything.

    Of held-out answers those are tried that several questions accept: who gives one of the others
    must know the question.

    Args:
        references: Accepted answers of each question.
        own: What the tuned model answered: a constant that no row has is found there.
        trained: Answers of the train side, drawn by chance.
    """
    found: dict[str, str] = {}
    are_labels = looks_like_labels(references)
    held_out = _by_frequency(references, least=1 if are_labels else 2)
    learned = _by_frequency([text] for text in trained)
    if are_labels and held_out:
        found[held_out[0]] = MOST_FREQUENT
        found.setdefault(" ".join(held_out[:MAX_LABELS]), "all labels in one answer")
    if looks_like_json(references):
        found.setdefault("{}", "an empty JSON object")
        usual = _usual_object([*(text for group in references for text in group), *trained])
        found.setdefault(usual, "a JSON object of the most frequent values")
    for text, count in Counter(own).most_common(NUM_FREQUENT):
        if count > 1:
            found.setdefault(text, OWN)
    # One character that changes hides a constant from a count of equal answers.
    right = {normalize_label(text) for group in references for text in group}
    others = [text for text in dict.fromkeys(own) if normalize_label(text) not in right]
    for text in _spread(others, NUM_SPREAD):
        found.setdefault(text, OWN_TOO)
    for texts, what in ((learned, "an answer of the train side"), (held_out, "a reference")):
        for text in (*texts[:NUM_FREQUENT], *_spread(texts, NUM_SPREAD)):
            found.setdefault(text, what)
    found.setdefault("", "no answer")
    return [Constant(what=what, text=text) for text, what in found.items()]


def find_best(
    metric: str,
    asked: Sequence[Question],
    *,
    own: Sequence[str] = (),
    trained: Sequence[str] = (),
    settings: Settings,
) -> tuple[Constant, Measured] | None:
    """Return the constant that scores best, with its scores on all questions.

    Args:
        metric: The metric.
        asked: The questions.
        own: What the tuned model answered.
        trained: Answers of the train side, drawn by chance.
        settings: What the job tells metrics.

    Returns:
        The constant; None where the user's own metric scores none.
    """

    def score(constant: Constant, places: Ints) -> Measured | None:
        some = [asked[place] for place in places.tolist()]
        try:
            return score_texts(metric, constant.answer(places), some, settings)
        except UserError:
            return None

    constants = list_constants([question.references for question in asked], own, trained)
    constants.append(Constant(what=PROMPT, texts=repeat_prompts(asked)))
    return _choose_best(constants, score, len(asked), own, is_costly=metric == "custom")


def _choose_best(
    constants: Sequence[Constant],
    score: Callable[[Constant, Ints], Measured | None],
    number: int,
    own: Sequence[str],
    *,
    is_costly: bool,
) -> tuple[Constant, Measured] | None:
    """Return the constant that scores best.

    All are scored on some questions, the best of these on all. So are what the tuned model says
    most often and the best of its other answers: a model that says little else is hardly better.

    Args:
        constants: What is tried.
        score: Scores one on some of the questions, by their numbers; None where it cannot.
        number: Questions.
        own: What the tuned model answered.
        is_costly: One of each kind is scored, on few questions, and only the best on all.
    """
    every = np.arange(number)
    most = NUM_COSTLY_SCREENED if is_costly else NUM_SCREENED
    few = np.unique(np.linspace(0, number - 1, min(number, most)).astype(np.int64))
    screened = []
    for constant in _one_of_each(constants) if is_costly else constants:
        scored = score(constant, few)
        if scored is not None:
            screened.append((scored.over(np.arange(len(few))), constant))
    ranked = [each for _, each in sorted(screened, key=lambda pair: -pair[0])]
    if is_costly:  # the next best only where the metric fails on one of all questions
        scores = ((each, score(each, every)) for each in ranked[:NUM_FINALISTS])
        return next(((each, found) for each, found in scores if found is not None), None)
    said = Counter(own).most_common(1)[0][0] if own else None
    others = ranked[NUM_FINALISTS:]
    chosen = [each for each in others if each.text == said]
    chosen += [each for each in others if each.what == OWN_TOO][:1]
    finalists = [(each, score(each, every)) for each in (*ranked[:NUM_FINALISTS], *chosen)]
    known = [(each, found) for each, found in finalists if found is not None]
    return max(known, key=lambda pair: pair[1].over(every), default=None)


def _one_of_each(constants: Iterable[Constant]) -> list[Constant]:
    """Return the first constant of each kind."""
    first: dict[str, Constant] = {}
    for constant in constants:
        first.setdefault(constant.what, constant)
    return list(first.values())


def judge_alike(texts: Sequence[str]) -> Rival | None:
    """Return why a judge's verdicts say nothing: one text answers most questions."""
    said = [frozenset(text.lower().split()) for text in texts]
    tried = [words for words, _ in Counter(said).most_common(NUM_FREQUENT)]
    tried += said[:: max(1, -(-len(said) // NUM_SPREAD))]
    count = max(sum(_are_alike(words, other) for other in said) for words in tried)
    if count <= MOST * len(texts):
        return None
    return Rival(
        problem=f"one text answers {count} of the {len(texts)} judged questions, and a judge's "
        "verdicts on it say nothing of the model: train on answers that differ, or compare with "
        "references, as by exactMatch"
    )


def _are_alike(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two answers have nearly all of their words in common."""
    return one == other or len(one & other) >= LIKE * max(len(one), len(other))


def rank_at_random(references: References, tuned: Confidence) -> Rival:
    """Return labels drawn at random, of which no way of drawing is expected to score more.

    Drawn with any shares ``q`` where the rows have the shares ``p``, a label's F1 is the harmonic
    mean of the two, at most their mean; over ``K`` labels the mean of that is at most ``1/K``.

    Args:
        references: Accepted answers of each question.
        tuned: The tuned model's macro F1.
    """
    expected = expect_at_random(references)
    over = Confidence(
        value=tuned.value - expected, lower=tuned.lower - expected, upper=tuned.upper - expected
    )
    return Rival(what="labels drawn at random", score=expected, over=over)


def expect_at_random(references: References) -> float:
    """Return the macro F1 of labels drawn at random."""
    return 1 / len({normalize_label(group[0]) for group in references})


def _by_frequency(groups: Iterable[Sequence[str]], *, least: int = 1) -> list[str]:
    """Return distinct answers, those that most questions accept first, each as it first came."""
    counts: Counter[str] = Counter()
    texts: dict[str, str] = {}
    for group in groups:
        for label, text in {normalize_label(text): text for text in reversed(group)}.items():
            counts[label] += 1
            texts.setdefault(label, text)
    return [texts[label] for label, count in counts.most_common() if count >= least]


def _spread(texts: Sequence[str], number: int) -> list[str]:
    return list(texts[:: max(1, -(-len(texts) // number))])


def _usual_object(texts: Iterable[str]) -> str:
    """Return a JSON object in which each key has the value that it has most often."""
    values: dict[str, Counter[str]] = {}
    for text in texts:
        value = read_json_value(text, decimals=False)
        if value is ABSENT or not isinstance(value, dict):
            continue
        for key, item in value.items():
            values.setdefault(key, Counter())[json.dumps(item, ensure_ascii=False)] += 1
    usual = {key: json.loads(counts.most_common(1)[0][0]) for key, counts in values.items()}
    return json.dumps(usual, ensure_ascii=False)
