"""A candidate in traffic: counts of the fronts, trips, and what the evidence decides."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from finetune_api.protocol.serving import (
    NUM_USERS,
    OF_CANDIDATE,
    FrontEndpoint,
    add_cell,
    read_cells,
    write_cells,
)
from finetune_api.v1alpha1.status.endpoint import (
    MAX_STREAMS,
    Candidate,
    EventsStatus,
    EvidenceStatus,
    StreamCounts,
    StreamStatus,
)
from finetune_operator.finetuneendpoint.canary.evidence import (
    Counts,
    Evidence,
    Signal,
    Stream,
)
from finetune_operator.finetuneendpoint.canary.rollout import (
    Decision,
    Move,
    Requests,
    Rules,
    decide,
    totals,
)
from finetune_operator.finetuneendpoint.observed import Observed
from finetune_operator.finetuneendpoint.rotation import Rotation, is_same_version
from finetune_operator.finetuneendpoint.verification import Outcome, Verdict, look_at
from finetune_operator.status.conditions import Reason, parse_timestamp, timestamp

Events = dict[Signal, dict[int, int]]
"""Cells of each signal."""

EARLIER = "earlier"
"""Name of the counts of processes that are over."""
REST_AFTER_TRIPS = (timedelta(seconds=10), timedelta(seconds=60))
"""How long a candidate rests after each trip, if its server then answers again. A further trip is
taken as the version's fault."""
TRIP_PATIENCE = timedelta(minutes=10)
"""How long a candidate out of rotation waits for its server."""


def rules_of(observed: Observed, candidate: Candidate) -> Rules:
    """Return the rules of ``spec.rollout``. With a single key, its owner decides."""
    spec = observed.spec
    assert spec.rollout is not None
    num_keys = [told.keys for _, told in _reports_on(observed, candidate) if told.keys is not None]
    is_trusted = spec.access is not None and spec.access.trust_users
    return Rules(
        steps=tuple(spec.rollout.steps),
        min_requests=spec.rollout.min_requests,
        certainty=float(spec.rollout.certainty),
        holds=spec.rollout.on_worse == "Hold",
        trusts_senders=is_trusted or max(num_keys, default=0) == 1,
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
    streams = merge(candidate.streams, read_streams(reports))
    events = merge_events(read_events(candidate.events), reports)
    decision = decide(
        rules, candidate.weight, tally(events), count_requests(candidate.weight, streams)
    )
    rotation = replace(rotation, candidate=_counted(candidate, streams, events, decision))
    if is_tripped(observed, candidate) and decision.move not in (Move.HOLD, Move.ROLL_BACK):
        return _rest(observed, rotation, rules, now)
    return _act(rotation, rules, decision, now)


def decide_again(rules: Rules, candidate: Candidate, *, tripped: bool = False) -> Decision:
    """Return the decision from what the status has."""
    requests = count_requests(candidate.weight, candidate.streams)
    events = tally(read_events(candidate.events))
    return decide(rules, candidate.weight, events, requests, tripped=tripped)


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


def waits_for_person(observed: Observed, rotation: Rotation, outcome: Outcome) -> bool:
    """Return whether a verified candidate rests on too few questions to take over by itself.

    That holds where it would replace another version at once. The first version replaces none, and
    a rollout has evidence of its own. A person who pins the version or skips its steps has decided.
    """
    active, candidate = rotation.active, rotation.candidate
    if active is None or candidate is None or not outcome.rests_on_few:
        return False
    is_decided = candidate.version == observed.spec.version or observed.skips_steps_of == str(
        candidate.version
    )
    has_steps = observed.spec.rollout is not None and min(observed.spec.rollout.steps) < 100
    return not (is_decided or has_steps or is_same_version(active, candidate))


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
        return _act(rotation, rules, decide_again(rules, candidate, tripped=True), now)
    outcome = look_at(observed, candidate)
    if outcome.verdict is Verdict.FAILED:
        text = outcome.message
        return rotation.reject(now, outcome.reason, text).record(now, candidate, "RolledBack", text)
    if outcome.verdict is Verdict.OPEN or rested < REST_AFTER_TRIPS[num_trips]:
        return rotation
    root = (candidate.rollout_id or "").partition(".")[0]
    back = candidate.model_copy(update={"rollout_id": f"{root}.{num_trips + 1}"})
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


def read_streams(reports: Iterable[tuple[str, FrontEndpoint]]) -> list[StreamStatus]:
    """Return the counts of fronts, each of which is named by its boot id."""
    return [
        StreamStatus(front=front, weight=told.weight, active=told.active, candidate=told.candidate)
        for front, endpoint in reports
        for told in endpoint.streams
        if 0 < told.weight < 100
    ]


def merge(
    stored: Iterable[StreamStatus], reported: Iterable[StreamStatus]
) -> tuple[StreamStatus, ...]:
    """Return cumulative counts by front process and weight, the later of two readings each.

    More processes than a status holds are added up, the oldest first.
    """
    merged = {(each.front, each.weight): each for each in stored}
    latest = {(each.front, each.weight): each for each in reported}
    for key, new in latest.items():
        merged[key] = _joined(new, merged[key], max) if key in merged else new
    streams = tuple(merged.values())
    if len(streams) > MAX_STREAMS:
        # A process that reports still has to be told apart, or it would be counted twice.
        silent = [each for key, each in merged.items() if key not in latest]
        kept = [each for key, each in merged.items() if key in latest]
        streams = (*_fold(silent), *kept)[:MAX_STREAMS]
    return tuple(sorted(streams, key=lambda each: (each.weight, each.front)))


def _fold(streams: Iterable[StreamStatus]) -> list[StreamStatus]:
    """Add up the counts at each weight."""
    at_weight: dict[int, StreamStatus] = {}
    for each in streams:
        before = at_weight.get(each.weight)
        total = each if before is None else _joined(each, before, int.__add__)
        at_weight[each.weight] = total.model_copy(update={"front": EARLIER})
    return list(at_weight.values())


def _joined(
    one: StreamStatus, other: StreamStatus, join: Callable[[int, int], int]
) -> StreamStatus:
    def counts(a: StreamCounts, b: StreamCounts) -> StreamCounts:
        names = StreamCounts.model_fields
        return StreamCounts(**{name: join(getattr(a, name), getattr(b, name)) for name in names})

    sides = {
        "active": counts(one.active, other.active),
        "candidate": counts(one.candidate, other.candidate),
    }
    return one.model_copy(update=sides)


def count_requests(weight: int, streams: Iterable[StreamStatus]) -> Requests:
    """Return the requests at a weight."""
    here = [each for each in streams if each.weight == weight]
    return Requests(
        candidate=sum(each.candidate.requests for each in here),
        active=sum(each.active.requests for each in here),
        asked=sum(each.candidate.asked for each in here),
        # A user may have met several fronts.
        users=max((each.candidate.users for each in here), default=0),
    )


def read_events(told: Iterable[EventsStatus]) -> Events:
    """Return the cells by signal. Cells that cannot be read are left out: a pod has told them."""
    events: Events = {}
    for each in told:
        with contextlib.suppress(ValueError):
            events[Signal(each.signal)] = read_cells(each.cells)
    return events


def merge_events(stored: Events, reports: Iterable[tuple[str, FrontEndpoint]]) -> Events:
    """Add what fronts report. A user who has counted does not count again.

    Which of two reports is read first does not depend on who answered.
    """
    events = {signal: dict(cells) for signal, cells in stored.items()}
    for _, told in sorted(reports, key=lambda each: each[0]):
        for signal, new in read_events(told.events).items():
            cells = events.setdefault(signal, {})
            for cell, mark in new.items():
                add_cell(cells, cell, mark)
    return events


def tally(events: Events) -> list[Stream]:
    """Return the bad answers by sender and weight."""
    numbers = Counter(
        (cell // NUM_USERS, mark, signal)
        for signal, cells in events.items()
        for cell, mark in cells.items()
    )
    return [
        Stream(
            sender=sender,
            weight=mark % OF_CANDIDATE,
            active=Counts() if mark >= OF_CANDIDATE else counts,
            candidate=counts if mark >= OF_CANDIDATE else Counts(),
        )
        for (sender, mark, signal), number in numbers.items()
        for counts in (Counts(**{signal.name.lower(): number}),)
    ]


def _counted(
    candidate: Candidate, streams: tuple[StreamStatus, ...], events: Events, decision: Decision
) -> Candidate:
    return candidate.model_copy(
        update={
            "streams": [*streams],
            "events": [
                EventsStatus(signal=signal.value, cells=write_cells(cells))
                for signal, cells in sorted(events.items())
                if cells
            ],
            "requests": decision.requests,
            "evidence": _evidence_section(tally(events), decision.evidence),
        }
    )


def _evidence_section(streams: Iterable[Stream], evidence: Evidence) -> list[EvidenceStatus]:
    """Return the evidence of the signals that had a bad answer, and that of all together."""
    active, candidate = totals(streams)
    lines = [EvidenceStatus(signal="All", log_e=f"{evidence.confirmed:.2f}")]
    for signal in Signal:
        bad = (active.of(signal), candidate.of(signal))
        if any(bad):
            log_e = f"{evidence.by_signal[signal]:.2f}"
            lines.append(
                EvidenceStatus(signal=signal.value, log_e=log_e, active=bad[0], candidate=bad[1])
            )
    return lines
