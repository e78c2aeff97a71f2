"""What the server pods say about a version: verified, failed, or not yet."""

from __future__ import annotations

from collections.abc import Sequence
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
        "OthersDamaged",
    }
)
"""Reasons that reject a version, because a further try would fail too. After any other reason, such
as an unreachable storage, the agent tries again."""


MIN_QUESTIONS = 20
"""A verification that rests on fewer questions replaces no version by itself: with 20, one of ten
changed decisions is seen in 88 %."""


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
        num_asked: Held-out questions that it rests on; None if no pod has told.
    """

    verdict: Verdict
    reason: str
    message: str
    sha256: str = ""
    num_asked: int | None = None

    @property
    def rests_on_few(self) -> bool:
        """Whether it rests on too few questions to replace a version by itself."""
        return self.num_asked is not None and self.num_asked < MIN_QUESTIONS


def look_at(observed: Observed, version: Served, instead_of: Served | None = None) -> Outcome:
    """Return how far the verification of a version is on its server.

    It is verified if every ready pod says so, of the same manifest. It has failed if pods on two
    nodes say so, or if all its pods do and one has tried twice. A fault that one pod finds alone
    may be the pod's, so it refuses nothing.

    Args:
        observed: The snapshot.
        version: The version.
        instead_of: The version that answers now. A further server has to have as many ready pods.
    """
    pods = [pod for pod in observed.servers if pod.server == version.server]
    if faults := _faults(pods, version):
        return _agree_on(faults, pods)
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
    if instead_of is not None and (missing := _why_too_few(observed, version, instead_of)):
        return _open(Reason.SERVER_NOT_READY, missing)
    records = observed.records_on(version.server) if observed.lacks_decisions else None
    if records is not None and all(each.state == "Reading" for each in records):
        why = next((each.message for each in records if each.message), "")
        return _open(
            Reason.DECISIONS_UNREAD, f"Its server reads the stored decisions. {why}".strip()
        )
    numbers = next((told.verification for _, told in told_by if told and told.verification), None)
    return Outcome(
        verdict=Verdict.VERIFIED,
        reason="Verified",
        message=numbers_text(numbers),
        sha256=digests.pop(),
        num_asked=None if numbers is None else numbers.num_asked,
    )


def answering(observed: Observed, version: Served) -> Outcome:
    """Return whether a version answers: verified if a ready pod of its server has it verified.

    It is open while no ready pod has told anything.
    """
    workload = observed.workloads.get(version.server)
    if workload is None or not workload.is_up:
        return _failed(Reason.SERVER_NOT_READY, _why_not_up(observed, version))
    ready = [pod for pod in observed.servers if pod.server == version.server and pod.is_ready]
    told_by = [(pod, _report_of(pod, version)) for pod in ready]
    if any(told and told.state == "Verified" for _, told in told_by) or not workload.num_wanted:
        alone = " It has one pod, so nothing answers while its node is drained."
        text = f"Version {version.version} answers.{alone if workload.num_wanted == 1 else ''}"
        return Outcome(verdict=Verdict.VERIFIED, reason=Reason.SERVING, message=text)
    if all(pod.report is None for pod in ready):
        text = f"No pod of Deployment {version.server} has reported its versions yet."
        return _open(Reason.NOT_REPORTED, text)
    for pod, told in told_by:
        if told is not None and told.reason:
            is_known = told.reason in REASONS_OF_THE_VERSION
            reason = told.reason if is_known else Reason.SERVER_NOT_READY
            return _failed(reason, f"{_place(pod)}: {told.message}")
    text = f"No ready pod of Deployment {version.server} has version {version.version} verified."
    return _failed(Reason.SERVER_NOT_READY, text)


def fault_of(observed: Observed, version: Served) -> Outcome | None:
    """Return the fault that a pod of its server finds in a version; None if no pod finds one."""
    pods = [pod for pod in observed.servers if pod.server == version.server]
    faults = _faults(pods, version)
    if not faults:
        return None
    pod, _, fault = faults[0]
    of = f"{len(faults)} of {len(pods)} pods refuse it."
    return _failed(fault.reason, f"{of} {_place(pod)}: {fault.message}", fault.sha256)


_Fault = tuple[ServerPod, AdapterReport, Outcome]


def _faults(pods: Sequence[ServerPod], version: Served) -> list[_Fault]:
    """Return what pods find wrong with a version."""
    told_by = [(pod, _report_of(pod, version)) for pod in pods]
    found = [(pod, told, _failure(told, version)) for pod, told in told_by if told is not None]
    return [(pod, told, fault) for pod, told, fault in found if fault is not None]


def _agree_on(faults: Sequence[_Fault], pods: Sequence[ServerPod]) -> Outcome:
    """Return the fault if it is the version's, else that it may be the pod's."""
    pod, _, fault = faults[0]
    nodes = {pod.node for pod, _, _ in faults if pod.node}
    is_repeated = any(told.failures != 1 for _, told, _ in faults)
    is_unanimous = len(faults) == sum(each.report is not None for each in pods)
    if len(nodes) > 1 or (is_repeated and is_unanimous):
        return fault
    wait = "It is refused once a pod on another node finds the same, or all pods a second time."
    return _open(fault.reason, f"{_place(pod)}: {fault.message} {wait}")


def _place(pod: ServerPod) -> str:
    return f"Pod {pod.name} on node {pod.node}" if pod.node else f"Pod {pod.name}"


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


def _why_too_few(observed: Observed, version: Served, instead_of: Served) -> str:
    """Return how many pods a server lacks that is to take over; empty if it has enough."""
    new, old = (observed.workloads.get(each.server) for each in (version, instead_of))
    if new is None or old is None or version.server == instead_of.server:
        return ""
    num_needed = min(new.num_wanted, old.num_ready)
    if new.num_ready >= num_needed:
        return ""
    text = f"{new.num_ready} of {num_needed} pods of Deployment {version.server} are ready."
    return f"{text} {new.problem}".strip()


def _why_not_up(observed: Observed, version: Served) -> str:
    """Return why no pod is ready: what its pods say of the version, else what the cluster says."""
    return why_not_ready(observed, version) or _why_no_pod(observed, version)


def why_not_ready(observed: Observed, version: Served) -> str:
    """Return what a pod that is not ready says of a version; empty if none says why.

    A refusal comes first, then what it waits for, such as an engine that does not answer.
    """
    told_by = [
        (pod, told)
        for pod in observed.servers
        if pod.server == version.server and not pod.is_ready
        if (told := _report_of(pod, version)) is not None and told.message
    ]
    for pod, told in told_by:
        if told.state == "Failed":
            return f"{_place(pod)} refuses version {version.version}: {told.message}"
    return next(
        (f"{_place(pod)}: {told.reason}: {told.message}" for pod, told in told_by if told.reason),
        "",
    )


def _why_no_pod(observed: Observed, version: Served) -> str:
    workload = observed.workloads.get(version.server)
    if workload is None:
        return f"Deployment {version.server} does not exist yet."
    return workload.problem or f"No pod of Deployment {version.server} is ready yet."


def _failed(reason: str, message: str, sha256: str = "") -> Outcome:
    return Outcome(verdict=Verdict.FAILED, reason=reason, message=message, sha256=sha256)


def _open(reason: str, message: str) -> Outcome:
    return Outcome(verdict=Verdict.OPEN, reason=reason, message=message)
