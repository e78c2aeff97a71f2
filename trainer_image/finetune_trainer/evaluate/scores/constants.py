"""Answers that need no knowledge: what a model must beat to meet a level. Pure.

One text can score high: the label that most rows have, all labels listed in one answer where it is
enough to contain the right one, ``{}`` where it is enough to be JSON. A copy of the prompt also
scores high where answers are like it, or a template that its words fill. A model that has learned
no more meets no goal and no gate.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from finetune_api.v1alpha1.evaluation.gates import Gate
from finetune_api.v1alpha1.evaluation.scoring import ANSWER_METRICS, JUDGE_METRICS
from finetune_trainer.data.answers.label_text import MAX_LABELS
from finetune_trainer.data.answers.values import read_json_value
from finetune_trainer.errors import UserError
from finetune_trainer.evaluate.metrics.answers import Measured, References
from finetune_trainer.evaluate.metrics.catalog import Settings
from finetune_trainer.evaluate.metrics.labels import (
    looks_like_labels,
    normalize_label,
)
from finetune_trainer.evaluate.metrics.structured import looks_like_json
from finetune_trainer.evaluate.metrics.words import split_words
from finetune_trainer.evaluate.questions import Question, group_questions, text_of_prompt
from finetune_trainer.evaluate.scores.comparing import Ints, value_over
from finetune_trainer.evaluate.scores.copies import (
    PUT_IN,
    SLOT,
    divide,
    fill,
    find_frame,
    list_copies,
    make_templates,
)
from finetune_trainer.evaluate.scores.trivial import MOST_FREQUENT, score_texts
from finetune_trainer.statistics.confidence import Confidence
from finetune_trainer.verdict.hypotheses import Rival

NUM_FREQUENT, NUM_SPREAD = 3, 24
"""Texts of the data that are tried: the most frequent ones, and others."""
NUM_SCREENED, NUM_FINALISTS = 64, 3
"""Questions that all constants are scored on, and how many of the best are scored on every one."""
NUM_COSTLY_SCREENED, MOST_KINDS = 16, 24
"""Questions that one constant of each kind is scored on by a metric of the user's own, which may be
slow or cost money, and the kinds that are tried at most."""
MOST, MOST_STOCK, LIKE = 0.5, 0.8, 0.9
"""A judge's verdicts say nothing of a model that answers more than the first share with one text,
or more than the second with three. Answers that share the third of their words are one text."""

OWN, OWN_TOO = "the tuned model's own most frequent answer", "an answer of the tuned model"


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """One answer to everything, or one that is made of the prompt's words alone.

    Attributes:
        what: What it is, in words; never the text, which may be that of a row.
        text: The answer; with slots, where words of the prompt are put in.
        make: Returns the answer to a question by its number, where it is not the same.
    """

    what: str
    text: str = ""
    make: Callable[[int], str] | None = None

    def answer(self, places: Ints) -> list[str]:
        """Return the answers to some questions, by their numbers."""
        return [self.make(place) if self.make else self.text for place in places.tolist()]


def tests_a_level(gate: Gate) -> bool:
    """Return whether a gate says that answers are good, which one text must not meet.

    "May lose at most so much" says nothing of how good they are, and neither does ``atMost``.
    """
    if gate.metric not in ANSWER_METRICS | JUDGE_METRICS | {"preferenceAccuracy"}:
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
    trained: Sequence[tuple[str, str]] = (),
    settings: Settings,
) -> tuple[Constant, Measured] | None:
    """Return the constant that scores best, with its scores on all questions.

    Args:
        metric: The metric.
        asked: The questions.
        own: What the tuned model answered.
        trained: Prompts and answers of the train side, drawn by chance.
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

    references = [question.references for question in asked]
    constants = list_constants(references, own, [answer for _, answer in trained])
    prompts = [text_of_prompt(question.prompt) for question in asked]
    frame = find_frame(prompts)
    parts = [divide(prompt, frame) for prompt in prompts]
    own_too = make_templates(list(zip(prompts, own, strict=False)), frame)
    constants += [
        replace(each, what=each.what + PUT_IN, make=partial(fill, each.text, parts))
        for each in list_constants(references, own_too, make_templates(trained, frame))
        if SLOT in each.text
    ]
    constants += [Constant(what=what, make=make) for what, make in list_copies(asked)]
    said = {Counter(each).most_common(1)[0][0] for each in (own, own_too) if each} - {""}
    groups = group_questions(asked)
    return _choose_best(constants, score, groups, said, is_costly=metric == "custom")


def _choose_best(
    constants: Sequence[Constant],
    score: Callable[[Constant, Ints], Measured | None],
    groups: Sequence[Ints],
    said: Set[str],
    *,
    is_costly: bool,
) -> tuple[Constant, Measured] | None:
    """Return the constant that scores best.

    All are scored on some questions, the best of these on all. So are what the tuned model says
    most often and the best of its other answers: a model that says little else is hardly better.

    Args:
        constants: What is tried.
        score: Scores one on some of the questions, by their numbers; None where it cannot.
        groups: The questions of each group, by their numbers.
        said: What the tuned model says most often, and its most frequent template.
        is_costly: One of each kind is scored, on few questions, and only the best on all.
    """
    number = sum(map(len, groups))
    every = np.arange(number)
    most = NUM_COSTLY_SCREENED if is_costly else NUM_SCREENED
    few = np.unique(np.linspace(0, number - 1, min(number, most)).astype(np.int64))
    screened = []
    for constant in _one_of_each(constants) if is_costly else constants:
        scored = score(constant, few)
        if scored is not None:
            screened.append((scored.over(np.arange(len(few))), constant))
    screened.sort(key=lambda pair: (-pair[0], pair[1].what.endswith(PUT_IN)))
    ranked = [each for _, each in screened]
    if is_costly:  # the next best only where the metric fails on one of all questions
        scores = ((each, score(each, every)) for each in ranked[:NUM_FINALISTS])
        return next(((each, found) for each, found in scores if found is not None), None)
    others = ranked[NUM_FINALISTS:]
    chosen = [each for each in others if each.text in said]
    chosen += _one_of_each(each for each in others if each.what.startswith(OWN_TOO))
    finalists = [(each, score(each, every)) for each in (*ranked[:NUM_FINALISTS], *chosen)]
    known = [(each, found) for each, found in finalists if found is not None]
    return max(known, key=lambda pair: value_over(pair[1], groups), default=None)


def _one_of_each(constants: Iterable[Constant]) -> list[Constant]:
    """Return the first constant of each kind."""
    first: dict[str, Constant] = {}
    for constant in constants:
        first.setdefault(constant.what, constant)
    return list(first.values())[:MOST_KINDS]


def judge_alike(texts: Sequence[str], asked: Sequence[Question]) -> Rival | None:
    """Return why a judge's verdicts say nothing: stock texts answer most questions.

    Words of its prompt do not make an answer another one, unless it has few others.

    Args:
        texts: The answers.
        asked: The question of each.
    """
    said = list(map(_own_words, texts, asked))
    tried = [words for words, _ in Counter(said).most_common(NUM_FREQUENT)]
    tried += said[:: max(1, -(-len(said) // NUM_SPREAD))]
    left = [said]
    for _ in range(NUM_FREQUENT):
        rests = ([each for each in left[-1] if not _are_alike(words, each)] for words in tried)
        left.append(min(rests, key=len))
    one, several = (len(said) - len(left[number]) for number in (1, NUM_FREQUENT))
    if one <= MOST * len(said) and several <= MOST_STOCK * len(said):
        return None
    many = f"one text answers {one}" if one > MOST * len(said) else f"three texts answer {several}"
    return Rival(
        problem=f"{many} of the {len(texts)} judged questions, and a judge's "
        "verdicts on it say nothing of the model: train on answers that differ, or compare with "
        "references, as by exactMatch"
    )


def _own_words(text: str, question: Question) -> frozenset[str]:
    words = frozenset(split_words(text))
    own = words.difference(split_words(text_of_prompt(question.prompt)))
    return own if 2 * len(own) >= len(words) else words


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
    """Return a JSON object in which each key has the value that it has most often.

    It is empty where one of them is nested too deeply.
    """
    values = [read_json_value(text, decimals=False) for text in texts]
    try:
        usual = _usual_value([value for value in values if isinstance(value, dict)])
        return json.dumps(usual, ensure_ascii=False)
    except RecursionError:
        return "{}"


def _usual_value(values: Sequence[Any]) -> Any:
    """Return the most frequent one of some values, key by key where they are objects."""
    if all(isinstance(value, dict) for value in values):
        items: dict[str, list[Any]] = {}
        for key, item in ((key, item) for value in values for key, item in value.items()):
            items.setdefault(key, []).append(item)
        return {key: _usual_value(several) for key, several in items.items()}
    counts = Counter(json.dumps(value, ensure_ascii=False) for value in values)
    return json.loads(counts.most_common(1)[0][0])
