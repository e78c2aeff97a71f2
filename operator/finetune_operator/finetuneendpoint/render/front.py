"""The front of a namespace: one Deployment and Service for all its endpoints, and their rights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from finetune_api.meta import ENDPOINT_PLURAL, GROUP
from finetune_api.names import FRONT, FRONT_CONTAINER, SERVING, SERVING_TOKEN_SECRET, Owner
from finetune_api.protocol.serving import REPORT_PORT
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.render.metadata import (
    Deployed,
    labels_of_front,
    metadata_of,
    owned_by,
)
from finetune_operator.finetuneendpoint.render.pods import (
    ANSWER_SECONDS,
    HOME,
    TOKEN_FILE,
    limited,
    render_budget,
    render_container,
    render_deployment,
    render_policy,
    render_service,
    reporting,
    trainer_policy,
    trusted_volumes,
)
from finetune_operator.finetuneendpoint.render.recorder import (
    RECORDER_PORT,
    SOCKET,
    render_recorder,
    socket_mount,
)

Manifest = dict[str, Any]

KEYS_DIR = "/var/run/finetune/keys"
FRONT_PORT = 8080
SERVER_PORT = 8000


def render_front(
    namespace: str,
    owners: Iterable[Owner],
    secrets: Iterable[str],
    config: OperatorConfig,
    store_secrets: Iterable[str] | None = None,
) -> Manifest:
    """Render the front's Deployment.

    Args:
        namespace: The namespace.
        owners: All endpoints of the namespace.
        secrets: Secrets with keys of theirs. One that does not exist yet delays no pod.
        config: The administrator's settings.
        store_secrets: Secrets with which captured answers are stored; None if there are none.
    """
    labels = labels_of_front()
    volumes, mounts = trusted_volumes()
    environment = _environment(namespace)
    extra: Manifest = {}
    if store_secrets is not None:
        recorder, more = render_recorder(namespace, store_secrets, mounts, config)
        extra["initContainers"] = [recorder]
        volumes += more
        mounts = [*mounts, socket_mount()]
        environment["FINETUNE_RECORDER_SOCKET"] = SOCKET
    if not config.front_access_log:
        environment["FINETUNE_ACCESS_LOG"] = "off"
    volumes.append({"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}})
    mounts.append({"name": "tmp", "mountPath": HOME})
    for number, secret in enumerate(sorted(set(secrets))):
        source = {"secretName": secret, "optional": True, "defaultMode": 0o440}
        volumes.append({"name": f"keys-{number}", "secret": source})
        mount = {"name": f"keys-{number}", "mountPath": f"{KEYS_DIR}/{secret}"}
        mounts.append({**mount, "readOnly": True})
    container = render_container(
        FRONT_CONTAINER,
        config.trainer_image,
        command=["python", "-m", "finetune_trainer.serve", "front"],
        environment=environment,
        resources=limited({"cpu": config.front_cpu, "memory": config.front_memory}),
        mounts=mounts,
    )
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": dict(labels)},
    }
    return render_deployment(
        metadata_of(FRONT, namespace, labels, owned_by(owners)),
        labels=labels,
        selector=labels,
        containers=[trainer_policy({**container, **reporting()}, config)],
        volumes=volumes,
        config=config,
        replicas=config.front_replicas,
        without_identity=FRONT_CONTAINER,
        extra={**extra, "topologySpreadConstraints": [spread]},
    )


def _environment(namespace: str) -> dict[str, str]:
    return {
        "HOME": HOME,
        "FINETUNE_NAMESPACE": namespace,
        "FINETUNE_SERVER_URL": f"http://{{server}}:{SERVER_PORT}",
        "FINETUNE_TOKEN_FILE": TOKEN_FILE,
        "FINETUNE_KEYS_DIR": KEYS_DIR,
        "FINETUNE_GRACE_SECONDS": str(ANSWER_SECONDS),
    }


def render_front_parts(namespace: str, front: Deployed) -> list[Manifest]:
    """Render what belongs to the front: its Service, and the rights of all serving pods.

    None of it ever changes, so it is created once.
    """
    labels = labels_of_front()
    owners = [front.reference()]

    def metadata(name: str) -> Manifest:
        return metadata_of(name, namespace, labels, owners)

    rule = {"apiGroups": [GROUP], "resources": [ENDPOINT_PLURAL], "verbs": ["get", "list", "watch"]}
    rbac = "rbac.authorization.k8s.io"
    account = {"kind": "ServiceAccount", "name": SERVING, "namespace": namespace}
    return [
        render_service(metadata(FRONT), selector=labels, port=80, target=FRONT_PORT),
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata(SERVING),
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "Role",
            "metadata": metadata(SERVING),
            "rules": [rule],
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": metadata(SERVING),
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": SERVING},
            "subjects": [account],
        },
        render_budget(metadata(FRONT), selector=labels),
    ]


def render_front_policy(namespace: str, front: Deployed, config: OperatorConfig) -> Manifest | None:
    """Render who reaches the front: everybody for answers, few for its report."""
    labels = labels_of_front()
    metadata = metadata_of(FRONT, namespace, labels, [front.reference()])
    return render_policy(
        metadata,
        selector=labels,
        port=FRONT_PORT,
        clients=[],
        config=config,
        report_ports=(REPORT_PORT, RECORDER_PORT),
    )


def render_token(namespace: str, front: Deployed, token: str) -> Manifest:
    """Render the Secret by which servers know the front; it is created once and never read.

    Not ``immutable``: where the front was deleted it has another token, which servers that run
    would never see.
    """
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": metadata_of(
            SERVING_TOKEN_SECRET, namespace, labels_of_front(), [front.reference()]
        ),
        "stringData": {"token": token},
    }
