"""How many held-out questions are asked where ``evaluation.maxSamples`` is ``auto``.

So many that a model which is better than asked by a margin is likely to be found so, by the bounds
of the verdict. The number depends on no answer of a model, so the bounds hold. Questions are taken
in the order of their draw: a larger number asks the same ones and more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from finetune_api.protocol.stage_results import QuestionCount
from finetune_api.v1alpha1.evaluation.gates import Gate
from finetune_api.v1alpha1.evaluation.spec import DEFAULT_SAMPLES, MOST_SAMPLES
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.data.asking import order_questions
from finetune_trainer.data.held_out import HeldOut, HeldOutSplit, IsSeen, counts_for, has_prompt
from finetune_trainer.statistics.needed import count_wanted
from finetune_trainer.statistics.power import MARGIN
from finetune_trainer.verdict.best_case import ADD
from finetune_trainer.verdict.hypotheses import of_gate
from finetune_trainer.verdict.sizes import Size, list_sizes

MESSAGE_CHARACTERS = 512
LEAST_OF_SLICE = 2
"""Independent prompts of a gate's slice, where there are as many; of one alone nothing varies."""
UNEVEN = 0.25
"""What groups count less than Kish's number says, at most; without it 89 % publish, not 90."""


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

    Rows of one group count as if they were equal, which is the worst case: a sample of groups with
    ``b`` rows each counts ``sum(b) ** 2 / sum(b ** 2)`` prompts, and up to a quarter less.

    Args:
        spec: The job's spec.
        questions: The held-out questions, in the order of their first row.
        has_published: As above.
    """
    sizes = list_sizes(spec, questions, has_published=has_published) or [_width(questions)]
    evaluation = spec.evaluation
    least = evaluation.review.sample if evaluation.review else 0
    if any(size.wanted is None for size in sizes):
        least = max(least, DEFAULT_SAMPLES)
    prompts = _Prompts(wanted=evaluation.min_prompts, counts=counts_for(spec.goal))
    tallies = [
        _Tally(size=size, wanted=size.most_judged(spec))
        for size in sizes
        if size.wanted is not None
    ]
    slices = [
        _Slice(gate=gate, is_seen=of_gate(gate).sees)
        for gate in evaluation.gates
        if gate.slice is not None and "." not in gate.metric
    ]
    order = order_questions(len(questions), seed=spec.dataset.split.seed)[:MOST_SAMPLES]
    drawn = [questions[place] for place in order]
    for part in slices:
        part.limit(drawn)
    walked = _Walked(
        number=_walk([*tallies, *slices, prompts], drawn, least),
        tallies=tallies,
        short=[tally for tally in tallies if tally.is_capped or not tally.is_reached],
        slices=slices,
    )
    words = _word(len(questions), sizes, walked)
    if not has_published and any(gate.over_published is not None for gate in evaluation.gates):
        words += "; overPublished takes none, for nothing is published yet"
    return QuestionCount(
        number=walked.number,
        enough=not walked.short and all(size.is_possible for size in sizes),
        message=_cut(words),
    )


@dataclass(kw_only=True, slots=True)
class _Tally:
    """Independent prompts that a hypothesis has so far."""

    size: Size
    wanted: int
    sizes: Counter[str] = field(default_factory=Counter)
    total: int = 0
    squares: int = 0
    reached_at: int = 0

    @property
    def independent(self) -> float:
        """What the rows count.

        Source: Kish 1965, *Survey Sampling*, of clusters that are all alike. The bound is somewhat
        wider where their sizes differ, which :data:`UNEVEN` allows for.
        """
        if not self.squares:
            return 0.0
        share = self.total / self.squares
        return self.total * share * (1 - UNEVEN * (1 - share))

    @property
    def is_reached(self) -> bool:
        return self.independent >= self.wanted - 1e-9

    @property
    def is_capped(self) -> bool:
        """Whether the judge is asked too little for any number of questions to be enough."""
        assert self.size.wanted is not None
        return self.wanted < self.size.wanted

    def lack(self) -> float:
        """Return wanted prompts divided by independent prompts."""
        return (self.size.wanted or 0) / max(1.0, self.independent)

    def add(self, question: HeldOut, number: int) -> None:
        if not self.size.sees(question):
            return
        was_reached = self.is_reached
        size = self.sizes[question.group]
        self.sizes[question.group] = size + 1
        self.total += 1
        self.squares += 2 * size + 1
        if self.is_reached and not was_reached:
            self.reached_at = number


@dataclass(kw_only=True, slots=True)
class _Slice:
    """Independent prompts that a gate's slice has so far."""

    gate: Gate
    is_seen: IsSeen
    wanted: int = LEAST_OF_SLICE
    groups: set[str] = field(default_factory=set)
    reached_at: int = 0

    @property
    def is_reached(self) -> bool:
        return len(self.groups) >= self.wanted

    def limit(self, drawn: Sequence[HeldOut]) -> None:
        """Want no more than there are."""
        groups: set[str] = set()
        for question in drawn:
            if self.is_seen(question):
                groups.add(question.group)
            if len(groups) >= self.wanted:
                return
        self.wanted = len(groups)

    def add(self, question: HeldOut, number: int) -> None:
        if not self.is_reached and self.is_seen(question):
            self.groups.add(question.group)
            self.reached_at = number


@dataclass(kw_only=True, slots=True)
class _Prompts:
    """Prompts that count for ``evaluation.minPrompts`` so far."""

    wanted: int
    counts: IsSeen
    found: int = 0

    @property
    def is_reached(self) -> bool:
        return self.found >= self.wanted

    def add(self, question: HeldOut, _number: int) -> None:
        self.found += self.counts(question)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Walked:
    """What came of drawing: all that are counted, those that have too few, all slices."""

    number: int
    tallies: Sequence[_Tally]
    short: Sequence[_Tally]
    slices: Sequence[_Slice]


def _walk(
    counted: Sequence[_Tally | _Slice | _Prompts], drawn: Sequence[HeldOut], least: int
) -> int:
    """Return the least number of drawn questions at which all have their prompts; else all."""
    for number, question in enumerate(drawn, start=1):
        for each in counted:
            each.add(question, number)
        if number >= least and all(each.is_reached for each in counted):
            return number
    return len(drawn)


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


def _word(available: int, sizes: Sequence[Size], walked: _Walked) -> str:
    number = walked.number
    start = f"evaluation.maxSamples auto: {number:,} of {available:,} held-out questions are asked"
    if walked.short:
        worst = max(walked.short, key=_Tally.lack)
        return f"{start}, too few: {worst.size.words}, and {_word_lack(worst)}"
    never = next((size for size in sizes if not size.is_possible), None)
    if never is not None:
        return f"{start}, too few: {never.words}: ask for less, or for less certainty"
    decided = max(walked.tallies, key=lambda tally: tally.reached_at, default=None)
    if decided is not None and decided.reached_at == number:
        return f"{start}: {decided.size.words}{_word_groups(decided)}"
    rare = next((part for part in walked.slices if part.reached_at == number), None)
    if rare is not None:
        return (
            f"{start}, so that {rare.wanted} independent prompt(s) are of the slice of gate "
            f"{rare.gate.name}, the least that tell anything of it"
        )
    unknown = next((size for size in sizes if size.wanted is None), None)
    if unknown is not None:
        return f"{start}: {unknown.words}, so {DEFAULT_SAMPLES} are, where there are as many"
    return f"{start}, the least by evaluation.minPrompts and evaluation.review.sample"


def _word_groups(tally: _Tally) -> str:
    if tally.independent >= tally.total:
        return ""
    return f"; {_word_count(tally)}"


def _word_count(tally: _Tally) -> str:
    count = int(tally.independent)
    return f"some questions belong together, so that these {tally.total:,} count as {count:,}"


def _word_lack(tally: _Tally) -> str:
    if tally.is_capped and tally.is_reached:
        return (
            f"the judge is asked about {tally.wanted:,}: raise evaluation.judge.sample and maxCalls"
        )
    if tally.independent < tally.total:
        return f"{_word_count(tally)}: {ADD}"
    return f"there are {tally.total:,}: {ADD}"


def _cut(words: str) -> str:
    return words if len(words) <= MESSAGE_CHARACTERS else words[: MESSAGE_CHARACTERS - 3] + "..."
