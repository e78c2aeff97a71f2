"""The versions of an endpoint and what was decided on them. Each change returns a new rotation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from finetune_api.v1alpha1.status.endpoint import (
    MAX_DECISIONS,
    MAX_KNOWN,
    MAX_REJECTED,
    Action,
    Candidate,
    Decision,
    FineTuneEndpointStatus,
    KnownVersion,
    Published,
    RefusedMove,
    RejectedVersion,
    Served,
)
from finetune_operator.finetuneendpoint.observed import VERSION_SECTIONS
from finetune_operator.status.conditions import shorten, timestamp

Object = dict[str, Any]

MAX_SENTENCE_CHARACTERS = 300
ONE_SECTIONS = (*VERSION_SECTIONS, "newest", "refused")
LIST_SECTIONS = {"knownVersions": "known", "rejected": "rejected", "decisions": "decisions"}
SECTIONS = (*ONE_SECTIONS, *LIST_SECTIONS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotation:
    """The versions of an endpoint.

    Attributes:
        active: The version that answers.
        candidate: The version that is to take over. It has a weight of 0 until it is verified.
        previous: The version that answered before, still loaded.
        newest: The version with the highest number that was ever known.
        known: Who published the last versions with which content, by number.
        rejected: Versions that are not tried again, newest last.
        refused: The server that the active version has failed on, also while it is tried again.
        decisions: What was decided, newest last.
        news: Decisions of this plan.
    """

    active: Served | None = None
    candidate: Candidate | None = None
    previous: Served | None = None
    newest: Published | None = None
    known: tuple[KnownVersion, ...] = ()
    rejected: tuple[RejectedVersion, ...] = ()
    refused: RefusedMove | None = None
    decisions: tuple[Decision, ...] = ()
    news: tuple[Decision, ...] = ()

    @property
    def served(self) -> tuple[Served, ...]:
        """The versions that servers have to hold."""
        return tuple(each for each in (self.active, self.candidate, self.previous) if each)

    def rejection_of(self, version: Published) -> RejectedVersion | None:
        """Return the entry of a version that was rejected, or None."""
        return next((e for e in reversed(self.rejected) if _is_about(e, version)), None)

    def digests_of(self, version: Published) -> KnownVersion | None:
        """Return the known digests of a version, or None."""
        return next((each for each in self.known if _is_about(each, version)), None)

    def learn(self, version: Published) -> Rotation:
        """Note a published version. Its number raises that of the newest; nothing lowers it."""
        newest = self.newest
        is_newest = newest is None or version.version > newest.version
        if newest is not None and is_same_version(newest, version):
            is_newest = True  # another job may have published this number anew
        before = self.digests_of(version)
        told = KnownVersion(
            version=version.version,
            job_uid=version.job_uid or (before.job_uid if before else None),
            weights_sha256=version.weights_sha256 or (before.weights_sha256 if before else None),
            sha256=getattr(version, "sha256", "") or (before.sha256 if before else None),
        )
        others = [each for each in self.known if each.version != told.version]
        return replace(
            self,
            newest=published_of(version) if is_newest else newest,
            known=tuple(sorted([*others, told], key=lambda each: each.version)[-MAX_KNOWN:]),
        )

    @property
    def last_decision(self) -> Decision | None:
        """The last decision on the candidate in its present rollout, or None."""
        candidate = self.candidate
        if candidate is None:
            return None
        for decision in reversed(self.decisions):
            if decision.version == candidate.version:
                is_now = candidate.start_time is None or decision.time >= candidate.start_time
                return decision if is_now else None
        return None

    def record(
        self, now: datetime, version: Served, action: Action, message: str, weight: int = 0
    ) -> Rotation:
        """Add a decision."""
        made = Decision(
            time=timestamp(now),
            version=version.version,
            action=action,
            weight=weight,
            message=shorten(message, MAX_SENTENCE_CHARACTERS),
        )
        return replace(
            self, decisions=(*self.decisions, made)[-MAX_DECISIONS:], news=(*self.news, made)
        )

    def start(self, now: datetime, version: Served, *, is_edit: bool = False) -> Rotation:
        """Make a version the candidate, out of traffic until it is verified.

        ``is_edit`` tells that an edit of the spec moves the active version.
        """
        fields = {name: getattr(version, name) for name in Served.model_fields}
        moment = now.strftime("%Y%m%d%H%M%S")
        rollout = f"v{version.version}-{moment}"
        fields |= {"since": None, "verified_time": None, "rollout_id": rollout}
        return replace(self, candidate=Candidate(**fields, is_edit=is_edit or None))

    def verify(self, now: datetime, sha256: str) -> Rotation:
        """Note that the candidate is verified, and with which manifest."""
        assert self.candidate is not None
        update = {"sha256": sha256, "verified_time": timestamp(now)}
        return replace(self, candidate=self.candidate.model_copy(update=update))

    def promote(self, now: datetime) -> Rotation:
        """Make the candidate the active version."""
        assert self.candidate is not None
        new = served_of(self.candidate).model_copy(update={"since": timestamp(now)})
        previous = self.active
        if previous is not None and is_same_version(previous, new):
            # The version has moved to another server, and the version before it moves along.
            before, previous = previous, self.previous
            if previous is not None and previous.server == before.server:
                previous = previous.model_copy(update={"server": new.server})
        return replace(self, active=new, candidate=None, previous=previous, refused=None)

    def reject(self, now: datetime, reason: str, message: str, sha256: str = "") -> Rotation:
        """Take the candidate out, and do not try it again by itself.

        ``sha256`` is the digest of the manifest that was read; empty for the one of the status.
        """
        assert self.candidate is not None
        entry = RejectedVersion(
            version=self.candidate.version,
            sha256=sha256 or self.candidate.sha256,
            weights_sha256=self.candidate.weights_sha256,
            reason=reason,
            message=shorten(message, MAX_SENTENCE_CHARACTERS),
            time=timestamp(now),
        )
        others = (each for each in self.rejected if each.version != entry.version)
        return replace(self, candidate=None, rejected=(*others, entry)[-MAX_REJECTED:])

    def refuse_move(self, now: datetime, reason: str, message: str) -> Rotation:
        """Take the candidate out, which is the active version on a further server."""
        assert self.candidate is not None
        told = {"reason": reason, "message": shorten(message, MAX_SENTENCE_CHARACTERS)}
        move = {"server": self.candidate.server, "is_edit": self.candidate.is_edit}
        failures = 1 if self.refused is None else self.refused.failures + 1
        refused = RefusedMove(**move, **told, time=timestamp(now), failures=failures)
        return replace(self, candidate=None, refused=refused)

    def forgive(self, number: int) -> Rotation:
        """Let a rejected version be tried again."""
        kept = tuple(each for each in self.rejected if each.version != number)
        return self if len(kept) == len(self.rejected) else replace(self, rejected=kept)

    def to_wire(self) -> Object:
        """Return the sections of the status; those that are empty are left out."""
        wire: Object = {}
        for name in ONE_SECTIONS:
            if (version := getattr(self, name)) is not None:
                wire[name] = _compact(version)
        for name, attribute in LIST_SECTIONS.items():
            if entries := getattr(self, attribute):
                wire[name] = [entry.to_wire() for entry in entries]
        return wire


def read_rotation(status: Mapping[str, Any]) -> Rotation:
    """Read the versions of a status, also of one that a newer operator wrote.

    Raises:
        pydantic.ValidationError: It cannot be read.
    """
    sections = {name: status[name] for name in SECTIONS if name in status}
    told = FineTuneEndpointStatus.model_validate(
        sections, by_alias=True, by_name=False, extra="ignore"
    )
    return Rotation(
        active=told.active,
        candidate=told.candidate,
        previous=told.previous,
        newest=told.newest,
        known=tuple(told.known_versions),
        rejected=tuple(told.rejected),
        refused=told.refused,
        decisions=tuple(told.decisions),
    )


def served_of(version: Served) -> Served:
    """Return a version without the rollout that a candidate has."""
    return Served(**{name: getattr(version, name) for name in Served.model_fields})


def published_of(version: Published) -> Published:
    """Return a version without the server that it has."""
    return Published(**{name: getattr(version, name) for name in Published.model_fields})


def is_same_version(one: Published, other: Published) -> bool:
    """Return whether both are one published version, on whatever server."""
    return one.version == other.version and one.manifest_uri == other.manifest_uri


def is_same(one: Served, other: Served) -> bool:
    """Return whether both are one published version on one server."""
    return is_same_version(one, other) and one.server == other.server


def _is_about(entry: RejectedVersion | KnownVersion, version: Published) -> bool:
    # A later job of the same name may publish this number with other content.
    both = entry.weights_sha256, version.weights_sha256
    return entry.version == version.version and not (all(both) and both[0] != both[1])


def _compact(version: Published | RefusedMove) -> Object:
    """Return a version for the status, without counts of 0 and empty lists."""
    wire = version.to_wire()
    for stream in wire.get("streams", ()):
        for side in ("active", "candidate"):
            counts = stream[side]
            stream[side] = {k: v for k, v in counts.items() if v or k == "requests"}
    return {name: value for name, value in wire.items() if value != []}
