"""A tracker that is ill leaves a job as it is, and has everything once it is well."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kit.processes.stages import Workbench
from kit.servers.mlflow_server import OwnServer


@pytest.fixture
def server() -> Iterator[OwnServer]:
    server = OwnServer()
    yield server
    server.stop()


def test_training_is_the_same_and_the_evaluation_tells_what_was_missed(
    bench: Callable[..., Workbench],
    undisturbed: tuple[Workbench, dict[str, Any]],
    server: OwnServer,
) -> None:
    named = {"uri": server.uri, "registeredModel": "tiny", "credentialsRef": {"name": "keys"}}
    workbench = bench(
        {"tracking": {"mlflow": named}},
        env={"MLFLOW_TRACKING_TOKEN": "secret"},
    )
    workbench.run_to("prepare")
    assert server.num_calls == 0
    server.ill = 503
    trained = workbench.run_to("train")
    _, theirs = undisturbed
    assert trained.result["sha256"] == theirs["sha256"]
    assert "answers HTTP 503" in trained.result["tracking"]["problem"]
    assert trained.messages.count("tracking: ") == 1

    server.ill = ""
    result = workbench.run_to("evaluate").result
    (run,) = server.read()["runs"]
    page = f"{server.uri}/#/experiments/0/runs/{run['id']}"
    assert result["tracking"] == {"uris": [page], "problem": ""}
    logged = [json.loads(line) for line in workbench.curve.read_text().splitlines()]
    for key in ("loss", "eval_loss"):
        points = [[point["step"], point[key]] for point in logged if key in point]
        assert run["metrics"][key] == sorted(points)
    score = result["scores"][0]
    assert run["metrics"][f"test.{score['name']}.tuned"] == [[0, float(score["tuned"])]]
    assert run["tags"]["finetune.version"] == str(result["version"])
    assert run["status"] == "FINISHED"
    assert [each["run_id"] for each in server.versions] == [run["id"]]
    assert server.headers == {"Bearer secret"}
    # Addresses and figures alone: no row, no prompt, no answer.
    assert "thing" not in json.dumps(server.read())
    assert run["artifacts"] == []
