"""A server of endpoints: an engine on the loopback interface, and the agent that listens for it.

The engine is a native sidecar: when a pod ends, the agent finishes its answers first. It gets
nothing of what the agent is trusted with: no token, no credentials, no place to write but its own.
The agent alone knows where the base model lies once it is fetched, so the engine waits for the file
``arguments`` in the folder that both share.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any
from urllib.parse import unquote

from finetune_api.meta import whole_bytes
from finetune_api.names import (
    AGENT_CONTAINER,
    QUEUE_LABEL,
    SERVER_LABEL,
    SERVING_ENGINE_CONTAINER,
    Owner,
)
from finetune_api.paths import normal_path
from finetune_api.protocol.serving import REPORT_PORT
from finetune_api.protocol.trainer import Environment
from finetune_api.v1alpha1.spec.serving import Replicas
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.render.front import SERVER_PORT
from finetune_operator.finetuneendpoint.render.metadata import (
    Deployed,
    labels_of_front,
    labels_of_server,
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
from finetune_operator.finetuneendpoint.render.scaling import is_scaled
from finetune_operator.finetuneendpoint.render.vllm import numbers_of, vllm_arguments
from finetune_operator.finetuneendpoint.servers import Server, engine_image, engine_limits, way_of
from finetune_operator.finetunejob.render.beside import ENVIRONMENT_BESIDE, environment_of
from finetune_operator.finetunejob.render.claims import CLAIMS_DIR, parse_claim_uri
from finetune_operator.finetunejob.render.engine import ENGINE_DIR
from finetune_operator.finetunejob.render.resources import whole_cpus
from finetune_operator.finetunejob.render.security import container_security
from finetune_operator.finetunejob.render.volumes import CACHE_DIR, CREDENTIALS_DIR

Manifest = dict[str, Any]

ENGINE_PORT = 8001
ADAPTERS_DIR = "/var/lib/finetune/adapters"

VLLM = ("vllm", "serve")
TRANSFORMERS = ("python", "-m", "finetune_trainer.serve", "engine")


def _wait_for_arguments(program: Sequence[str]) -> str:
    """Return what the engine's container runs, for a POSIX shell.

    The agent's arguments come first, of which vLLM's first is the model. The container's own come
    behind them: of the same flag, the last one counts.
    """
    return f"""\
trap 'exit 0' TERM INT
until [ -e {ENGINE_DIR}/arguments ]; do sleep 0.2; done
trap - TERM INT
own=$#
while IFS= read -r word; do set -- "$@" "$word"; done < {ENGINE_DIR}/arguments
while [ $own -gt 0 ]; do set -- "$@" "$1"; shift; own=$((own - 1)); done
exec {" ".join(program)} "$@"
"""


def render_server(
    server: Server, replicas: Replicas, owners: Iterable[Owner], config: OperatorConfig
) -> Manifest:
    """Render a server's Deployment.

    Args:
        server: What all its endpoints agree on.
        replicas: The most that one of them asks for.
        owners: The endpoints that use it.
        config: The administrator's settings.
    """
    serve, labels = server.serve, labels_of_server(server.name)
    metadata = metadata_of(server.name, server.namespace, labels, owned_by(owners))
    if serve.queue_name:
        # Kueue holds the pods of a Deployment with this label until there is quota.
        metadata["labels"] = {**labels, QUEUE_LABEL: serve.queue_name}
    volumes, mounts, read = _volumes(server, config)
    extra: Manifest = {"initContainers": [_engine(server, read, config)]}
    if selector := {**config.default_node_selector, **serve.node_selector}:
        extra["nodeSelector"] = selector
    tolerations = list(serve.tolerations)
    tolerations += [each for each in config.default_tolerations if each not in tolerations]
    if tolerations:
        extra["tolerations"] = [each.to_wire() for each in tolerations]
    return render_deployment(
        metadata,
        labels=labels,
        selector={SERVER_LABEL: server.name},
        containers=[_agent(server, mounts, config)],
        volumes=volumes,
        config=config,
        replicas=None if is_scaled(replicas) else replicas.min,
        without_identity=SERVING_ENGINE_CONTAINER,
        extra=extra,
    )


def render_server_policy(
    namespace: str, deployed: Deployed, config: OperatorConfig
) -> Manifest | None:
    """Render who reaches a server: the fronts of its namespace."""
    labels = labels_of_server(deployed.name)
    return render_policy(
        metadata_of(deployed.name, namespace, labels, [deployed.reference()]),
        selector={SERVER_LABEL: deployed.name},
        port=SERVER_PORT,
        clients=[{"podSelector": {"matchLabels": labels_of_front()}}],
        config=config,
    )


def render_server_parts(namespace: str, deployed: Deployed) -> list[Manifest]:
    """Render what belongs to a server: the Service of its agents, and the budget of its drains."""
    labels, selector = labels_of_server(deployed.name), {SERVER_LABEL: deployed.name}
    owners = [deployed.reference()]

    def metadata() -> Manifest:
        return metadata_of(deployed.name, namespace, labels, owners)

    return [
        render_service(metadata(), selector=selector, port=SERVER_PORT, target=SERVER_PORT),
        render_budget(metadata(), selector=selector),
    ]


def _volumes(
    server: Server, config: OperatorConfig
) -> tuple[list[Manifest], list[Manifest], list[Manifest]]:
    """Return the pod's volumes, the agent's mounts and the engine's."""
    scratch = {"sizeLimit": config.scratch_size}
    shared_memory = server.serve.resources.shared_memory or config.default_shared_memory
    cache: Manifest = {"emptyDir": dict(scratch)}
    if config.cache_claim:
        cache = {"persistentVolumeClaim": {"claimName": config.cache_claim}}
    volumes, agent = trusted_volumes()
    volumes += [
        {"name": "tmp", "emptyDir": dict(scratch)},
        {"name": "engine-tmp", "emptyDir": dict(scratch)},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory}},
        {"name": "engine", "emptyDir": {"sizeLimit": "16Mi"}},
        {"name": "adapters", "emptyDir": dict(scratch)},
        {"name": "cache", **cache},
    ]
    shared = [
        {"name": "engine", "mountPath": ENGINE_DIR},
        {"name": "adapters", "mountPath": ADAPTERS_DIR},
        {"name": "cache", "mountPath": CACHE_DIR},
    ]
    agent += [{"name": "tmp", "mountPath": HOME}, *shared]
    engine: list[Manifest] = [
        {"name": "engine-tmp", "mountPath": HOME},
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        *({**mount, "readOnly": True} for mount in shared),
    ]
    secrets = {server.storage.credentials_secret, server.base_model_secret} - {None}
    for number, secret in enumerate(sorted(map(str, secrets))):
        source = {"secretName": secret, "optional": True, "defaultMode": 0o440}
        volumes.append({"name": f"credentials-{number}", "secret": source})
        path = f"{CREDENTIALS_DIR}/{secret}"
        agent.append({"name": f"credentials-{number}", "mountPath": path, "readOnly": True})
    base, output = map(parse_claim_uri, (server.base_model, server.storage.uri))
    for number, claim in enumerate(sorted({found[0] for found in (base, output) if found})):
        name = f"claim-{number}"
        volumes.append({"name": name, "persistentVolumeClaim": {"claimName": claim}})
        writable = {"name": name, "mountPath": f"{CLAIMS_DIR}/{claim}"}
        mount = {**writable, "readOnly": True}
        has_outputs = output is not None and output[0] == claim
        # The agent stores the decisions on endpoints beside their versions.
        agent.append(writable if has_outputs else mount)
        if base is not None and base[0] == claim:
            engine.append(_narrowed(mount, base[1]) if has_outputs else mount)
    return volumes, agent, engine


def _narrowed(mount: Manifest, path: str) -> Manifest:
    """Return a mount of a base model alone: the claim also holds data and stored answers.

    Files below ``snapshots`` are links to a folder beside it, in caches of the Hub.

    Args:
        mount: The mount of the whole claim.
        path: Folder of the model, as its URI has it. A mount is at no path with a colon.
    """
    parts = takewhile(
        lambda part: ":" not in part and part != "snapshots", unquote(path).split("/")
    )
    folder = normal_path("/" + "/".join(parts)).strip("/")
    if not folder:
        return mount
    return {**mount, "mountPath": f"{mount['mountPath']}/{folder}", "subPath": folder}


def _agent(server: Server, mounts: list[Manifest], config: OperatorConfig) -> Manifest:
    storage = way_of(server.storage)
    environment = {
        "HOME": HOME,
        "FINETUNE_NAMESPACE": server.namespace,
        "FINETUNE_SERVER": server.name,
        "FINETUNE_TOKEN_FILE": TOKEN_FILE,
        "FINETUNE_ENGINE": server.serve.engine,
        "FINETUNE_ENGINE_URL": f"http://127.0.0.1:{ENGINE_PORT}",
        "FINETUNE_ADAPTERS_DIR": ADAPTERS_DIR,
        "FINETUNE_SCRATCH_BYTES": str(whole_bytes(config.scratch_size)),
        "FINETUNE_BASE_MODEL": server.base_model,
        "FINETUNE_STORAGE": json.dumps(storage, sort_keys=True),
        Environment.ENGINE_DIR: ENGINE_DIR,
        Environment.CACHE_DIR: CACHE_DIR,
        Environment.CREDENTIALS_DIR: CREDENTIALS_DIR,
        Environment.GRACE_SECONDS: str(ANSWER_SECONDS),
    }
    if server.serve.engine == "VLLM":
        environment |= numbers_of(server.serve, config)
    if config.allow_trust_remote_code:
        environment["FINETUNE_ALLOW_REMOTE_CODE"] = "1"
    if server.base_model_secret:
        environment["FINETUNE_MODEL_SECRET"] = server.base_model_secret
    if server.manifest_uri:
        environment["FINETUNE_MANIFEST_URI"] = server.manifest_uri
    container = render_container(
        AGENT_CONTAINER,
        config.trainer_image,
        command=["python", "-m", "finetune_trainer.serve", "agent"],
        environment={**config.trainer_environment, **environment},
        resources=limited({"cpu": config.agent_cpu, "memory": config.agent_memory}),
        mounts=mounts,
    )
    return trainer_policy({**container, **reporting()}, config)


def _engine(server: Server, mounts: list[Manifest], config: OperatorConfig) -> Manifest:
    serve = server.serve
    limits = engine_limits(serve, config)
    if serve.num_gpus:
        limits[serve.resources.gpu_resource] = str(serve.num_gpus)
    environment = {
        **ENVIRONMENT_BESIDE,
        # Without it Torch begins a thread for each core of the node.
        "OMP_NUM_THREADS": str(whole_cpus(limits["cpu"])),
    }
    image = engine_image(serve, config)
    program: Sequence[str]
    if serve.engine == "VLLM":
        environment |= {
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        }
        program, arguments = VLLM, vllm_arguments(server, config, port=ENGINE_PORT)
    else:
        program = TRANSFORMERS
        arguments = [f"--port={ENGINE_PORT}", f"--max-adapters={serve.max_adapters}"]
    container: Manifest = {
        "name": SERVING_ENGINE_CONTAINER,
        "image": image,
        "command": ["sh", "-c", _wait_for_arguments(program), "engine", *arguments],
        "restartPolicy": "Always",
        "env": environment_of(environment),
        "resources": limited(limits),
        "volumeMounts": mounts,
        "securityContext": container_security(),
        # The agent asks the engine for a token. An engine that gives none for so long hangs.
        "livenessProbe": {
            "httpGet": {"path": "/enginez", "port": REPORT_PORT},
            "timeoutSeconds": 5,
            "periodSeconds": 60,
            "failureThreshold": 10,
        },
    }
    return trainer_policy(container, config) if image == config.trainer_image else container
