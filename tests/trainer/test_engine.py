"""An evaluation whose answers a server computes: the same, with the same ends."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from kit.processes.eventually import eventually
from kit.processes.stages import Workbench
from kit.servers.engine_server import VERSION, engine_stub


def fork_served(trained: Workbench, folder: Path, **change: str) -> Workbench:
    """Return a trained run that is to be evaluated by a server, which shares ``engine`` with it."""
    workbench = trained.fork(folder / "served", {"evaluation": {"engine": "VLLM", **change}})
    shutil.rmtree(workbench.run_folder / "evaluation")
    engine = folder / "engine"
    engine.mkdir()
    workbench.env |= {"FINETUNE_ENGINE_DIR": str(engine), "FINETUNE_ENGINE_IMAGE": "vllm:v9"}
    return workbench


@pytest.fixture
def served(undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path) -> Workbench:
    """Such a run whose base model is asked in one way only."""
    return fork_served(undisturbed[0], tmp_path, baseline="AsIs")


def engine_of(workbench: Workbench) -> Path:
    return Path(workbench.env["FINETUNE_ENGINE_DIR"])


def reader_of(base: Path, adapter: Path) -> Callable[[str, Sequence[int]], list[list[float]]]:
    """Return the models as a server has them: one base, the adapter beside it."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(whole, str(adapter)).eval()
    lock = threading.Lock()

    def read(name: str, tokens: Sequence[int]) -> list[list[float]]:
        assert name in ("base", "tuned")
        with (
            lock,
            torch.inference_mode(),
            tuned.disable_adapter() if name == "base" else nullcontext(),
        ):
            logits = tuned(input_ids=torch.tensor([list(tokens)])).logits[0]
            known: list[list[float]] = logits.float().log_softmax(dim=-1).tolist()
            return known

    return read


def samples_of(workbench: Workbench) -> list[dict[str, Any]]:
    path = workbench.run_folder / "evaluation" / "samples.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def report_of(workbench: Workbench) -> dict[str, Any]:
    path = workbench.run_folder / "evaluation" / "report.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_answers_and_scores_are_those_of_this_process_and_the_report_names_the_server(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    here = undisturbed[0]
    served = fork_served(here, tmp_path)
    read = reader_of(served.model, served.run_folder / "adapter")
    with engine_stub(read=read) as stub:
        served.env["FINETUNE_ENGINE_PORT"] = str(stub.port)
        ended = served.run_to("evaluate")
    assert "on a vLLM server" in ended.messages
    texts = ("prompt", "base", "tuned", "prompted", "likelihood")
    assert [{name: sample[name] for name in texts} for sample in samples_of(served)] == [
        {name: sample[name] for name in texts} for sample in samples_of(here)
    ]
    scores = [report_of(bench)["result"]["scores"] for bench in (served, here)]
    for mine, theirs in zip(*scores, strict=True):
        for name in ("base", "tuned"):
            assert float(mine[name]) == pytest.approx(float(theirs[name]), abs=2e-4), mine["name"]
    engine = f"vLLM {VERSION} (vllm:v9)"
    folder = served.run_folder / "evaluation"
    assert report_of(served)["engine"] == engine
    assert report_of(here)["engine"].startswith("Transformers ")
    for name in ("report.html", "README.md"):
        assert engine in (folder / name).read_text()
    given = (engine_of(served) / "arguments").read_text().splitlines()
    assert given[given.index("--dtype") + 1] == "float32"
    longest = max(len(call["prompt"]) + call["max_tokens"] for call in stub.calls)
    assert given[given.index("--max-model-len") + 1] == str(longest)


def test_a_stop_keeps_the_answers_and_the_next_attempt_asks_for_the_rest(
    served: Workbench,
) -> None:
    go_on = threading.Event()
    read = reader_of(served.model, served.run_folder / "adapter")
    kept = 20
    with engine_stub(read=read, reply=lambda n: None if n < kept or go_on.wait(60) else 0) as stub:
        served.env["FINETUNE_ENGINE_PORT"] = str(stub.port)
        process = served.start("evaluate")
        eventually(lambda: len(stub.calls) > kept, timeout=120)
        said = list(served.work.glob("asking/said-0.jsonl"))
        eventually(lambda: len(said[0].read_bytes().splitlines()) >= 10)
        process.send_signal(signal.SIGTERM)
        stopped = served.finish(process)
        go_on.set()
        assert stopped.exit_code == 79, stopped.messages
        assert "answers are kept" in stopped.failure["message"]
        first = len(stub.calls)
        (engine_of(served) / "arguments").unlink()
        again = served.run_to("evaluate")
    assert "asks were answered before" in again.messages
    assert len(stub.calls) - first > 0
    assert report_of(served)["engine"] == f"vLLM {VERSION} (vllm:v9)"


def test_a_server_that_dies_fails_the_attempt_and_its_log_lies_with_the_run(
    served: Workbench,
) -> None:
    folder = engine_of(served)
    read = reader_of(served.model, served.run_folder / "adapter")

    def reply(number: int) -> int | None:
        if number < 8:
            return None
        (folder / "vllm.log").write_text("CUDA out of memory, and a row\n")
        (folder / "ended").touch()
        return 0

    with engine_stub(read=read, reply=reply) as stub:
        served.env["FINETUNE_ENGINE_PORT"] = str(stub.port)
        ended = served.run("evaluate")
    assert (ended.exit_code, ended.failure["reason"]) == (75, "EngineFailed"), ended.messages
    message = ended.failure["message"]
    assert "ended while it was asked" in message
    assert "a row" not in message
    assert "evaluate-vllm.log" in message
    log = served.run_folder / "logs" / "evaluate-vllm.log"
    assert "CUDA out of memory" in log.read_text()
