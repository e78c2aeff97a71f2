"""From the judge's replies to scores and to the judge's result. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_api.protocol.evaluation_result import JudgeCriterion, JudgeResult, JudgeShare
from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.evaluation.judging import Judge
from finetune_trainer.evaluate.metrics.answers import Floats
from finetune_trainer.evaluate.questions import group_questions
from finetune_trainer.evaluate.scores.comparing import number_clusters
from finetune_trainer.evaluate.sources.judge.asking import Asked
from finetune_trainer.evaluate.sources.judge.counting import (
    FAIR,
    Leaning,
    Pair,
    PairCount,
    Points,
    count_pairs,
    count_points,
)
from finetune_trainer.evaluate.sources.judge.drawing import Drawn
from finetune_trainer.evaluate.sources.judge.replies import Kept
from finetune_trainer.evaluate.sources.judge.wording import (
    read_points,
    read_reason,
    read_winner,
    rubric_of,
)
from finetune_trainer.verdict.figures import figure_text, high_text, low_text
from finetune_trainer.verdict.goal import DIGITS, certainty_of

MOST_UNREAD = 0.2
"""Of the questions that were asked so large a share may be without a verdict: beyond it those that
have one are no longer taken for all."""
MAX_SHOWN = 400
"""Characters of a reply that is no verdict."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """One question with what the judge was shown and has said.

    Attributes:
        place: Number of the question among those that the models were asked, from 0.
        base: The base model's answer that was judged.
        tuned: The tuned model's.
        verdict: What it comes to, in words.
        is_lost: The tuned model did worse.
        reasons: The judge's sentences, in the order it was asked: of ``Pairwise`` with the base
            model's answer first, then with the tuned model's; of ``Rubric`` on the base, then on
            the tuned model.
        unread: Replies that are no verdict.
    """

    place: int
    base: str
    tuned: str
    verdict: str
    is_lost: bool = False
    reasons: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Concluded:
    """What the judge's replies come to.

    Attributes:
        places: Questions that were put to it, by their number among those that the models were
            asked.
        base: Of each the base model's score; NaN without a verdict.
        tuned: The tuned model's.
        result: The judge's part of the report. Its ``failure`` says why scores must not be used.
        judgements: Of each question, in words.
    """

    places: Sequence[int]
    base: Floats
    tuned: Floats
    result: JudgeResult
    judgements: Sequence[Judgement]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scored:
    base: Floats
    tuned: Floats
    verdicts: Sequence[str]
    told: Mapping[str, Any]
    notes: Sequence[str] = ()


def conclude(job: ResolvedJob, judge: Judge, wanted: Drawn, asked: Asked) -> Concluded:
    """Count what the judge said.

    Args:
        job: The effective job.
        judge: Its ``spec.evaluation.judge``.
        wanted: The questions that were to be put to the judge.
        asked: Its replies, to the first of them.
    """
    drawn = wanted.first(len(asked.replies))
    score = _score_pairs if judge.mode == "Pairwise" else _score_points
    scored = score(job, judge, drawn, asked.replies)
    is_judged = np.isfinite(scored.tuned)
    num_judged = int(is_judged.sum())
    num_unread = len(is_judged) - num_judged
    result = JudgeResult(
        model=judge.model,
        endpoint=judge.endpoint,
        mode=judge.mode,
        baseline=drawn.way,
        num_drawn=len(wanted.places),
        num_judged=num_judged,
        num_unread=num_unread,
        num_calls=asked.spent.calls,
        num_input_tokens=asked.spent.input_tokens,
        num_output_tokens=asked.spent.output_tokens,
        amount=f"{asked.spent.amount(judge.price):.4f}" if judge.price else "",
        failure=_failure_of(judge, asked.replies, num_judged=num_judged, num_unread=num_unread),
        notes=[*_cap_notes(judge, wanted, drawn), *_unread_notes(num_unread, drawn), *scored.notes],
    )
    return Concluded(
        places=drawn.places,
        base=scored.base,
        tuned=scored.tuned,
        result=result.model_copy(update=dict(scored.told)),
        judgements=[
            _judgement_of(judge, drawn, row, asked, scored) for row in range(len(is_judged))
        ],
    )


def _score_pairs(
    job: ResolvedJob, judge: Judge, drawn: Drawn, replies: Sequence[Sequence[Kept]]
) -> _Scored:
    pairs = [_pair_of(drawn, row, said) for row, said in enumerate(replies)]
    count = count_pairs(
        pairs,
        number_clusters(group_questions(drawn.questions)) if pairs else np.zeros(0, np.int64),
        certainty=certainty_of(job.spec.goal),
        seed=job.spec.dataset.split.seed,
    )
    told = {
        "num_alike": sum(pair.is_alike for pair in pairs),
        "agreement": "" if count.agreement is None else figure_text(count.agreement),
        "first": _share_of(count.first),
        "longer": _share_of(count.longer),
    }
    return _Scored(
        base=1 - count.scores,
        tuned=count.scores,
        verdicts=[_pair_words(pair) for pair in pairs],
        told=told,
        notes=_lean_notes(count),
    )


def _pair_of(drawn: Drawn, row: int, said: Sequence[Kept]) -> Pair:
    if not said:
        return Pair(is_alike=True)
    lengths = len(drawn.tuned[row]) - len(drawn.base[row])
    base_first, tuned_first = (read_winner(kept.text or "") for kept in said)
    return Pair(
        base_first=base_first, tuned_first=tuned_first, longer=(lengths > 0) - (lengths < 0)
    )


def _pair_words(pair: Pair) -> str:
    if pair.is_alike:
        return "alike"
    if not pair.is_judged:
        return "no verdict"
    if not pair.agrees:
        return "the two orders disagree: a tie"
    return {1.0: "tuned", 0.0: "base"}.get(pair.tuned_wins, "tie")


def _score_points(
    job: ResolvedJob, judge: Judge, drawn: Drawn, replies: Sequence[Sequence[Kept]]
) -> _Scored:
    rubric = rubric_of(judge)
    rows = [
        Points(base=base, tuned=tuned)
        for base, tuned in (
            [read_points(kept.text or "", rubric) for kept in said] for said in replies
        )
    ]
    count = count_points(rows)
    criteria = [
        JudgeCriterion(name=name, base=f"{base:.2f}", tuned=f"{tuned:.2f}")
        for name, (base, tuned) in count.by_criterion.items()
    ]
    return _Scored(
        base=count.base,
        tuned=count.tuned,
        verdicts=[_points_words(row) for row in rows],
        told={"criteria": criteria},
    )


def _points_words(row: Points) -> str:
    if row.base is None or row.tuned is None:
        return "no verdict"
    return ", ".join(f"{name} {row.base[name]} -> {row.tuned[name]}" for name in row.base)


def _share_of(leaning: Leaning | None) -> JudgeShare | None:
    if leaning is None:
        return None
    share = leaning.share
    return JudgeShare(
        value=figure_text(share.value, FAIR),
        low=low_text(share.low, FAIR),
        high=high_text(share.high, FAIR),
    )


def _lean_notes(count: PairCount) -> list[str]:
    notes = []
    if count.first is not None and count.first.is_shown:
        side = "first" if count.first.share.value > 0.5 else "second"
        notes.append(
            f"the judge leans to whichever answer stands {side}: the first one got "
            f"{_words_of(count.first)} of its verdicts over {count.first.number} pairs, where one "
            "half would be fair; what it says differently in the two orders counts as a tie"
        )
    if count.longer is not None and count.longer.is_shown:
        side = "longer" if count.longer.share.value > 0.5 else "shorter"
        notes.append(
            f"the {side} answer tends to win: the longer one won {_words_of(count.longer)} of "
            f"{count.longer.number} decided pairs; read some of them before the win rate is "
            "believed"
        )
    return notes


def _words_of(leaning: Leaning) -> str:
    share = leaning.share
    low = low_text(share.low, FAIR, digits=DIGITS)
    high = high_text(share.high, FAIR, digits=DIGITS)
    return f"{figure_text(share.value, FAIR, digits=DIGITS)} [{low}, {high}]"


def _cap_notes(judge: Judge, wanted: Drawn, drawn: Drawn) -> list[str]:
    if len(drawn.places) == len(wanted.places):
        return []
    caps = f"maxCalls {judge.max_calls}"
    if judge.max_amount is not None:
        caps += f" or maxAmount {judge.max_amount}"
    return [
        f"{caps} is used up: {len(drawn.places)} of {len(wanted.places)} drawn questions were put "
        "to the judge, in random order"
    ]


def _unread_notes(num_unread: int, drawn: Drawn) -> list[str]:
    if not num_unread:
        return []
    return [
        f"{num_unread} of {len(drawn.places)} questions have no verdict that could be read, and "
        "are left out"
    ]


def _failure_of(
    judge: Judge, replies: Sequence[Sequence[Kept]], *, num_judged: int, num_unread: int
) -> str:
    """Say why the verdicts are not to be used; empty if they are."""
    if not replies:
        return "the caps of evaluation.judge do not let one question be judged; raise them"
    num_asked = sum(map(bool, replies))
    if not num_asked or (num_judged and num_unread <= MOST_UNREAD * num_asked):
        return ""
    whys = Counter(kept.why for row in replies for kept in row if kept.text is None)
    why = f"; for most of them {whys.most_common(1)[0][0]}" if whys else ""
    remedy = "take another judge, or raise maxAnswerTokens if it reasons first"
    if not judge.structured_replies:
        remedy = f"set structuredReplies: true if its server knows it, {remedy}"
    return (
        f"{num_unread} of {num_asked} questions got no verdict of the form that was asked for, "
        f"more than {MOST_UNREAD:.0%}{why}; {remedy}"
    )


def _judgement_of(judge: Judge, drawn: Drawn, row: int, asked: Asked, scored: _Scored) -> Judgement:
    rubric = rubric_of(judge)
    read: Callable[[str], object] = read_winner
    if judge.mode == "Rubric":
        read = lambda text: read_points(text, rubric)  # noqa: E731
    said = asked.replies[row]
    texts = [kept.text if kept.text is not None else kept.why for kept in said]
    return Judgement(
        place=drawn.places[row],
        base=drawn.base[row],
        tuned=drawn.tuned[row],
        verdict=scored.verdicts[row],
        is_lost=bool(scored.tuned[row] < scored.base[row]),
        reasons=tuple(read_reason(text) for text in texts),
        unread=tuple(text[:MAX_SHOWN] for text in texts if read(text) is None),
    )
