"""The recorder in the front's pods: it stores captured answers. Only it has their credentials."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from finetune_api.protocol.serving import REPORT_PORT, REPORT_PORT_NAME
from finetune_api.protocol.trainer import Environment
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.render.pods import (
    HOME,
    TOKEN_FILE,
    limited,
    render_container,
    storage_volumes,
    trainer_policy,
)
from finetune_operator.finetunejob.render.volumes import CREDENTIALS_DIR

Manifest = dict[str, Any]

RECORDER_CONTAINER = "recorder"
RECORDER_PORT = REPORT_PORT + 1
SOCKET_DIR = "/var/run/finetune/recorder"
SOCKET = f"{SOCKET_DIR}/recorder.sock"
SPOOL_DIR = "/var/run/finetune/spool"
LAST_SECONDS = 20
"""Between the end of the front and the kill, for what is not in object storage yet."""


def socket_mount() -> Manifest:
    """Return the mount of the folder that front and recorder share."""
    return {"name": "recorder", "mountPath": SOCKET_DIR}


def render_recorder(
    namespace: str, secrets: Iterable[str], trusted: Sequence[Manifest], config: OperatorConfig
) -> tuple[Manifest, list[Manifest]]:
    """Render the recorder's container and the volumes that it needs beside the front's.

    It starts before the front and ends after it, so that it takes the front's last answers. It has
    no probe of readiness: without a recorder the front still answers.

    Args:
        namespace: The namespace.
        secrets: Those with which answers are stored.
        trusted: Mounts of a container that follows endpoints and knows the token.
        config: The administrator's settings.
    """
    volumes: list[Manifest] = [
        {"name": "recorder", "emptyDir": {"sizeLimit": "1Mi"}},
        {"name": "recorder-spool", "emptyDir": {"sizeLimit": "256Mi"}},
        {"name": "recorder-tmp", "emptyDir": {"sizeLimit": "64Mi"}},
    ]
    mounts = [
        *trusted,
        socket_mount(),
        {"name": "recorder-spool", "mountPath": SPOOL_DIR},
        {"name": "recorder-tmp", "mountPath": HOME},
    ]
    stores, opened = storage_volumes("capture", (), secrets)
    volumes += stores
    mounts += opened
    container = render_container(
        RECORDER_CONTAINER,
        config.trainer_image,
        command=["python", "-m", "finetune_trainer.serve", "recorder"],
        environment={
            "HOME": HOME,
            "FINETUNE_NAMESPACE": namespace,
            "FINETUNE_TOKEN_FILE": TOKEN_FILE,
            "FINETUNE_RECORDER_SOCKET": SOCKET,
            "FINETUNE_SPOOL_DIR": SPOOL_DIR,
            Environment.CREDENTIALS_DIR: CREDENTIALS_DIR,
            Environment.GRACE_SECONDS: str(LAST_SECONDS),
        },
        resources=limited({"cpu": config.front_cpu, "memory": config.front_memory}),
        mounts=mounts,
    )
    port = {"name": REPORT_PORT_NAME, "containerPort": RECORDER_PORT, "protocol": "TCP"}
    probe = {
        "httpGet": {"path": "/healthz", "port": RECORDER_PORT},
        "timeoutSeconds": 2,
        "periodSeconds": 10,
        "failureThreshold": 6,
    }
    sidecar = {"restartPolicy": "Always", "ports": [port], "livenessProbe": probe}
    return trainer_policy({**container, **sidecar}, config), volumes
