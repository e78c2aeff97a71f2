"""The guides cannot rot: their links exist, their manifests are valid, their reasons are real."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.crd import CUSTOM_KINDS
from finetune_api.protocol.trainer import FailureClass
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.status.conditions import Reason

ROOT = Path(__file__).resolve().parents[2]
GUIDES = [
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
    *sorted((ROOT / "docs" / "explanation").glob("*.md")),
    *sorted((ROOT / "docs" / "adr").glob("*.md")),
    ROOT / "README.md",
    ROOT / "docs" / "README.md",
    ROOT / "docs" / "playbook.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "charts" / "finetune-operator" / "README.md",
]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.M | re.S)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(guide: Path) -> None:
    text = re.sub(r"^```.*?^```", "", guide.read_text(), flags=re.M | re.S)
    targets = [t.split("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", text)]
    broken = [t for t in targets if t and "://" not in t and not (guide.parent / t).exists()]
    assert broken == []


@pytest.mark.parametrize("room", ["how-to", "explanation", "reference"])
def test_every_page_has_its_place_in_the_order_of_the_work(room: str) -> None:
    overview = (ROOT / "docs" / "README.md").read_text()
    pages = sorted((ROOT / "docs" / room).glob("*.md"))
    assert [page.name for page in pages if f"({room}/{page.name})" not in overview] == []


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_yaml_parses_and_jobs_are_valid(guide: Path) -> None:
    for block in blocks(guide, "yaml"):
        for document in yaml.safe_load_all(block):
            if isinstance(document, dict) and document.get("kind") == "FineTuneJob":
                FineTuneJob.from_wire(document)


def test_troubleshooting_covers_every_refusal_and_failure_class() -> None:
    text = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text()
    refusals = {
        Reason.INVALID_SPEC,
        Reason.INVALID_TEMPLATE,
        Reason.URI_NOT_ALLOWED,
        Reason.ENDPOINT_NOT_ALLOWED,
        Reason.REMOTE_CODE_NOT_ALLOWED,
        Reason.RESERVED_NAME,
        Reason.NOT_MANAGED_BY_KUEUE,
        Reason.KUEUE_NOT_INSTALLED,
    }
    # What comes back by itself needs no remedy.
    classes = set(FailureClass) - {FailureClass.RETRYABLE, FailureClass.STOPPED}
    missing = [str(word) for word in refusals | classes if f"`{word}`" not in text]
    assert missing == []


def test_troubleshooting_names_decisions_on_data_below_the_condition_that_has_them() -> None:
    text = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text()
    found: dict[str, str] = {}
    condition = ""
    for first, reasons in re.findall(r"^\| (.*?)\| (.*?) \|", text, re.M):
        condition = first.strip() or condition  # an empty cell repeats the one above
        found |= dict.fromkeys(re.findall(r"`(\w+)`", reasons), condition)
    decisions = (
        Reason.APPROVAL_REQUIRED,
        Reason.OTHER_DATA_APPROVED,
        Reason.APPROVALS_NOT_READ,
        Reason.DATA_REJECTED,
    )
    assert [found[reason] for reason in decisions] == ["`DataApproved=False`"] * len(decisions)
    assert found[Reason.REVIEW_REQUIRED] == "`Published=False`"
    assert found[Reason.HELD_AFTER_TRAINING] == "`Evaluated=False`"


def test_helm_commands_have_flags_that_exist(
    run_helm: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    used: set[tuple[str, str]] = set()
    for guide in GUIDES:
        text = guide.read_text().replace("\\\n", " ")
        for verb, rest in re.findall(r"^helm (\w+)(.*)$", text, re.M):
            used |= {(verb, flag) for flag in re.findall(r" (--[a-z-]+)", rest)}
    assert ("upgrade", "--reset-then-reuse-values") in used
    # This one leaves out defaults that are new in the chart, whose templates then fail.
    assert ("upgrade", "--reuse-values") not in used
    helps = {verb: run_helm(verb, "--help").stdout for verb, _ in used}
    assert [(v, f) for v, f in sorted(used) if not re.search(rf"{f}\b", helps[v])] == []


def test_decisions_have_a_number_of_their_own_and_are_listed() -> None:
    decisions = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    numbers = [path.name[:4] for path in decisions]
    assert len(set(numbers)) == len(numbers)
    listed = re.findall(r"^\| \[(\d+)\]\((\S+)\)", (ROOT / "docs/adr/README.md").read_text(), re.M)
    assert listed == [(path.name[:4], path.name) for path in decisions]
    for path in decisions:
        headings = re.findall(r"^## (.+)$", path.read_text(), re.M)
        assert headings[:3] == ["Context", "Decision", "Consequences"], path.name


def test_commands_and_fields_of_the_playbook_exist() -> None:
    page = (ROOT / "docs" / "playbook.md").read_text()
    reference = (ROOT / "docs" / "reference" / "cli.md").read_text()
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", reference, re.M | re.S))
    commands = re.findall(r"`finetune ([^`]+)`", page)
    assert len(commands) > 8
    for command in commands:
        words = command.split()
        name = next((n for n in (" ".join(words[:2]), words[0]) if n in sections), None)
        assert name is not None or any(each.startswith(f"{words[0]} ") for each in sections), (
            command
        )
        for option in re.findall(r" (--[a-z-]+)", command):
            assert name is not None, command
            assert f"`{option}`" in sections[name], command
    known = {path for custom in CUSTOM_KINDS for path in paths_of(custom.build_schema())}
    fields = re.findall(r"`(spec\.[a-zA-Z.]+)", page)
    assert len(fields) > 8
    assert [field for field in fields if field not in known] == []


def paths_of(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, child in schema.get("properties", {}).items():
        yield f"{path}{name}"
        yield from paths_of(child, f"{path}{name}.")


def test_kind_cluster_mounts_files_that_exist() -> None:
    config: dict[str, Any] = yaml.safe_load((ROOT / "kind-config.yaml").read_text())
    assert [node["role"] for node in config["nodes"]] == ["control-plane", "worker", "worker"]
    for node in config["nodes"]:
        for mount in node.get("extraMounts", []):
            assert (ROOT / mount["hostPath"]).is_file()
        for patch in node.get("kubeadmConfigPatches", []):
            assert yaml.safe_load(patch)["kind"] == "ClusterConfiguration"
