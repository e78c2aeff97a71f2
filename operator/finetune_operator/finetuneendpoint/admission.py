"""What an endpoint may not ask of this cluster; the administrator's settings decide."""

from __future__ import annotations

from finetune_api.v1alpha1.finetuneendpoint import FineTuneEndpointSpec
from finetune_api.v1alpha1.spec.podtemplate import PodTemplate
from finetune_api.v1alpha1.spec.serving import Serve
from finetune_operator.allowlists import matches_image
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.render.scaling import is_scaled
from finetune_operator.finetuneendpoint.render.vllm import num_parallel
from finetune_operator.finetuneendpoint.servers import Server
from finetune_operator.finetunejob.pods.admission import (
    endpoint_problem,
    find_placement_violations,
    find_reserved,
    uri_problem,
)
from finetune_operator.finetunejob.pods.podbounds import find_pod_violations
from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.status.conditions import Reason

SOURCE_RETRY_SECONDS = 600.0
"""Only a new configuration helps, with which the operator starts anew."""


def find_fault(spec: FineTuneEndpointSpec, config: OperatorConfig) -> Refusal | None:
    """Return the first thing in a spec that this cluster does not allow, or None."""
    serve, capture = spec.serve, spec.capture
    for taken in find_reserved(spec.to_wire()):
        return _fault(taken.reason, str(taken))
    if capture is not None and capture.uri and (problem := uri_problem(capture.uri, config)):
        return _fault(Reason.URI_NOT_ALLOWED, f"spec.capture.uri: {problem}")
    own = {config.trainer_image, config.vllm_image}
    if serve.image and not (
        serve.image in own or matches_image(serve.image, config.allowed_serving_images)
    ):
        allowed = ", ".join(config.allowed_serving_images) or "none"
        return _fault(
            Reason.IMAGE_NOT_ALLOWED,
            f"spec.serve.image: {serve.image!r} is not an image that endpoints may run here"
            f" ({allowed}); leave it out, or ask the administrator to add it to"
            " allowedServingImages",
        )
    if serve.engine == "VLLM" and not (serve.image or config.vllm_image):
        return _fault(
            Reason.ENGINE_NOT_ALLOWED,
            "spec.serve.engine: 'VLLM' needs an image, and this cluster has none (vllmImage in the"
            " operator's configuration is empty); use Transformers, or ask the administrator to"
            " name one",
        )
    if serve.num_gpus and is_scaled(serve.replicas) and not config.keda_prometheus_url:
        return _fault(
            Reason.INVALID_SPEC,
            f"spec.serve.replicas.max: {serve.replicas.max} would never be reached: without KEDA"
            " the use of the CPU decides, which an engine on GPUs hardly raises (kedaPrometheusUrl"
            f" in the operator's configuration is empty); write {serve.replicas.min}, or ask the"
            " administrator to set it",
        )
    if "kubernetes.io/" in serve.resources.gpu_resource:
        return _fault(
            Reason.INVALID_SPEC,
            f"spec.serve.resources.gpuResource: {serve.resources.gpu_resource!r} is a resource of"
            " Kubernetes itself; name that of a device, such as nvidia.com/gpu",
        )
    num_parts = num_parallel([*serve.arguments, *config.vllm_arguments])
    if serve.engine == "VLLM" and 0 < serve.num_gpus < num_parts:
        return _fault(
            Reason.INVALID_SPEC,
            f"spec.serve.arguments: {num_parts} GPUs are needed to divide the model so, and"
            f" spec.serve.resources.gpus is {serve.num_gpus}; write {num_parts} there, or leave"
            " --tensor-parallel-size and --pipeline-parallel-size out",
        )
    return _find_placement_fault(serve, config)


def find_source_fault(server: Server, config: OperatorConfig) -> Refusal | None:
    """Return why a server may not fetch its versions and base model here, or None.

    The lists allowed both when the job began. They may have become narrower since.
    """
    problem = endpoint_problem(server.storage.endpoint, config)
    if problem:
        return _source_fault(Reason.ENDPOINT_NOT_ALLOWED, "spec.s3.endpoint", problem)
    for field, uri in (("model.uri", server.base_model), ("output.uri", server.storage.uri)):
        if problem := uri_problem(uri, config):
            return _source_fault(Reason.URI_NOT_ALLOWED, f"spec.{field}", problem)
    return None


def _find_placement_fault(serve: Serve, config: OperatorConfig) -> Refusal | None:
    """Hold nodes and taints to the lists that hold for jobs."""
    asked = PodTemplate(node_selector=serve.node_selector, tolerations=serve.tolerations)
    violations = (*find_pod_violations(asked, config), *find_placement_violations(asked, config))
    for violation in violations:
        message = str(violation).replace("podTemplate", "serve")
        return Refusal(reason=violation.reason, message=f"{message}.", is_final=True)
    return None


def _source_fault(reason: str, field: str, problem: str) -> Refusal:
    message = f"{field} of the job that published the version: {problem}."
    return Refusal(reason=reason, message=message, retry_seconds=SOURCE_RETRY_SECONDS)


def _fault(reason: str, message: str) -> Refusal:
    return Refusal(reason=reason, message=f"{message}.", is_final=True)
