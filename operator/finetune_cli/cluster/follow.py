"""Waiting for a job on a cluster, and reading the logs of its stages as they come."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from finetune_cli.cluster.client import STAGE_LABEL, Cluster
from finetune_cli.cluster.errors import ApiError
from finetune_cli.cluster.waiting import RETRY_SECONDS, follow_log, is_passing, patiently
from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET
from finetune_cli.views.state import condition, is_terminal, is_true, state_text

POLL_SECONDS = 1.0
IDLE_POLLS = 3
"""After so many polls without a new pod the cause of the wait is printed."""

Body = dict[str, Any]


def watch_until(
    cluster: Cluster,
    name: str,
    is_done: Callable[[Body], bool],
    *,
    on_change: Callable[[Body], None],
) -> Body:
    """Follow a job until a predicate holds.

    Raises:
        CliError: The job was deleted, or the API server is away for too long.
    """
    job = cluster.get_job(name)  # print early errors at once
    while True:
        on_change(job)
        if is_done(job):
            return job
        for kind, body in _changes(cluster, job):
            if kind == "DELETED":
                raise CliError(f"FineTuneJob {name} was deleted", exit_code=NOT_MET)
            on_change(body)
            if is_done(body):
                return body
        job = _read_again(cluster, name)


def _changes(cluster: Cluster, job: Body) -> Iterator[tuple[str, Body]]:
    name, version = job["metadata"]["name"], job["metadata"]["resourceVersion"]
    try:
        yield from cluster.watch_job(name, version)
    except CliError as error:
        is_outdated = isinstance(error, ApiError) and error.status == 410
        if not is_outdated and not is_passing(error):
            raise
        time.sleep(RETRY_SECONDS)  # then the caller reads again


def verdict(job: Body) -> tuple[bool, str]:
    """Return whether a job is complete, and its end in words."""
    held = is_true(job, "Complete")
    ends = ("Complete", "Failed", "Pruned")
    shown = next((kind for kind in ends if is_true(job, kind)), "Complete")
    found = condition(job, shown)
    words = f"{shown}={found.get('status', 'Unknown')}"
    for part in (found.get("reason"), found.get("message")):
        if part:
            words += f", {part}"
    return held, words


def follow_logs(
    cluster: Cluster,
    name: str,
    *,
    stage: str | None,
    is_raw: bool,
    write: Callable[[str], None],
    note: Callable[[str], None],
) -> None:
    """Print the logs of all pods of a job, from now to its end or that of one stage.

    Args:
        cluster: The job's cluster.
        name: Name of the job.
        stage: Only this stage; None for all.
        is_raw: Whether lines are printed as they are.
        write: Prints a line of a log.
        note: Prints other lines: the cause of a wait, the end of the job.

    Raises:
        CliError: The job was deleted meanwhile.
    """
    seen: set[str] = set()
    job = cluster.get_job(name)
    num_idle, told = 0, ""
    while True:
        fresh = [
            pod
            for pod in patiently(lambda: cluster.list_pods(name, stage))
            if _uid(pod) not in seen and has_started(pod)
        ]
        for pod in fresh:
            seen.add(_uid(pod))
            print_log(cluster, pod, follow=True, tail=None, is_raw=is_raw, write=write)
        if fresh:
            num_idle = 0
        elif is_terminal(job):
            note(f"{name}: {verdict(job)[1]}")
            return
        elif stage is not None and _is_over(job, stage):
            return
        else:
            num_idle += 1
            if num_idle >= IDLE_POLLS and (text := state_text(job)) != told:
                note(f"{name}: {text}")
                told = text
            time.sleep(POLL_SECONDS)
        job = _read_again(cluster, name)


def _read_again(cluster: Cluster, name: str) -> Body:
    try:
        return patiently(lambda: cluster.get_job(name))
    except ApiError as error:
        if error.status != 404:
            raise
        raise CliError(f"FineTuneJob {name} was deleted", exit_code=NOT_MET) from error


def _is_over(job: Body, stage: str) -> bool:
    stages = job.get("status", {}).get("stages", [])
    return any(s["name"] == stage and s.get("completionTime") for s in stages)


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
    last: str | None = None
    lines = follow_log(cluster, name) if follow else cluster.read_log(name, follow=False, tail=tail)
    try:
        for line in lines:
            text = line if is_raw else readable(line, stage)
            # The last step is reported again at the end of training and of the stage.
            if text is not None and (is_raw or text != last):
                write(text)
                last = text
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
        # Of a progress bar, the line that a terminal shows at the end.
        shown = line.rstrip().rpartition("\r")[2]
        return f"{stage}: {shown}"
    from pydantic import ValidationError

    from finetune_api.protocol.trainer import Event, ExitCode
    from finetune_cli.views.display import progress_text

    try:
        event = Event.model_validate(json.loads(line))
    except (ValueError, ValidationError):
        return f"{stage}: {line}"
    match event.event:
        case "progress":
            is_counted = event.step is not None and (event.unit or not event.message)
            text = progress_text(event) if is_counted else event.message
            return f"{event.stage}: {text}" if text else None
        case "failure" if event.exit_code == ExitCode.STOPPED:
            return f"{event.stage}: {event.message}"
        case "failure":
            return f"{event.stage}: failed ({event.reason}): {event.message}"
        case "result":
            return f"{event.stage}: done"
    return f"{event.stage}: {event.message}"


def _uid(pod: Body) -> str:
    return str(pod["metadata"]["uid"])
