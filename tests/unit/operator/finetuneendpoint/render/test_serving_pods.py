"""What the containers of fronts and servers are given is what their processes read."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_api.names import SERVING_ENGINE_CONTAINER, Owner
from finetune_api.v1alpha1.spec.serving import Serve
from finetune_api.v1alpha1.status.endpoint import ServedStorage
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.render.front import render_front, render_token
from finetune_operator.finetuneendpoint.render.metadata import Deployed
from finetune_operator.finetuneendpoint.render.server import render_server
from finetune_operator.finetuneendpoint.servers import Server
from finetune_operator.finetunejob.render.engine import ENGINE_DIR
from finetune_trainer.serve.agent import server as agent
from finetune_trainer.serve.agent.asking import AboutEngine
from finetune_trainer.serve.engine import server as engine
from finetune_trainer.serve.front import server as front
from finetune_trainer.serve.recorder import server as recorder

OWNERS = [Owner(namespace="team", name="tickets", uid="uid", kind="FineTuneEndpoint")]
CONFIG = OperatorConfig(
    trainer_image="trainer:1",
    vllm_image="vllm:1",
    vllm_arguments=["--gpu-memory-utilization=0.8"],
    cache_claim="models",
)


class Reads(dict[str, str]):
    """An environment that notes what is read of it."""

    def __init__(self, values: dict[str, str]) -> None:
        super().__init__(values)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


def containers_of(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    pod = manifest["spec"]["template"]["spec"]
    return {each["name"]: each for each in [*pod["containers"], *pod.get("initContainers", ())]}


def server_containers(config: OperatorConfig = CONFIG, **serve: Any) -> dict[str, dict[str, Any]]:
    server = Server(
        namespace="team",
        base_model="hf://org/model",
        base_model_secret="hub",
        storage=ServedStorage(uri="s3://models/team", credentials_secret="store"),
        serve=Serve.model_validate(serve),
    )
    return containers_of(render_server(server, server.serve.replicas, OWNERS, config))


def environment_of(container: dict[str, Any]) -> Reads:
    return Reads({each["name"]: each["value"] for each in container["env"]})


def options_of(module: Any, arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.configure(parser)
    return parser.parse_args(arguments)


def own(environment: Reads) -> set[str]:
    return {name for name in environment if name.startswith("FINETUNE_")}


@pytest.mark.parametrize("logs", [True, False])
def test_the_front_reads_every_setting_that_it_is_given(logs: bool) -> None:
    config = CONFIG.model_copy(update={"front_access_log": logs})
    (container,) = containers_of(render_front("team", OWNERS, ["keys"], config)).values()
    environment = environment_of(container)
    settings = front.read_settings(options_of(front, container["command"][4:]), environment)
    assert own(environment) - environment.names == {"FINETUNE_NAMESPACE"}  # read by the watch
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    assert f"{settings.keys_dir}/keys" in mounts
    assert settings.logs_access is logs
    assert str(settings.process.token_file.parent) in mounts


def test_the_recorder_reads_every_setting_and_alone_has_the_credentials_of_the_storage() -> None:
    stores = ["store", "store"]
    pod = render_front("team", OWNERS, ["keys"], CONFIG, stores)["spec"]["template"]["spec"]
    (front_container,), (container,) = pod["containers"], pod["initContainers"]
    assert container["restartPolicy"] == "Always"
    assert {"startupProbe", "readinessProbe", "lifecycle"} & container.keys() == set()
    environment = environment_of(container)
    settings = recorder.read_settings(options_of(recorder, container["command"][4:]), environment)
    assert own(environment) - environment.names == {"FINETUNE_NAMESPACE"}
    assert str(settings.socket) == environment_of(front_container)["FINETUNE_RECORDER_SOCKET"]
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert {str(settings.socket.parent), str(settings.spool_dir)} <= mounts.keys()
    assert mounts[f"{settings.credentials_dir}/store"] == "capture-0"
    assert set(mounts.values()) <= {each["name"] for each in pod["volumes"]}
    shared = {each["name"] for each in front_container["volumeMounts"]} & set(mounts.values())
    assert shared == {"account", "token", "recorder"}
    without = render_front("team", OWNERS, ["keys"], CONFIG)["spec"]["template"]["spec"]
    assert "initContainers" not in without


def test_the_agent_reads_every_setting_that_it_is_given() -> None:
    config = CONFIG.model_copy(update={"allow_trust_remote_code": True})
    container = server_containers(config, arguments=["--dtype=half", "--quantization=fp8"])["agent"]
    environment = environment_of(container)
    settings = agent.read_settings(options_of(agent, container["command"][4:]), environment)
    base = agent.make_base(settings)
    assert own(environment) - environment.names == set()
    mounts = {each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")}
    written = {settings.adapters_dir, base.cache_dir, base.folder, Path(environment["HOME"])}
    assert {str(each) for each in written} == mounts


@pytest.fixture
def run_engine(tmp_path: Path) -> Callable[..., list[str]]:
    """Run an engine's command with arguments of an agent; return what its program is given."""

    def run(program: str, written: list[str], **serve: Any) -> list[str]:
        fake = tmp_path / program
        fake.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
        fake.chmod(0o755)
        (tmp_path / "arguments").write_text("".join(f"{each}\n" for each in written))
        command = server_containers(**serve)[SERVING_ENGINE_CONTAINER]["command"]
        remapped = [each.replace(ENGINE_DIR, str(tmp_path)) for each in command]
        path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        return subprocess.run(
            remapped, env=path, check=True, capture_output=True, text=True, timeout=10
        ).stdout.splitlines()

    return run


def test_vllm_gets_the_model_first_and_the_last_word_is_the_administrators(
    run_engine: Callable[..., list[str]],
) -> None:
    written = ["/cache/a model", "--served-model-name=base", "--dtype=bfloat16"]
    given = run_engine("vllm", written, arguments=["--dtype=half"])
    assert given[:4] == ["serve", *written]
    assert given[-2:] == ["--dtype=half", "--gpu-memory-utilization=0.8"]
    # Sampling settings that ship with a model would change the answers that were evaluated.
    assert "--generation-config=vllm" in given[: given.index("--dtype=half")]


def about_of(arguments: list[str], **serve: Any) -> AboutEngine:
    container = server_containers(arguments=arguments, **serve)["agent"]
    environment = environment_of(container)
    return agent.read_settings(
        options_of(agent, container["command"][4:]), environment
    ).about_engine


@pytest.mark.parametrize(
    ("arguments", "dtype", "is_quantized"),
    [
        ([], None, False),
        (["--dtype=half"], "float16", False),
        (["--dtype=float"], "float32", False),
        (["--dtype=bfloat16", "--quantization=fp8"], "bfloat16", True),
        (["--kv-cache-dtype=fp8"], None, True),
        (["--kv-cache-dtype=auto", "--seed=1"], None, False),
    ],
)
def test_the_agent_knows_the_numbers_that_vllm_was_told_to_compute_with(
    arguments: list[str], dtype: str | None, is_quantized: bool
) -> None:
    about = about_of(arguments)
    assert (about.name, about.dtype, about.is_quantized) == ("VLLM", dtype, is_quantized)


def test_the_administrators_type_counts_before_that_of_the_endpoint() -> None:
    config = CONFIG.model_copy(update={"vllm_arguments": ["--dtype", "bfloat16", "-q", "awq"]})
    container = server_containers(config, arguments=["--dtype=half"])["agent"]
    about = AboutEngine.from_environment(environment_of(container))
    assert (about.dtype, about.is_quantized) == ("bfloat16", True)


@pytest.mark.parametrize(("gpus", "is_cpu"), [(None, False), (0, True), (2, False)])
def test_the_agent_knows_whether_vllm_has_a_gpu(gpus: int | None, is_cpu: bool) -> None:
    about = about_of([], resources={} if gpus is None else {"gpus": gpus})
    assert (about.device == "cpu") is is_cpu


@pytest.mark.parametrize(
    ("gpus", "arguments", "expected"),
    [
        (1, [], []),
        (0, [], []),
        (4, [], ["--tensor-parallel-size=4"]),
        (4, ["--tensor-parallel-size=2"], ["--tensor-parallel-size=2"]),
        (
            8,
            ["--pipeline-parallel-size=2"],
            ["--tensor-parallel-size=4", "--pipeline-parallel-size=2"],
        ),
        (2, ["--pipeline-parallel-size=2"], ["--pipeline-parallel-size=2"]),
    ],
)
def test_vllm_divides_the_model_over_all_gpus_of_the_pod(
    gpus: int, arguments: list[str], expected: list[str]
) -> None:
    containers = server_containers(arguments=arguments, resources={"gpus": gpus})
    command = containers[SERVING_ENGINE_CONTAINER]["command"]
    assert [each for each in command if "-parallel-size" in each] == expected


def test_only_where_the_administrator_allows_it_may_a_model_run_code() -> None:
    for is_allowed in (False, True):
        config = CONFIG.model_copy(update={"allow_trust_remote_code": is_allowed})
        container = server_containers(config)["agent"]
        settings = agent.read_settings(
            options_of(agent, container["command"][4:]), environment_of(container)
        )
        assert agent.make_base(settings).allow_code is is_allowed


def test_our_engine_understands_what_operator_and_agent_give_it(
    run_engine: Callable[..., list[str]],
) -> None:
    written = ["--model=/cache/a model", "--served-model-name=base", "--dtype=float32"]
    given = run_engine("python", written, engine="Transformers", maxAdapters=7)
    assert given[:3] == ["-m", "finetune_trainer.serve", "engine"]
    options = options_of(engine, given[3:])
    assert (options.model, options.host, options.port) == ("/cache/a model", "127.0.0.1", 8001)
    assert options.max_adapters == 7


@pytest.mark.parametrize("kind", ["VLLM", "Transformers"])
@pytest.mark.parametrize(("cpu", "threads"), [("7500m", "8"), ("2", "2")])
def test_an_engine_begins_no_more_threads_than_it_may_use(
    kind: str, cpu: str, threads: str
) -> None:
    container = server_containers(engine=kind, resources={"cpu": cpu})[SERVING_ENGINE_CONTAINER]
    assert environment_of(container)["OMP_NUM_THREADS"] == threads


def test_running_servers_see_the_token_of_a_front_that_was_made_again() -> None:
    secret = render_token("team", Deployed(name="finetune-front", uid="uid"), "token")
    # The kubelet does not look at an immutable Secret again while a pod runs.
    assert not secret.get("immutable")
