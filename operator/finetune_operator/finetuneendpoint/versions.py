"""Which version an endpoint is to serve, and on which server."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from finetune_api.names import adapter_name, published_name, run_uid
from finetune_api.v1alpha1.status.endpoint import (
    Candidate,
    Published,
    RefusedMove,
    Served,
    ServedStorage,
)
from finetune_api.v1alpha1.status.fields import MAX_VERSION
from finetune_operator.finetuneendpoint.observed import Observed
from finetune_operator.finetuneendpoint.rotation import (
    Rotation,
    is_same,
    is_same_version,
    published_of,
)
from finetune_operator.finetuneendpoint.servers import server_of
from finetune_operator.status.conditions import parse_timestamp, timestamp

Object = dict[str, Any]

_MANIFEST = re.compile(r"(.+/)([1-9][0-9]*)(/manifest\.json)")
MAX_FAILED_MOVES = 3
"""Namespaces in which a new configuration may fail before it is carried into no other one."""
RETRY_HOURS = (1, 4, 24)
"""Pauses before a refused move is tried again, by the number of failures."""


def wanted_version(observed: Observed, rotation: Rotation) -> Served | None:
    """Return the version that is to answer, with its server; None if none is known.

    That is the version that ``spec.version`` names, else the newest that was ever known, whatever
    has become of its job.
    """
    pinned = observed.spec.version
    found = rotation.newest if pinned is None else _numbered(observed, rotation, pinned)
    return None if found is None else _on_its_server(observed, rotation, found)


def remember(observed: Observed, rotation: Rotation) -> Rotation:
    """Note what the job has published and what answers, so that neither depends on the job."""
    candidate = rotation.candidate
    if rotation.newest is None and candidate is not None and observed.spec.version is None:
        rotation = rotation.learn(candidate)  # of a status that has no newest version yet
    if rotation.newest is not None and rotation.newest.version > MAX_VERSION:
        rotation = replace(rotation, newest=None)  # an earlier release took any number
    for version in (rotation.active, _published(observed)):
        if version is not None:
            rotation = rotation.learn(version)
    return rotation


def recall(observed: Observed, rotation: Rotation, now: datetime) -> Rotation:
    """Take over the decisions that are stored beside the versions, where the status has none.

    Stored are numbers and digests. Where the versions lie comes from the job.
    """
    candidate = rotation.candidate
    if candidate is None or not observed.lacks_decisions:
        return rotation
    records = observed.records_on(candidate.server) or ()
    found = next((each.decisions for each in records if each.decisions is not None), None)
    if found is None:
        return rotation
    known, rejected = tuple(found.known_versions), tuple(found.rejected)
    recalled = replace(rotation, known=known, rejected=rejected)
    for number in (found.newest, found.active):
        version = _numbered(observed, recalled, number)
        if version is not None:
            recalled = recalled.learn(version)
    active = _numbered(observed, recalled, found.active)
    recalled = replace(recalled, candidate=None)
    if active is None:
        return recalled
    served = _on_its_server(observed, recalled, active)
    if not served.sha256:  # the job says that the number has other content now
        return recalled
    served = served.model_copy(update={"since": timestamp(now)})
    text = "It answered before the status of the endpoint was lost, by the stored decisions."
    return replace(recalled, active=served).record(now, served, "Restored", text, 100)


def follow(observed: Observed, rotation: Rotation, now: datetime) -> Rotation:
    """Return the rotation with the wanted version as its candidate, where it is not active."""
    pinned = observed.spec.version
    wanted = wanted_version(observed, rotation)
    if wanted is None:
        return rotation
    candidate = rotation.candidate
    is_move = rotation.active is not None and is_same_version(rotation.active, wanted)
    refused = rotation.refused
    if refused is not None and not (is_move and refused.server == wanted.server):
        refused = None
    if refused is not None and candidate is None and seconds_to_retry(refused, now):
        return rotation
    rotation = replace(rotation, refused=refused)
    if rotation.active is not None and is_same(rotation.active, wanted):
        return _withdraw(rotation, now, f"Version {wanted.version} is wanted again.")
    if candidate is not None and is_same(candidate, wanted):
        return rotation
    if not is_move and rotation.rejection_of(wanted) is not None:
        why = f"Version {wanted.version} is wanted, which was rejected."
        return _withdraw(rotation, now, why) if pinned else rotation
    if candidate is not None and candidate.weight and not pinned:
        return rotation  # the newer version waits until this rollout has ended
    if candidate is None and waits_for_turn(observed, rotation, wanted):
        return rotation
    why = f"Version {wanted.version} is wanted instead."
    is_edit = observed.is_edited or bool(refused and refused.is_edit)
    return _withdraw(rotation, now, why).start(now, wanted, is_edit=is_move and is_edit)


def waits_for_turn(observed: Observed, rotation: Rotation, wanted: Served) -> bool:
    """Return whether the active version has to wait before it moves to another server.

    A new configuration moves all versions of the cluster, and each move needs the pods of a further
    server. What a user edits moves at once, and so does a version whose server does not answer.
    """
    active = rotation.active
    if active is None or is_same(active, wanted) or not is_same_version(active, wanted):
        return False
    present = observed.workloads.get(active.server)
    if observed.is_edited or present is None or not present.num_ready:
        return False
    if wanted.server in observed.moving:
        return False
    # One that has failed here may try again: that brings the configuration into no other namespace.
    is_blocked = are_failing(observed) and rotation.refused is None
    return bool(observed.moving) or observed.is_crowded or is_blocked


def seconds_to_retry(refused: RefusedMove, now: datetime) -> float:
    """Return for how long a refused move is not tried again; 0 if it may be."""
    hours, since = RETRY_HOURS[: max(1, refused.failures)][-1], parse_timestamp(refused.time)
    return 0.0 if since is None else max(0.0, hours * 3600.0 - (now - since).total_seconds())


def are_failing(observed: Observed) -> bool:
    """Return whether moves fail in so many namespaces that the new configuration is to blame.

    No other version moves until somebody has looked.
    """
    return observed.num_failed_moves >= MAX_FAILED_MOVES


def forgive_edited(observed: Observed, rotation: Rotation) -> Rotation:
    """After an edit of the spec, let a refused move and a rejected version it names be tried."""
    if not observed.is_edited:
        return rotation
    return replace(rotation, refused=None).forgive(observed.spec.version or 0)


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


def choose_job(jobs: Sequence[Object], number: int | None) -> Object | None:
    """Return the job that published a version, else the one with the newest; None without jobs."""
    pinned = [job for job in jobs if number_of(job) == number]
    return max(pinned or jobs, key=number_of, default=None)


def number_of(job: Mapping[str, Any]) -> int:
    """Return the number of the version that a FineTuneJob has published; 0 without one.

    A number above ``MAX_VERSION`` is none: no later version could follow it.
    """
    number = reported_number(job)
    return number if number <= MAX_VERSION else 0


def reported_number(job: Mapping[str, Any]) -> int:
    """Return the number in a FineTuneJob's status, whatever it is; 0 without one."""
    return int(((job.get("status") or {}).get("artifact") or {}).get("version") or 0)


def published_version(job: Mapping[str, Any], namespace: str) -> Published | None:
    """Return the version that a FineTuneJob has published; None without one."""
    artifact = (job.get("status") or {}).get("artifact") or {}
    number, manifest = number_of(job), artifact.get("manifestUri")
    if not number or not manifest:
        return None
    found = _of_job(job, namespace, number, str(manifest))
    return found.model_copy(update={"weights_sha256": artifact.get("sha256") or None})


def _published(observed: Observed) -> Published | None:
    return None if observed.job is None else published_version(observed.job, observed.namespace)


def _numbered(observed: Observed, rotation: Rotation, number: int) -> Published | None:
    """Return the version of a number; None if nothing is known of where it lies."""
    known = (*rotation.served, rotation.newest, _published(observed))
    versions = [each for each in known if each is not None]
    found = next((each for each in versions if each.version == number), None)
    if found is not None or not versions or number > MAX_VERSION:
        return found
    # Versions of one name differ in their number and their content alone.
    like = rotation.newest or versions[0]
    manifest = _MANIFEST.fullmatch(like.manifest_uri)
    if manifest is None:
        return None
    digests = next((each for each in rotation.known if each.version == number), None)
    return published_of(like).model_copy(
        update={
            "version": number,
            "adapter": adapter_name(observed.namespace, observed.spec.job_ref.name, number),
            "manifest_uri": f"{manifest[1]}{number}{manifest[3]}",
            "weights_sha256": digests.weights_sha256 if digests else None,
            "job_uid": digests.job_uid if digests else None,
        }
    )


def _on_its_server(observed: Observed, rotation: Rotation, version: Published) -> Served:
    server = server_of(
        version,
        observed.spec.serve,
        observed.config,
        namespace=observed.namespace,
        endpoint_uid=observed.uid,
    )
    known = [each.sha256 for each in rotation.served if is_same_version(each, version)]
    digests = rotation.digests_of(version)
    known.append(digests.sha256 or "" if digests is not None else "")
    return Served(
        **{name: getattr(version, name) for name in Published.model_fields},
        sha256=next(filter(None, known), ""),
        server=server.name,
    )


def _of_job(job: Mapping[str, Any], namespace: str, number: int, manifest: str) -> Published:
    spec = job["spec"]
    model, output, s3 = spec["model"], spec["output"], spec.get("s3") or {}
    adapter = (spec.get("method") or {}).get("adapter") or {}
    is_whole = adapter.get("type") == "Full"
    name = published_name(job)
    return Published(
        version=number,
        adapter=adapter_name(namespace, name, number),
        manifest_uri=manifest,
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
        job_uid=run_uid(job),
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
