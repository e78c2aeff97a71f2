"""Conditions and phase of an endpoint: what people, Argo and ``kubectl wait`` read."""

from __future__ import annotations

from finetune_api.names import front_url
from finetune_api.v1alpha1.status.endpoint import Candidate, RejectedVersion, Served
from finetune_operator.finetuneendpoint.canary.rollout import e_text
from finetune_operator.finetuneendpoint.draft import EndpointDraft
from finetune_operator.finetuneendpoint.monitoring.drift import (
    find_drift,
    find_loss,
    monitor_status,
    page_of,
)
from finetune_operator.finetuneendpoint.observed import Observed
from finetune_operator.finetuneendpoint.rotation import Rotation
from finetune_operator.finetuneendpoint.serving import recorded_at
from finetune_operator.finetuneendpoint.traffic import is_held
from finetune_operator.finetuneendpoint.verification import (
    REASONS_OF_THE_VERSION,
    Verdict,
    fault_of,
    look_at,
)
from finetune_operator.finetuneendpoint.versions import wanted_version
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
    server = observed.workloads.get(active.server)
    for workload, reason, name in (
        (front, Reason.FRONT_NOT_READY, "the front"),
        (server, Reason.SERVER_NOT_READY, f"Deployment {active.server}"),
    ):
        if workload is None or not workload.is_up:
            problem = workload.problem if workload is not None else ""
            text = problem or f"No pod of {name} is ready."
            conditions.set(ConditionType.AVAILABLE, False, reason, text)
            return
    text = f"Version {active.version} answers."
    conditions.set(ConditionType.AVAILABLE, True, Reason.SERVING, text)


def _why_none(observed: Observed, rotation: Rotation) -> tuple[str, str]:
    if rotation.candidate is not None:
        text = f"Version {rotation.candidate.version} has to be verified first."
        return Reason.VERIFYING, text
    job = observed.spec.job_ref.name
    if rotation.rejected:
        return Reason.VERSION_REJECTED, f"Version {rotation.rejected[-1].version} was rejected."
    if observed.job is None:
        return Reason.JOB_NOT_FOUND, f"There is no FineTuneJob {job} in this namespace."
    return Reason.NO_VERSION, f"FineTuneJob {job} has published no version yet."


def _set_verified(
    draft: EndpointDraft,
    observed: Observed,
    rotation: Rotation,
    rejection: RejectedVersion | None,
) -> None:
    conditions, candidate = draft.conditions, rotation.candidate
    if candidate is not None and not candidate.weight:
        outcome = look_at(observed, candidate)
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
    text = f"Version {served.version} answers as its evaluation says."
    conditions.set(ConditionType.VERIFIED, True, Reason.VERIFIED, text)


def _set_progressing(draft: EndpointDraft, observed: Observed, rotation: Rotation) -> None:
    conditions, candidate = draft.conditions, rotation.candidate
    if candidate is None:
        if rotation.active is None:
            reason, message = _why_none(observed, rotation)
            waits = reason == Reason.NO_VERSION
            conditions.set(ConditionType.PROGRESSING, waits, reason, message)
            return
        text = f"Version {rotation.active.version} has all requests."
        conditions.set(ConditionType.PROGRESSING, False, Reason.UP_TO_DATE, text)
    elif not candidate.weight:
        text = f"Version {candidate.version} is being verified on {candidate.server}."
        conditions.set(ConditionType.PROGRESSING, True, Reason.VERIFYING, text)
    elif is_held(rotation):
        last = rotation.last_decision
        text = f"Version {candidate.version}: {last.message if last else ''}"
        conditions.set(ConditionType.PROGRESSING, False, Reason.HELD, text)
    else:
        conditions.set(
            ConditionType.PROGRESSING, True, Reason.ROLLING_OUT, _rollout_text(observed, candidate)
        )


def _rollout_text(observed: Observed, candidate: Candidate) -> str:
    rollout = observed.spec.rollout
    of = f" of {rollout.min_requests}" if rollout is not None else ""
    log_e = next((float(each.log_e) for each in candidate.evidence if each.signal == "All"), 0.0)
    return (
        f"Version {candidate.version} has {candidate.weight} % of the requests:"
        f" {candidate.requests}{of} at this step, e-value {e_text(log_e)}."
    )


def _set_degraded(
    draft: EndpointDraft,
    observed: Observed,
    rotation: Rotation,
    rejection: RejectedVersion | None,
) -> None:
    conditions, active = draft.conditions, rotation.active
    available = conditions.get(ConditionType.AVAILABLE) or {}
    if active is not None and available.get("status") != "True":
        conditions.set(
            ConditionType.DEGRADED, True, available["reason"], available.get("message", "")
        )
    elif active is not None and (fault := fault_of(observed, active)) is not None:
        text = f"Version {active.version} cannot be loaded again: {fault.message}"
        conditions.set(ConditionType.DEGRADED, True, fault.reason, text)
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


def _set_drift(draft: EndpointDraft, observed: Observed, rotation: Rotation) -> None:
    """Tell what the looks at captured answers have found, and announce what is new of it."""
    conditions, active, monitor = draft.conditions, rotation.active, observed.spec.monitor
    before = draft.get("monitor") or {}
    place = recorded_at(observed, rotation)
    if monitor is None or active is None or place is None:
        draft.drop("monitor")
        if conditions.get(ConditionType.DRIFTED) is not None:
            reason = Reason.NOT_MONITORED if monitor is None else Reason.TOO_FEW_ANSWERS
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
    found = find_drift(told, active, monitor)
    conditions.set(ConditionType.DRIFTED, found.status, found.reason, found.message)
    if found.status == "True" and not was_drifted:
        draft.announce("Drifted", found.message, warning=True)
    elif (failure := told.get("failure")) and failure != before.get("failure"):
        draft.announce("LookFailed", failure, warning=True)


def _set_stalled(draft: EndpointDraft, observed: Observed, rotation: Rotation) -> None:
    conditions = draft.conditions
    blocker = observed.fault or observed.refusal
    if blocker is not None:
        conditions.set(ConditionType.STALLED, True, blocker.reason, blocker.message)
        return
    degraded = conditions.get(ConditionType.DEGRADED) or {}
    if is_held(rotation):
        conditions.set(ConditionType.STALLED, True, Reason.HELD, degraded.get("message", ""))
        return
    candidate = rotation.candidate
    workload = observed.workloads.get(candidate.server) if candidate is not None else None
    if workload is not None and workload.problem and not workload.num_ready:
        conditions.set(ConditionType.STALLED, True, Reason.SERVER_NOT_READY, workload.problem)
        return
    conditions.set(ConditionType.STALLED, False, Reason.AS_WANTED)


def _set_phase(draft: EndpointDraft, rotation: Rotation) -> None:
    """Set phase and reason, which are for columns."""
    active, candidate = rotation.active, rotation.candidate
    is_available = draft.is_true(ConditionType.AVAILABLE)
    decided_by = ConditionType.AVAILABLE
    if active is not None and not is_available:
        phase = "Degraded"
    elif candidate is not None:
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
