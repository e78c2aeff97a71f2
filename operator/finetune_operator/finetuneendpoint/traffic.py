"""A candidate in traffic: counts of the fronts, trips, and what the evidence decides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from finetune_api.protocol.serving import FrontEndpoint, ReportedStream
from finetune_api.v1alpha1.finetuneendpoint import Rollout
from finetune_api.v1alpha1.status.endpoint import (
    MAX_STREAMS,
    Candidate,
    EvidenceStatus,
    StreamCounts,
    StreamStatus,
)
from finetune_operator.finetuneendpoint.canary.evidence import (
    COUNTED,
    Counts,
    Evidence,
    Signal,
    Stream,
)
from finetune_operator.finetuneendpoint.canary.rollout import (
    Decision,
    Move,
    Rules,
    decide,
    totals,
)
from finetune_operator.finetuneendpoint.observed import Observed
from finetune_operator.finetuneendpoint.rotation import Rotation
from finetune_operator.finetuneendpoint.verification import Outcome, Verdict, look_at
from finetune_operator.status.conditions import Reason, parse_timestamp, timestamp

EARLIER = "earlier"
"""Name of the counts of processes and rotations that are over."""
REST_AFTER_TRIPS = (timedelta(seconds=10), timedelta(seconds=60))
"""How long a candidate rests after each trip, if its server then answers again. A further trip is
taken as the version's fault."""
TRIP_PATIENCE = timedelta(minutes=10)
"""How long a candidate out of rotation waits for its server."""


def rules_of(rollout: Rollout) -> Rules:
    """Return the rules of ``spec.rollout``."""
    return Rules(
        steps=tuple(rollout.steps),
        min_requests=rollout.min_requests,
        certainty=float(rollout.certainty),
        holds=rollout.on_worse == "Hold",
    )


def enter(rotation: Rotation, rules: Rules, outcome: Outcome, now: datetime) -> Rotation:
    """Give a verified candidate its first share of the traffic. The previous version goes."""
    candidate = rotation.verify(now, outcome.sha256).candidate
    assert candidate is not None
    moment = timestamp(now)
    first = {"weight": rules.steps[0], "step": 0, "start_time": moment, "step_time": moment}
    entered = candidate.model_copy(update=first)
    text = f"{outcome.message} It gets {rules.steps[0]} % of the requests."
    entered_rotation = replace(rotation, candidate=entered, previous=None)
    return entered_rotation.record(now, entered, "Verified", text, rules.steps[0])


def judge(observed: Observed, rotation: Rotation, rules: Rules, now: datetime) -> Rotation:
    """Count what the fronts report of the candidate, and act on it."""
    candidate = rotation.candidate
    assert candidate is not None
    reports = _reports_on(observed, candidate)
    streams = merge(read_streams(candidate), _reported(reports))
    decision = decide(rules, candidate.weight, streams)
    rotation = replace(rotation, candidate=_counted(candidate, streams, decision))
    if is_tripped(observed, candidate) and decision.move not in (Move.HOLD, Move.ROLL_BACK):
        return _rest(observed, rotation, rules, now)
    return _act(rotation, rules, decision, now)


def _act(rotation: Rotation, rules: Rules, decision: Decision, now: datetime) -> Rotation:
    candidate = rotation.candidate
    assert candidate is not None
    match decision.move:
        case Move.WAIT:
            return rotation
        case Move.HOLD:
            if is_held(rotation):
                return rotation
            text = f"{_HELD} {decision.message}"
            return rotation.record(now, candidate, "Held", text, candidate.weight)
        case Move.ROLL_BACK:
            reason = Reason.TRIPPED if decision.tripped else Reason.WORSE
            text = decision.message
            return rotation.reject(now, reason, text).record(now, candidate, "RolledBack", text)
        case Move.PROMOTE:
            return rotation.promote(now).record(now, candidate, "Promoted", decision.message, 100)
    further = candidate.model_copy(
        update={
            "weight": decision.weight,
            "step": rules.position(decision.weight),
            "requests": 0,
            "step_time": timestamp(now),
        }
    )
    text = f"{decision.message} It gets {decision.weight} % of the requests."
    advanced = replace(rotation, candidate=further)
    return advanced.record(now, further, "Advanced", text, decision.weight)


_HELD = "It waits for a person's decision."


def is_held(rotation: Rotation) -> bool:
    """Return whether the candidate waits for a person."""
    last = rotation.last_decision
    return last is not None and last.action == "Held" and last.message.startswith(_HELD)


# ---- trips ---------------------------------------------------------------------------------------


def is_tripped(observed: Observed, candidate: Candidate) -> bool:
    """Return whether a front keeps the candidate out of rotation at the moment."""
    return any(candidate.adapter in told.tripped for _, told in _reports_on(observed, candidate))


def _rest(observed: Observed, rotation: Rotation, rules: Rules, now: datetime) -> Rotation:
    """Keep a tripped candidate out of rotation, and bring it back once its server answers.

    A server that was restarted is no fault of the version, so that it gets more chances.
    """
    candidate = rotation.candidate
    assert candidate is not None
    last = rotation.last_decision
    if last is None or last.action != "Held":
        text = "A front took it out of rotation: its server refused connections or answered 5xx."
        return rotation.record(now, candidate, "Held", text, candidate.weight)
    if is_held(rotation):
        return rotation
    num_trips = _num_returns(candidate)
    rested = now - (parse_timestamp(last.time) or now)
    if num_trips >= len(REST_AFTER_TRIPS) or rested >= TRIP_PATIENCE:
        final = decide(rules, candidate.weight, read_streams(candidate), tripped=True)
        return _act(rotation, rules, final, now)
    outcome = look_at(observed, candidate)
    if outcome.verdict is Verdict.FAILED:
        text = outcome.message
        return rotation.reject(now, outcome.reason, text).record(now, candidate, "RolledBack", text)
    if outcome.verdict is Verdict.OPEN or rested < REST_AFTER_TRIPS[num_trips]:
        return rotation
    root = (candidate.rollout_id or "").partition(".")[0]
    back = candidate.model_copy(
        update={
            "rollout_id": f"{root}.{num_trips + 1}",
            "streams": _to_status(fold(read_streams(candidate))),
        }
    )
    text = f"Its server answers again. It gets {candidate.weight} % of the requests."
    returned = replace(rotation, candidate=back)
    return returned.record(now, back, "Verified", text, back.weight)


def _num_returns(candidate: Candidate) -> int:
    """Return how often the candidate has come back into rotation after a trip."""
    return int((candidate.rollout_id or "").partition(".")[2] or 0)


# ---- counts --------------------------------------------------------------------------------------


def _reports_on(observed: Observed, candidate: Candidate) -> list[tuple[str, FrontEndpoint]]:
    """Return the fronts' entries about the present rollout, each with the front's boot id."""
    return [
        (report.id, told)
        for report in observed.fronts
        for told in report.endpoints
        if told.name == observed.name and told.rollout_id == candidate.rollout_id
    ]


def _reported(reports: Iterable[tuple[str, FrontEndpoint]]) -> list[Stream]:
    return [
        _stream(front, stream)
        for front, told in reports
        for stream in told.streams
        if 0 < stream.weight < 100
    ]


def read_streams(candidate: Candidate) -> tuple[Stream, ...]:
    """Return the counts that the status has of a rollout."""
    return tuple(_stream(each.front, each) for each in candidate.streams)


def _stream(front: str, told: ReportedStream | StreamStatus) -> Stream:
    return Stream(
        front=front,
        weight=told.weight,
        active=_counts(told.active),
        candidate=_counts(told.candidate),
    )


def merge(stored: Iterable[Stream], reported: Iterable[Stream]) -> tuple[Stream, ...]:
    """Return cumulative counts by front process and weight, the later of two readings each.

    More processes than a status holds are added up, the oldest first.
    """
    merged = {(each.front, each.weight): each for each in stored}
    latest = {(each.front, each.weight): each for each in reported}
    for key, new in latest.items():
        old = merged.get(key)
        if old is not None:
            new = replace(
                new,
                active=old.active.or_later(new.active),
                candidate=old.candidate.or_later(new.candidate),
            )
        merged[key] = new
    streams = tuple(merged.values())
    if len(streams) <= MAX_STREAMS:
        return streams
    # A process that reports still has to be told apart, or it would be counted twice.
    silent = [each for each in streams if (each.front, each.weight) not in latest]
    kept = [each for each in streams if (each.front, each.weight) in latest]
    return (*fold(silent), *kept)[:MAX_STREAMS]


def fold(streams: Iterable[Stream]) -> tuple[Stream, ...]:
    """Add up the counts at each weight. The evidence stays the same."""
    at_weight: dict[int, Stream] = {}
    for each in streams:
        before = at_weight.get(each.weight)
        at_weight[each.weight] = replace(
            each,
            front=EARLIER,
            active=each.active + (before.active if before else Counts()),
            candidate=each.candidate + (before.candidate if before else Counts()),
        )
    return tuple(at_weight.values())


def _counted(candidate: Candidate, streams: tuple[Stream, ...], decision: Decision) -> Candidate:
    return candidate.model_copy(
        update={
            "streams": _to_status(streams),
            "requests": decision.requests,
            "evidence": _evidence_section(streams, decision.evidence),
        }
    )


def _evidence_section(streams: Iterable[Stream], evidence: Evidence) -> list[EvidenceStatus]:
    """Return the evidence of the signals that had a bad event, and that of all together."""
    active, candidate = totals(streams)
    lines = [EvidenceStatus(signal="All", log_e=f"{evidence.log_e:.2f}")]
    for signal in Signal:
        bad = (active.of(signal), candidate.of(signal))
        if any(bad):
            log_e = f"{evidence.by_signal[signal]:.2f}"
            lines.append(
                EvidenceStatus(signal=signal.value, log_e=log_e, active=bad[0], candidate=bad[1])
            )
    return lines


def _to_status(streams: Iterable[Stream]) -> list[StreamStatus]:
    return [
        StreamStatus(
            front=each.front,
            weight=each.weight,
            active=_section(each.active),
            candidate=_section(each.candidate),
        )
        for each in sorted(streams, key=lambda each: (each.weight, each.front))
    ]


def _counts(section: StreamCounts) -> Counts:
    return Counts(**{name: getattr(section, name) for name in COUNTED})


def _section(counts: Counts) -> StreamCounts:
    return StreamCounts(**{name: getattr(counts, name) for name in COUNTED})
