"""The Job of one look at captured answers. It has an identity for storage, and no rights."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from finetune_api.meta import seconds_of
from finetune_api.names import (
    CONTAINER,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    MONITOR_LABEL,
    SERVING,
    Owner,
    look_name,
)
from finetune_api.protocol.monitoring import TASK, LookTask
from finetune_api.protocol.trainer import Environment
from finetune_operator.allowlists import matches_url
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.render.pods import (
    HOME,
    limited,
    render_container,
    storage_volumes,
    trainer_policy,
)
from finetune_operator.finetunejob.render.job import failure_policy
from finetune_operator.finetunejob.render.security import pod_security
from finetune_operator.finetunejob.render.volumes import CREDENTIALS_DIR, WORK_DIR

Manifest = dict[str, Any]

DEADLINE_SECONDS = 1800
RETRIES = 2
NUM_KEPT = 3
"""Looks that stay, by the time in which so many are made."""
LEAST_KEPT_SECONDS = 3600


def render_look(task: LookTask, owner: Owner, config: OperatorConfig) -> Manifest:
    """Render the Job. Kubernetes deletes it some looks after its end.

    Args:
        task: What it looks at.
        owner: The endpoint.
        config: The administrator's settings.
    """
    judge = task.judge
    if judge is not None and not matches_url(judge.endpoint, config.allowed_judge_endpoints):
        # The list has allowed it when the job began, and may have become narrower since.
        judge, task = None, task.model_copy(update={"judge": None})
    places = (task.traffic, task.active.storage)
    secrets = [each.credentials_secret for each in places if each.credentials_secret]
    if judge is not None and judge.credentials_ref is not None:
        secrets.append(judge.credentials_ref.name)
    volumes, mounts = storage_volumes("store", [each.uri for each in places], secrets)
    for name, path in (("work", WORK_DIR), ("tmp", HOME)):
        volumes.append({"name": name, "emptyDir": {"sizeLimit": config.scratch_size}})
        mounts.append({"name": name, "mountPath": path})
    container = render_container(
        CONTAINER,
        config.trainer_image,
        command=["python", "-m", "finetune_trainer.monitor"],
        environment={
            "HOME": HOME,
            # Set order must not depend on the process: same rows, same reference.
            "PYTHONHASHSEED": "0",
            Environment.CREDENTIALS_DIR: CREDENTIALS_DIR,
            Environment.WORK_DIR: WORK_DIR,
            TASK: json.dumps(task.to_wire(), separators=(",", ":")),
        },
        resources=limited({"cpu": config.prepare_cpu, "memory": config.prepare_memory}),
        mounts=mounts,
    )
    pod: Manifest = {
        "restartPolicy": "Never",
        "serviceAccountName": SERVING,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "containers": [trainer_policy(container, config)],
        "volumes": volumes,
    }
    if config.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in config.image_pull_secrets]
    labels = {MONITOR_LABEL: owner.name, MANAGED_BY_LABEL: MANAGED_BY}
    name = look_name(owner.name, datetime.fromisoformat(task.until).timestamp())
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**owner.metadata_of(name), "labels": labels},
        "spec": {
            "backoffLimit": RETRIES,
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "ttlSecondsAfterFinished": max(
                LEAST_KEPT_SECONDS, NUM_KEPT * seconds_of(task.monitor.every)
            ),
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": failure_policy(),
            "template": {"metadata": {"labels": dict(labels)}, "spec": pod},
        },
    }
