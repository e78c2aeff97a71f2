"""Which version an endpoint is to serve, and on which server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from finetune_api.names import adapter_name, published_name
from finetune_api.v1alpha1.status.endpoint import Candidate, Served, ServedStorage
from finetune_operator.finetuneendpoint.observed import Observed
from finetune_operator.finetuneendpoint.rotation import (
    Rotation,
    is_same,
    is_same_version,
    served_of,
)
from finetune_operator.finetuneendpoint.servers import server_of

_MANIFEST = re.compile(r"(.+/)([1-9][0-9]*)(/manifest\.json)")


def wanted_version(observed: Observed, rotation: Rotation) -> Served | None:
    """Return the version that is to answer, with its server; None if none is known.

    That is the version that ``spec.version`` names, else the newest that the job has published.
    While the job is gone, or a new job of that name has not published yet, the versions in the
    status stay.
    """
    found = _pinned(observed, rotation) if observed.spec.version else _newest(observed, rotation)
    if found is None:
        return None
    for known in rotation.served:
        if is_same_version(known, found) and known.sha256:
            found = found.model_copy(update={"sha256": known.sha256})
    return _on_its_server(observed, found)


def follow(observed: Observed, rotation: Rotation, now: datetime) -> Rotation:
    """Return the rotation with the wanted version as its candidate, where it is not active."""
    pinned = observed.spec.version
    wanted = wanted_version(observed, rotation)
    if wanted is None:
        return rotation
    candidate = rotation.candidate
    if rotation.active is not None and is_same(rotation.active, wanted):
        return _withdraw(rotation, now, f"Version {wanted.version} is wanted again.")
    if candidate is not None and is_same(candidate, wanted):
        return rotation
    is_move = rotation.active is not None and is_same_version(rotation.active, wanted)
    if not is_move and rotation.rejection_of(wanted) is not None:
        why = f"Version {wanted.version} is wanted, which was rejected."
        return _withdraw(rotation, now, why) if pinned else rotation
    if candidate is not None and candidate.weight and not pinned:
        return rotation  # the newer version waits until this rollout has ended
    why = f"Version {wanted.version} is wanted instead."
    return _withdraw(rotation, now, why).start(now, wanted)


def forgive_pinned(observed: Observed, rotation: Rotation) -> Rotation:
    """Let a rejected version be tried again, after an edit of the spec that names it."""
    pinned = observed.spec.version
    return rotation.forgive(pinned) if pinned and observed.is_edited else rotation


def takes_over_at_once(observed: Observed, rotation: Rotation, candidate: Candidate) -> bool:
    """Return whether a verified candidate needs no rollout.

    That holds for the first version, for a version that only moves to another server, for a pinned
    version that is older than the active one (a rollback), for one whose steps a person skips, and
    without ``spec.rollout``.
    """
    active, rollout = rotation.active, observed.spec.rollout
    if active is None or rollout is None or min(rollout.steps) >= 100:
        return True
    is_rollback = observed.spec.version is not None and candidate.version < active.version
    is_skipped = observed.skips_steps_of == str(candidate.version)
    return is_rollback or is_skipped or is_same_version(active, candidate)


def published_version(job: Mapping[str, Any], namespace: str) -> Served | None:
    """Return the version that a FineTuneJob has published, without its server; None without one."""
    artifact = (job.get("status") or {}).get("artifact") or {}
    number, manifest = artifact.get("version"), artifact.get("manifestUri")
    if not number or not manifest:
        return None
    found = _of_job(job, namespace, int(number), str(manifest))
    return found.model_copy(update={"weights_sha256": artifact.get("sha256") or None})


def _published(observed: Observed) -> Served | None:
    return None if observed.job is None else published_version(observed.job, observed.namespace)


def _newest(observed: Observed, rotation: Rotation) -> Served | None:
    if (newest := _published(observed)) is not None:
        return newest
    stays = rotation.candidate or rotation.active
    return None if stays is None else served_of(stays)


def _pinned(observed: Observed, rotation: Rotation) -> Served | None:
    number, newest = observed.spec.version, _published(observed)
    assert number is not None
    if newest is not None and newest.version == number:
        return newest
    for each in rotation.served:
        if each.version == number:
            return served_of(each)
    # Versions of one job name differ only in their number. No digest of this one is known.
    for known in (newest, *rotation.served):
        if known is not None and (manifest := _MANIFEST.fullmatch(known.manifest_uri)):
            return served_of(known).model_copy(
                update={
                    "version": number,
                    "adapter": adapter_name(observed.namespace, observed.spec.job_ref.name, number),
                    "manifest_uri": f"{manifest[1]}{number}{manifest[3]}",
                    "sha256": "",
                    "weights_sha256": None,
                    "job_uid": None,
                    "verified_time": None,
                    "since": None,
                }
            )
    return None


def _on_its_server(observed: Observed, version: Served) -> Served:
    server = server_of(
        version,
        observed.spec.serve,
        namespace=observed.namespace,
        endpoint_uid=observed.uid,
    )
    return version.model_copy(update={"server": server.name})


def _of_job(job: Mapping[str, Any], namespace: str, number: int, manifest: str) -> Served:
    spec = job["spec"]
    model, output, s3 = spec["model"], spec["output"], spec.get("s3") or {}
    adapter = (spec.get("method") or {}).get("adapter") or {}
    is_whole = adapter.get("type") == "Full"
    name = published_name(job)
    return Served(
        version=number,
        adapter=adapter_name(namespace, name, number),
        manifest_uri=manifest,
        sha256="",
        server="",
        base_model=_base_model(model),
        base_model_secret=(model.get("credentialsRef") or {}).get("name"),
        format="Merged" if is_whole else "Adapter",
        rank=None if is_whole else int(adapter.get("rank") or 16),
        storage=ServedStorage(
            uri=output["uri"],
            credentials_secret=(output.get("credentialsRef") or {}).get("name"),
            endpoint=s3.get("endpoint"),
            region=s3.get("region"),
            addressing=None if s3.get("addressing") == "Auto" else s3.get("addressing"),
        ),
        job_uid=job["metadata"].get("uid"),
    )


def _base_model(model: Mapping[str, Any]) -> str:
    """Return the URI of a base model, with the revision of an ``hf://`` model that names one."""
    uri, revision = str(model["uri"]), str(model.get("revision") or "main")
    is_told = "@" in uri or revision == "main" or not uri.startswith("hf://")
    return uri if is_told else f"{uri}@{revision.replace('/', '%2F')}"


def _withdraw(rotation: Rotation, now: datetime, message: str) -> Rotation:
    """Take the candidate out without rejecting it."""
    candidate = rotation.candidate
    if candidate is None:
        return rotation
    gone = replace(rotation, candidate=None)
    if not candidate.weight:
        return gone
    return gone.record(now, candidate, "RolledBack", message)
