"""Decides whether what the operator rendered breaks out, by the rendered objects alone.

Nothing here asks the operator's admission. Mounts are laid over each other as containerd does it,
URIs are read as the trainer reads them, endpoints by a parser of Python's and by hand.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from finetune_trainer.errors import TrainerError
from finetune_trainer.prepare.reading.sources import locate
from finetune_trainer.storage.hub.address import parse_hub_uri
from finetune_trainer.storage.store import local_path
from hostile.corpus import DANGEROUS_ANNOTATIONS, DANGEROUS_LABELS, is_dangerous
from hostile.places import PROGRESS_URL, SIDECARS, TRAINER_IMAGE, Endpoint, Policy, matches

Object = dict[str, Any]

MAX_BYTES = 256 * 1024
"""Of one rendered object: ten thousand of them fit into what etcd and caches have."""

_OWN_MOUNTS = {
    "job": "/etc/finetune/job",
    "work": "/work",
    "cache": "/cache",
    "tmp": "/tmp",
    "shm": "/dev/shm",
    "token": "/var/run/secrets/finetune.dev/token",
    "engine": "/run/finetune/engine",
    "garak": "/run/finetune/garak",
}
_NUMBERED = {
    "credentials": "/var/run/secrets/finetune.dev/credentials",
    "claim": "/var/lib/finetune/claims",
}
_OWN_VALUES = {
    "HOME": "/tmp",
    "PYTHONHASHSEED": "0",
    "FINETUNE_WORK_DIR": "/work",
    "FINETUNE_CACHE_DIR": "/cache",
    "FINETUNE_CREDENTIALS_DIR": _NUMBERED["credentials"],
    "KUBEFLOW_TRAINER_SERVER_TOKEN": "/var/run/secrets/finetune.dev/token/token",
}
_NETWORK = {
    "NCCL_SOCKET_IFNAME": "[=^]?=?[A-Za-z0-9][A-Za-z0-9_.,-]*",
    "NCCL_IB_HCA": "=[A-Za-z0-9][A-Za-z0-9_.:,-]*",
    "NCCL_DEBUG": "WARN|INFO|TRACE",
}
"""What ``resources.network`` may set: names, and nothing that could be a path or an address."""
_POD_FIELDS = frozenset(
    {
        *("restartPolicy", "automountServiceAccountToken", "enableServiceLinks", "containers"),
        *("terminationGracePeriodSeconds", "securityContext", "volumes", "initContainers"),
        *("tolerations", "priorityClassName", "serviceAccountName", "schedulerName"),
        *("nodeSelector", "affinity", "runtimeClassName", "subdomain", "imagePullSecrets"),
        "resourceClaims",
    }
)
_LABEL = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_QUALIFIED = re.compile("[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_SUBDOMAIN = re.compile("[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_PATH = re.compile(r"[^\x00-\x1f\x7f\\:]+")
_RESOURCE = re.compile(
    "[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_PAGES = re.compile("hugepages-[1-9][0-9]*[KMG]i")
_COMPONENT = "[a-z0-9]+((?:[.]|__?|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    f"([A-Za-z0-9.-]+(:[0-9]+)?/)?{_COMPONENT}(/{_COMPONENT})*(:[A-Za-z0-9_][A-Za-z0-9._-]*)?"
    "(@[a-z0-9]+:[0-9a-f]{32,})?"
)
"""As distribution/reference takes an image apart."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is judged.

    Attributes:
        body: The FineTuneJob as the tenant wrote it.
        objects: What was rendered for it.
        namespace: The tenant's.
        uid: Of the FineTuneJob.
        policy: What the tenant may have.
    """

    body: Object
    objects: list[Object]
    namespace: str
    uid: str
    policy: Policy


def find_break_outs(case: Case) -> list[str]:
    """Return everything by which the rendered objects go beyond what the tenant may have."""
    found: list[str] = []
    for obj in case.objects:
        found += _metadata(case, obj)
        if len(json.dumps(obj)) > MAX_BYTES:
            found.append(f"{obj['kind']} of {len(json.dumps(obj))} bytes")
        if obj["kind"] == "Job":
            found += _job(case, obj)
        elif obj["kind"] == "ConfigMap":
            found += _job_file(case, json.loads(obj["data"]["job.json"]))
    return list(dict.fromkeys(found))


def _metadata(case: Case, obj: Object) -> Iterator[str]:
    metadata = obj["metadata"]
    if not _LABEL.fullmatch(metadata["name"]) or metadata["namespace"] != case.namespace:
        yield f"{obj['kind']} {metadata['namespace']}/{metadata['name']}"
    if [owner["uid"] for owner in metadata["ownerReferences"]] != [case.uid]:
        yield f"{obj['kind']} is owned by {metadata['ownerReferences']}"
    if metadata["labels"].get("finetune.dev/job") != case.body["metadata"]["name"]:
        yield f"{obj['kind']} is labelled as another job's"


def _job(case: Case, obj: Object) -> Iterator[str]:
    template = obj["spec"]["template"]
    pod, policy = template["spec"], case.policy
    stage = obj["metadata"]["labels"]["finetune.dev/stage"]
    own = {"finetune.dev/job": case.body["metadata"]["name"], "finetune.dev/stage": stage}
    labels = template["metadata"]["labels"]
    if any(labels.get(key) != text for key, text in own.items()):
        yield "labels: the pod passes for another job's"
    for key in labels.keys() - own.keys() - {"app.kubernetes.io/managed-by"}:
        is_listed = any(
            matches(key, (known,)) and matches(labels[key], (value,))
            for known, value in policy.labels
        )
        if key in DANGEROUS_LABELS or not is_listed:
            yield from _stored("labels", key)
    if labels.get("app.kubernetes.io/managed-by") != "finetune-operator":
        yield "labels: managed-by"
    # The operator's own: which containers have no identity in the cloud.
    skipped = ",".join(container["name"] for container in pod.get("initContainers") or ())
    for key, text in (template["metadata"].get("annotations") or {}).items():
        if skipped and (key, text) == ("eks.amazonaws.com/skip-containers", skipped):
            continue
        is_known = key in DANGEROUS_ANNOTATIONS and key not in policy.annotations
        if is_known or not matches(key, policy.annotations):
            yield from _stored("annotations", key)
    if unknown := pod.keys() - _POD_FIELDS:
        yield f"pod: {sorted(unknown)}"
    if pod.get("automountServiceAccountToken") is not False or pod.get("enableServiceLinks"):
        yield "pod: a token or the addresses of Services"
    yield from _volumes(case, pod)
    yield from _placement(case, pod)
    names = [container["name"] for container in pod["containers"]]
    beside = pod.get("initContainers") or []
    if names != ["trainer"] or any(SIDECARS.get(c["name"]) != c["image"] for c in beside):
        yield f"containers: {names} and {[c['name'] for c in beside]}"
    for container in (*pod["containers"], *beside):
        is_training = stage == "train" and container["name"] == "trainer"
        allowed = policy.capabilities if is_training else ()
        yield from _security(pod, container, allowed)
        yield from _mounts(case, container)
        yield from _resources(case, container)
    for claim in pod.get("resourceClaims") or ():
        template_name = claim.get("resourceClaimTemplateName") or ""
        if set(claim) != {"name", "resourceClaimTemplateName"} or not (
            stage == "train" and matches(template_name, policy.claim_templates)
        ):
            yield f"resourceClaims: {claim}"
    yield from _trainer(case, pod["containers"][0], stage)


def _stored(field: str, key: str) -> Iterator[str]:
    """Yield a key, unless no API server stores an object with it."""
    domain, _, name = key.rpartition("/")
    if _QUALIFIED.fullmatch(name) and (not domain or _SUBDOMAIN.fullmatch(domain)):
        yield f"{field}: {key}"


def _security(pod: Object, container: Object, capabilities: tuple[str, ...]) -> Iterator[str]:
    """Hold a container to the restricted Pod Security Standard, and to a read-only root.

    ``capabilities`` are those that the administrator allows beyond it.
    """
    context, of_pod = container.get("securityContext") or {}, pod.get("securityContext") or {}
    good = (
        context.get("allowPrivilegeEscalation") is False
        and context.get("readOnlyRootFilesystem") is True
        and (context.get("capabilities") or {}).get("drop") == ["ALL"]
        and set(context["capabilities"]) <= {"drop", "add"}
        and set(context["capabilities"].get("add", ())) <= set(capabilities)
        and set(context) == {"allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"}
        and of_pod.get("runAsNonRoot") is True
        and of_pod.get("runAsUser") == of_pod.get("runAsGroup") == of_pod.get("fsGroup") == 65532
        and of_pod.get("seccompProfile") == {"type": "RuntimeDefault"}
        and not set(of_pod) & {"sysctls", "supplementalGroups", "seLinuxOptions", "windowsOptions"}
    )
    if not good:
        yield f"security context of {container['name']}"
    if set(container) & {"lifecycle", "livenessProbe", "ports", "envFrom", "volumeDevices"}:
        yield f"container {container['name']}: {sorted(container)}"


def _is_ours(name: str) -> bool:
    return name.startswith("finetune-serving")


def _volumes(case: Case, pod: Object) -> Iterator[str]:
    names = [volume["name"] for volume in pod["volumes"]]
    if len(set(names)) != len(names):
        yield f"volumes: a name twice in {names}"
    secrets = set(_named(case.body["spec"], "credentialsRef"))
    taken = [each for each in (*secrets, pod.get("serviceAccountName") or "") if _is_ours(each)]
    if taken:
        yield f"names of the operator: {taken}"
    for volume in pod["volumes"]:
        (kind,) = volume.keys() - {"name"}
        source = volume[kind]
        if kind == "secret" and source["secretName"] in secrets:
            continue
        if kind == "projected" and volume["name"] == "token":
            (item,) = source["sources"]
            if item.get("serviceAccountToken", {}).get("audience") == "finetune.dev":
                continue
        if kind not in ("configMap", "emptyDir", "persistentVolumeClaim"):
            yield f"volumes: {kind} {volume['name']}"
    job = next(volume for volume in pod["volumes"] if volume["name"] == "job")
    if job.get("configMap") != {"name": f"{case.body['metadata']['name']}-job"}:
        yield f"volumes: job.json of {job}"


def _named(value: Any, field: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == field and isinstance(item, dict):
                yield str(item.get("name"))
            yield from _named(item, field)
    elif isinstance(value, list):
        for item in value:
            yield from _named(item, field)


def _own_path(case: Case, mount: Object) -> str | None:
    """Return where the operator mounts a volume of its own; None if the volume is a tenant's."""
    name = mount["name"]
    tenants = (case.body["spec"].get("podTemplate") or {}).get("volumes") or ()
    if any(volume.get("name") == name for volume in tenants):
        return None
    if name in _OWN_MOUNTS:
        return _OWN_MOUNTS[name]
    folder = _NUMBERED.get(name.rpartition("-")[0])
    path = str(mount["mountPath"])
    return path if folder and posixpath.dirname(path) == folder else None


def _mounts(case: Case, container: Object) -> Iterator[str]:
    """Lay the mounts over each other as containerd does: cleaned, shallow first, the later wins."""
    cleaned: list[tuple[str, Object, bool]] = []
    for mount in container["volumeMounts"]:
        own, given = _own_path(case, mount), str(mount["mountPath"])
        path = posixpath.normpath("/" + given.lstrip("/"))
        is_own = own is not None and (container["name"] != "trainer" or path == own)
        if not is_own and (
            not _PATH.fullmatch(path) or not _is_below(path, case.policy.mount_roots)
        ):
            yield f"mounts: {given!r} is outside of every root"
        sub = str(mount.get("subPath") or "")
        if sub.startswith("/") or ".." in re.split(r"[/\\]", sub) or "\0" in sub:
            yield f"mounts: subPath {sub!r}"
        if set(mount) - {"name", "mountPath", "readOnly", "subPath"}:
            yield f"mounts: {sorted(mount)}"
        cleaned.append((path, mount, is_own))
    cleaned.sort(key=lambda item: item[0].count("/"))
    for index, (path, mount, is_own) in enumerate(cleaned):
        hidden_by = [
            later["mountPath"]
            for over, later, own in cleaned[index + 1 :]
            if not own and (path == over or path.startswith(over.rstrip("/") + "/"))
        ]
        # Also what lies inside of one of the operator's: the stage reads and writes there.
        hidden_by += [
            other["mountPath"]
            for inner, other, own in cleaned
            if not own and inner.startswith(path.rstrip("/") + "/")
        ]
        if is_own and hidden_by:
            yield f"mounts: {hidden_by[0]!r} hides {mount['mountPath']}"


def _is_below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(root + "/") for root in roots)


def _resources(case: Case, container: Object) -> Iterator[str]:
    resources = container.get("resources") or {}
    for name in (resources.get("limits") or {}).keys() | (resources.get("requests") or {}).keys():
        asked = (case.body["spec"].get("resources") or {}).get("gpuResource")
        if name in ("cpu", "memory", "ephemeral-storage") and name != asked:
            continue
        if name != (asked or "nvidia.com/gpu") and not matches(name, case.policy.extra_resources):
            yield f"resources: {name!r} beside GPUs"
        if _PAGES.fullmatch(name) and name != asked:
            continue
        domain = name.partition("/")[0]
        is_native = domain.endswith("kubernetes.io") or domain.startswith("requests.")
        if is_native or not _RESOURCE.fullmatch(name):
            yield f"resources: {name!r}"
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    if not {"cpu", "memory"} <= requests.keys() or not {"cpu", "memory"} <= limits.keys():
        yield f"resources of {container['name']} are unlimited"


def _trainer(case: Case, container: Object, stage: str) -> Iterator[str]:
    policy, body = case.policy, case.body
    template = body["spec"].get("podTemplate") or {}
    image = str((body["spec"].get("trainer") or {}).get("image") or TRAINER_IMAGE)
    if container["image"] != image or not _is_allowed_image(image, policy):
        yield f"image: {container['image']!r}"
    arguments = container["args"]
    if arguments[:3] != [stage, "--job", "/etc/finetune/job/job.json"] or "command" in container:
        yield f"arguments: {arguments[:3]}"
    names = [variable["name"] for variable in container["env"]]
    if len(set(names)) != len(names) or any("valueFrom" in each for each in container["env"]):
        yield "env: a name twice, or a value from elsewhere"
    told = {variable["name"]: variable["value"] for variable in container["env"]}
    path = f"/progress/{case.namespace}/{body['metadata']['name']}/{stage}"
    expected = {
        **_OWN_VALUES,
        "FINETUNE_IMAGE": image,
        "KUBEFLOW_TRAINER_SERVER_URL": f"{PROGRESS_URL}{path}",
    }
    for name, value in expected.items():
        if told.get(name) != value:
            yield f"env: {name}={told.get(name)!r}"
    own = {variable["name"] for variable in template.get("env") or ()}
    for name, pattern in _NETWORK.items():
        if name not in told or name in own:
            continue
        if not matches(name, policy.variables) or not re.fullmatch(pattern, told[name]):
            yield f"env: {name}={told[name]!r} of the network"
    for variable in template.get("env") or ():
        name = variable["name"]
        if name in expected or told.get(name) != variable.get("value", ""):
            continue  # the operator's own value stands there
        if is_dangerous(name) or not matches(name, policy.variables):
            yield f"env: {name}"


def _is_allowed_image(image: str, policy: Policy) -> bool:
    if image == TRAINER_IMAGE:
        return True
    if policy.images is None:
        return True
    if not _IMAGE.fullmatch(image):
        return True  # no runtime takes it for a reference
    registry, _, path = image.partition("/")
    return any(registry == known and path.startswith(folder) for known, folder in policy.images)


def _placement(case: Case, pod: Object) -> Iterator[str]:
    policy = case.policy
    for field, allowed in (
        ("priorityClassName", policy.priority_classes),
        ("runtimeClassName", policy.runtime_classes),
        ("schedulerName", policy.schedulers),
        ("serviceAccountName", policy.service_accounts),
    ):
        name = pod.get(field)
        if name is not None and not matches(name, allowed):
            yield f"{field}: {name}"
    for each in pod.get("tolerations") or ():
        if not any(_tolerates_no_more(each, *known) for known in policy.tolerations):
            yield f"tolerations: {each}"
    selectors = policy.node_selectors
    for label, value in (pod.get("nodeSelector") or {}).items():
        if selectors is not None and not any(
            label == known and matches(value, (pattern,)) for known, pattern in selectors
        ):
            yield f"nodeSelector: {label}={value}"
    affinity = pod.get("affinity") or {}
    if selectors is not None and affinity.get("nodeAffinity"):
        yield "affinity: nodes"
    if set(affinity) - {"nodeAffinity", "podAffinity", "podAntiAffinity"}:
        yield f"affinity: {sorted(affinity)}"
    for text in ("namespaceSelector", "namespaces"):
        # An anti-affinity to everybody's pods keeps everybody else from the node.
        if any(set(each or ()) != {case.namespace} for each in _values(affinity, text)):
            yield f"affinity: {text}"


def _values(value: Any, field: str) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == field and item is not None:
                yield item if item else {"everybody": True}
            yield from _values(item, field)
    elif isinstance(value, list):
        for item in value:
            yield from _values(item, field)


def _tolerates_no_more(each: Object, key: str, value: str | None, effect: str | None) -> bool:
    if each.get("key") != key:
        return False
    if value is not None and (each.get("operator") == "Exists" or each.get("value") != value):
        return False
    return effect is None or each.get("effect") == effect


def _job_file(case: Case, job: Object) -> Iterator[str]:
    spec, policy, metadata = job["spec"], case.policy, case.body["metadata"]
    named = (job["namespace"], job["name"], job["uid"])
    if named != (case.namespace, metadata["name"], case.uid):
        yield f"job.json: of {named}"
    if spec.get("podTemplate"):
        yield "job.json: podTemplate"
    if (spec.get("model") or {}).get("trustRemoteCode"):
        yield "job.json: trustRemoteCode"
    if (spec.get("evaluation") or {}).get("customMetric") and not policy.custom_metrics:
        yield "job.json: customMetric"
    for uri in _uris(spec):
        yield from _uri(case, uri)
    yield from _endpoint("s3", (spec.get("s3") or {}).get("endpoint"), policy.endpoints)
    judge = (spec.get("evaluation") or {}).get("judge") or {}
    yield from _endpoint("judge", judge.get("endpoint"), policy.judges)
    for name, tracker in (spec.get("tracking") or {}).items():
        yield from _endpoint(f"tracking.{name}", (tracker or {}).get("uri"), policy.trackers)


def _uris(value: Any, field: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _uris(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from _uris(item, field)
    elif field == "uri" and isinstance(value, str):
        yield value


def _uri(case: Case, uri: str) -> Iterator[str]:
    """Follow a URI as the trainer does: as the place of a store, and as that of a source."""
    scheme = uri.partition("://")[0]
    if scheme in ("http", "https"):
        return  # a tracker's
    try:
        places = [locate(uri).root, uri] if scheme != "hf" else []
        paths = [local_path(place) for place in places if scheme == "file"]
        if scheme == "hf":
            address = parse_hub_uri(uri)
            if ".." in f"{address.repo_id}/{address.revision}/{address.folder}".split("/"):
                yield f"uri: {uri!r} leaves the repository"
    except (TrainerError, ValueError):
        return  # the stage refuses it
    if scheme not in ("file", "hf", "s3"):
        yield f"uri: {uri!r}"
    claims = tuple(f"{_NUMBERED['claim']}/{name}" for name in _claims(case.body["spec"]))
    for path in paths:
        text = str(path)
        if ".." in text.split("/") or "\0" in text:
            yield f"uri: {uri!r} climbs"
        elif not _is_below(
            posixpath.normpath("/" + text.lstrip("/")), case.policy.file_paths + claims
        ):
            yield f"uri: {uri!r} is outside of every folder"


def _claims(spec: Object) -> Iterator[str]:
    for uri in _uris(spec):
        found = re.match("pvc://([a-z0-9.-]+)(/|$)", uri)
        if found:
            yield found[1]


def _endpoint(field: str, url: str | None, allowed: tuple[Endpoint, ...]) -> Iterator[str]:
    if url is None:
        return
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}[parts.scheme]
        host = parts.hostname or ""
    except (ValueError, KeyError):
        yield f"{field}: {url!r} is no URL"
        return
    by_hand = re.fullmatch(r"https?://([A-Za-z0-9.-]+)(:[0-9]{1,5})?(/[A-Za-z0-9._~/%-]*)?", url)
    if by_hand is None or by_hand[1].lower() != host or ".." in unquote(parts.path).split("/"):
        yield f"{field}: {url!r} is read in several ways"
        return
    for scheme, known, at, path in allowed:
        same = host.endswith(known[1:]) if known.startswith("*.") else host == known
        below = parts.path.rstrip("/") == path or parts.path.startswith(path.rstrip("/") + "/")
        if same and (parts.scheme, port) == (scheme, at) and (not path.strip("/") or below):
            return
    yield f"{field}: {url!r} is not an allowed address"
