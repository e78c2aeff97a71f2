"""Conditions and phase of an endpoint: what people, Argo and ``kubectl wait`` read."""

from __future__ import annotations

from finetune_api.names import FRONT, front_url
from finetune_api.v1alpha1.status.endpoint import Candidate, RejectedVersion, Served
from finetune_api.v1alpha1.status.fields import MAX_VERSION
from finetune_api.v1alpha1.traffic import Capture
from finetune_operator.finetuneendpoint.draft import EndpointDraft
from finetune_operator.finetuneendpoint.monitoring.drift import (
    bound_looks,
    find_drift,
    find_loss,
    monitor_status,
    page_of,
)
from finetune_operator.finetuneendpoint.observed import Observed
from finetune_operator.finetuneendpoint.rotation import Rotation, is_same_version
from finetune_operator.finetuneendpoint.serving import find_front_fault, recorded_at
from finetune_operator.finetuneendpoint.traffic import (
    decide_again,
    is_held,
    rules_of,
    waits_for_person,
)
from finetune_operator.finetuneendpoint.verification import (
    MIN_QUESTIONS,
    REASONS_OF_THE_VERSION,
    Verdict,
    answering,
    fault_of,
    look_at,
    why_not_ready,
)
from finetune_operator.finetuneendpoint.versions import (
    are_failing,
    reported_number,
    waits_for_turn,
    wanted_version,
)
from finetune_operator.status.conditions import ConditionType, Reason, shorten, timestamp

SENTENCE_CHARACTERS = 300
"""Bound of a short sentence in the schema."""


def set_conditions(draft: EndpointDraft, observed: Observed, rotation: Rotation) -> None:
    """Set conditions, phase, URL and model."""
    draft.put("url", front_url(observed.namespace))
    draft.put("model", observed.name)
    _set_capture(draft, observed, rotation)
    wanted = wanted_version(observed, rotation)
    rejection = None if wanted is None else rotation.rejection_of(wanted)
    if rotation.active is not None and wanted is not None:
        is_active = rotation.active.version == wanted.version
        rejection = None if is_active else rejection
    _set_drift(draft, observed, rotation)
    _set_available(draft, observed, rotation)
    _set_verified(draft, observed, rotation, rejection)
    _set_progressing(draft, observed, rotation)
    _set_degraded(draft, observed, rotation, rejection)
    _set_stalled(draft, observed, rotation)
    _set_recorded(draft, observed)
    _set_phase(draft, rotation)


def _set_capture(draft: EndpointDraft, observed: Observed, rotation: Rotation) -> None:
    """Say where captured answers are stored; what was counted there stays.

    It also stays while capture is switched off, so that it is not counted as new afterwards.
    """
    place, before = recorded_at(observed, rotation), draft.get("capture") or {}
    if place is None:
        if observed.spec.capture is not None:
            draft.drop("capture")
        return
    if before.get("uri") != place.uri:
        before = {"uri": place.uri, "since": timestamp(draft.now)}
    told = {**before, "credentialsSecret": place.secret}
    named = [each for front in observed.fronts for each in front.endpoints]
    told_counts = [each.captured for each in named if each.name == observed.name and each.captured]
    # After a change of the place, fronts go on reporting the counts of the earlier one for a while.
    counts = [each for each in told_counts if each.uri in (None, place.uri)]
    rows = max([told.get("rows", 0), *(each.rows for each in counts)])
    feedback = max([told.get("feedback", 0), *(each.feedback for each in counts)])
    if (rows, feedback) != (told.get("rows", 0), told.get("feedback", 0)):
        told |= {"rows": rows, "feedback": feedback, "countedTime": timestamp(draft.now)}
    draft.put("capture", {name: value for name, value in told.items() if value is not None})


def _set_available(draft: EndpointDraft, observed: Observed, rotation: Rotation) -> None:
    active, front = rotation.active, observed.front
    conditions = draft.conditions
    if active is None:
        reason, message = _why_none(observed, rotation)
        conditions.set(ConditionType.AVAILABLE, False, reason, message)
        return
    if front is None or not front.is_up:
        text = front.problem if front is not None else ""
        text = text or "No pod of the front is ready."
        conditions.set(ConditionType.AVAILABLE, False, Reason.FRONT_NOT_READY, text)
        return
    found = answering(observed, active)
    if (
        found.verdict is Verdict.OPEN
        and observed.is_young
        and conditions.get(ConditionType.AVAILABLE)
    ):
        return  # the pods have not been asked yet
    status = _STATUS_OF[found.verdict]
    conditions.set(ConditionType.AVAILABLE, status, found.reason, found.message)


_STATUS_OF = {Verdict.VERIFIED: "True", Verdict.FAILED: "False", Verdict.OPEN: "Unknown"}


def _why_none(observed: Observed, rotation: Rotation) -> tuple[str, str]:
    if rotation.candidate is not None:
        text = f"Version {rotation.candidate.version} has to be verified first."
        return Reason.VERIFYING, text
    job = observed.spec.job_ref.name
    if rotation.rejected:
        return Reason.VERSION_REJECTED, f"Version {rotation.rejected[-1].version} was rejected."
    if observed.job is None:
        return Reason.JOB_NOT_FOUND, f"There is no FineTuneJob {job} in this namespace."
    if (number := reported_number(observed.job)) > MAX_VERSION:
        text = (
            f"FineTuneJob {job} reports version {number}: numbers above {MAX_VERSION} are ignored."
        )
        return Reason.NO_VERSION, text
    return Reason.NO_VERSION, f"FineTuneJob {job} has published no version yet."


def _set_verified(
    draft: EndpointDraft, observed: Observed, rotation: Rotation, rejection: RejectedVersion | None
) -> None:
    conditions, candidate = draft.conditions, rotation.candidate
    if candidate is not None and not candidate.weight:
        outcome = look_at(observed, candidate, rotation.active)
        if outcome.verdict is Verdict.VERIFIED and waits_for_person(observed, rotation, outcome):
            text = (
                f"Version {candidate.version}: {outcome.message} {_few_text(observed, candidate)}"
            )
            conditions.set(ConditionType.VERIFIED, "Unknown", Reason.FEW_QUESTIONS, text)
            return
        status = "False" if outcome.verdict is Verdict.FAILED else "Unknown"
        text = f"Version {candidate.version}: {outcome.message}"
        conditions.set(ConditionType.VERIFIED, status, outcome.reason, text)
        return
    if candidate is None and rejection is not None and rejection.reason in REASONS_OF_THE_VERSION:
        text = f"Version {rejection.version}: {rejection.message}"
        conditions.set(ConditionType.VERIFIED, False, rejection.reason, text)
        return
    served: Served | Candidate | None = candidate or rotation.active
    if served is None:
        reason, message = _why_none(observed, rotation)
        conditions.set(ConditionType.VERIFIED, "Unknown", reason, message)
        return
    if (refused := rotation.refused) is not None:
        text = f"Version {served.version}: {refused.message}"
        conditions.set(ConditionType.VERIFIED, False, refused.reason, text)
        return
    text = f"Version {served.version} answers as its evaluation says."
    conditions.set(ConditionType.VERIFIED, True, Reason.VERIFIED, text)


def _few_text(observed: Observed, candidate: Candidate) -> str:
    return (
        f"Fewer than {MIN_QUESTIONS} held-out questions are no reason to replace a version. Run "
        f"`finetune endpoint promote {observed.name}`, or set spec.version to "
        f"{candidate.version}; or publish a version with more rows in evaluation."
    )


def _set_progressing(draft: EndpointDraft, observed: Observed, rotation: Rotation) -> None:
    conditions, candidate = draft.conditions, rotation.candidate
    if candidate is None:
        if rotation.active is None:
            reason, message = _why_none(observed, rotation)
            waits = reason == Reason.NO_VERSION
            conditions.set(ConditionType.PROGRESSING, waits, reason, message)
            return
        if rotation.refused is not None:
            text = _move_text(rotation) or ""
            conditions.set(ConditionType.PROGRESSING, False, Reason.MOVE_REFUSED, text)
            return
        version, wanted = rotation.active.version, wanted_version(observed, rotation)
        if wanted is not None and waits_for_turn(observed, rotation, wanted):
            others = ", ".join(sorted(observed.moving)) or "servers of other namespaces"
            wait = f"after {others}"
            if are_failing(observed):
                wait = f"once moves no longer fail in {observed.num_failed_moves} namespaces"
            text = f"Version {version} moves to server {wanted.server} {wait}."
            conditions.set(ConditionType.PROGRESSING, True, Reason.WAITS_FOR_TURN, text)
            return
        text = f"Version {version} has all requests."
        conditions.set(ConditionType.PROGRESSING, False, Reason.UP_TO_DATE, text)
    elif conditions.reason_of(ConditionType.VERIFIED) == Reason.FEW_QUESTIONS:
        text = _few_text(observed, candidate)
        conditions.set(ConditionType.PROGRESSING, False, Reason.FEW_QUESTIONS, text)
    elif (move := _move_text(rotation)) is not None:
        conditions.set(ConditionType.PROGRESSING, True, Reason.MOVING, move)
    elif not candidate.weight:
        text = f"Version {candidate.version} is being verified on {candidate.server}."
        conditions.set(ConditionType.PROGRESSING, True, Reason.VERIFYING, text)
    elif is_held(rotation):
        last = rotation.last_decision
        text = f"Version {candidate.version}: {last.message if last else ''}"
        conditions.set(ConditionType.PROGRESSING, False, Reason.HELD, text)
    else:
        text = f"Version {candidate.version} has {candidate.weight} % of the users."
        if observed.spec.rollout is not None:
            decision = decide_again(rules_of(observed, candidate), candidate)
            text = f"Version {candidate.version}: {decision.message}"
            if decision.is_undecided:
                conditions.set(ConditionType.PROGRESSING, "Unknown", Reason.UNDECIDED, text)
                return
        conditions.set(ConditionType.PROGRESSING, True, Reason.ROLLING_OUT, text)


def _move_text(rotation: Rotation) -> str | None:
    """Return the sentence about a version that moves to another server, or must not; else None."""
    active, candidate, refused = rotation.active, rotation.candidate, rotation.refused
    if active is not None and refused is not None and candidate is None:
        at = f"answers on {active.server} as before"
        return f"Version {active.version} {at}. Server {refused.server} is stopped."
    if active is None or candidate is None or not is_same_version(active, candidate):
        return None
    return (
        f"Version {active.version} is being verified on server {candidate.server}, and goes on"
        f" answering on {active.server} until then."
    )


def _set_degraded(
    draft: EndpointDraft, observed: Observed, rotation: Rotation, rejection: RejectedVersion | None
) -> None:
    conditions, active = draft.conditions, rotation.active
    available = conditions.get(ConditionType.AVAILABLE) or {}
    if active is not None and (status := available.get("status")) != "True":
        conditions.set(
            ConditionType.DEGRADED,
            True if status == "False" else "Unknown",
            available["reason"],
            available.get("message", ""),
        )
    elif active is not None and (fault := fault_of(observed, active)) is not None:
        text = f"Version {active.version} answers on other pods. {fault.reason}: {fault.message}"
        conditions.set(ConditionType.DEGRADED, True, Reason.PODS_REFUSE, text)
    elif active is not None and (text := _why_incomplete(observed, active)):
        conditions.set(ConditionType.DEGRADED, True, Reason.PODS_MISSING, text)
    elif is_held(rotation):
        progressing = conditions.get(ConditionType.PROGRESSING) or {}
        text = progressing.get("message", "")
        conditions.set(ConditionType.DEGRADED, True, Reason.HELD, text)
    elif rejection is not None and rotation.candidate is None:
        stays = f" Version {active.version} stays." if active is not None else ""
        text = f"Version {rejection.version} was rejected: {rejection.message}{stays}"
        conditions.set(ConditionType.DEGRADED, True, rejection.reason, text)
    elif active is not None and (loss := find_loss(draft.get("monitor") or {}, active)):
        was_low = conditions.reason_of(ConditionType.DEGRADED) == loss.reason
        conditions.set(ConditionType.DEGRADED, True, loss.reason, loss.message)
        if not was_low:
            draft.announce(loss.reason, loss.message, warning=True)
    else:
        conditions.set(ConditionType.DEGRADED, False, Reason.AS_WANTED)


def _why_incomplete(observed: Observed, active: Served) -> str:
    """Return which pods do not come up while others answer; empty if nobody reports one.

    A Deployment keeps its earlier pods while a new one does not come up, so all that it wants may
    be ready.
    """
    for name in (active.server, FRONT):
        found = observed.workloads.get(name)
        if found is None:
            continue
        told = found.problem or (why_not_ready(observed, active) if name == active.server else "")
        if told and found.num_ready < found.num_wanted:
            num = f"{found.num_ready} of {found.num_wanted}"
            return f"{num} pods of Deployment {name} are ready. {told}"
        if told and found.num_updated < found.num_wanted:
            num = f"{found.num_updated} of {found.num_wanted}"
            return f"Only {num} pods of Deployment {name} have its present settings. {told}"
    return ""


def _set_drift(draft: EndpointDraft, observed: Observed, rotation: Rotation) -> None:
    """Tell what the looks at captured answers have found, and announce what is new of it."""
    conditions, active, monitor = draft.conditions, rotation.active, observed.spec.monitor
    before = draft.get("monitor") or {}
    place = recorded_at(observed, rotation)
    if monitor is None or active is None or place is None:
        draft.drop("monitor")
        if conditions.get(ConditionType.DRIFTED) is not None:
            reason = Reason.NOT_MONITORED if monitor is None else Reason.NO_COMPARISON
            conditions.set(ConditionType.DRIFTED, "Unknown", reason)
        return
    page = page_of(place.uri, observed.namespace, observed.name)
    told = monitor_status(before, active, observed.looks, page)
    if (refusal := observed.look_refusal) is not None:
        told["failure"] = shorten(f"{refusal.reason}: {refusal.message}", SENTENCE_CHARACTERS)
    if told:
        draft.put("monitor", told)
    else:
        draft.drop("monitor")
    was_drifted = draft.is_true(ConditionType.DRIFTED)
    capture = observed.spec.capture or Capture()
    found = find_drift(told, active, monitor, capture.retention_days)
    found = bound_looks(found, monitor, observed.min_look_interval)
    conditions.set(ConditionType.DRIFTED, found.status, found.reason, found.message)
    if found.status == "True" and not was_drifted:
        draft.announce("Drifted", found.message, warning=True)
    elif (failure := told.get("failure")) and failure != before.get("failure"):
        draft.announce("LookFailed", failure, warning=True)


def _set_stalled(draft: EndpointDraft, observed: Observed, rotation: Rotation) -> None:
    conditions = draft.conditions
    blocker = observed.fault or observed.refusal or find_front_fault(observed, rotation)
    if blocker is not None:
        conditions.set(ConditionType.STALLED, True, blocker.reason, blocker.message)
        return
    degraded = conditions.get(ConditionType.DEGRADED) or {}
    if is_held(rotation):
        conditions.set(ConditionType.STALLED, True, Reason.HELD, degraded.get("message", ""))
        return
    candidate = rotation.candidate
    workload = observed.workloads.get(candidate.server) if candidate is not None else None
    move = _move_text(rotation)
    verified = conditions.get(ConditionType.VERIFIED) or {}
    if rotation.refused is not None and candidate is None:
        reason, text = Reason.MOVE_REFUSED, f"{verified.get('message', '')} {move} {_GO_BACK}"
    elif workload is not None and workload.problem and workload.num_ready < workload.num_wanted:
        reason = Reason.SERVER_NOT_READY if move is None else Reason.MOVE_STUCK
        text = workload.problem if move is None else f"{workload.problem} {move} {_GO_BACK}"
    elif candidate is not None and verified.get("reason") == Reason.VERSION_NOT_FOUND:
        reason, text = Reason.VERSION_NOT_FOUND, verified.get("message", "")
    else:
        conditions.set(ConditionType.STALLED, False, Reason.AS_WANTED)
        return
    is_new = conditions.reason_of(ConditionType.STALLED) != reason
    conditions.set(ConditionType.STALLED, True, reason, text)
    if is_new:
        draft.announce(reason, text, warning=True)


_GO_BACK = "Undo the change of spec.serve, or of the operator's configuration, to end this."


def _set_recorded(draft: EndpointDraft, observed: Observed) -> None:
    """Tell whether the decisions lie beside the versions, as the pods of the server report."""
    status = observed.endpoint.get("status") or {}
    active = status.get("active")
    server = (active or status.get("candidate") or {}).get("server")
    told = observed.records_on(server) if server else None
    if told is None:
        return
    by_state = {each.state: each for each in told}
    if (failed := by_state.get("Failed")) is not None:
        reason = failed.reason or Reason.DECISIONS_UNREAD
        draft.conditions.set(ConditionType.RECORDED, False, reason, failed.message)
    elif "Found" in by_state:
        text = "The stored decisions were taken over."
        draft.conditions.set(ConditionType.RECORDED, True, Reason.RESTORED, text)
    elif "Absent" in by_state or (active and not told):
        text = "The decisions on this endpoint are stored beside its versions."
        draft.conditions.set(ConditionType.RECORDED, True, Reason.RECORDED, text)


def _is_missing(draft: EndpointDraft) -> bool:
    return draft.conditions.reason_of(ConditionType.STALLED) == Reason.VERSION_NOT_FOUND


def _set_phase(draft: EndpointDraft, rotation: Rotation) -> None:
    """Set phase and reason, which are for columns."""
    active, candidate = rotation.active, rotation.candidate
    is_available = draft.is_true(ConditionType.AVAILABLE)
    decided_by = ConditionType.AVAILABLE
    if active is not None and not is_available:
        phase = "Degraded"
    elif candidate is not None and not _is_missing(draft):
        phase = "RollingOut" if candidate.weight else "Verifying"
        decided_by = ConditionType.PROGRESSING if candidate.weight else ConditionType.VERIFIED
    elif draft.is_true(ConditionType.DEGRADED):
        phase = "Degraded" if active is not None else "Failed"
        decided_by = ConditionType.DEGRADED
    elif draft.is_true(ConditionType.STALLED):
        phase, decided_by = ("Degraded" if active is not None else "Failed"), ConditionType.STALLED
    else:
        phase = "Available" if is_available else "Pending"
    draft.put("phase", phase)
    draft.put("reason", draft.conditions.reason_of(decided_by) or "")
