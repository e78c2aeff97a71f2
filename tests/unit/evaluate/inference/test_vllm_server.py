"""The server beside the stage: what it is begun with, and what is said when it does not come up."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from safetensors.numpy import save_file

from finetune_api.protocol.trainer import ResolvedJob, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.errors import RetryableError, UserError
from finetune_trainer.evaluate.inference.vllm_server import (
    EngineServer,
    ServedFolders,
    arguments_of,
    divide_over,
    find_problem,
)
from kit.cases.spec_cases import changed, minimal_job
from kit.models.tiny_models import make_model
from kit.servers.engine_server import VERSION, engine_stub
from kit.servers.ports import free_port


def job_with(**change) -> ResolvedJob:
    body = changed(minimal_job(), {"spec.evaluation.engine": "VLLM", **change})
    return resolve_job(FineTuneJob.from_wire(body), namespace="team", uid="u")


LAYERS = [f"model.layers.{n}.self_attn.{m}_proj" for n in (0, 1) for m in "qv"]


def adapter(folder, layers=LAYERS, **config):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": 16, **config}))
    names = [f"base_model.model.{layer}.lora_{side}.weight" for layer in layers for side in "AB"]
    save_file({name: np.zeros((2, 2)) for name in names}, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("base"))


def arguments(base, adapters, **change):
    models = ServedFolders(base_dir=base, adapters=adapters, bfloat16=True, max_tokens=700)
    return arguments_of(job_with(**change), models, port=8123)


@pytest.mark.slow
def test_a_server_is_begun_with_the_jobs_models_types_and_lengths(base, tmp_path):
    tuned = adapter(tmp_path / "an adapter=1")
    given = arguments(base, {"tuned": tuned})
    pairs = dict(pairwise(given))
    assert given[0] == str(base)
    assert (pairs["--host"], pairs["--port"]) == ("127.0.0.1", "8123")
    assert (pairs["--dtype"], pairs["--max-model-len"]) == ("bfloat16", "700")
    assert (pairs["--max-lora-rank"], pairs["--generation-config"]) == ("16", "vllm")
    assert json.loads(pairs["--lora-modules"]) == {"name": "tuned", "path": str(tuned)}
    assert not {"--trust-remote-code", "--tensor-parallel-size"} & set(given)
    trusting = arguments(base, {"tuned": tuned}, **{"spec.model.trustRemoteCode": True})
    assert "--trust-remote-code" in trusting


@pytest.mark.slow
def test_there_is_room_for_adapters_where_they_are_and_not_in_the_output_head(base, tmp_path):
    other = adapter(tmp_path / "b", ["model.layers.1.mlp.down_proj"])
    given = arguments(base, {"tuned": adapter(tmp_path / "a"), "published": other})
    rest = given[given.index("--lora-target-modules") + 1 :]
    end = next((n for n, word in enumerate(rest) if word.startswith("--")), len(rest))
    assert rest[:end] == ["down_proj", "q_proj", "v_proj"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "room"), [((1,), "8"), ((16, 33), "64"), ((257,), "320"), ((512,), "512")]
)
def test_there_is_room_for_the_largest_rank(ranks, room, base, tmp_path):
    first, *others = ranks
    config = {"r": first, "rank_pattern": {f"layer{rank}": rank for rank in others}}
    given = arguments(base, {"tuned": adapter(tmp_path / "a", **config)})
    assert given[given.index("--max-lora-rank") + 1] == room


@pytest.mark.parametrize(
    ("gpus", "heads", "groups", "number"),
    [(0, 32, 8, 1), (1, 32, 8, 1), (4, 32, 8, 4), (8, 32, 4, 8), (8, 9, 3, 3), (3, 32, 8, 2),
     (2, 9, 3, 1), (6, 48, 4, 4)],
)  # fmt: skip
def test_a_model_is_divided_over_as_many_gpus_as_its_heads_allow(gpus, heads, groups, number):
    class Model:
        num_heads, num_kv_heads = heads, groups

    assert divide_over(gpus, Model()) == number


def test_a_published_version_that_cannot_stand_beside_the_tuned_model_is_told(tmp_path):
    def problem(**change):
        plan = {"folder": str(tmp_path / "a"), "bfloat16": True, "quantize": False, **change}
        return find_problem(plan, bfloat16=True)

    assert "whole model" in problem()
    adapter(tmp_path / "a")
    assert problem() == ""
    assert "another type" in problem(bfloat16=False)
    assert "another type" in problem(quantize=True)
    adapter(tmp_path / "b", use_dora=True)
    assert "DoRA" in problem(folder=str(tmp_path / "b"))
    for module in ("lm_head", "model.layers.0.mlp.experts", "model.layers.0.mlp.experts.3.w1"):
        folder = adapter(tmp_path / module, [*LAYERS, module])
        assert "changes" in problem(folder=str(folder))


def test_a_server_that_comes_up_is_named_with_version_and_image(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with engine_stub() as stub:
        server = EngineServer(tmp_path, stub.port, image="vllm/vllm-openai@sha256:1")
        server.begin(["--model", "a folder", '{"name": "x"}'])
        assert server.wait_until_ready() == f"vLLM {VERSION} (vllm/vllm-openai@sha256:1)"
    assert (tmp_path / "arguments").read_text() == '--model\na folder\n{"name": "x"}\n'


def test_a_server_that_ends_before_it_is_ready_fails_with_what_it_said(tmp_path):
    server = EngineServer(tmp_path, free_port(), image="vllm/vllm-openai:v9", wait=lambda _: None)
    (tmp_path / "vllm.log").write_text(
        "INFO loading\nValueError: No available memory for the cache blocks.\nTraceback\nbye\n"
    )
    (tmp_path / "ended").touch()
    with pytest.raises(RetryableError, match="No available memory") as failure:
        server.wait_until_ready()
    assert failure.value.reason == "EngineFailed"
    assert "vllm/vllm-openai:v9" in failure.value.message
    assert "INFO" not in failure.value.message
    (tmp_path / "vllm.log").write_text(
        "ValidationError: 1 validation error for ModelConfig\n"
        "  Value error, User-specified max_model_len (9000) is greater than the derived "
        "max_model_len (max_position_embeddings=2048). " + "To allow overriding " * 20 + "\n"
    )
    with pytest.raises(UserError, match=r"\(9000\).*=2048.*maxNewTokens") as refused:
        server.wait_until_ready()
    assert refused.value.reason == "EngineUnsuitable", "no attempt could succeed"
    (tmp_path / "vllm.log").write_text("INFO loading\n")
    kept = tmp_path / "kept"
    kept.mkdir()
    server.keep_log(kept)
    assert "loading" in (kept / "vllm.log").read_text()


def test_a_server_that_takes_too_long_fails_with_its_last_lines(tmp_path):
    now = iter(range(0, 10_000, 100))
    server = EngineServer(
        tmp_path, free_port(), wait=lambda _: None, clock=lambda: float(next(now))
    )
    with pytest.raises(
        RetryableError, match="not ready within 1800 s; it said: nothing"
    ) as failure:
        server.wait_until_ready()
    assert failure.value.reason == "EngineNotReady"


def test_without_a_server_the_job_is_told_so(monkeypatch):
    monkeypatch.delenv("FINETUNE_ENGINE_DIR", raising=False)
    with pytest.raises(UserError, match=r"engine VLLM.*vllmImage.*Transformers") as failure:
        EngineServer.from_environment()
    assert failure.value.reason == "EngineMissing"
