"""What ``spec.podTemplate`` and ``spec.resources.network`` may not ask for.

Two kinds of bounds: those that hold whatever an administrator sets, because a pod that breaks them
would read other files than the operator gave it or run unconfined, and those of the administrator's
allow-lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_api.names import RESERVED_PREFIXES
from finetune_api.paths import is_below, normal_path
from finetune_api.protocol.trainer import Environment, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.spec.podtemplate import PodTemplate, Toleration, VolumeMount
from finetune_api.v1alpha1.spec.resources import NETWORK_VARIABLES
from finetune_operator.allowlists import ALL, matches_name, matches_pair
from finetune_operator.finetunejob.render.volumes import OWN_VOLUMES
from finetune_operator.status.conditions import Reason
from finetune_operator.tenants import IMAGE_FOLDERS, RESERVED_MOUNTS, TenantSettings

_RESERVED_ENVIRONMENT = ("FINETUNE_", "KUBEFLOW_TRAINER_", Environment.NODE_RANK)
_FIXED_ENVIRONMENT = {
    "HOME": "the home folder is the pod's own /tmp; remove it",
    "OMP_NUM_THREADS": "it follows spec.resources.cpu; set that instead",
    "PYTHONHASHSEED": "it is fixed, so that the same job gives the same adapter; remove it",
}
"""Variables that would be overridden without a word, and what to do instead."""
_CONFINING_ANNOTATIONS = (
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
)
"""Keys that change what confines a container. No allow-list opens them."""


_RESERVED_LABELS = (*RESERVED_PREFIXES, "batch.kubernetes.io/")
_LEGACY_LABELS = frozenset({"job-name", "controller-uid"})
"""Labels by which the operator, Kueue and the Job controller find pods. No allow-list opens them.
The last two are the Job controller's of old, without a prefix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """One thing a job asks for and may not have.

    Attributes:
        reason: Reason of ``Accepted=False``.
        field: Path of the field.
        message: What is refused and what to do.
    """

    reason: Reason
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def find_fixed_violations(template: PodTemplate) -> Iterator[Violation]:
    """Yield what no configuration allows."""
    yield from _names(template)
    yield from _mounts(template, None)


def find_job_violations(
    spec: FineTuneJobSpec, settings: TenantSettings, stage: Stage | None
) -> Iterator[Violation]:
    """Yield everything of a job that may not become a pod of a stage under these settings.

    Without a stage, the job is new, and all of it counts.
    """
    if spec.pod_template is not None:
        yield from find_pod_violations(spec.pod_template, settings)
    if stage is None:
        yield from _overruled_network(spec, settings)
    if stage in (None, Stage.TRAIN):
        yield from _unlisted_network(spec, settings)


def _overruled_network(spec: FineTuneJobSpec, settings: TenantSettings) -> Iterator[Violation]:
    """Yield fields that the administrator overrules. Accepted jobs get those values silently."""
    reason = Reason.ENVIRONMENT_NOT_ALLOWED
    for field, variable in _network_variables(spec):
        if (value := settings.trainer_environment.get(variable)) is not None:
            message = f"the administrator sets {variable} to {value!r} (trainerEnvironment)"
            yield Violation(reason=reason, field=field, message=f"{message}; remove it")


def _unlisted_network(spec: FineTuneJobSpec, settings: TenantSettings) -> Iterator[Violation]:
    """Hold each field to the list that the variable it sets is held to."""
    reason, allowed = Reason.ENVIRONMENT_NOT_ALLOWED, settings.allowed_environment
    for field, variable in _network_variables(spec):
        if variable not in settings.trainer_environment and not matches_name(variable, allowed):
            what = f"it sets {variable!r}, which is not a variable that jobs may set here"
            text = _unlisted_text(reason, what, allowed)
            yield Violation(reason=reason, field=field, message=text)


def _network_variables(spec: FineTuneJobSpec) -> Iterator[tuple[str, str]]:
    network = spec.resources.network
    variables = network.environment if network is not None else {}
    for field, variable in NETWORK_VARIABLES.items():
        if variable in variables:
            yield f"spec.resources.network.{field}", variable


def find_pod_violations(template: PodTemplate, settings: TenantSettings) -> Iterator[Violation]:
    """Yield everything that may not become a pod under these settings."""
    yield from _names(template)
    yield from _mounts(template, settings.allowed_mount_roots)
    yield from _unlisted_values(template, settings)
    yield from _unlisted_devices(template, settings)


def _names(template: PodTemplate) -> Iterator[Violation]:
    for key in template.labels:
        if _is_reserved_label(key):
            yield _reserved(
                "labels", f"{key!r} is reserved; labels of your own need another key, such as team"
            )
    for key in template.annotations:
        if key.startswith("finetune.dev/"):
            yield _reserved("annotations", f"{key!r} is reserved")
        elif key.startswith(_CONFINING_ANNOTATIONS):
            message = f"{key!r} would change what confines the container; remove it"
            yield _violation(Reason.ANNOTATION_NOT_ALLOWED, "annotations", message)
    for variable in template.env:
        if variable.name.startswith(_RESERVED_ENVIRONMENT):
            yield _reserved("env", f"{variable.name!r} is set by the operator; remove it")
        elif variable.name in _FIXED_ENVIRONMENT:
            remedy = _FIXED_ENVIRONMENT[variable.name]
            yield _reserved("env", f"{variable.name!r} is set by the operator: {remedy}")
    for volume in template.volumes:
        if volume.name in OWN_VOLUMES or volume.name.startswith(("credentials-", "claim-")):
            yield _reserved("volumes", f"the name {volume.name!r} is taken; choose another")


def _is_reserved_label(key: str) -> bool:
    return key.startswith(_RESERVED_LABELS) or key in _LEGACY_LABELS


def _mounts(template: PodTemplate, roots: list[str] | None) -> Iterator[Violation]:
    """Yield the mounts that are refused; the roots are not looked at where they are None."""
    mounted: list[str] = []
    for mount in template.volume_mounts:
        told = mount.mount_path
        try:
            path = _normal_mount(mount)
        except ValueError as error:
            yield _reserved("volumeMounts", str(error))
            continue
        problem = _overlap(path, mounted, told)
        if problem:
            yield _reserved("volumeMounts", problem)
            continue
        mounted.append(path)
        if hidden := [each for each in IMAGE_FOLDERS if is_below(path, each)]:
            what = (
                f"{told!r} would hide what the image has in {hidden[0]}; mount below /data or /mnt"
            )
            yield _violation(Reason.MOUNT_NOT_ALLOWED, "volumeMounts", what)
        elif roots is not None and not any(is_below(path, root) for root in roots):
            what = f"{told!r} is not below a folder that jobs may mount at here"
            yield _unlisted(
                Reason.MOUNT_NOT_ALLOWED, "volumeMounts", what, roots, instead="mount below one"
            )


def _normal_mount(mount: VolumeMount) -> str:
    """Return the path of a mount in its normal form, the only one that is compared.

    Raises:
        ValueError: It has none, or ``subPath`` leaves the volume; the message says what to write.
    """
    sub_path = mount.sub_path or ""
    try:
        path = normal_path(mount.mount_path)
        normal_path("/" + sub_path)
    except ValueError as error:
        raise ValueError(
            f"{error}; write the path without detours, such as /data/models"
        ) from error
    if sub_path.startswith("/"):
        raise ValueError(f"subPath {sub_path!r} must be a path inside the volume, such as models")
    return path


def _overlap(path: str, mounted: list[str], told: str) -> str:
    """Return what of the operator's or of the job's a mount would hide, in words; or nothing.

    Args:
        path: Where it is mounted, in the normal form.
        mounted: The mounts before it, likewise.
        told: The path as the job has it.
    """
    for reserved in RESERVED_MOUNTS:
        if is_below(path, reserved) or is_below(reserved, path):
            return f"{told!r} would hide {reserved}; mount below /data or /mnt"
    # A link in the outer volume would decide where the inner one goes.
    for other in mounted:
        if is_below(path, other) or is_below(other, path):
            return f"{told!r} and {other!r} lie one in the other; mount them side by side"
    return ""


def _unlisted_values(template: PodTemplate, settings: TenantSettings) -> Iterator[Violation]:
    for variable in template.env:
        if not matches_name(variable.name, settings.allowed_environment):
            what = f"{variable.name!r} is not a variable that jobs may set here"
            allowed = settings.allowed_environment
            yield _unlisted(Reason.ENVIRONMENT_NOT_ALLOWED, "env", what, allowed)
    for key, value in template.labels.items():
        allowed = settings.allowed_labels
        if not _is_reserved_label(key) and not matches_pair(key, value, allowed):
            what = f"'{key}={value}' is not a label that jobs may set here"
            yield _unlisted(Reason.LABEL_NOT_ALLOWED, "labels", what, allowed)
    for key, value in template.annotations.items():
        if not key.startswith(_CONFINING_ANNOTATIONS) and not matches_pair(
            key, value, settings.allowed_annotations
        ):
            what = f"'{key}={value}' is not an annotation that jobs may set here"
            allowed = settings.allowed_annotations
            yield _unlisted(Reason.ANNOTATION_NOT_ALLOWED, "annotations", what, allowed)
    for toleration in template.tolerations:
        allowed = settings.allowed_tolerations
        if not _may_tolerate(toleration, settings):
            what = f"{_toleration_text(toleration)} is not a taint that jobs may tolerate here"
            yield _unlisted(Reason.TOLERATION_NOT_ALLOWED, "tolerations", what, allowed)
    for field, name, what, allowed, reason in (
        ("priorityClassName", template.priority_class_name, "PriorityClass",
         settings.allowed_priority_classes, Reason.PRIORITY_CLASS_NOT_ALLOWED),
        ("runtimeClassName", template.runtime_class_name, "RuntimeClass",
         settings.allowed_runtime_classes, Reason.RUNTIME_CLASS_NOT_ALLOWED),
        ("schedulerName", template.scheduler_name, "scheduler",
         settings.allowed_schedulers, Reason.SCHEDULER_NOT_ALLOWED),
    ):  # fmt: skip
        if name and not matches_name(name, allowed):
            what = f"{name!r} is not a {what} that jobs may name here"
            yield _unlisted(reason, field, what, allowed)


def _unlisted_devices(template: PodTemplate, settings: TenantSettings) -> Iterator[Violation]:
    resources = [each.name for each in template.extra_resources]
    claims = [each.resource_claim_template_name for each in template.resource_claims]
    for field, names, what, allowed, reason in (
        ("extraResources", resources, "resource that jobs may request",
         settings.allowed_extra_resources, Reason.EXTRA_RESOURCE_NOT_ALLOWED),
        ("resourceClaims", claims, "ResourceClaimTemplate that jobs may name",
         settings.allowed_resource_claim_templates, Reason.RESOURCE_CLAIM_NOT_ALLOWED),
        ("capabilities", template.capabilities, "capability that jobs may have",
         settings.allowed_capabilities, Reason.CAPABILITY_NOT_ALLOWED),
    ):  # fmt: skip
        for name in names:
            if not matches_name(name, allowed):
                yield _unlisted(reason, field, f"{name!r} is not a {what} here", allowed)


def _may_tolerate(toleration: Toleration, settings: TenantSettings) -> bool:
    allowed = settings.allowed_tolerations
    if toleration in settings.default_tolerations or ALL in allowed:
        return True
    if not toleration.key:
        return False  # it tolerates every taint
    value = (toleration.value or "") if toleration.operator == "Equal" else None
    effects = {"", toleration.effect} if toleration.effect else {""}
    patterns = (pattern.partition(":") for pattern in allowed)
    listed = [pair or ALL for pair, _, effect in patterns if effect in effects]
    return matches_pair(toleration.key, value, listed)


def _toleration_text(toleration: Toleration) -> str:
    if not toleration.key:
        return "every taint (a toleration without key)"
    value = f"={toleration.value or ''}" if toleration.operator == "Equal" else ""
    return f"'{toleration.key}{value}{':' if toleration.effect else ''}{toleration.effect or ''}'"


SETTINGS = {
    Reason.MOUNT_NOT_ALLOWED: "allowedMountRoots",
    Reason.ENVIRONMENT_NOT_ALLOWED: "allowedEnvironment",
    Reason.LABEL_NOT_ALLOWED: "allowedLabels",
    Reason.ANNOTATION_NOT_ALLOWED: "allowedAnnotations",
    Reason.TOLERATION_NOT_ALLOWED: "allowedTolerations",
    Reason.PRIORITY_CLASS_NOT_ALLOWED: "allowedPriorityClasses",
    Reason.RUNTIME_CLASS_NOT_ALLOWED: "allowedRuntimeClasses",
    Reason.SCHEDULER_NOT_ALLOWED: "allowedSchedulers",
    Reason.EXTRA_RESOURCE_NOT_ALLOWED: "allowedExtraResources",
    Reason.RESOURCE_CLAIM_NOT_ALLOWED: "allowedResourceClaimTemplates",
    Reason.CAPABILITY_NOT_ALLOWED: "allowedCapabilities",
}
"""The administrator's list that a value is missing from, by reason."""


def _unlisted(
    reason: Reason, field: str, what: str, allowed: list[str], *, instead: str = "leave it out"
) -> Violation:
    return _violation(reason, field, _unlisted_text(reason, what, allowed, instead=instead))


def _unlisted_text(
    reason: Reason, what: str, allowed: list[str], *, instead: str = "leave it out"
) -> str:
    listed = ", ".join(allowed[:8]) + (f" and {len(allowed) - 8} more" if len(allowed) > 8 else "")
    remedy = f"{instead}, or ask the administrator to add it to {SETTINGS[reason]}"
    return f"{what} ({listed or 'none'}); {remedy}"


def _reserved(field: str, message: str) -> Violation:
    return _violation(Reason.RESERVED_NAME, field, message)


def _violation(reason: Reason, field: str, message: str) -> Violation:
    return Violation(reason=reason, field=f"spec.podTemplate.{field}", message=message)
