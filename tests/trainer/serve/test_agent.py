"""The agent beside the engine with a tuned tiny model: what is served is what was evaluated."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from finetune_trainer.serve.engine.routes import make_app
from finetune_trainer.serve.engine.worker import Worker
from finetune_trainer.storage import hash_file, make_manifest, open_store, read_manifest
from kit.processes.stages import Workbench
from kit.servers.serving_agent import Agent, question, running_agent
from kit.servers.serving_engine import ServingEngine

NAME = "default.tiny-v2"
"""Another name than that of the fixture, which the engine already has."""


@asynccontextmanager
async def agent_of(worker: Worker, folder: Path) -> AsyncIterator[Agent]:
    about = {"engine": "Transformers", "version": version("transformers"), "dtype": "float32"}
    async with TestServer(make_app(worker, context=512, version=about)) as server:
        engine = ServingEngine(url=str(server.make_url("")))
        environment = {"FINETUNE_NAMESPACE": "default"}
        async with running_agent(folder / "agent", engine, environment=environment) as agent:
            yield agent


def publish_again(learned: Workbench, folder: Path) -> tuple[Path, Path]:
    """Copy the run with its version under number 2; return the output and the adapter's folder."""
    root = Path(shutil.copytree(learned.output, folder / "out"))
    (root / "versions/default/tiny/1").rename(root / "versions/default/tiny/2")
    return root, root / learned.run_folder.relative_to(learned.output) / "adapter"


def sign_again(root: Path, adapter: Path) -> None:
    """Write a manifest for the files as they are, as somebody with the bucket's key could."""
    store = open_store(f"file://{root}")
    manifest = read_manifest(store, "versions/default/tiny/2")
    weights = adapter / "adapter_model.safetensors"
    num_bytes, sha256 = hash_file(weights)
    files = [
        type(file)(path=file.path, num_bytes=num_bytes, sha256=sha256, key=file.key)
        if file.path == weights.name
        else file
        for file in manifest.files
    ]
    signed = make_manifest(files, created_by=manifest.created_by, inputs=manifest.inputs)
    path = root / "versions/default/tiny/2/manifest.json"
    path.write_bytes(signed.to_bytes())


def served_of(root: Path, learned: Workbench) -> dict[str, Any]:
    manifest = root / "versions/default/tiny/2/manifest.json"
    return {
        "version": 2,
        "adapter": NAME,
        "manifestUri": f"file://{manifest}",
        "sha256": hash_file(manifest)[1],
        "server": "fts-0123456789ab",
        "baseModel": f"file://{learned.model}",
        "storage": {"uri": f"file://{root}"},
        "jobUid": learned.job().uid,
    }


def want(agent: Agent, served: dict[str, Any]) -> None:
    body = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneEndpoint",
        "metadata": {"name": "tiny", "namespace": "default"},
        "spec": {"jobRef": {"name": "tiny"}},
        "status": {"candidate": served},
    }
    agent.endpoints.write_text(json.dumps([body]))


async def test_the_evaluated_version_answers_every_question_as_stored(
    learned: Workbench, worker: Worker, tmp_path: Path
) -> None:
    root, _ = publish_again(learned, tmp_path)
    lines = (learned.run_folder / "evaluation/samples.jsonl").read_text().splitlines()
    async with agent_of(worker, tmp_path) as agent:
        want(agent, served_of(root, learned))
        report = await agent.until(NAME, "Verified")
        assert report.verification.num_asked == len(lines)
        assert report.verification.num_equal == len(lines)
        sample = json.loads(lines[0])
        status, answer = await agent.ask(
            body=question(NAME, sample["prompt"][0]["content"], temperature=0, max_tokens=8)
        )
        assert (status, answer["choices"][0]["message"]["content"]) == (200, sample["tuned"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda name, tensor: tensor * ("lora_A" in name), "AnswersLikeBase"),
        (lambda _, tensor: tensor.flip(0).contiguous(), "AnswersDiffer"),
    ],
    ids=["without effect", "of another training"],
)
async def test_changed_weights_are_refused_even_with_matching_manifests(
    learned: Workbench, worker: Worker, tmp_path: Path, change: Any, reason: str
) -> None:
    from safetensors.torch import load_file, save_file

    root, adapter = publish_again(learned, tmp_path)
    weights = adapter / "adapter_model.safetensors"
    tensors = {name: change(name, tensor) for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    sign_again(root, adapter)
    async with agent_of(worker, tmp_path) as agent:
        want(agent, served_of(root, learned))
        assert (await agent.until(NAME, "Failed")).reason == reason
        assert NAME not in worker.names


async def test_an_adapter_with_other_module_names_is_refused(
    learned: Workbench, worker: Worker, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    root, adapter = publish_again(learned, tmp_path)
    weights = adapter / "adapter_model.safetensors"
    known = load_file(weights)
    tensors = {name.replace("self_attn", "attention"): known[name] for name in known}
    save_file(tensors, weights, metadata={"format": "pt"})
    sign_again(root, adapter)
    async with agent_of(worker, tmp_path) as agent:
        want(agent, served_of(root, learned))
        # Our engine says so itself. One that loads it in silence answers like the base.
        assert (await agent.until(NAME, "Failed")).reason == "EngineRefused"
