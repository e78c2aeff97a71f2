"""The trainer image of a run: fixed at its first pod, so that all stages are of one version.

A tag moves and the administrator's default does too; what trained must be what evaluates. The
first pod's node tells the digest it runs, and later stages ask for that. Where there is none to ask
for (an image loaded onto nodes by hand) they ask for the same name as the first pod.
"""

from __future__ import annotations

import re
from typing import Any

from finetune_operator.finetunejob.state.draft import JobDraft
from finetune_operator.finetunejob.state.step import Step

_DIGEST = re.compile(r"^(?:[a-z-]+://)?(?P<repository>[^@]+)@(?P<digest>sha256:[0-9a-f]{64})$")
"""As container runtimes name an image; dockerd puts ``docker-pullable://`` in front."""
_DEFAULT_REGISTRY = "docker.io"


def pinned_image(image: str, image_id: str) -> str:
    """Return what names the same image for good; the image as it is if nothing does.

    Args:
        image: As the pod asked for it.
        image_id: ``imageID`` of its container: ``repository@digest``, or, of an image that came
            from no registry, a bare digest or a name that the runtime made up.

    Source: kubernetes/pkg/kubelet/kuberuntime (imageRef); distribution/reference for names.
    """
    found = _DIGEST.match(image_id)
    if "@" in image or found is None:
        return image
    repository = _without_tag(image)
    if _full_name(found["repository"]) != _full_name(repository):
        return image
    return f"{repository}@{found['digest']}"


def settle_image(step: Step) -> None:
    """Record the image of the first pod that tells which it runs, once for all."""
    draft = step.draft
    if draft.get("trainerImage"):
        return
    pods = [pod for view in step.views for pod in view.pods if pod["status"].get("imageID")]
    if not pods:
        return
    first = min(pods, key=lambda pod: pod["metadata"].get("creationTimestamp") or "")
    image, image_id = first["spec"].get("image") or "", first["status"]["imageID"]
    if not image:
        return
    settled: dict[str, Any] = {"imageID": image_id}
    settled["name"] = pinned_image(image, image_id) if step.config.pin_trainer_image else image
    draft.put("trainerImage", settled)


def settled_image(draft: JobDraft) -> str | None:
    """Return the image that the run's pods have to be of; None before its first pod."""
    settled = draft.get("trainerImage") or {}
    return settled.get("name")


def _without_tag(image: str) -> str:
    folder, slash, name = image.rpartition("/")
    return f"{folder}{slash}{name.partition(':')[0]}"


def _full_name(repository: str) -> str:
    """Write out what a short name leaves out: ``acme/trainer`` is ``docker.io/acme/trainer``."""
    first, slash, _ = repository.partition("/")
    if not slash:
        return f"{_DEFAULT_REGISTRY}/library/{repository}"
    if "." in first or ":" in first or first == "localhost":
        return repository.replace("index.docker.io/", "docker.io/", 1)
    return f"{_DEFAULT_REGISTRY}/{repository}"
