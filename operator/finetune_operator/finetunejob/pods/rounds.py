"""Pods that end without costing a retry, again and again, without getting anywhere.

With exit code 75, for one preempted node makes all its peers end so; or lost with a node that was
restarted. The Job controller starts such pods anew and does not count them. A cause that lasts (a
blocked port, a host short of memory, a training that brings its node down) would hold GPUs for
ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from finetune_api.protocol.trainer import ExitCode
from finetune_operator.finetunejob.pods.stragglers import Stragglers
from finetune_operator.finetunejob.state.failure import read_termination_message
from finetune_operator.finetunejob.state.retry import Ledger, exit_code_of, is_disrupted, is_lost
from finetune_operator.finetunejob.state.trimmed import TrimmedPod, completion_index, container_of
from finetune_operator.status.conditions import parse_timestamp

START_SECONDS = 7200.0
"""A pod that ran for longer got past its start, whether or not it could report steps."""

PEERS_MISSING = "PeersMissing"
"""Reason of a pod that waited for its peers in vain: however long it ran, it started no rank."""

WAIT_SECONDS = 120.0
"""A peer that waited for longer than this for its container was missed by the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """Starts of a stage that came to nothing.

    Attributes:
        count: How many in a row, as far as they are nobody else's doing.
        pods: The pods that ended so.
    """

    count: int
    pods: tuple[TrimmedPod, ...]


def fruitless_rounds(pods: Iterable[TrimmedPod], ledger: Ledger) -> Rounds:
    """Count the rounds since the last new step; each rank ends once in a round.

    An eviction, or a pod that failed with a cause of its own, explains one round; a node that was
    restarted does not, for the pod may have been the reason. Ranks that meet nobody because a peer
    has no node yet are not to blame, however often they try.

    Args:
        pods: The trimmed pods of a stage; those that failed stay as long as their Job.
        ledger: What is remembered of evictions and steps.
    """
    known = list(pods)
    waits = [wait for pod in known if (wait := _long_wait_of(pod)) is not None]
    stragglers = Stragglers(known)
    ends = [
        pod
        for pod in known
        if _is_fruitless(pod, ledger)
        and not _was_alone(pod, waits)
        and not stragglers.outlived(pod)
    ]
    by_rank = Counter(completion_index(pod) for pod in ends)
    # What runs now may get further.
    for pod in known:
        if "running" in container_of(pod):
            by_rank.pop(completion_index(pod), None)
    explained = ledger.num_evicted + sum(
        exit_code_of(pod) not in (None, ExitCode.OK, ExitCode.RETRYABLE)
        and not is_disrupted(pod)
        and not is_lost(pod)
        for pod in known
    )
    return Rounds(count=max(by_rank.values(), default=0) - explained, pods=tuple(ends))


def _long_wait_of(pod: TrimmedPod) -> tuple[datetime, datetime | None] | None:
    """Return from when to when a pod waited for its container; None if not for long."""
    state = container_of(pod)
    begun = (state.get("running") or state.get("terminated") or {}).get("startedAt")
    since, until = parse_timestamp(pod["metadata"].get("creationTimestamp")), parse_timestamp(begun)
    if since is None or (until is None and pod["status"]["phase"] != "Pending"):
        return None
    if until is not None and (until - since).total_seconds() < WAIT_SECONDS:
        return None
    return since, until


def _was_alone(pod: TrimmedPod, waits: list[tuple[datetime, datetime | None]]) -> bool:
    """Return whether a peer was waited for when this pod ended."""
    end = parse_timestamp(pod["status"]["container"]["terminated"].get("finishedAt"))
    if end is None:
        return False
    return any(since <= end and (until is None or end < until) for since, until in waits)


def _is_fruitless(pod: TrimmedPod, ledger: Ledger) -> bool:
    code = exit_code_of(pod)
    is_uncounted = code == ExitCode.RETRYABLE or (code is not None and is_lost(pod))
    if not is_uncounted or is_disrupted(pod):
        return False
    if pod["metadata"].get("deletionTimestamp"):
        # Suspended: its peers were being stopped.
        return False
    ended = pod["status"]["container"]["terminated"]
    start = parse_timestamp(ended.get("startedAt") or pod["metadata"].get("creationTimestamp"))
    end = parse_timestamp(ended.get("finishedAt"))
    if start is None or end is None:
        return False
    words = read_termination_message(pod)
    has_ranks = words is None or words.reason != PEERS_MISSING
    if has_ranks and (end - start).total_seconds() >= START_SECONDS:
        return False
    return ledger.stepped_at is None or start > ledger.stepped_at
