"""What an evaluation leaves for people, and which model card a published version carries."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from finetune_cli.local.verify import fetch_uri, verify_uri
from kit.processes.stages import Workbench


def version_of(workbench: Workbench) -> Path:
    return workbench.output / "versions/default/tiny/1/manifest.json"


def test_published_version_carries_the_card_with_the_scores(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    workbench, result = undisturbed
    report = json.loads((workbench.run_folder / "evaluation/report.json").read_text())
    uri = f"file://{version_of(workbench)}"
    fetch_uri(uri, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nbase_model: tiny/llama\n")
    for score in report["result"]["scores"]:
        base = f"{score['base']} [{score['baseLow']}, {score['baseHigh']}]"
        assert f"| {score['name']} | {base} | {score['tuned']} [" in card
    assert f"{report['result']['numSamples']} held-out samples" in card
    assert {file.path for file in verify_uri(uri).files} == {p.name for p in tmp_path.iterdir()} - {
        "manifest.json"
    }
    weights = (tmp_path / "adapter_model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == result["sha256"]


def test_scores_do_not_touch_the_adapter(undisturbed: tuple[Workbench, dict[str, Any]]) -> None:
    workbench, result = undisturbed
    folder = workbench.run_folder / "adapter"
    assert "Held-out scores" not in (folder / "README.md").read_text()
    version = json.loads(version_of(workbench).read_text())
    assert version["inputs"]["adapter"] == result["manifestSha256"]
    assert verify_uri(f"file://{folder}").digest == result["manifestSha256"]


def test_report_for_people_lies_beside_the_one_for_machines(
    undisturbed: tuple[Workbench, dict[str, Any]],
) -> None:
    workbench, result = undisturbed
    folder = workbench.run_folder / "evaluation"
    page = (folder / "report.html").read_text()
    report = json.loads((folder / "report.json").read_text())
    for fact in (result["sha256"], report["dataset"], "tiny/llama", "rank 4 alpha 8"):
        assert fact in page
    assert page.count('<article class="sample"') == report["result"]["numSamples"]
    assert len(report["samples"]) == 10
    assert f"datasets/{report['dataset']}/report.html" in page
    assert "Tokens trained on" in page
    link = folder / "../../../../.." / f"datasets/{report['dataset']}/report.html"
    assert link.exists()
    names = {file.path for file in verify_uri(f"file://{folder}").files}
    assert names == {"README.md", "report.html", "report.json", "samples.jsonl"}
