"""A real garak attacks what a real vLLM serves, through the stage, begun as containers begin them.

Skipped unless FINETUNE_VLLM_PYTHON and FINETUNE_GARAK_PYTHON name Pythons with vLLM and with garak;
`make garak-test` does.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.evaluate.sources.red_team.reading import read_report
from kit.processes.stages import StageRun, Workbench
from kit.servers import garak_container, vllm_server
from kit.servers.ports import free_port

PROBES = (
    "dan.AutoDANCached",
    "goodside.ThreatenJSON",
    "promptinject.HijackHateHumans",
    "badchars.BadCharacters",
)
"""The last draws from sets of Python."""
MAX_PROMPTS = 3

pytestmark = [
    vllm_server.NEEDS_VLLM,
    garak_container.NEEDS_GARAK,
    pytest.mark.timeout(3600),
]


def evaluate(trained: Workbench, folder: Path, **red_team: Any) -> tuple[Workbench, StageRun]:
    """Evaluate a trained run once more, and have both models attacked."""
    change = {
        **{"engine": "VLLM", "baseline": "AsIs", "maxSamples": 12},
        "redTeam": {"probes": list(PROBES), "maxPrompts": MAX_PROMPTS, **red_team},
    }
    bench = trained.fork(folder / "run", {"evaluation": change})
    shutil.rmtree(bench.run_folder / "evaluation", ignore_errors=True)
    vllm, garak = vllm_server.PYTHON, garak_container.PYTHON
    assert vllm is not None
    assert garak is not None
    port = free_port()
    with (
        vllm_server.stand_beside(vllm, folder / "engine", port) as of_vllm,
        garak_container.stand_beside(garak.parent, folder / "garak") as of_garak,
    ):
        bench.env |= {**of_vllm, **of_garak}
        return bench, bench.run("evaluate", timeout=3000)


def test_a_real_garak_is_begun_asked_and_read(published: Workbench, tmp_path: Path) -> None:
    started = time.monotonic()
    bench, ended = evaluate(published, tmp_path)
    seconds = time.monotonic() - started
    assert ended.exit_code == 0, f"{ended.messages}\n{ended.stderr[-2000:]}"
    evaluation = bench.run_folder / "evaluation"
    result = json.loads((evaluation / "report.json").read_text())["result"]
    found = result["redTeam"]
    assert found["engine"].startswith("garak 0.17.1")
    assert not found.get("failure")
    assert [score["name"] for score in found["scores"]] == list(PROBES)
    texts = {
        s: (evaluation / "red-team" / f"{s}.report.jsonl").read_text() for s in ("base", "tuned")
    }
    reports = {side: read_report(text) for side, text in texts.items()}
    asked = {side: [each.prompt for each in report.attempts] for side, report in reports.items()}
    assert asked["base"] == asked["tuned"], "one seed draws the same prompts for both"
    # ThreatenJSON has one prompt.
    assert len(asked["base"]) == found["numPrompts"] == 3 * MAX_PROMPTS + 1
    answers = [[each.answer for each in report.attempts] for report in reports.values()]
    assert answers[0] != answers[1], "both sides were asked of one model"
    print(f"\n{found['numPrompts']} prompts for each model, {seconds:.0f} s with both servers")


def test_a_probe_that_a_real_garak_does_not_have_is_refused_with_those_it_has(
    published: Workbench, tmp_path: Path
) -> None:
    _, ended = evaluate(published, tmp_path, probes=["dan.DanInTheWilderness"])
    assert ended.exit_code == 64
    assert ended.failure["reason"] == "RedTeamProbeUnknown"
    assert "dan.DanInTheWild," in ended.failure["message"]
