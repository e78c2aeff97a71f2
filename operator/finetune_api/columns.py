"""Columns of ``kubectl get`` for each kind."""

from __future__ import annotations

from finetune_api.schema.structural import Schema

JOB_COLUMNS: tuple[Schema, ...] = (
    {
        "name": "Phase",
        "type": "string",
        "jsonPath": ".status.phase",
        "description": "Where the job is in its life.",
    },
    {
        "name": "Progress",
        "type": "integer",
        "jsonPath": ".status.progress.percent",
        "description": "Share of the current stage done, in percent.",
    },
    {
        "name": "Step",
        "type": "integer",
        "jsonPath": ".status.progress.step",
        "description": "Optimiser steps done.",
    },
    {
        "name": "Loss",
        "type": "string",
        "jsonPath": '.status.metrics[?(@.name=="loss")].value',
        "description": "Latest training loss.",
    },
    {
        "name": "Queue",
        "type": "string",
        "jsonPath": ".spec.queueName",
        "description": "Kueue LocalQueue.",
    },
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {
        "name": "Reason",
        "type": "string",
        "priority": 1,
        "jsonPath": ".status.reason",
        "description": "Why the job is in its phase: what it waits for, or why it failed.",
    },
    {
        "name": "Adapter",
        "type": "string",
        "priority": 1,
        "jsonPath": ".status.artifact.uri",
        "description": "Folder of the published adapter.",
    },
)

APPROVAL_COLUMNS: tuple[Schema, ...] = (
    {
        "name": "Job",
        "type": "string",
        "jsonPath": ".spec.job",
        "description": "Name of the FineTuneJob.",
    },
    {
        "name": "Subject",
        "type": "string",
        "jsonPath": ".spec.subject",
        "description": "What is decided on.",
    },
    {
        "name": "Decision",
        "type": "string",
        "jsonPath": ".spec.decision",
        "description": "Approved or Rejected.",
    },
    {"name": "By", "type": "string", "jsonPath": ".spec.by", "description": "Who decided."},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {
        "name": "Digest",
        "type": "string",
        "priority": 1,
        "jsonPath": ".spec.digest",
        "description": "Version of the data set that was looked at.",
    },
    {
        "name": "Reason",
        "type": "string",
        "priority": 1,
        "jsonPath": ".spec.reason",
        "description": "Why.",
    },
)

SWEEP_COLUMNS: tuple[Schema, ...] = (
    {
        "name": "Phase",
        "type": "string",
        "jsonPath": ".status.phase",
        "description": "Where the sweep is in its life.",
    },
    {
        "name": "Trials",
        "type": "string",
        "jsonPath": ".status.progress",
        "description": "Trials that are over, of all.",
    },
    {
        "name": "Best",
        "type": "string",
        "jsonPath": ".status.best.name",
        "description": "FineTuneJob of the best trial.",
    },
    {
        "name": "Score",
        "type": "string",
        "jsonPath": ".status.best.score",
        "description": "Its score by the metric.",
    },
    {
        "name": "Metric",
        "type": "string",
        "jsonPath": ".status.objective.metric",
        "description": "What trials are compared by.",
    },
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {
        "name": "Reason",
        "type": "string",
        "priority": 1,
        "jsonPath": ".status.reason",
        "description": "Why the sweep is in its phase.",
    },
)
ENDPOINT_COLUMNS: tuple[Schema, ...] = (
    {
        "name": "Phase",
        "type": "string",
        "jsonPath": ".status.phase",
        "description": "Where the endpoint is in its life.",
    },
    {
        "name": "Version",
        "type": "integer",
        "jsonPath": ".status.active.version",
        "description": "The version that answers.",
    },
    {
        "name": "Candidate",
        "type": "integer",
        "jsonPath": ".status.candidate.version",
        "description": "The version that is to take over.",
    },
    {
        "name": "Weight",
        "type": "integer",
        "jsonPath": ".status.candidate.weight",
        "description": "Share of requests that the candidate gets, in percent.",
    },
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {
        "name": "Job",
        "type": "string",
        "priority": 1,
        "jsonPath": ".spec.jobRef.name",
        "description": "FineTuneJob whose versions are served.",
    },
    {
        "name": "URL",
        "type": "string",
        "priority": 1,
        "jsonPath": ".status.url",
        "description": "Base URL of the API.",
    },
    {
        "name": "Reason",
        "type": "string",
        "priority": 1,
        "jsonPath": ".status.reason",
        "description": "Why the endpoint is in its phase.",
    },
)

SCHEDULE_COLUMNS: tuple[Schema, ...] = (
    {
        "name": "Cron",
        "type": "string",
        "jsonPath": ".spec.triggers.cron",
        "description": "Times at which it trains.",
    },
    {
        "name": "Suspend",
        "type": "boolean",
        "jsonPath": ".spec.suspend",
        "description": "Whether it begins no more cycles.",
    },
    {
        "name": "Active",
        "type": "string",
        "jsonPath": ".status.active.job",
        "description": "FineTuneJob of the cycle under way.",
    },
    {
        "name": "Last",
        "type": "date",
        "jsonPath": ".status.lastTriggerTime",
        "description": "Since the last trigger.",
    },
    {
        "name": "Reason",
        "type": "string",
        "jsonPath": ".status.reason",
        "description": "What it waits for, or why it cannot go on.",
    },
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {
        "name": "Endpoint",
        "type": "string",
        "priority": 1,
        "jsonPath": ".spec.endpointRef.name",
        "description": "FineTuneEndpoint whose traffic is counted and which serves the result.",
    },
    {
        "name": "Next",
        "type": "string",
        "priority": 1,
        "jsonPath": ".status.nextTriggerTime",
        "description": "The next time of `triggers.cron`.",
    },
)
