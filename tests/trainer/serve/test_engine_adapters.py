"""Adapters that are loaded and unloaded while the engine runs."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from safetensors.torch import load_file, save_file

from kit.processes.stages import Workbench

NAME = "default.tiny-v1"
Client = TestClient[Any, Any]
Body = Callable[..., dict[str, Any]]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def copied(learned: Workbench, tmp_path: Path) -> Path:
    """A copy of the adapter, to be changed."""
    return shutil.copytree(learned.run_folder / "adapter", tmp_path / "copied")


async def load(client: Client, name: str, folder: Path) -> tuple[int, Any]:
    body = {"lora_name": name, "lora_path": str(folder)}
    async with client.post("/v1/load_lora_adapter", json=body) as reply:
        if reply.status == 200:
            return 200, await reply.text()
        return reply.status, (await reply.json())["error"]


async def unload(client: Client, name: str) -> int:
    async with client.post("/v1/unload_lora_adapter", json={"lora_name": name}) as reply:
        return reply.status


async def names(client: Client) -> list[str]:
    async with client.get("/v1/models") as reply:
        return sorted(each["id"] for each in (await reply.json())["data"])


async def answer(client: Client, body: dict[str, Any]) -> str:
    async with client.post("/v1/chat/completions", json=body) as reply:
        assert reply.status == 200, await reply.text()
        return str((await reply.json())["choices"][0]["message"]["content"])


async def test_an_adapter_comes_and_goes(client: Client, body: Body, copied: Path) -> None:
    assert await load(client, "default.tiny-v2", copied) == (
        200,
        "Success: LoRA adapter 'default.tiny-v2' added successfully.",
    )
    assert await names(client) == ["base", NAME, "default.tiny-v2"]
    first, second = body(), body(model="default.tiny-v2")
    assert await answer(client, second) == await answer(client, first)
    assert await unload(client, "default.tiny-v2") == 200
    assert await names(client) == ["base", NAME]
    async with client.post("/v1/chat/completions", json=second) as reply:
        assert reply.status == 404
    assert await unload(client, "default.tiny-v2") == 404
    assert await unload(client, "base") == 404


async def test_nothing_is_loaded_over_a_name(client: Client, copied: Path) -> None:
    status, error = await load(client, NAME, copied)
    assert (status, error["code"], error["param"]) == (400, "name_taken", "lora_name")


async def test_adapters_side_by_side_keep_their_own_answers(
    client: Client, body: Body, copied: Path
) -> None:
    tensors = load_file(copied / WEIGHTS)
    save_file({name: tensor * 0 for name, tensor in tensors.items()}, copied / WEIGHTS)
    tuned, base = await answer(client, body()), await answer(client, body(model="base"))
    assert tuned != base
    await load(client, "default.zero-v1", copied)
    asked = ["base", NAME, "default.zero-v1"] * 4
    answers = await asyncio.gather(*(answer(client, body(model=model)) for model in asked))
    assert answers == [base, tuned, base] * 4
    await unload(client, "default.zero-v1")


def rename_modules(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    renamed = {name.replace("model.layers", "model.blocks"): t for name, t in tensors.items()}
    save_file(renamed, folder / WEIGHTS)


def drop_a_layer(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file(
        {name: t for name, t in tensors.items() if ".layers.3." not in name}, folder / WEIGHTS
    )


def widen(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({name: t.repeat(2, 2) for name, t in tensors.items()}, folder / WEIGHTS)


def target_others(folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    config["target_modules"] = ["qkv_fused"]
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("damage", [rename_modules, drop_a_layer, widen, target_others])
async def test_an_adapter_that_does_not_fit_the_base_is_refused_and_leaves_nothing(
    client: Client, body: Body, copied: Path, damage: Callable[[Path], None]
) -> None:
    before = await answer(client, body())
    damage(copied)
    status, error = await load(client, "default.bad-v1", copied)
    assert (status, error["code"], error["param"]) == (400, "adapter_unusable", "lora_path")
    assert await names(client) == ["base", NAME]
    assert await answer(client, body()) == before


async def test_a_folder_without_an_adapter_is_not_found(client: Client, tmp_path: Path) -> None:
    status, error = await load(client, "default.none-v1", tmp_path)
    assert (status, error["code"]) == (404, "adapter_not_found")


async def test_a_full_server_refuses_another_adapter(client: Client, learned: Workbench) -> None:
    adapter = learned.run_folder / "adapter"
    for number in (2, 3):
        assert (await load(client, f"default.tiny-v{number}", adapter))[0] == 200
    status, error = await load(client, "default.tiny-v4", adapter)
    assert (status, error["code"]) == (400, "no_free_slot")
    for number in (2, 3):
        await unload(client, f"default.tiny-v{number}")


async def test_unloading_waits_for_requests_in_progress(
    client: Client, body: Body, copied: Path
) -> None:
    await load(client, "default.tiny-v5", copied)
    asked = body(model="default.tiny-v5", temperature=2, seed=1, max_tokens=60, stream=True)
    async with client.post("/v1/chat/completions", json=asked) as reply:
        await reply.content.readany()
        unloading = asyncio.create_task(unload(client, "default.tiny-v5"))
        rest = await reply.read()
    assert rest.endswith(b"data: [DONE]\n\n")
    assert await unloading == 200
