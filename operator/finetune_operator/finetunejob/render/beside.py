"""What stands beside a stage: a native sidecar of an image that the administrator names.

It gets nothing of what the stage is trusted with: no credentials, no token, no place to write but
the folder that both share, in which it waits for what the stage alone knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_operator.config import OperatorConfig

HOME = "/tmp"  # noqa: S108 - the container sees the shared folder here: all it may write to
ENVIRONMENT_BESIDE = {
    "HOME": HOME,
    # Torch asks for the user's name, and this one is in no image's list of users.
    "USER": "finetune",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
}
"""Environment variables of every sidecar."""


def environment_of(values: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return variables as a container has them."""
    return [{"name": name, "value": value} for name, value in sorted(values.items())]


def share_folder(
    name: str,
    path: str,
    volumes: list[dict[str, Any]],
    mounts: list[dict[str, Any]],
    config: OperatorConfig,
) -> None:
    """Add the folder that stage and sidecar share to a pod's volumes and the stage's mounts.

    Args:
        name: The volume's.
        path: Where the stage sees it.
        volumes: The pod's.
        mounts: The stage's.
        config: The administrator's settings.
    """
    volumes.append({"name": name, "emptyDir": {"sizeLimit": config.scratch_size}})
    mounts.append({"name": name, "mountPath": path})


def render_beside(
    container: Mapping[str, Any],
    *,
    folder: str,
    environment: Mapping[str, str],
    mounts: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Render a sidecar.

    Args:
        container: Its name, image, command, resources and security context.
        folder: Volume of the folder that it shares with the stage.
        environment: What it is told beside what every sidecar is.
        mounts: What else it sees.
    """
    return {
        **container,
        "restartPolicy": "Always",
        "env": environment_of({**ENVIRONMENT_BESIDE, **environment}),
        "volumeMounts": [*mounts, {"name": folder, "mountPath": HOME}],
    }
