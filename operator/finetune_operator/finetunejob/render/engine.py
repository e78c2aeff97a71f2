"""The vLLM server beside an evaluation: a native sidecar of the administrator's image.

It gets the pod's GPUs, and nothing of what the stage is trusted with: no credentials, no token, no
place to write but its own. The stage alone knows the arguments (where base and adapter lie, their
type, the longest prompt), so the container waits until it finds them, one a line, in the folder
that both share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_api.names import ENGINE_CONTAINER
from finetune_api.protocol.trainer import Environment, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.render.beside import HOME, render_beside, share_folder

ENGINE_DIR = "/run/finetune/engine"
"""Where the stage sees the folder that both share."""
ENGINE_PORT = 8000

SERVE = f"""\
cd "${Environment.ENGINE_DIR}" || exit 1
rest() {{ trap 'exit 0' TERM INT; touch ended; while :; do sleep 3600 & wait $!; done; }}
[ -e started ] && rest
trap 'exit 0' TERM INT
until [ -e arguments ]; do sleep 0.2; done
touch started
own=$#
while IFS= read -r word; do set -- "$@" "$word"; done < arguments
while [ $own -gt 0 ]; do set -- "$@" "$1"; shift; own=$((own - 1)); done
mkfifo output
tee vllm.log < output &
vllm serve "$@" > output 2>&1 &
server=$!
trap 'kill -TERM $server; wait $server; exit 0' TERM INT
wait $server
rest
"""
"""What the container runs, for a POSIX shell; its own arguments go behind those of the stage, of
which the first is the model.

A server that ends leaves ``ended`` and is not begun again: the stage tells why, and another attempt
begins with another pod. A container that was killed finds ``started`` when the kubelet starts it
anew. A shell that is process 1 hears SIGTERM only where it has a trap, and the pod is not over
before this container is.
"""


def has_engine(spec: FineTuneJobSpec, stage: Stage, config: OperatorConfig) -> bool:
    """Return whether a server stands beside this stage.

    An administrator may have taken its image away since the job was accepted: then none does, and
    the stage says so.
    """
    return stage is Stage.EVALUATE and spec.evaluation.engine == "VLLM" and bool(config.vllm_image)


def engine_environment(config: OperatorConfig) -> dict[str, str]:
    """Return what the stage is told of the server beside it."""
    return {
        Environment.ENGINE_DIR: ENGINE_DIR,
        Environment.ENGINE_PORT: str(ENGINE_PORT),
        Environment.ENGINE_IMAGE: config.vllm_image,
    }


def share_engine_folder(
    volumes: list[dict[str, Any]], mounts: list[dict[str, Any]], config: OperatorConfig
) -> None:
    """Add the folder that stage and server share to a pod's volumes and the stage's mounts."""
    share_folder("engine", ENGINE_DIR, volumes, mounts, config)


def render_engine(
    config: OperatorConfig,
    mounts: Sequence[dict[str, Any]],
    *,
    resources: dict[str, Any],
    security: dict[str, Any],
) -> dict[str, Any]:
    """Render the server's container.

    Args:
        config: The administrator's settings.
        mounts: Those of the stage's mounts that the server gets: base model and adapter, to read.
        resources: What the stage's container would have, with the GPUs.
        security: The security context of the stage's container.
    """
    container = {
        "name": ENGINE_CONTAINER,
        "image": config.vllm_image,
        "command": ["sh", "-c", SERVE, "serve"],
        "args": list(config.vllm_arguments),
        "resources": resources,
        "securityContext": security,
    }
    return render_beside(
        container,
        folder="engine",
        environment={"VLLM_NO_USAGE_STATS": "1", Environment.ENGINE_DIR: HOME},
        mounts=[_read_only(mount) for mount in mounts],
    )


def _read_only(mount: dict[str, Any]) -> dict[str, Any]:
    return dict(mount) if mount["name"] == "shm" else {**mount, "readOnly": True}
