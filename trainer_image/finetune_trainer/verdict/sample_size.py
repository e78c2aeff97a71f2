"""How many held-out questions are asked where ``evaluation.maxSamples`` is ``auto``.

So many that a model which is better than asked by a margin is likely to be found so, by the bounds
of the verdict. The number depends on no answer of a model, so the bounds hold. Questions are taken
in the order of their draw: a larger number asks the same ones and more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from finetune_api.protocol.stage_results import QuestionCount
from finetune_api.v1alpha1.evaluation.gates import Gate
from finetune_api.v1alpha1.evaluation.spec import DEFAULT_SAMPLES, MOST_SAMPLES
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.data.asking import order_questions
from finetune_trainer.data.held_out import HeldOut, HeldOutSplit, counts_for, has_prompt
from finetune_trainer.statistics.needed import count_wanted
from finetune_trainer.statistics.power import MARGIN
from finetune_trainer.verdict.best_case import ADD
from finetune_trainer.verdict.hypotheses import of_gate
from finetune_trainer.verdict.sizes import Size, list_sizes

MESSAGE_CHARACTERS = 512
LEAST_OF_SLICE = 2
"""Independent prompts of a gate's slice, where there are as many; of one alone nothing varies."""


def count_questions(
    spec: FineTuneJobSpec, side: HeldOutSplit, *, has_published: bool = True
) -> QuestionCount | None:
    """Return how many held-out questions a job's evaluation asks, and why.

    Args:
        spec: The job's spec.
        side: The held-out side.
        has_published: Whether there is a version that ``overPublished`` compares with.

    Returns:
        The number; None where the job says it itself.
    """
    if spec.evaluation.max_samples != "auto":
        return None
    return choose_number(spec, side.questions, has_published=has_published)


def choose_number(
    spec: FineTuneJobSpec, questions: Sequence[HeldOut], *, has_published: bool = True
) -> QuestionCount:
    """Choose how many held-out questions are asked; see :func:`count_questions`.

    The number is the least at which all hypotheses have their independent prompts, and every
    gate's slice has two. It is at most the number of held-out questions, and at most 100,000. It is
    at least ``evaluation.minPrompts``, counted over questions that count for the goal, and at least
    ``evaluation.review.sample``, as far as there are so many questions.

    Questions of one group count once together, as in the verdict.

    Args:
        spec: The job's spec.
        questions: The held-out questions, in the order of their first row.
        has_published: As above.
    """
    evaluation, is_counted = spec.evaluation, counts_for(spec.goal)
    order = order_questions([each.group for each in questions], seed=spec.dataset.split.seed)
    side = HeldOutSplit(questions=questions, order=order[:MOST_SAMPLES])
    drawn = side.drawn(MOST_SAMPLES)
    sizes = list_sizes(spec, questions, has_published=has_published) or [_width(questions)]
    sizes += _slices(evaluation.gates, side)
    judged = [(size, size.most_judged(spec)) for size in sizes if size.wanted]
    tallies = [
        _Tally(size=size, wanted=wanted, reached_at=side.number_with(wanted, size.sees))
        for size, wanted in judged
    ]
    prompts = (number for number, each in enumerate(drawn, start=1) if is_counted(each))
    least = [
        evaluation.review.sample if evaluation.review else 0,
        DEFAULT_SAMPLES if any(size.wanted is None for size in sizes) else 0,
        next(islice(prompts, evaluation.min_prompts - 1, None), len(drawn)),
        *(each.reached_at or len(drawn) for each in tallies),
    ]
    number = min(len(drawn), max(least))
    words = f"evaluation.maxSamples auto: {number:,} of {len(questions):,} held-out questions are"
    words = f"{words} asked{_word(sizes, tallies, side, number)}"
    if not has_published and any(gate.over_published is not None for gate in evaluation.gates):
        words += "; overPublished takes none, for nothing is published yet"
    return QuestionCount(
        number=number,
        enough=not any(each.is_short for each in tallies) and all(s.is_possible for s in sizes),
        message=words
        if len(words) <= MESSAGE_CHARACTERS
        else words[: MESSAGE_CHARACTERS - 3] + "...",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tally:
    """A wanted size, and the drawn question at which it is reached.

    Attributes:
        size: What is wanted.
        wanted: Independent prompts, as many as a judge is asked about.
        reached_at: Drawn questions that have as many; None where all together have fewer.
    """

    size: Size
    wanted: int
    reached_at: int | None

    @property
    def is_capped(self) -> bool:
        """Whether the judge is asked too little for any number of questions to be enough."""
        return self.wanted < (self.size.wanted or 0)

    @property
    def is_short(self) -> bool:
        """Whether it has too few prompts."""
        return self.is_capped or self.reached_at is None


def _slices(gates: Sequence[Gate], side: HeldOutSplit) -> Iterator[Size]:
    """Yield what each gate's slice wants, which is no more than there is."""
    for gate in gates:
        if gate.slice is not None and "." not in gate.metric:
            sees = of_gate(gate).sees
            wanted = min(LEAST_OF_SLICE, len(side.groups(MOST_SAMPLES, sees)))
            words = (
                f"{wanted} independent prompt(s) are of the slice of gate {gate.name}, the least "
                "that tell anything of it"
            )
            yield Size(metric="", sees=sees, wanted=wanted, words=words)


def _width(questions: Sequence[HeldOut]) -> Size:
    """Return what is wanted where nothing is asked for: intervals that are not too wide."""
    answered = sum(question.has_prompt for question in questions)
    if 2 * answered < len(questions):
        return Size(
            metric="",
            sees=has_prompt,
            wanted=None,
            words=(
                f"{answered:,} of the {len(questions):,} have a prompt, the others have nothing "
                "but a loss, and how much that varies is not known before it is measured"
            ),
        )
    wanted = count_wanted(MARGIN)
    return Size(
        metric="",
        sees=has_prompt,
        wanted=wanted,
        words=(
            f"as no goal or gate takes a number, {wanted:,} independent prompts are wanted, so "
            f"that the 95 % interval of a share of hits reaches at most {MARGIN} to either side"
        ),
    )


def _word(sizes: Sequence[Size], tallies: Sequence[_Tally], side: HeldOutSplit, number: int) -> str:
    """Return why so many questions are asked, or why they are too few."""

    def lack(tally: _Tally) -> float:
        """Return wanted prompts divided by independent prompts."""
        return (tally.size.wanted or 0) / max(1, len(side.groups(number, tally.size.sees)))

    never = next((size for size in sizes if not size.is_possible), None)
    decided = next((each for each in tallies if each.reached_at == number), None)
    unknown = next((size for size in sizes if size.wanted is None), None)
    worst = max((each for each in tallies if each.is_short), key=lack, default=None)
    shown = worst or decided
    groups = side.groups(number, shown.size.sees) if shown else Counter[str]()
    together = ""
    if len(groups) < groups.total():
        together = (
            f"some questions belong together, so that these {groups.total():,} count as "
            f"{len(groups):,}"
        )
    if worst is not None:
        why = f"{together or f'there are {groups.total():,}'}: {ADD}"
        if worst.reached_at is not None:
            limit = f"the judge is asked about {worst.wanted:,}"
            why = f"{limit}: raise evaluation.judge.sample and maxCalls"
        return f", too few: {worst.size.words}, and {why}"
    if never is not None:
        return f", too few: {never.words}: ask for less, or for less certainty"
    if decided is not None:
        return f": {decided.size.words}{together and f'; {together}'}"
    if unknown is not None:
        return f": {unknown.words}, so {DEFAULT_SAMPLES} are, where there are as many"
    return ", the least by evaluation.minPrompts and evaluation.review.sample"
