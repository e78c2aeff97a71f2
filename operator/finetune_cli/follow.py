"""Waiting for a job on a cluster, and reading the logs of its stages as they come."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from finetune_cli.cluster import STAGE_LABEL, ApiError, Cluster
from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET
from finetune_cli.jobview import condition, is_terminal, is_true

POLL_SECONDS = 1.0

Body = dict[str, Any]


def watch_until(
    cluster: Cluster,
    name: str,
    is_done: Callable[[Body], bool],
    *,
    timeout_seconds: float | None,
    on_change: Callable[[Body], None],
    clock: Callable[[], float] = time.monotonic,
) -> Body:
    """Follow a job until a predicate holds.

    Raises:
        CliError: It was deleted meanwhile, or time is up.
    """
    deadline = None if timeout_seconds is None else clock() + timeout_seconds
    while True:
        job = cluster.get_job(name)
        on_change(job)
        if is_done(job):
            return job
        for kind, body in _changes(cluster, job, deadline, clock):
            if kind == "DELETED":
                raise CliError(f"FineTuneJob {name} was deleted", exit_code=NOT_MET)
            on_change(body)
            if is_done(body):
                return body
        if deadline is not None and clock() >= deadline:
            phase = job.get("status", {}).get("phase", "Pending")
            raise CliError(
                f"FineTuneJob {name} is still {phase} after {timeout_seconds:g} s",
                exit_code=NOT_MET,
            )


def _changes(
    cluster: Cluster, job: Body, deadline: float | None, clock: Callable[[], float]
) -> Iterator[tuple[str, Body]]:
    if deadline is None:
        name, version = job["metadata"]["name"], job["metadata"]["resourceVersion"]
        yield from cluster.watch_job(name, version)
        return
    # With a deadline the state is polled: a silent watch could not be left in time.
    time.sleep(min(POLL_SECONDS, max(0.0, deadline - clock())))


def verdict(job: Body, wanted: str) -> tuple[bool, str]:
    """Return whether the wanted condition holds, and the state in words."""
    held = is_true(job, wanted)
    shown = wanted if held else "Failed" if is_true(job, "Failed") else wanted
    found = condition(job, shown)
    words = f"{shown}={found.get('status', 'Unknown')}"
    for part in (found.get("reason"), found.get("message")):
        if part:
            words += f", {part}"
    return held, words


def follow_logs(
    cluster: Cluster, name: str, *, stage: str | None, is_raw: bool, write: Callable[[str], None]
) -> None:
    """Print the logs of all pods of a job, from now to its end."""
    seen: set[str] = set()
    while True:
        is_over = is_terminal(cluster.get_job(name))
        fresh = [p for p in cluster.list_pods(name, stage) if _uid(p) not in seen]
        for pod in fresh:
            if not has_started(pod):
                continue
            seen.add(_uid(pod))
            print_log(cluster, pod, follow=True, tail=None, is_raw=is_raw, write=write)
        if is_over and not fresh:
            return
        if is_over and not any(has_started(pod) for pod in fresh):
            return
        time.sleep(POLL_SECONDS)


def print_log(
    cluster: Cluster,
    pod: Body,
    *,
    follow: bool,
    tail: int | None,
    is_raw: bool,
    write: Callable[[str], None],
) -> None:
    """Print one pod's log, its events as words unless raw."""
    name = pod["metadata"]["name"]
    stage = pod["metadata"].get("labels", {}).get(STAGE_LABEL, name)
    try:
        for line in cluster.read_log(name, follow=follow, tail=tail):
            text = line if is_raw else readable(line, stage)
            if text is not None:
                write(text)
    except ApiError as error:
        if error.status not in (400, 404):
            raise
        write(f"{stage}: no log of pod {name} any more: {error.message}")


def has_started(pod: Body) -> bool:
    """Whether a container of the pod has run, so that there is a log."""
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return any("waiting" not in status.get("state", {"waiting": {}}) for status in statuses)


def readable(line: str, stage: str) -> str | None:
    """Turn one line of a stage's log into words; None for what only machines need."""
    if not line.startswith("{"):
        return f"{stage}: {line}"
    from pydantic import ValidationError

    from finetune_api.trainer import Event
    from finetune_cli.display import progress_text

    try:
        event = Event.model_validate(json.loads(line))
    except (ValueError, ValidationError):
        return f"{stage}: {line}"
    match event.event:
        case "progress":
            text = event.message or (progress_text(event) if event.step is not None else "")
            return f"{event.stage}: {text}" if text else None
        case "failure":
            return f"{event.stage}: failed ({event.reason}): {event.message}"
        case "result":
            return f"{event.stage}: done"
    return f"{event.stage}: {event.message}"


def _uid(pod: Body) -> str:
    return str(pod["metadata"]["uid"])
