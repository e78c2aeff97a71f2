"""Looks at what ``finetune serve --capture DIR`` has stored."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune_api.names import traffic_prefix
from finetune_cli.errors import CliError

ACTIVE = "endpoint.json"
"""In the folder of captured answers: the endpoint as it was served last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Monitored:
    """What a look has left in a folder.

    Attributes:
        report: Its report; None before the first look.
        page: The page with plots, if there is one.
        drifted: Since when each signal has changed whose alarm holds.
    """

    report: Mapping[str, Any] | None
    page: Path | None
    drifted: Mapping[str, str]


def note_active(folder: Path, endpoint: Mapping[str, Any]) -> None:
    """Note which version answers, and since when: a version that is served again goes on."""
    place = folder / ACTIVE
    active = dict(endpoint["status"]["active"])
    before = read_object(place) or {}
    known = (before.get("status") or {}).get("active") or {}
    since = known.get("since") if known.get("sha256") == active["sha256"] else None
    active["since"] = since or datetime.now(UTC).isoformat(timespec="seconds")
    status = {**(before.get("status") or {}), "active": active}
    place.write_text(json.dumps({**endpoint, "status": status}, indent=1))


def note_rejected(folder: Path, version: int, found: Mapping[str, Any]) -> None:
    """Note a version that does not answer as it was evaluated, beside the one that answers."""
    endpoint = read_object(folder / ACTIVE)
    if endpoint is None:
        return  # no version has answered yet
    told = {key: found.get(key) or "" for key in ("reason", "message")}
    others = [each for each in endpoint["status"].get("rejected", []) if each["version"] != version]
    endpoint["status"]["rejected"] = [*others, {"version": version, **told}]
    (folder / ACTIVE).write_text(json.dumps(endpoint, indent=1))


def monitor_folder(folder: Path, settings: Mapping[str, Any]) -> Monitored:
    """Look at the answers in a folder that have had time to settle, and return what is known.

    Args:
        folder: Of ``finetune serve --capture``.
        settings: ``spec.monitor`` of an endpoint.

    Raises:
        CliError: Nothing was captured there, a setting is not valid, or the look failed.
    """
    endpoint = read_object(folder / ACTIVE)
    if endpoint is None:
        raise CliError(
            f"{folder} has no {ACTIVE}: give the folder of finetune serve --capture, or the name "
            "of a FineTuneEndpoint"
        )
    from pydantic import ValidationError

    from finetune_api.protocol.monitoring import REPORT_PAGE, SETTLING, LookTask
    from finetune_trainer.errors import TrainerError
    from finetune_trainer.monitor.running import REPORT_KEY, run_look

    namespace, name = endpoint["metadata"]["namespace"], endpoint["metadata"]["name"]
    active, uri = endpoint["status"]["active"], folder.absolute().as_uri()
    try:
        task = LookTask.model_validate(
            {
                "namespace": namespace,
                "endpoint": name,
                "job": endpoint["spec"]["jobRef"]["name"],
                "active": active,
                "traffic": {"uri": uri},
                "monitor": settings,
                "until": (datetime.now(UTC) - SETTLING).isoformat(timespec="seconds"),
            }
        )
        with tempfile.TemporaryDirectory(prefix="finetune-monitor-") as scratch:
            told = run_look(task, folder=Path(scratch), trusts_job=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CliError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (TrainerError, ValueError) as error:
        raise CliError(f"{folder} cannot be looked at: {error}") from error
    place = folder / traffic_prefix(namespace, name)
    page = place / REPORT_PAGE
    return Monitored(
        report=read_object(place / REPORT_KEY),
        page=page if page.exists() else None,
        drifted={each.name: each.since for each in told.signals if each.since},
    )


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is no such file.

    Raises:
        CliError: It cannot be read.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CliError(f"{path} cannot be read: {error}") from error
    return found
