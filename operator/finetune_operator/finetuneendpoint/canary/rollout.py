"""What becomes of a candidate that is in traffic: decided from counts alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from finetune_operator.finetuneendpoint.canary.evidence import (
    Counts,
    Evidence,
    Signal,
    Stream,
    log_bound,
    weigh,
)

PATIENCE = 5
"""After so many times the required requests, weak evidence no longer holds a candidate: one chance
error among few would do so permanently. Weak is an e-value below the root of the bound."""


class Move(StrEnum):
    """What to do with the candidate."""

    WAIT = "Wait"
    ADVANCE = "Advance"
    PROMOTE = "Promote"
    HOLD = "Hold"
    ROLL_BACK = "RollBack"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How a candidate takes over.

    Attributes:
        steps: Rising weights in percent.
        min_requests: Requests that the candidate must have had at a step.
        certainty: Certainty at which it counts as worse; below 1.
        holds: Whether a worse candidate stays at its step until somebody decides.
    """

    steps: tuple[int, ...]
    min_requests: int
    certainty: float
    holds: bool = False

    def after(self, weight: int) -> int:
        """Return the weight of the next step; 100 after the last."""
        return next((step for step in self.steps if step > weight), 100)

    def position(self, weight: int) -> int:
        """Return the position of a weight among the steps, from 0."""
        return max(sum(step <= weight for step in self.steps) - 1, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """A decision and the numbers behind it.

    Attributes:
        weight: Percent of the traffic that the candidate has from now on.
        requests: Requests that the candidate had at the present weight.
        tripped: Whether a front has taken it out of rotation.
    """

    move: Move
    weight: int
    requests: int
    evidence: Evidence
    message: str
    tripped: bool = False


def decide(
    rules: Rules, weight: int, streams: Iterable[Stream], *, tripped: bool = False
) -> Decision:
    """Return what to do with a candidate in traffic.

    Args:
        rules: The endpoint's rules.
        weight: Percent of the traffic that the candidate has, from 1 to 100.
        streams: All counts of this rollout, cumulative.
        tripped: Whether a front has taken the candidate out of rotation, because its server refused
            connections or answered 5xx several times in a row.
    """
    streams = tuple(streams)
    evidence = weigh(streams)
    requests = sum(each.candidate.requests for each in streams if each.weight == weight)

    def made(move: Move, message: str, new_weight: int = weight) -> Decision:
        return Decision(
            move=move,
            weight=new_weight,
            requests=requests,
            evidence=evidence,
            message=message,
            tripped=tripped,
        )

    if tripped or evidence.shows_worse(rules.certainty):
        why = _TRIPPED if tripped else _worse_text(evidence, streams, rules.certainty)
        return made(Move.HOLD, why) if rules.holds else made(Move.ROLL_BACK, why, 0)
    if weight >= 100:
        return made(Move.PROMOTE, "All requests go to it.", 100)
    if requests < rules.min_requests:
        needed = f"{requests} of {rules.min_requests} requests at {weight} %."
        return made(Move.WAIT, needed)
    is_clear = evidence.log_e <= 0
    is_long = requests >= PATIENCE * rules.min_requests
    if not is_clear and not (is_long and evidence.log_e < log_bound(rules.certainty) / 2):
        return made(
            Move.WAIT,
            f"{requests} requests at {weight} %. The e-value is {e_text(evidence.log_e)}: neither"
            f" shown to be worse (at {e_text(log_bound(rules.certainty))}) nor as good (at 1).",
        )
    new_weight = rules.after(weight)
    found = "without a sign that it is worse" if is_clear else "and too little against it"
    text = f"{requests} requests at {weight} %, {found}: the e-value is {e_text(evidence.log_e)}."
    return made(Move.PROMOTE if new_weight >= 100 else Move.ADVANCE, text, new_weight)


_TRIPPED = (
    "Its server refused connections or answered 5xx several times in a row, so a front took it out"
    " of rotation."
)
_NOUNS = {
    Signal.ERRORS: "errors",
    Signal.SLOW: "slow answers",
    Signal.REFUSALS: "refusals",
    Signal.INVALID_JSON: "answers with invalid JSON",
    Signal.THUMBS_DOWN: "thumbs down",
}


def _worse_text(evidence: Evidence, streams: Iterable[Stream], certainty: float) -> str:
    signal = evidence.strongest
    active, candidate = totals(streams)
    return (
        f"It is worse: {candidate.of(signal)} {_NOUNS[signal]} in {candidate.requests} requests,"
        f" and {active.of(signal)} in {active.requests} of the active version. The e-value is"
        f" {e_text(evidence.log_e)}, the bound {e_text(log_bound(certainty))}."
    )


def totals(streams: Iterable[Stream]) -> tuple[Counts, Counts]:
    """Return the counts of the active version and of the candidate in the whole rollout."""
    active, candidate = Counts(), Counts()
    for stream in streams:
        active, candidate = active + stream.active, candidate + stream.candidate
    return active, candidate


def e_text(log_e: float) -> str:
    """Return an e-value for people, from its natural logarithm."""
    if log_e > 20:
        return f"10^{log_e / math.log(10):.0f}"
    return f"{math.exp(log_e):.3g}"
