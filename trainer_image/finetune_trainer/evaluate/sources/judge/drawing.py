"""Which questions a judge is asked, about which answers, in which words. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.evaluation.judging import Judge
from finetune_api.v1alpha1.evaluation.scoring import BaselineName
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.words import is_equal
from finetune_trainer.evaluate.questions import Question
from finetune_trainer.evaluate.scores.prompt_choice import likest_way, ways_of
from finetune_trainer.evaluate.sources.judge.wording import (
    compare_words,
    read_request,
    rubric_of,
    score_words,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """The questions that are put to the judge, in the order they are.

    Attributes:
        places: Their numbers among those that the models were asked.
        questions: The questions.
        way: How the base model was asked for the answers that are judged.
        base: Its answers.
        tuned: The tuned model's.
    """

    places: Sequence[int]
    questions: Sequence[Question]
    way: BaselineName
    base: Sequence[str]
    tuned: Sequence[str]

    def first(self, number: int) -> Drawn:
        """Return the first of them."""
        return replace(
            self,
            places=self.places[:number],
            questions=self.questions[:number],
            base=self.base[:number],
            tuned=self.tuned[:number],
        )

    def is_alike(self, row: int) -> bool:
        """Whether both models gave one answer: there is nothing to compare."""
        return is_equal(self.base[row], self.tuned[row])


def draw(job: ResolvedJob, judge: Judge, comparison: Comparison) -> Drawn:
    """Draw questions at random, in random order: a part that a cap leaves stands for all.

    The base model's answers are those of the way of asking whose answers are most like the
    references, over the questions that are drawn.

    Args:
        job: The effective job.
        judge: Its ``spec.evaluation.judge``.
        comparison: What both models said.
    """
    asked = comparison.asked
    chance = random.Random(job.spec.dataset.split.seed)  # noqa: S311 - no secret
    places = chance.sample(range(len(asked)), min(judge.sample, len(asked)))
    way = likest_way(comparison, places)
    base = ways_of("chrF", comparison)[way]
    return Drawn(
        places=places,
        questions=[asked[i] for i in places],
        way=way,
        base=[base.texts[i] for i in places],
        tuned=[comparison.tuned.texts[i] for i in places],
    )


def word_rows(judge: Judge, drawn: Drawn) -> list[list[str]]:
    """Return what the judge is asked of each question: nothing where there is nothing to compare.

    ``Pairwise`` shows each pair in both orders. ``Rubric`` shows each answer by itself, and equal
    ones are one question.
    """
    rubric = rubric_of(judge)
    rows = []
    for row, question in enumerate(drawn.questions):
        base, tuned = drawn.base[row], drawn.tuned[row]
        reference = question.references[0] if judge.show_reference else None
        request = read_request(question.prompt or "", question.tools, reference)
        if judge.mode == "Rubric":
            rows.append([score_words(request, answer, rubric) for answer in (base, tuned)])
        elif drawn.is_alike(row):
            rows.append([])
        else:
            orders = ((base, tuned), (tuned, base))
            rows.append([compare_words(request, *order, rubric) for order in orders])
    return rows
