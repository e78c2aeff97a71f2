"""Good and bad FineTuneSchedules, judged alike by the models and by a real API server."""

from __future__ import annotations

from typing import Any

from kit.builders.schedules import GATE, TEMPLATE
from kit.cases.spec_cases import REMOVED, Case, changed

SPEC = "spec.jobTemplate.spec"


def minimal_schedule(name: str = "example") -> dict[str, Any]:
    """The shortest valid FineTuneSchedule."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneSchedule",
        "metadata": {"name": name},
        "spec": {
            "jobTemplate": {"spec": dict(TEMPLATE["spec"])},
            "triggers": {"cron": "0 3 1 */3 *"},
        },
    }


class ScheduleCase(Case):
    """One verdict on a schedule."""

    @property
    def body(self) -> dict[str, Any]:
        return changed(minimal_schedule(), self.change)


def _good(name: str, change: dict[str, Any] | None = None) -> ScheduleCase:
    return ScheduleCase(name=name, change=change or {})


def _bad(
    name: str, change: dict[str, Any], expected: str, server: str | None = None
) -> ScheduleCase:
    return ScheduleCase(name=name, change=change, expected=expected, server=server)


ENDPOINT: dict[str, Any] = {"spec.endpointRef": {"name": "headlines"}}
GPU: dict[str, Any] = {f"{SPEC}.resources": {"gpusPerNode": 1}}

SCHEDULE_CASES: tuple[ScheduleCase, ...] = (
    _good("the shortest"),
    _good(
        "everything",
        {
            **ENDPOINT,
            **GPU,
            "spec.jobTemplate.metadata": {"labels": {"team": "news"}},
            "spec.triggers": {
                "cron": "30 2 * * MON-FRI",
                "timeZone": "America/Argentina/Buenos_Aires",
                "newRows": 500,
                "newFeedback": 50,
                "drift": True,
            },
            "spec.startingDeadlineSeconds": 3600,
            "spec.cooldown": "24h",
            "spec.budget": {"jobs": 4, "gpuHours": "40", "per": "30d"},
            "spec.suspend": True,
            "spec.historyLimit": 50,
            "spec.promote": "Auto",
            "spec.requestedBy": "ann@example.org",
        },
    ),
    _good("drift alone", {**ENDPOINT, "spec.triggers": {"drift": True}}),
    *(_good(f"cron {table}", {"spec.triggers.cron": table})
      for table in ("* * * * *", "0,30 1-5/2 1,15 jan-mar 0-7", "5 0 31 12 SUN")),
    *(_bad(f"cron {table}", {"spec.triggers.cron": table}, "must be five fields")
      for table in ("@daily", "* * * *", "60 * * * *", "0 24 * * *", "0 0 32 * *", "0 0 * 13 *",
                    "0 0 * * 8", "TZ=UTC 0 0 * * *", "0 0 * * *\n", "0  0 * * *", "0/0 * * * *")),
    *(_bad(f"time zone {zone}", {"spec.triggers.timeZone": zone}, "IANA name")
      for zone in ("Local", "+01:00", "../etc/passwd", "/Europe/Berlin", "Europe//Berlin")),
    _bad("no trigger", {"spec.triggers": {}}, "triggers needs cron, newRows"),
    _bad("drift false alone", {"spec.triggers": {"drift": False}}, "triggers needs cron, newRows"),
    _bad("a time zone alone", {**ENDPOINT, "spec.triggers": {"newRows": 1, "timeZone": "UTC"}},
         "triggers.timeZone is that of triggers.cron"),
    _bad("rows of no endpoint", {"spec.triggers.newRows": 5}, "add endpointRef"),
    _bad("drift of no endpoint", {"spec.triggers.drift": True}, "add endpointRef"),
    _bad("a deadline without cron", {**ENDPOINT, "spec.triggers": {"newRows": 1},
         "spec.startingDeadlineSeconds": 60}, "startingDeadlineSeconds is how late"),
    _bad("an empty budget", {"spec.budget": {"per": "30d"}}, "budget needs jobs, gpuHours"),
    _bad("hours of no GPU", {f"{SPEC}.resources": {"gpusPerNode": 0}, "spec.budget.gpuHours": "4"},
         "budget.gpuHours must be above 0"),
    _bad("no hours", {**GPU, "spec.budget": {"gpuHours": "0"}}, "budget.gpuHours must be above 0"),
    _bad("a cooldown without a unit", {"spec.cooldown": "24"}, "and a unit"),
    *(_bad(f"label {key}", {"spec.jobTemplate.metadata": {"labels": {key: "x"}}},
           "jobTemplate.metadata.labels may have keys without a prefix")
      for key in ("finetune.dev/job", "kueue.x-k8s.io/queue-name", "argocd.argoproj.io/instance",
                  "app.kubernetes.io/instance", "kustomize.toolkit.fluxcd.io/name")),
    _good("labels that say whose it is", {"spec.jobTemplate.metadata": {"labels": {
        "team": "news", "cost-center": "7", "app.kubernetes.io/part-of": "news"}}}),
    _bad("annotations", {"spec.jobTemplate.metadata": {"annotations": {"a": "b"}}}, "annotations"),
    _good("limits", {"spec.successfulJobsHistoryLimit": 1, "spec.failedJobsHistoryLimit": 0,
                     "spec.cycleDeadlineSeconds": 3600}),
    _bad("no published job", {"spec.successfulJobsHistoryLimit": 0}, "1"),
    _bad("51 failed jobs", {"spec.failedJobsHistoryLimit": 51}, "50"),
    _bad("a deadline of a minute", {"spec.cycleDeadlineSeconds": 60}, "3600"),
    _bad("a suspended template", {f"{SPEC}.suspend": True}, "are not of a template"),
    _bad("a template's requester", {f"{SPEC}.requestedBy": "ann"}, "are not of a template"),
    _bad("a template that publishes elsewhere", {f"{SPEC}.output.publishAs": "other"},
         "publishAs and approval are set by the schedule"),
    _bad("a template's approval", {f"{SPEC}.output.approval": "Required"},
         "publishAs and approval are set by the schedule"),
    _bad("Auto without a comparison",
         {**ENDPOINT, "spec.promote": "Auto", f"{SPEC}.evaluation": REMOVED},
         "promote: Auto needs a gate"),
    _good("Approval without a comparison", {**ENDPOINT, f"{SPEC}.evaluation": REMOVED}),
    _good("Auto with a comparison",
          {**ENDPOINT, "spec.promote": "Auto", f"{SPEC}.evaluation": {"gates": [GATE]}}),
    _bad("rules of a job hold", {f"{SPEC}.dataset.sources": [
         {"uri": "s3://data/x.jsonl", "since": "2026-01-01T00:00:00Z"}]}, "are for traffic://"),
    _bad("another policy", {"spec.concurrencyPolicy": "Allow"}, "Forbid"),
    _bad("a long name", {"metadata.name": "x" * 44}, "43"),
    _bad("51 cycles", {"spec.historyLimit": 51}, "50"),
)  # fmt: skip
