"""What a tenant may not ask for, beyond what the schema can say.

URIs are tenant input: ``file://`` means a path in a pod, an endpoint means where credentials are
sent. Checked before anything is created; the administrator's settings decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote

from finetune_api.licences import is_licence_allowed
from finetune_api.messages.messages import path_of
from finetune_api.messages.prompt_template import find_template_errors
from finetune_api.paths import is_below, normal_path
from finetune_api.patterns import EXTENDED_RESOURCE_RULE, RESERVED_NAME_RULE
from finetune_api.rule import find_broken
from finetune_api.uris import find_uris
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.rules.spec import SPEC_RULES
from finetune_api.v1alpha1.spec.podtemplate import PodTemplate
from finetune_operator.allowlists import (
    matches_bucket,
    matches_image,
    matches_name,
    matches_pair,
    matches_url,
)
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.pods.podbounds import Violation, find_job_violations
from finetune_operator.finetunejob.render.claims import parse_claim_uri
from finetune_operator.status.conditions import Reason

_REFERENCES = ("credentialsRef", "secretRef", "configMap")


def find_violations(spec: FineTuneJobSpec, config: OperatorConfig) -> list[Violation]:
    """Return everything in a spec that this cluster does not allow.

    And the rules that it breaks: what is read of a stored object is not held to all of them.
    """
    found = [*_rules(spec), *_uris(spec, config), *_endpoint(spec, config), *_templates(spec)]
    found += find_reserved(spec.to_wire())
    found += _gpu_resource(spec)
    found += _tracker(spec, config)
    found += _requester(spec, config)
    if spec.model.trust_remote_code and not config.allow_trust_remote_code:
        found.append(
            Violation(
                reason=Reason.REMOTE_CODE_NOT_ALLOWED,
                field="spec.model.trustRemoteCode",
                message="code from model repositories may not run on this cluster"
                " (allowTrustRemoteCode is off in the operator's configuration)",
            )
        )
    if spec.budget is not None and spec.budget.amount is not None and not config.gpu_hour_price:
        found.append(
            Violation(
                reason=Reason.PRICE_NOT_SET,
                field="spec.budget.amount",
                message=f"{spec.budget.amount} cannot be held against anything: this cluster has no"
                " price of a GPU for an hour (gpuHourPrice in the operator's configuration); set"
                " budget.gpuHours",
            )
        )
    found += _judge(spec, config)
    found += _licence(spec, config)
    found += _image(spec, config)
    found += _engine(spec, config)
    found += _red_team(spec, config)
    found += _custom_metric(spec, config)
    found += _model_download(spec, config)
    found += find_job_violations(spec, config, None)
    if spec.pod_template is not None:
        found += find_placement_violations(spec.pod_template, config)
    return found


def _rules(spec: FineTuneJobSpec) -> Iterator[Violation]:
    for broken in find_broken(spec, SPEC_RULES):
        yield Violation(
            reason=Reason.INVALID_SPEC, field=f"spec.{broken.field}", message=broken.message
        )


def find_reserved(wire: object, field: str = "spec") -> Iterator[Violation]:
    """Yield each Secret, ConfigMap and account that a spec names and that the operator makes."""
    if isinstance(wire, list):
        for number, each in enumerate(wire):
            yield from find_reserved(each, f"{field}[{number}]")
    if not isinstance(wire, dict):
        return
    for name, value in wire.items():
        is_named = name == "serviceAccountName" or (name == "name" and field.endswith(_REFERENCES))
        if is_named and isinstance(value, str) and not RESERVED_NAME_RULE.accepts(value):
            message = f"{value!r} {RESERVED_NAME_RULE.message}"
            yield Violation(reason=Reason.INVALID_SPEC, field=f"{field}.{name}", message=message)
        yield from find_reserved(value, f"{field}.{name}")


def _gpu_resource(spec: FineTuneJobSpec) -> Iterator[Violation]:
    resource = spec.resources.gpu_resource
    extra = spec.pod_template.extra_resources if spec.pod_template else []
    if any(each.name == resource for each in extra):
        yield Violation(
            reason=Reason.INVALID_SPEC,
            field="spec.podTemplate.extraResources",
            message=f"{resource!r} is the GPUs' resource (resources.gpuResource), which budgets and"
            " quotas count; set resources.gpusPerNode instead",
        )
    if EXTENDED_RESOURCE_RULE.accepts(resource) and "kubernetes.io/" not in resource:
        return
    yield Violation(
        reason=Reason.INVALID_SPEC,
        field="spec.resources.gpuResource",
        message=f"{resource!r} {EXTENDED_RESOURCE_RULE.message}",
    )


def _uris(spec: FineTuneJobSpec, config: OperatorConfig) -> Iterator[Violation]:
    for place, uri in find_uris(spec.to_wire()):
        problem = uri_problem(uri, config)
        if problem:
            yield Violation(
                reason=Reason.URI_NOT_ALLOWED, field=path_of(("spec", *place)), message=problem
            )


def uri_problem(uri: str, config: OperatorConfig) -> str:
    """Return why this cluster does not allow a URI; empty if it does."""
    if uri.startswith("pvc://"):
        if parse_claim_uri(uri) is None:
            return f"{uri!r} is not of the form pvc://<claim>/<path> with a path inside the claim"
        return ""
    if uri.startswith("s3://") and not matches_bucket(uri, config.allowed_buckets):
        return (
            f"{uri!r} is not in a bucket or folder that may be named here"
            f" ({_listed(config.allowed_buckets)}); use one of these, or ask the administrator to"
            " add it to allowedBuckets"
        )
    if not uri.startswith("file://"):
        return ""
    text = uri.removeprefix("file://")
    if not text.startswith("/"):
        return f"{uri!r} must name an absolute path: file:///folder"
    try:
        folder = normal_path(unquote(text))
    except ValueError as error:
        return f"{uri!r} must be a path without detours: {error}"
    if any(is_below(folder, root) for root in config.allowed_file_paths):
        return ""
    known = ", ".join(config.allowed_file_paths) or "none"
    return (
        f"{uri!r} is a path inside a pod, and not under one that this cluster allows ({known});"
        " use s3:// or pvc://"
    )


def _endpoint(spec: FineTuneJobSpec, config: OperatorConfig) -> Iterator[Violation]:
    if problem := endpoint_problem(spec.s3.endpoint, config):
        yield Violation(
            reason=Reason.ENDPOINT_NOT_ALLOWED, field="spec.s3.endpoint", message=problem
        )


def endpoint_problem(endpoint: str | None, config: OperatorConfig) -> str:
    """Return why keys may not be sent to an S3 endpoint; empty if they may, and for AWS's own."""
    if endpoint is None or "*" in config.allowed_endpoints:
        return ""
    allowed = {item.rstrip("/").lower() for item in config.allowed_endpoints}
    if endpoint.rstrip("/").lower() in allowed:
        return ""
    return (
        f"{endpoint!r} is not on this cluster's list of S3 endpoints"
        f" ({', '.join(config.allowed_endpoints) or 'none'}); ask its administrator to add it"
        " to allowedEndpoints"
    )


def _tracker(spec: FineTuneJobSpec, config: OperatorConfig) -> Iterator[Violation]:
    if spec.tracking is None or "*" in config.allowed_trackers:
        return
    allowed = {item.rstrip("/").lower() for item in config.allowed_trackers}
    for field, server in spec.tracking.servers.items():
        if server.uri.rstrip("/").lower() not in allowed:
            yield Violation(
                reason=Reason.TRACKER_NOT_ALLOWED,
                field=f"spec.tracking.{field}.uri",
                message=f"{server.uri!r} is not on this cluster's list of trackers"
                f" ({_listed(config.allowed_trackers)}); leave tracking.{field} out, or ask its"
                " administrator to add it to allowedTrackers",
            )


def _requester(spec: FineTuneJobSpec, config: OperatorConfig) -> Iterator[Violation]:
    if spec.requested_by is not None or config.requester_may_approve:
        return
    yield Violation(
        reason=Reason.REQUESTER_NOT_NAMED,
        field="spec.requestedBy",
        message="it is missing, and nobody approves a request of their own in this namespace"
        " (requesterMayApprove is off): write the user name that the API server knows you by"
        " (kubectl auth whoami), or use finetune submit --name-requester",
    )


def _judge(spec: FineTuneJobSpec, config: OperatorConfig) -> Iterator[Violation]:
    judge, allowed = spec.evaluation.judge, config.allowed_judge_endpoints
    if judge is None or matches_url(judge.endpoint, allowed):
        return
    yield Violation(
        reason=Reason.JUDGE_NOT_ALLOWED,
        field="spec.evaluation.judge.endpoint",
        message=f"{judge.endpoint!r} is not a judge that rows may be sent to here"
        f" ({_listed(allowed)}); leave evaluation.judge out, or ask the administrator to add it to"
        " allowedJudgeEndpoints",
    )


def _image(spec: FineTuneJobSpec, config: OperatorConfig) -> Iterator[Violation]:
    image = spec.trainer.image
    if (
        image is None
        or image == config.trainer_image
        or matches_image(image, config.allowed_images)
    ):
        return
    yield Violation(
        reason=Reason.IMAGE_NOT_ALLOWED,
        field="spec.trainer.image",
        message=f"{image!r} is not an image that jobs may run here"
        f" ({_listed(config.allowed_images)}); leave it out to run {config.trainer_image!r}, or"
        " ask the administrator to add it to allowedImages",
    )


def _engine(spec: FineTuneJobSpec, config: OperatorConfig) -> Iterator[Violation]:
    if spec.evaluation.engine != "VLLM" or config.vllm_image:
        return
    yield Violation(
        reason=Reason.ENGINE_NOT_ALLOWED,
        field="spec.evaluation.engine",
        message="'VLLM' needs an image that runs beside the evaluation, and this cluster has none"
        " (vllmImage in the operator's configuration is empty); use Transformers, or ask the"
        " administrator to name one",
    )


def _red_team(spec: FineTuneJobSpec, config: OperatorConfig) -> Iterator[Violation]:
    if spec.evaluation.red_team is None or config.garak_image:
        return
    yield Violation(
        reason=Reason.RED_TEAM_NOT_ALLOWED,
        field="spec.evaluation.redTeam",
        message="engine 'Garak' needs an image that runs beside the evaluation, and this cluster"
        " has none (garakImage in the operator's configuration is empty); leave redTeam out, or ask"
        " the administrator to name one",
    )


def _custom_metric(spec: FineTuneJobSpec, config: OperatorConfig) -> Iterator[Violation]:
    custom = spec.evaluation.custom_metric
    if custom is None or config.allow_custom_metrics:
        return
    yield Violation(
        reason=Reason.CUSTOM_METRIC_NOT_ALLOWED,
        field="spec.evaluation.customMetric",
        message=f"{custom.path!r} would run as code of the job's own, which jobs may not bring here"
        " (allowCustomMetrics is off); leave customMetric out, or ask the administrator to turn"
        " allowCustomMetrics on",
    )


def _model_download(spec: FineTuneJobSpec, config: OperatorConfig) -> Iterator[Violation]:
    """Refuse pods that would download the base model while they, or their peers, hold GPUs."""
    resources, uri = spec.resources, spec.model.uri
    is_remote = uri.startswith(("hf://", "s3://"))
    if config.cache_claim or not is_remote or config.model_downloads == "Anywhere":
        return
    if resources.nodes > 1 and resources.gpus_per_node:
        who = f"each of {resources.nodes} nodes would download {uri!r} while all hold their GPUs"
    elif config.model_downloads == "BeforeGPUs" and resources.gpus_per_node:
        who = f"the pods of stages with GPUs would download {uri!r} while they hold them"
    else:
        return
    yield Violation(
        reason=Reason.MODEL_DOWNLOAD_NOT_ALLOWED,
        field="spec.model.uri",
        message=f"{who} (modelDownloads is {config.model_downloads}); put the model on a volume and"
        " name it as pvc://<claim>/<path>, or ask the administrator for cacheClaim, with which"
        " prepare downloads it to a volume before any GPU is held, or for modelDownloads Anywhere",
    )


def _licence(spec: FineTuneJobSpec, config: OperatorConfig) -> Iterator[Violation]:
    """Refuse a licence that the job states; what the model states is known in ``prepare``."""
    licence = spec.model.licence
    if licence is None or is_licence_allowed(licence, config.allowed_licences):
        return
    yield Violation(
        reason=Reason.LICENCE_NOT_ALLOWED,
        field="spec.model.licence",
        message=f"{licence!r} is not a licence that base models may have here"
        f" ({_listed(config.allowed_licences)}); choose another model, or ask the administrator to"
        " add it to allowedLicences",
    )


def find_placement_violations(template: PodTemplate, config: OperatorConfig) -> Iterator[Violation]:
    """Yield what says where pods run, or as whom, and is not allowed."""
    account, accounts = template.service_account_name, config.allowed_service_accounts
    if (
        account
        and account != config.default_service_account
        and not matches_name(account, accounts)
    ):
        yield Violation(
            reason=Reason.SERVICE_ACCOUNT_NOT_ALLOWED,
            field="spec.podTemplate.serviceAccountName",
            message=f"{account!r} is not a service account that jobs may use here"
            f" ({_listed(accounts)}); leave it out to run as"
            f" {config.default_service_account or 'default'!r}, or ask the administrator to add it"
            " to allowedServiceAccounts",
        )
    allowed = config.allowed_node_selectors
    for label, value in template.node_selector.items():
        if config.default_node_selector.get(label) == value:
            continue
        if not matches_pair(label, value, allowed):
            yield Violation(
                reason=Reason.NODE_SELECTOR_NOT_ALLOWED,
                field="spec.podTemplate.nodeSelector",
                message=f"'{label}={value}' is not a node label that jobs may ask for here"
                f" ({_listed(allowed)}); leave it out, or ask the administrator to add it to"
                " allowedNodeSelectors",
            )
    if "*" not in allowed and template.affinity and template.affinity.chooses_nodes:
        yield Violation(
            reason=Reason.NODE_SELECTOR_NOT_ALLOWED,
            field="spec.podTemplate.affinity.nodeAffinity",
            message=f"it would choose nodes past the labels that jobs may ask for here"
            f" ({_listed(allowed)}); name those in podTemplate.nodeSelector",
        )


def _listed(patterns: list[str]) -> str:
    return ", ".join(patterns) or "none"


def _templates(spec: FineTuneJobSpec) -> Iterator[Violation]:
    for place, problem in find_template_errors(spec):
        yield Violation(
            reason=Reason.INVALID_TEMPLATE,
            field=path_of(("spec", *place)),
            message=f"not valid Jinja: {problem}",
        )
