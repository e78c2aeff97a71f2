"""The Argo CD health check of docs/how-to/gitops.md, run as Argo CD runs it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from finetune_api.v1alpha1.finetuneendpoint import ENDPOINT_FIXED_FIELDS, FineTuneEndpointSpec
from finetune_api.v1alpha1.finetunejob import IMMUTABLE_FIELDS, FineTuneJobSpec
from finetune_api.v1alpha1.finetunesweep import SWEEP_FIXED_FIELDS, FineTuneSweepSpec

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "gitops.md"
Lua = Callable[[str], list[str]]
HEALTH = "resource.customizations.health.finetune.dev_"
KEY = f"{HEALTH}FineTuneJob"


def yaml_blocks(text: str) -> list[dict[str, Any]]:
    return [
        yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S)
    ]


def to_lua(value: Any) -> str:
    """Write a JSON value as a Lua literal."""
    if value is None:
        return "nil"
    if isinstance(value, dict):
        return "{" + ",".join(f"[{json.dumps(k)}]={to_lua(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "{" + ",".join(to_lua(item) for item in value) + "}"
    return json.dumps(value)


@pytest.fixture(scope="module")
def scripts() -> dict[str, str]:
    blocks = yaml_blocks(GUIDE.read_text())
    names = [(block.get("metadata") or {}).get("name") for block in blocks]
    settings = [b["data"] for b, name in zip(blocks, names, strict=True) if name == "argocd-cm"]
    return {key: script for data in settings for key, script in data.items()}


@pytest.fixture(scope="module")
def script(scripts: dict[str, str]) -> str:
    return scripts[KEY]


@pytest.fixture(scope="module")
def lua() -> Lua:
    """Runs a Lua program and returns the lines it prints."""
    try:
        import lupa
    except ImportError:
        return _lua_program()

    def run(program: str) -> list[str]:
        lines: list[str] = []
        runtime = lupa.LuaRuntime()
        runtime.globals().print = lambda *values: lines.append(" ".join(map(str, values)))
        runtime.execute(program)
        return lines

    return run


def _lua_program() -> Lua:
    found = next(filter(None, map(shutil.which, ("lua", "lua5.4", "lua5.3", "lua5.1"))), None)
    if found is None:
        pytest.skip("no Lua here (pip install lupa, or Debian: apt-get install lua5.4)")

    def run(program: str) -> list[str]:
        done = subprocess.run([found, "-"], input=program, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


ACCEPTED = condition("Accepted", "True", "Valid")
QUEUED = condition("QuotaReserved", "False", "WaitingForQuota", "7 jobs are ahead")
COMPLETE = condition("Complete", "True", "Succeeded", "Published version 3.")
FAILED = condition("Failed", "True", "GoalNotMet", "exactMatch 0.61 is below 0.90")

Case = tuple[dict[str, Any] | None, int, str, str]
"""Status, generation, health, and a part of the message."""

CASES: dict[str, Case] = {
    "just created": (None, 1, "Progressing", "waiting for the operator"),
    "status without conditions": ({"phase": "Pending"}, 1, "Progressing", "waiting"),
    "accepted": (
        {"observedGeneration": 1, "phase": "Preparing", "conditions": [ACCEPTED]},
        1,
        "Progressing",
        "Preparing",
    ),
    "queued": (
        {"observedGeneration": 1, "conditions": [ACCEPTED, QUEUED]},
        1,
        "Progressing",
        "7 jobs are ahead",
    ),
    "waiting for a person's yes": (
        {
            "observedGeneration": 1,
            "conditions": [
                ACCEPTED,
                condition("DatasetReady", "True", "Prepared"),
                condition("DataApproved", "False", "ApprovalRequired", "nobody has approved"),
            ],
        },
        1,
        "Progressing",
        "nobody has approved",
    ),
    "paused by a person": (
        {
            "observedGeneration": 2,
            "conditions": [condition("Suspended", "True", "SuspendedByUser", "paused")],
        },
        2,
        "Suspended",
        "paused",
    ),
    "preempted": (
        {
            "observedGeneration": 1,
            "conditions": [condition("Suspended", "True", "Preempted"), QUEUED],
        },
        1,
        "Progressing",
        "7 jobs",
    ),
    "an edit that was not seen yet": (
        {
            "observedGeneration": 1,
            "conditions": [condition("Suspended", "True", "SuspendedByUser")],
        },
        2,
        "Progressing",
        "waiting",
    ),
    "published": (
        {"observedGeneration": 1, "conditions": [ACCEPTED, COMPLETE]},
        1,
        "Healthy",
        "version 3",
    ),
    "edited after its end": (
        {"observedGeneration": 1, "conditions": [COMPLETE]},
        5,
        "Healthy",
        "version 3",
    ),
    "one of several that was not chosen": (
        {
            "observedGeneration": 2,
            "conditions": [ACCEPTED, condition("Pruned", "True", "PruneRequested", "by prune")],
        },
        2,
        "Healthy",
        "by prune",
    ),
    "trained, and waiting to be chosen": (
        {
            "observedGeneration": 1,
            "conditions": [
                condition("Training", "False", "Succeeded"),
                condition("Evaluated", "False", "HeldAfterTraining", "waits for whoever chooses"),
            ],
        },
        1,
        "Suspended",
        "whoever chooses",
    ),
    "goal missed": (
        {
            "observedGeneration": 1,
            "conditions": [ACCEPTED, condition("Stalled", "True", "GoalNotMet"), FAILED],
        },
        1,
        "Degraded",
        "below 0.90",
    ),
    "stalled": (
        {"observedGeneration": 1, "conditions": [condition("Stalled", "True", "ImageError")]},
        1,
        "Degraded",
        "ImageError",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_health_follows_the_conditions(
    name: str, script: str, lua: Callable[[str], list[str]]
) -> None:
    assert health_of(script, lua, CASES[name])


def health_of(script: str, lua: Lua, case: Case) -> bool:
    """Whether the script finds the health of a case; prints what it finds."""
    status, generation, health, message = case
    body: dict[str, Any] = {"metadata": {"generation": generation}}
    if status is not None:
        body["status"] = status
    program = (
        f"local obj = {to_lua(body)}\n"
        f"local function check()\n{script}\nend\n"
        "local health = check()\nprint(health.status)\nprint(health.message)\n"
    )
    found_status, found_message = lua(program)[:2]
    print(found_status, found_message)
    return found_status == health and message in found_message


AVAILABLE = condition("Available", "True", "Serving", "Version 3 answers.")
UP_TO_DATE = condition("Progressing", "False", "UpToDate")
FINE = condition("Degraded", "False", "AsWanted")
ENDPOINT_CASES: dict[str, Case] = {
    "just created": (None, 1, "Progressing", "waiting for the operator"),
    "no version yet": (
        {
            "observedGeneration": 1,
            "conditions": [
                condition("Available", "False", "NoVersion", "published no version yet"),
                FINE,
            ],
        },
        1,
        "Progressing",
        "published no version yet",
    ),
    "available": (
        {"observedGeneration": 1, "conditions": [AVAILABLE, UP_TO_DATE, FINE]},
        1,
        "Healthy",
        "Version 3",
    ),
    "a rollout": (
        {
            "observedGeneration": 1,
            "conditions": [AVAILABLE, condition("Progressing", "True", "RollingOut", "25 %"), FINE],
        },
        1,
        "Progressing",
        "25 %",
    ),
    "a version that was rejected": (
        {
            "observedGeneration": 1,
            "conditions": [AVAILABLE, condition("Degraded", "True", "AnswersLikeBase", "4 was")],
        },
        1,
        "Degraded",
        "4 was",
    ),
    "held": (
        {
            "observedGeneration": 1,
            "conditions": [AVAILABLE, FINE, condition("Stalled", "True", "Held")],
        },
        1,
        "Degraded",
        "Held",
    ),
    "an edit that was not seen yet": (
        {"observedGeneration": 1, "conditions": [AVAILABLE, UP_TO_DATE]},
        2,
        "Progressing",
        "waiting",
    ),
}


@pytest.mark.parametrize("name", ENDPOINT_CASES)
def test_health_of_an_endpoint_follows_its_conditions(
    name: str, scripts: dict[str, str], lua: Lua
) -> None:
    assert health_of(scripts[f"{HEALTH}FineTuneEndpoint"], lua, ENDPOINT_CASES[name])


READY = condition("Ready", "True", "WaitingForTrigger", "It waits for drift.")
REFUSED = condition("Stalled", "True", "Forbidden", "exceeded quota")


def waits(reason: str) -> dict[str, Any]:
    message = f"{reason} it is"
    return {"observedGeneration": 1, "conditions": [condition("Ready", "False", reason, message)]}


SCHEDULE_CASES: dict[str, Case] = {
    "just created": (None, 1, "Progressing", "waiting for the operator"),
    "an edit that was not seen yet": (
        {"observedGeneration": 1, "conditions": [READY]},
        2,
        "Progressing",
        "waiting",
    ),
    "waiting": ({"observedGeneration": 1, "conditions": [READY]}, 1, "Healthy", "for drift"),
    "a spent budget": (waits("BudgetSpent"), 1, "Healthy", "BudgetSpent it is"),
    "suspended": (waits("SuspendedByUser"), 1, "Suspended", "SuspendedByUser it is"),
    "no endpoint yet": (waits("EndpointNotFound"), 1, "Progressing", "EndpointNotFound it is"),
    "a job that is refused": (
        {"observedGeneration": 1, "conditions": [{**READY, "status": "False"}, REFUSED]},
        1,
        "Degraded",
        "exceeded quota",
    ),
}


@pytest.mark.parametrize("name", SCHEDULE_CASES)
def test_health_of_a_schedule_follows_its_conditions(
    name: str, scripts: dict[str, str], lua: Lua
) -> None:
    assert health_of(scripts[f"{HEALTH}FineTuneSchedule"], lua, SCHEDULE_CASES[name])


def test_script_uses_reasons_and_types_that_the_operator_sets(script: str) -> None:
    from finetune_operator.status.conditions import ConditionType, Reason

    known = {str(kind) for kind in ConditionType} | {str(reason) for reason in Reason}
    words = {"Progressing", "Healthy", "Degraded", "Suspended", "True"}
    named = set(re.findall(r'"([A-Z][A-Za-z]+)"', script)) - words
    assert named
    assert named <= known


@pytest.mark.parametrize(
    ("begin", "spec", "fixed"),
    [
        ("- **What is trained is fixed", FineTuneJobSpec, IMMUTABLE_FIELDS),
        ("- **A sweep**", FineTuneSweepSpec, SWEEP_FIXED_FIELDS),
        ("- **An endpoint**", FineTuneEndpointSpec, ENDPOINT_FIXED_FIELDS),
    ],
)
def test_the_guide_names_every_field_that_may_be_edited(
    begin: str, spec: type[BaseModel], fixed: tuple[str, ...]
) -> None:
    text = GUIDE.read_text().partition(begin)[2].partition("\n- ")[0]
    fields = {field.alias for field in spec.model_fields.values()}
    assert set(re.findall(r"`(\w+)`", text)) & fields == fields - set(fixed)
