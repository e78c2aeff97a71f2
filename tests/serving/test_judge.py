"""A small language model behind a real vLLM judges what base and tuned model said.

Skipped unless FINETUNE_VLLM_PYTHON names a Python with vLLM; `make vllm-test` does.
"""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.evaluate.sources.judge.endpoint import (
    CallRefused,
    JudgeEndpoint,
    JudgeRefuses,
)
from kit.models.base_model import NAME, ensure_model
from kit.processes.stages import Workbench
from kit.servers.vllm_server import NEEDS_VLLM, PYTHON, VllmServer, serve

NUM_QUESTIONS = 12

pytestmark = [
    NEEDS_VLLM,
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    assert PYTHON is not None
    log = tmp_path_factory.mktemp("judge") / "vllm.log"
    with serve(PYTHON, ensure_model(), {}, name=NAME, dtype="bfloat16", log=log) as running:
        yield running


def judged(
    trained: Workbench, folder: Path, server: VllmServer, **change: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluate a trained run with this judge; return its score and what is told of it."""
    judge = {
        "endpoint": f"{server.address}/v1",
        "model": NAME,
        "maxAnswerTokens": 128,
        "timeoutSeconds": 600,
        **change,
    }
    few = {"maxSamples": NUM_QUESTIONS, "minPrompts": NUM_QUESTIONS}
    bench = trained.fork(folder / "run", {"evaluation": {**few, "judge": judge}})
    shutil.rmtree(bench.run_folder / "evaluation")
    bench.run_to("evaluate", timeout=1800)
    report = json.loads((bench.run_folder / "evaluation" / "report.json").read_text())
    result = report["result"]
    scores = {score["name"]: score for score in result["scores"]}
    return scores, result["judge"]


def count_tokens(server: VllmServer, kind: str) -> int:
    """Return the tokens that the server itself has counted."""
    with urllib.request.urlopen(f"{server.address}/metrics", timeout=30) as reply:
        text = reply.read().decode()
    return int(float(re.findall(rf"^vllm:{kind}_tokens_total{{.*}} (\S+)$", text, re.M)[0]))


def test_a_small_judge_that_writes_prose_measures_nothing_and_the_remedy_is_named(
    published: Workbench, server: VllmServer, tmp_path: Path
) -> None:
    scores, judge = judged(published, tmp_path, server)
    assert "judgeWinRate" not in scores
    assert "set structuredReplies: true" in judge["failure"]


@pytest.mark.parametrize(
    ("mode", "metric"), [("Pairwise", "judgeWinRate"), ("Rubric", "judgeScore")]
)
def test_held_to_the_form_all_its_verdicts_are_read_and_its_tokens_are_the_servers(
    published: Workbench, server: VllmServer, tmp_path: Path, mode: str, metric: str
) -> None:
    before = {kind: count_tokens(server, kind) for kind in ("prompt", "generation")}
    scores, judge = judged(published, tmp_path, server, mode=mode, structuredReplies=True)
    assert (judge["numJudged"], judge["numUnread"]) == (NUM_QUESTIONS, 0)
    assert 0 <= float(scores[metric]["tuned"]) <= 1
    assert judge["numInputTokens"] == count_tokens(server, "prompt") - before["prompt"]
    assert judge["numOutputTokens"] == count_tokens(server, "generation") - before["generation"]
    print(metric, scores[metric], judge)


def test_a_text_beyond_the_context_concerns_itself_and_a_wrong_model_everybody(
    server: VllmServer,
) -> None:
    def endpoint(model: str) -> JudgeEndpoint:
        url = f"{server.address}/v1"
        return JudgeEndpoint(url, model, key=None, timeout_seconds=600, max_answer_tokens=16)

    with pytest.raises(CallRefused, match="status 400"):
        endpoint(NAME).ask("word " * 3000)
    with pytest.raises(JudgeRefuses, match="status 404"):
        endpoint("nobody").ask("word")
