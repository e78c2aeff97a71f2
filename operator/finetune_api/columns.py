"""Columns of ``kubectl get`` for each kind."""

from __future__ import annotations

from finetune_api.schema.structural import Schema

_Row = tuple[str, str, str, str]
"""Name, type, JSON path and description; the last may be empty."""

_AGE: _Row = ("Age", "date", ".metadata.creationTimestamp", "")


def _columns(rows: tuple[_Row, ...], wide: tuple[_Row, ...]) -> tuple[Schema, ...]:
    """Return columns in the form of a CRD; the ``wide`` ones only show with ``-o wide``."""
    found: list[Schema] = []
    for row in (*rows, *wide):
        name, kind, path, description = row
        priority = {"priority": 1} if row in wide else {}
        told = {"description": description} if description else {}
        found.append({"name": name, "type": kind, **priority, "jsonPath": path, **told})
    return tuple(found)


JOB_COLUMNS = _columns(
    (
        ("Phase", "string", ".status.phase", "Where the job is in its life."),
        (
            "Progress",
            "integer",
            ".status.progress.percent",
            "Share of the current stage done, in percent.",
        ),
        ("Step", "integer", ".status.progress.step", "Optimiser steps done."),
        ("Loss", "string", '.status.metrics[?(@.name=="loss")].value', "Latest training loss."),
        ("Queue", "string", ".spec.queueName", "Kueue LocalQueue."),
        _AGE,
    ),
    (
        (
            "Reason",
            "string",
            ".status.reason",
            "Why the job is in its phase: what it waits for, or why it failed.",
        ),
        ("Adapter", "string", ".status.artifact.uri", "Folder of the published adapter."),
    ),
)
APPROVAL_COLUMNS = _columns(
    (
        ("Job", "string", ".spec.job", "Name of the FineTuneJob."),
        ("Subject", "string", ".spec.subject", "What is decided on."),
        ("Decision", "string", ".spec.decision", "Approved or Rejected."),
        ("By", "string", ".spec.by", "Who decided."),
        _AGE,
    ),
    (
        ("Digest", "string", ".spec.digest", "Version of the data set that was looked at."),
        ("Reason", "string", ".spec.reason", "Why."),
    ),
)
SWEEP_COLUMNS = _columns(
    (
        ("Phase", "string", ".status.phase", "Where the sweep is in its life."),
        ("Trials", "string", ".status.progress", "Trials that are over, of all."),
        ("Best", "string", ".status.best.name", "FineTuneJob of the best trial."),
        ("Score", "string", ".status.best.score", "Its score by the metric."),
        ("Metric", "string", ".status.objective.metric", "What trials are compared by."),
        _AGE,
    ),
    (("Reason", "string", ".status.reason", "Why the sweep is in its phase."),),
)
ENDPOINT_COLUMNS = _columns(
    (
        ("Phase", "string", ".status.phase", "Where the endpoint is in its life."),
        ("Version", "integer", ".status.active.version", "The version that answers."),
        ("Candidate", "integer", ".status.candidate.version", "The version that is to take over."),
        (
            "Weight",
            "integer",
            ".status.candidate.weight",
            "Share of requests that the candidate gets, in percent.",
        ),
        _AGE,
    ),
    (
        ("Job", "string", ".spec.jobRef.name", "FineTuneJob whose versions are served."),
        ("URL", "string", ".status.url", "Base URL of the API."),
        ("Reason", "string", ".status.reason", "Why the endpoint is in its phase."),
    ),
)
SCHEDULE_COLUMNS = _columns(
    (
        ("Cron", "string", ".spec.triggers.cron", "Times at which it trains."),
        ("Suspend", "boolean", ".spec.suspend", "Whether it begins no more cycles."),
        ("Active", "string", ".status.active.job", "FineTuneJob of the cycle under way."),
        ("Last", "date", ".status.lastTriggerTime", "Since the last trigger."),
        ("Reason", "string", ".status.reason", "What it waits for, or why it cannot go on."),
        _AGE,
    ),
    (
        (
            "Endpoint",
            "string",
            ".spec.endpointRef.name",
            "FineTuneEndpoint whose traffic is counted and which serves the result.",
        ),
        ("Next", "string", ".status.nextTriggerTime", "The next time of `triggers.cron`."),
    ),
)
