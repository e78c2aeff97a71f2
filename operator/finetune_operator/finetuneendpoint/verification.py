"""What the server pods say about a version: verified, failed, or not yet."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from finetune_api.protocol.serving import AdapterReport, Verification
from finetune_api.v1alpha1.status.endpoint import Served
from finetune_operator.finetuneendpoint.observed import Observed, ServerPod
from finetune_operator.status.conditions import Reason

REASONS_OF_THE_VERSION = frozenset(
    {
        "AnswersDiffer",
        "AnswersLikeBase",
        "FilesDamaged",
        "OtherBaseModel",
        "NameTaken",
        "NothingToCompare",
        "EngineRefused",
    }
)
"""Reasons that reject a version, because a further try would fail too. After any other reason, such
as an unreachable storage, the agent tries again."""


class Verdict(StrEnum):
    """What the pods of a version's server say together."""

    VERIFIED = "Verified"
    FAILED = "Failed"
    OPEN = "Open"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How far a version's verification is.

    Attributes:
        reason: CamelCase cause.
        message: The numbers, or what it waits for.
        sha256: Digest of the manifest that the pods have read; empty if it is not known.
    """

    verdict: Verdict
    reason: str
    message: str
    sha256: str = ""


def look_at(observed: Observed, version: Served) -> Outcome:
    """Return how far the verification of a version is on its server.

    It is verified if every ready pod says so, of the same manifest. One pod that finds a fault of
    the version is enough to refuse it.
    """
    if (failed := fault_of(observed, version)) is not None:
        return failed
    pods = [pod for pod in observed.servers if pod.server == version.server]
    ready = [pod for pod in pods if pod.is_ready]
    if not ready:
        for pod in pods:
            # A pod is not ready before it has the base model: say what it waits for.
            told = _report_of(pod, version)
            if told is not None and told.reason and told.message:
                return _open(told.reason, f"Pod {pod.name}: {told.message}")
        return _open(Reason.SERVER_NOT_READY, _why_no_pod(observed, version))
    told_by = [(pod, _report_of(pod, version)) for pod in ready]
    for pod, told in told_by:
        if told is None:
            return _open("Loading", f"Pod {pod.name} has not begun to load the version.")
        if told.state != "Verified":
            text = told.message or f"Pod {pod.name}: {told.state.lower()} the version."
            return _open(told.reason or told.state, text)
    digests = {told.sha256 for _, told in told_by if told is not None}
    if len(digests) > 1 or "" in digests:
        return _open(
            "FilesDamaged", "The pods of the server have not read one and the same manifest."
        )
    numbers = next((told.verification for _, told in told_by if told and told.verification), None)
    return Outcome(
        verdict=Verdict.VERIFIED,
        reason="Verified",
        message=numbers_text(numbers),
        sha256=digests.pop(),
    )


def fault_of(observed: Observed, version: Served) -> Outcome | None:
    """Return the fault that a pod of its server finds in a version; None if no pod finds one."""
    for pod in observed.servers:
        told = _report_of(pod, version) if pod.server == version.server else None
        if told is not None and (failed := _failure(told, version)) is not None:
            return failed
    return None


def numbers_text(found: Verification | None) -> str:
    """Return what a comparison with the evaluation has found."""
    if found is None:
        return "The server pods have verified it."
    text = f"{found.num_equal} of {found.num_asked} held-out answers are as evaluated"
    if found.num_like_base:
        text += f", {found.num_like_base} are the base model's"
    if found.score is not None and found.metric:
        text += f"; {found.metric} {found.score}"
    if found.differing:
        lines = ", ".join(map(str, found.differing))
        text += f". Lines of samples.jsonl that differ: {lines}"
    return f"{text}."


def _failure(told: AdapterReport, version: Served) -> Outcome | None:
    if told.state == "Verified" and version.sha256 not in ("", told.sha256):
        text = f"Its manifest was {version.sha256[:12]} before, and is {told.sha256[:12]} now."
        return _failed("FilesDamaged", text, told.sha256)
    if told.state != "Failed" or told.reason not in REASONS_OF_THE_VERSION:
        return None
    numbers = numbers_text(told.verification) if told.verification is not None else ""
    text = f"{told.message} {numbers}".strip()
    return _failed(str(told.reason), text or "The server refuses it.", told.sha256)


def _report_of(pod: ServerPod, version: Served) -> AdapterReport | None:
    """Return the entry of a version in a pod's report, or None.

    An entry with the version's name and the digest of other weights is about another version.
    """
    named = [
        each
        for each in (pod.report.adapters if pod.report is not None else ())
        if each.name == version.adapter
        and each.version == version.version
        and len({each.weights_sha256, version.weights_sha256} - {None}) < 2
    ]
    # A name that is taken is reported twice.
    named.sort(key=lambda each: each.sha256 != version.sha256)
    return named[0] if named else None


def _why_no_pod(observed: Observed, version: Served) -> str:
    workload = observed.workloads.get(version.server)
    if workload is None:
        return f"Deployment {version.server} does not exist yet."
    return workload.problem or f"No pod of Deployment {version.server} is ready yet."


def _failed(reason: str, message: str, sha256: str) -> Outcome:
    return Outcome(verdict=Verdict.FAILED, reason=reason, message=message, sha256=sha256)


def _open(reason: str, message: str) -> Outcome:
    return Outcome(verdict=Verdict.OPEN, reason=reason, message=message)
