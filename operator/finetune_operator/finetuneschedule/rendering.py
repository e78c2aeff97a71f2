"""The FineTuneJob of a cycle: the template, pinned to the time of its trigger."""

from __future__ import annotations

import copy
from decimal import Decimal
from typing import Any

from finetune_api.meta import API_VERSION, KIND, decimal_of
from finetune_api.names import MANAGED_BY, MANAGED_BY_LABEL, SCHEDULE_LABEL, Owner
from finetune_api.v1alpha1.finetuneschedule import FineTuneScheduleSpec
from finetune_api.v1alpha1.spec.dataset import TRAFFIC
from finetune_api.v1alpha1.status.dataset import AnchorStatus
from finetune_api.v1alpha1.status.schedule import Cycle

Object = dict[str, Any]


def render_job(
    owner: Owner,
    template: Object,
    spec: FineTuneScheduleSpec,
    cycle: Cycle,
    *,
    published_name: str,
    anchor: AnchorStatus | None = None,
    gpu_hours_left: Decimal | None = None,
) -> Object:
    """Render the FineTuneJob of a cycle. The same arguments give the same job.

    Args:
        owner: The schedule.
        template: ``spec.jobTemplate`` as the API server holds it.
        spec: The schedule's spec.
        cycle: The cycle, whose time pins traffic sources.
        published_name: Name that its version is published under.
        anchor: The test rows that were sealed; those that the template names count instead.
        gpu_hours_left: What is left of the budget; None without one.
    """
    job = copy.deepcopy(template["spec"])
    for source in job["dataset"]["sources"]:
        if str(source["uri"]).startswith(TRAFFIC):
            source.setdefault("until", cycle.time)
    if anchor is not None:
        pinned = {"digest": anchor.digest, "testSha256": anchor.test_sha256}
        job["dataset"].setdefault("anchor", pinned)
    # From the first cycle on: the verdicts of all cycles together are as sure as one.
    job.setdefault("evaluation", {})["looks"] = "Correct"
    job["output"] |= {"publishAs": published_name}
    if spec.promote == "Approval":
        job["output"]["approval"] = "Required"
    if spec.requested_by is not None:
        job["requestedBy"] = spec.requested_by
    if gpu_hours_left is not None:
        budget = job.setdefault("budget", {})
        own = budget.get("gpuHours")
        left = gpu_hours_left if own is None else min(decimal_of(str(own)), gpu_hours_left)
        budget["gpuHours"] = f"{left.normalize():f}"
    labels = (template.get("metadata") or {}).get("labels") or {}
    metadata = {
        "name": cycle.job,
        "namespace": owner.namespace,
        "labels": {**labels, SCHEDULE_LABEL: owner.name, MANAGED_BY_LABEL: MANAGED_BY},
        "ownerReferences": [owner.reference()],
    }
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": job}
