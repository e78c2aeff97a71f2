"""Which version of an endpoint a person pins, and what that changes; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_api.names import SKIP_STEPS_ANNOTATION
from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET
from finetune_cli.views.endpoint import rejection

Body = Mapping[str, Any]


def pin(version: int | None, *, at_once: bool = False) -> dict[str, Any]:
    """Return the change that pins a version; None follows the newest again.

    Args:
        version: Its number.
        at_once: Its rollout takes no more steps.
    """
    change: dict[str, Any] = {"spec": {"version": version}}
    if at_once:
        change["metadata"] = {"annotations": {SKIP_STEPS_ANNOTATION: str(version)}}
    return change


def version_to_promote(endpoint: Body) -> int:
    """Return the version of the candidate.

    Raises:
        CliError: There is none; says what answers, and what to do.
    """
    name, status = endpoint["metadata"]["name"], endpoint.get("status") or {}
    candidate = status.get("candidate")
    if candidate is None:
        raise CliError(
            f"FineTuneEndpoint {name} has no candidate, {_answering(status)}: name a version with "
            "--to, or follow the newest with --newest",
            exit_code=NOT_MET,
        )
    return int(candidate["version"])


def version_to_restore(endpoint: Body) -> int:
    """Return the version that a rollback goes back to.

    While a candidate is there, that is the active one: the candidate goes. Else it is the one that
    answered before.

    Raises:
        CliError: There is none; says what answers, and what to do.
    """
    name, status = endpoint["metadata"]["name"], endpoint.get("status") or {}
    section = "active" if status.get("candidate") else "previous"
    found = status.get(section)
    if found is None:
        raise CliError(
            f"FineTuneEndpoint {name} has no earlier version to go back to, {_answering(status)}: "
            "name a version with --to",
            exit_code=NOT_MET,
        )
    return int(found["version"])


def check_change(endpoint: Body, version: int | None, *, at_once: bool = False) -> None:
    """Refuse a change that changes nothing.

    Raises:
        CliError: The endpoint pins this version already, or follows the newest already.
    """
    name, present = endpoint["metadata"]["name"], endpoint["spec"].get("version")
    annotations = endpoint["metadata"].get("annotations") or {}
    is_skipping = annotations.get(SKIP_STEPS_ANNOTATION) == str(version)
    if present == version and (is_skipping or not at_once):
        what = "follows the newest version" if version is None else f"pins version {version}"
        raise CliError(
            f"FineTuneEndpoint {name} {what} already; finetune status endpoint/{name} shows its "
            "state",
            exit_code=NOT_MET,
        )


def describe_change(endpoint: Body, version: int | None, *, at_once: bool = False) -> list[str]:
    """Return what a change of the version changes, a line each."""
    metadata, spec = endpoint["metadata"], endpoint["spec"]
    status = endpoint.get("status") or {}
    lines = [
        f"endpoint  {metadata.get('namespace', 'default')}/{metadata['name']}",
        f"now       {_answering(status)}; {_wanted(spec.get('version'))}",
        f"then      {_wanted(version)}",
    ]
    rejected = None if version is None else rejection(endpoint, version)
    if rejected is not None:
        why = f"{rejected['reason']}: {rejected.get('message', '')}".rstrip(": ")
        lines.append(f"          it was rejected ({why}), and is verified once more")
    candidate = status.get("candidate")
    if candidate and version is not None and candidate["version"] != version:
        lines.append(f"          candidate {candidate['version']} is taken out of rotation")
    if at_once:
        lines.append("          it answers all requests as soon as it is verified, without steps")
    if version is not None:
        lines.append(
            "          newer versions wait until spec.version is removed: finetune endpoint promote"
            f" {metadata['name']} --newest"
        )
    return lines


def _answering(status: Body) -> str:
    active, candidate = status.get("active"), status.get("candidate")
    text = f"version {active['version']} answers" if active else "no version answers"
    if candidate and candidate.get("weight"):
        text += f", and version {candidate['version']} to {candidate['weight']} % of the requests"
    elif candidate:
        text += f", and version {candidate['version']} is being verified"
    return text


def _wanted(version: int | None) -> str:
    if version is None:
        return "spec.version is not set: the newest version takes over"
    return f"spec.version is {version}"
