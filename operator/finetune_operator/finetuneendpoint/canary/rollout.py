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


STUCK = 3
"""After so many times the required requests, those that count will not become enough soon."""


ROUNDING = 1e-9
"""Of logarithms: without a bad answer the e-value is 1, give or take this."""


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
        trusts_senders: Whether what one sender's users meet is enough.
    """

    steps: tuple[int, ...]
    min_requests: int
    certainty: float
    holds: bool = False
    trusts_senders: bool = False

    def after(self, weight: int) -> int:
        """Return the weight of the next step; 100 after the last."""
        return next((step for step in self.steps if step > weight), 100)

    def position(self, weight: int) -> int:
        """Return the position of a weight among the steps, from 0."""
        return max(sum(step <= weight for step in self.steps) - 1, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Requests:
    """Requests of both versions at the present weight.

    Attributes:
        candidate: Those of the candidate that count.
        active: Those of the active version that count.
        asked: All of the candidate.
        users: Users that the candidate answered.
    """

    candidate: int = 0
    active: int = 0
    asked: int = 0
    users: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """A decision and the numbers behind it.

    Attributes:
        weight: Percent of the traffic that the candidate has from now on.
        requests: Requests that the candidate had at the present weight, as far as they count.
        tripped: Whether a front has taken it out of rotation.
        is_undecided: Whether more of the same requests would not decide.
    """

    move: Move
    weight: int
    requests: int
    evidence: Evidence
    message: str
    tripped: bool = False
    is_undecided: bool = False


def decide(
    rules: Rules,
    weight: int,
    streams: Iterable[Stream],
    requests: Requests,
    *,
    tripped: bool = False,
) -> Decision:
    """Return what to do with a candidate in traffic.

    Args:
        rules: The endpoint's rules.
        weight: Percent of the users that the candidate has, from 1 to 100.
        streams: All bad answers of this rollout, cumulative.
        requests: Requests at this weight.
        tripped: Whether a front has taken the candidate out of rotation, because its server refused
            connections or answered 5xx several times in a row.
    """
    streams = tuple(streams)
    evidence = weigh(streams, trusts_senders=rules.trusts_senders)

    def made(
        move: Move, message: str, new_weight: int = weight, *, is_undecided: bool = False
    ) -> Decision:
        return Decision(
            move=move,
            weight=new_weight,
            requests=requests.candidate,
            evidence=evidence,
            message=message,
            tripped=tripped,
            is_undecided=is_undecided,
        )

    bound = log_bound(rules.certainty)
    if tripped or evidence.shows_worse(rules.certainty):
        why = _TRIPPED if tripped else _worse_text(evidence, streams, rules.certainty)
        return made(Move.HOLD, why) if rules.holds else made(Move.ROLL_BACK, why, 0)
    if weight >= 100:
        return made(Move.PROMOTE, "All requests go to it.", 100)
    if evidence.log_e >= bound:
        text = _one_sender_text(evidence, streams, rules.certainty)
        return made(Move.WAIT, text, is_undecided=True)
    if requests.candidate < rules.min_requests:
        is_stuck = requests.asked >= STUCK * rules.min_requests
        text = f"{requests.candidate} of {rules.min_requests} requests at {weight} %."
        text += _too_few_text(rules, weight, requests) if is_stuck else ""
        return made(Move.WAIT, text, is_undecided=is_stuck)
    is_clear = evidence.log_e <= ROUNDING
    is_long = requests.candidate >= PATIENCE * rules.min_requests
    if not is_clear and not (is_long and evidence.log_e < bound / 2):
        text = (
            f"{requests.candidate} requests at {weight} %. The e-value is"
            f" {e_text(evidence.log_e)}: neither shown to be worse (at {e_text(bound)}) nor as good"
            " (at 1)."
        )
        # Those that count may never be so many: few users send them.
        is_stuck = requests.asked >= PATIENCE * rules.min_requests
        text += " More users decide, or `finetune endpoint promote` or `rollback`." * is_stuck
        return made(Move.WAIT, text, is_undecided=is_stuck)
    new_weight = rules.after(weight)
    found = "without a sign that it is worse" if is_clear else "and too little against it"
    text = (
        f"{requests.candidate} requests at {weight} %, {found}: the e-value is"
        f" {e_text(evidence.log_e)}."
    )
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
    return (
        f"It is worse: {_bad_text(evidence, streams)}. The e-value is"
        f" {e_text(evidence.confirmed)}, the bound {e_text(log_bound(certainty))}."
    )


def _bad_text(evidence: Evidence, streams: Iterable[Stream]) -> str:
    signal = evidence.strongest
    active, candidate = totals(streams)
    return (
        f"{candidate.of(signal)} of its users and {active.of(signal)} of the active version's had"
        f" {_NOUNS[signal]}"
    )


def _one_sender_text(evidence: Evidence, streams: Iterable[Stream], certainty: float) -> str:
    return (
        f"{_bad_text(evidence, streams)}, but nearly all of them behind one API key or address: the"
        f" e-value is {e_text(evidence.log_e)}, without that sender {e_text(evidence.confirmed)},"
        f" and the bound {e_text(log_bound(certainty))}. Requests of other senders decide, or"
        " `access.trustUsers`, or `finetune endpoint rollback`."
    )


def _too_few_text(rules: Rules, weight: int, requests: Requests) -> str:
    return (
        f" {requests.asked} came from {requests.users} users, each of whom counts for a small part."
        " Name users in `user`, raise the share in `rollout.steps` above"
        f" {weight} %, lower `rollout.minRequests` below {rules.min_requests}, or set"
        " `access.trustUsers` where one sender has most of them."
    )


def totals(streams: Iterable[Stream]) -> tuple[Counts, Counts]:
    """Return the users with bad answers of both versions in the whole rollout."""
    active, candidate = Counts(), Counts()
    for stream in streams:
        active, candidate = active + stream.active, candidate + stream.candidate
    return active, candidate


def e_text(log_e: float) -> str:
    """Return an e-value for people, from its natural logarithm."""
    if log_e > 20:
        return f"10^{log_e / math.log(10):.0f}"
    return f"{math.exp(log_e):.3g}"
