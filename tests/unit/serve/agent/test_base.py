"""The engine waits until the agent has brought the base model of the first version."""

import json

import pytest

from finetune_api.v1alpha1.status.endpoint import ServedStorage
from finetune_trainer.errors import TrainerError
from finetune_trainer.serve.agent.asking import AboutEngine
from finetune_trainer.serve.agent.base import EngineBase
from finetune_trainer.serve.agent.bounds import Refusal
from finetune_trainer.serve.agent.fetching import Fetched
from finetune_trainer.storage import StorageAccess
from finetune_trainer.storage.models.cache import fetch_model
from kit.builders.versions import publish_version
from kit.servers.serving_agent import running_agent


def make_model(folder, content=b"weights"):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(content)
    return fetch_model(f"file://{folder}", None, StorageAccess(), folder)[1]


def fetched(tmp_path, revision, template="{{ messages }}", engine="", **record):
    folder = tmp_path / "version"
    folder.mkdir(exist_ok=True)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    if template:
        (folder / "chat_template.jinja").write_text(template)
    known = {"revision": revision, "model": "model", "recipe": {"bfloat16": True}}
    return Fetched(
        sha256="",
        folder=folder,
        record=known | record,
        questions=(),
        metrics=(),
        engine=engine,
        answer_tokens=None,
    )


@pytest.fixture
def base(tmp_path):
    (tmp_path / "engine").mkdir()

    def make(engine="VLLM", whole="", allow_code=False):
        return EngineBase(
            uri=f"file://{tmp_path}/model",
            storage=ServedStorage(uri="file:///out"),
            model_secret="",
            credentials_dir=None,
            cache_dir=tmp_path / "cache",
            folder=tmp_path / "engine",
            engine_name=engine,
            whole=whole,
            allow_code=allow_code,
        )

    return make


def arguments(tmp_path):
    return (tmp_path / "engine/arguments").read_text().splitlines()


async def test_vllm_gets_the_model_and_a_copy_of_the_chat_template(base, tmp_path):
    version = fetched(tmp_path, make_model(tmp_path / "model"))
    await base().prepare(version)
    template = tmp_path / "engine/chat_template.jinja"
    assert arguments(tmp_path) == [
        f"{tmp_path}/model",
        "--served-model-name=base",
        "--dtype=bfloat16",
        f"--chat-template={template}",
    ]
    assert template.read_text() == "{{ messages }}"


@pytest.mark.parametrize("template", ["{{ other }}", ""])
async def test_vllm_serves_no_version_with_another_chat_template(base, tmp_path, template):
    revision = make_model(tmp_path / "model")
    await base().prepare(fetched(tmp_path, revision))
    with pytest.raises(Refusal) as caught:
        await base().prepare(fetched(tmp_path, revision, template))
    assert caught.value.reason == "OtherBaseModel"
    assert "serve.dedicated" in caught.value.message
    await base().prepare(fetched(tmp_path, revision))


async def test_our_engine_takes_versions_with_templates_of_their_own(base, tmp_path):
    revision = make_model(tmp_path / "model")
    for template in ("{{ messages }}", "{{ other }}"):
        await base("Transformers").prepare(fetched(tmp_path, revision, template))


async def test_our_engine_gets_the_model_in_the_type_of_training(base, tmp_path):
    await base("Transformers").prepare(fetched(tmp_path, make_model(tmp_path / "model")))
    assert arguments(tmp_path) == [
        f"--model={tmp_path}/model",
        "--served-model-name=base",
        "--dtype=bfloat16",
    ]


async def test_vllm_gets_the_type_of_training_where_the_files_have_another(base, tmp_path):
    version = fetched(tmp_path, make_model(tmp_path / "model"), recipe={"bfloat16": False})
    await base().prepare(version)
    assert "--dtype=float32" in arguments(tmp_path)


async def test_a_version_of_another_type_is_not_held_to_the_answers_of_its_own_type(base, tmp_path):
    revision = make_model(tmp_path / "model")
    about = AboutEngine(name="VLLM", version="5.0.0")
    first = fetched(tmp_path, revision, engine="vLLM 5.0.0")
    other = fetched(tmp_path, revision, engine="vLLM 5.0.0", recipe={"bfloat16": False})
    engine = base()
    for version, is_same in ((first, True), (other, False)):
        await engine.prepare(version)
        assert about.started_with(engine.dtype).evaluated(version) is is_same


async def test_our_engine_holds_the_base_of_qlora_in_four_bits(base, tmp_path):
    version = fetched(tmp_path, make_model(tmp_path / "model"), quantization="nf4")
    await base("Transformers").prepare(version)
    assert arguments(tmp_path)[-1] == "--quantize"


async def test_a_model_that_runs_code_is_refused_where_that_is_not_allowed(base, tmp_path):
    version = fetched(tmp_path, make_model(tmp_path / "model"), trustRemoteCode=True)
    with pytest.raises(Refusal, match=r"config\.allowTrustRemoteCode") as caught:
        await base().prepare(version)
    assert caught.value.reason == "EngineRefused"
    assert not (tmp_path / "engine/arguments").exists()


@pytest.mark.parametrize("engine", ["VLLM", "Transformers"])
async def test_code_of_a_model_runs_where_the_job_asked_for_it_and_it_is_allowed(
    base, tmp_path, engine
):
    revision = make_model(tmp_path / "model")
    await base(engine, allow_code=True).prepare(fetched(tmp_path, revision, trustRemoteCode=True))
    assert "--trust-remote-code" in arguments(tmp_path)
    await base(engine, allow_code=True).prepare(fetched(tmp_path, revision))


async def test_an_engine_that_began_without_code_takes_no_version_that_needs_it(base, tmp_path):
    revision = make_model(tmp_path / "model")
    await base(allow_code=True).prepare(fetched(tmp_path, revision))
    assert "--trust-remote-code" not in arguments(tmp_path)
    with pytest.raises(Refusal, match=r"serve\.dedicated") as caught:
        await base(allow_code=True).prepare(fetched(tmp_path, revision, trustRemoteCode=True))
    assert caught.value.reason == "OtherBaseModel"


async def test_a_version_of_another_revision_is_refused_also_after_a_restart(base, tmp_path):
    await base().prepare(fetched(tmp_path, make_model(tmp_path / "model")))
    other = fetched(tmp_path, "files:" + "0" * 64)
    for again in (base(), base()):
        with pytest.raises(Refusal, match="this server has revision files:") as caught:
            await again.prepare(other)
        assert caught.value.reason == "OtherBaseModel"


async def test_a_base_that_has_changed_since_training_is_another_base(base, tmp_path):
    revision = make_model(tmp_path / "model")
    make_model(tmp_path / "model", b"others!")
    with pytest.raises(Refusal) as caught:
        await base().prepare(fetched(tmp_path, revision))
    assert caught.value.reason == "OtherBaseModel"
    assert not (tmp_path / "engine/arguments").exists()


async def test_an_engine_that_was_told_nothing_is_told_after_a_restart(base, tmp_path):
    version = fetched(tmp_path, make_model(tmp_path / "model"))
    await base().prepare(version)
    told = arguments(tmp_path)
    (tmp_path / "engine/arguments").unlink()
    await base().prepare(version)
    assert arguments(tmp_path) == told


async def test_a_base_that_is_not_there_is_tried_again(base, tmp_path):
    with pytest.raises(TrainerError):
        await base().prepare(fetched(tmp_path, ""))
    make_model(tmp_path / "model")
    await base().prepare(fetched(tmp_path, ""))
    assert arguments(tmp_path)


async def test_a_whole_version_is_the_model_itself_under_its_own_name(engine, tmp_path):
    version = publish_version(tmp_path / "out")
    served = version.served(format="Merged")
    (tmp_path / "engine").mkdir()
    environment = {
        "FINETUNE_ENGINE_DIR": str(tmp_path / "engine"),
        "FINETUNE_STORAGE": json.dumps(served["storage"]),
        "FINETUNE_MANIFEST_URI": served["manifestUri"],
    }
    engine.served[version.name] = version.tuned
    async with running_agent(tmp_path / "agent", engine, environment=environment) as agent:
        agent.want(active=served)
        await agent.until(version.name, "Verified")
        folder = tmp_path / "agent/adapters" / version.name
        assert arguments(tmp_path) == [
            str(folder),
            f"--served-model-name={version.name}",
            "--dtype=float32",
        ]
        assert not [call for call in engine.calls if "load" in call]
        agent.want()
