"""The life of versions on a server: from the status of an endpoint to answers, and out again."""

import asyncio
import random
import shutil
import threading
from collections import Counter

import pytest

from finetune_trainer.serve.agent import asking as asking_module
from finetune_trainer.serve.agent import keeper as keeper_module
from finetune_trainer.serve.agent import server as server_module
from finetune_trainer.serve.agent.engine import Engine, EngineSlow
from finetune_trainer.serve.agent.fetching import fetch_version
from finetune_trainer.serve.agent.keeper import MAX_SLOW_LOOKS
from kit.builders.versions import publish_version
from kit.processes.eventually import eventually_async
from kit.servers.serving_agent import question, running_agent

OTHER = "0" * 64


async def test_a_version_is_fetched_loaded_verified_and_answers(agent, tmp_path):
    version = publish_version(tmp_path / "out")
    agent.engine.base = version.base
    assert (await agent.get("/readyz"))[0] in (200, 503)
    agent.want(active=version.served())
    report = await agent.until(version.name, "Verified")
    assert (report.version, report.sha256) == (1, version.sha256)
    told = report.verification
    assert (told.num_asked, told.num_equal, told.num_like_base) == (60, 60, 0)
    assert (told.metric, told.score, told.differing) == ("exactMatch", "1.0000", [])
    assert await agent.ask(body=question(version.name, "Ticket 1")) == (
        200,
        {"choices": [{"message": {"content": version.tuned["Ticket 1"]}}]},
    )
    assert (await agent.get("/readyz"))[0] == 200
    asked = agent.engine.bodies[0]
    assert (asked["temperature"], asked["max_tokens"]) == (0.0, 7)


async def test_an_adapter_whose_modules_do_not_match_never_answers(agent, tmp_path):
    version = publish_version(tmp_path / "out")
    agent.engine.base = version.base
    agent.engine.ignored = {version.name}
    agent.want(active=version.served())
    report = await agent.until(version.name, "Failed")
    assert report.reason == "AnswersLikeBase"
    assert report.verification.num_like_base == 60
    assert len(report.verification.differing) == 5
    assert version.name not in agent.engine.adapters
    assert (await agent.ask(body=question(version.name, "Ticket 1")))[0] == 503


async def test_the_adapter_of_another_tenant_under_the_name_never_answers(agent, tmp_path):
    version = publish_version(tmp_path / "out", shift=1)
    theirs = publish_version(tmp_path / "others" / "out", shift=2)
    agent.engine.overlaid[version.name] = theirs.tuned
    agent.want(candidate=version.served(weight=0))
    assert (await agent.until(version.name, "Failed")).reason == "AnswersDiffer"


async def test_a_version_that_is_refused_keeps_no_pod_from_answering_with_another(agent, tmp_path):
    good = publish_version(tmp_path / "out", number=1)
    bad = publish_version(tmp_path / "out", number=2, shift=2)
    agent.engine.refused = {bad.name}
    agent.want(active=bad.served())
    await agent.until(bad.name, "Failed")
    assert (await agent.get("/readyz"))[0] == 503
    agent.want(active=good.served(), candidate=bad.served(weight=50))
    await agent.until(good.name, "Verified")
    await agent.until(bad.name, "Failed")
    assert (await agent.get("/readyz"))[0] == 200


async def test_damaged_files_are_never_loaded(agent, tmp_path):
    version = publish_version(tmp_path / "out")
    weights = version.root / version.manifest.inputs["run"] / "adapter/adapter_model.safetensors"
    weights.write_bytes(b"weights 1")
    agent.want(active=version.served())
    report = await agent.until(version.name, "Failed")
    assert report.reason == "FilesDamaged"
    assert f"load {version.name}" not in agent.engine.calls


async def test_an_adapter_that_the_engine_refuses_says_why(agent, tmp_path):
    version = publish_version(tmp_path / "out")
    agent.engine.refused = {version.name}
    agent.want(active=version.served())
    report = await agent.until(version.name, "Failed")
    assert report.reason == "EngineRefused"
    assert "wrong rank" in report.message


async def test_a_version_waits_for_a_free_slot(agent, tmp_path):
    first = publish_version(tmp_path / "out", number=1)
    second = publish_version(tmp_path / "out", number=2, shift=2)
    agent.engine.slots = 1
    agent.want(active=first.served())
    await agent.until(first.name, "Verified")
    agent.want(active=first.served(), candidate=second.served())

    async def waits():
        return any(each.reason == "NoFreeSlot" for each in (await agent.report()).adapters)

    await eventually_async(waits)
    agent.want(active=second.served())
    await agent.until(second.name, "Verified")


async def test_a_version_whose_base_answers_alike_has_nothing_to_compare(agent, tmp_path):
    version = publish_version(tmp_path / "out", base_answers="tuned")
    agent.want(active=version.served())
    assert (await agent.until(version.name, "Failed")).reason == "NothingToCompare"


async def test_nothing_is_loaded_over_a_name(agent, tmp_path):
    version = publish_version(tmp_path / "out")
    agent.want(active=version.served())
    await agent.until(version.name, "Verified")
    agent.want(active=version.served(), candidate=version.served(sha256=OTHER))
    report = await agent.until(version.name, "Failed")
    assert (report.sha256, report.reason) == ("", "NameTaken")
    assert agent.engine.calls.count(f"load {version.name}") == 1
    assert (await agent.ask(body=question(version.name, "Ticket 1")))[0] == 200


async def test_of_two_versions_under_one_name_the_active_one_is_loaded(agent, tmp_path):
    version = publish_version(tmp_path / "out")
    agent.want(active=version.served(), candidate=version.served(sha256=OTHER))

    async def states():
        found = {each.sha256: each.state for each in (await agent.report()).adapters}
        return found == {version.sha256: "Verified", "": "Failed"}

    await eventually_async(states)
    agent.want(active=version.served())
    await eventually_async(lambda: asyncio.sleep(0, len(agent.process.keeper.adapters) == 1))
    assert (tmp_path / "agent/adapters" / version.name).exists()
    assert (await agent.ask(body=question(version.name, "Ticket 1")))[0] == 200


async def test_a_version_stays_loaded_when_the_status_pins_what_was_verified(agent, tmp_path):
    version = publish_version(tmp_path / "out")
    agent.want(candidate=version.served(sha256="", weightsSha256=version.weights))
    report = await agent.until(version.name, "Verified")
    assert (report.sha256, report.weights_sha256) == (version.sha256, version.weights)
    agent.want(active=version.served(weightsSha256=version.weights))
    adapter = agent.process.keeper.find(version.name)
    await eventually_async(lambda: asyncio.sleep(0, adapter.wanted.sha256 == version.sha256))
    assert [each.state for each in (await agent.report()).adapters] == ["Verified"]
    assert agent.engine.calls.count(f"load {version.name}") == 1


async def test_an_agent_that_starts_again_refuses_a_manifest_that_was_replaced(engine, tmp_path):
    version = publish_version(tmp_path / "out")
    path = version.root / f"versions/team/{version.job}/1/manifest.json"
    path.write_bytes(path.read_bytes() + b"\n")
    async with running_agent(tmp_path / "agent", engine) as agent:
        agent.want(active=version.served())
        report = await agent.until(version.name, "Failed")
    assert report.reason == "FilesDamaged"
    assert report.sha256 not in ("", version.sha256)


async def test_a_version_that_nobody_serves_is_unloaded_and_can_come_back(agent, tmp_path):
    first, second = (
        publish_version(tmp_path / "out", number=number, shift=number) for number in (1, 2)
    )
    agent.want(active=first.served())
    await agent.until(first.name, "Verified")
    agent.want(active=second.served(), previous=first.served())
    await agent.until(second.name, "Verified")
    assert set(agent.engine.adapters) == {first.name, second.name}
    for version in (first, second):
        assert (await agent.ask(body=question(version.name, "Ticket 1")))[0] == 200
        assert f'adapter="{version.name}"' in (await agent.get("/metrics"))[1]
    agent.want(active=second.served())
    folder = tmp_path / "agent/adapters" / first.name
    await eventually_async(lambda: asyncio.sleep(0, not folder.exists()))
    assert set(agent.engine.adapters) == {second.name}
    assert [each.name for each in (await agent.report()).adapters] == [second.name]
    told = (await agent.get("/metrics"))[1]
    assert (first.name in told, second.name in told) == (False, True)
    agent.want(active=second.served(), candidate=first.served())
    await agent.until(first.name, "Verified")


async def test_a_version_that_is_wanted_again_within_the_grace_time_stays_loaded(engine, tmp_path):
    version = publish_version(tmp_path / "out")
    async with running_agent(tmp_path / "agent", engine, unload_seconds=60.0) as agent:
        agent.want(active=version.served())
        await agent.until(version.name, "Verified")
        agent.want()
        adapter = agent.process.keeper.find(version.name)
        await eventually_async(lambda: asyncio.sleep(0, adapter.leaving is not None))
        assert (await agent.ask(body=question(version.name, "Ticket 1")))[0] == 200
        agent.want(active=version.served())
        await eventually_async(lambda: asyncio.sleep(0, adapter.leaving is None))
        assert f"unload {version.name}" not in engine.calls


async def test_a_load_that_is_cut_off_leaves_nothing_in_the_engine(agent, tmp_path):
    version = publish_version(tmp_path / "out")
    agent.engine.hold_load = asyncio.Event()
    agent.want(active=version.served())
    load, unload = f"load {version.name}", f"unload {version.name}"
    await eventually_async(lambda: asyncio.sleep(0, load in agent.engine.calls))
    agent.want()
    await eventually_async(lambda: asyncio.sleep(0, unload in agent.engine.calls))
    agent.engine.hold_load.set()
    await eventually_async(lambda: asyncio.sleep(0, not agent.process.keeper.adapters))
    assert agent.engine.adapters == {}


async def test_a_version_that_is_left_while_it_is_fetched_leaves_no_files(
    engine, tmp_path, monkeypatch
):
    version = publish_version(tmp_path / "out")
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def fetch_slowly(*arguments, **settings):
        begun.set()
        go_on.wait(20)
        try:
            return fetch_version(*arguments, **settings)
        finally:
            done.set()

    monkeypatch.setattr(server_module, "fetch_version", fetch_slowly)
    async with running_agent(tmp_path / "agent", engine, unload_seconds=0.0) as agent:
        agent.want(active=version.served())
        await eventually_async(lambda: asyncio.sleep(0, begun.is_set()))
        adapter = agent.process.keeper.find(version.name)
        agent.want()
        await eventually_async(lambda: asyncio.sleep(0, adapter.is_leaving))
        go_on.set()
        await eventually_async(lambda: asyncio.sleep(0, done.is_set()))
        await eventually_async(lambda: asyncio.sleep(0, not agent.process.keeper.adapters))
        assert not (tmp_path / "agent/adapters" / version.name).exists()


async def test_streams_end_before_their_adapter_is_unloaded(agent, tmp_path):
    version = publish_version(tmp_path / "out")
    agent.want(active=version.served())
    await agent.until(version.name, "Verified")
    agent.engine.hold = asyncio.Event()
    asking = asyncio.create_task(agent.ask(body=question(version.name, "Ticket 1", stream=True)))
    adapter = agent.process.keeper.find(version.name)
    await eventually_async(lambda: asyncio.sleep(0, adapter.num_open == 1))
    agent.want()
    await eventually_async(lambda: asyncio.sleep(0, adapter.leaving is not None))
    calls = len(agent.engine.calls)
    await eventually_async(lambda: asyncio.sleep(0, len(agent.engine.calls) > calls + 3))
    assert version.name in agent.engine.adapters
    agent.engine.hold.set()
    status, text = await asking
    assert (status, text.endswith("data: [DONE]\n\n")) == (200, True)
    await eventually_async(lambda: asyncio.sleep(0, version.name not in agent.engine.adapters))


async def test_an_engine_that_starts_again_gets_its_adapters_verified_before_traffic(
    agent, tmp_path
):
    version = publish_version(tmp_path / "out")
    agent.want(active=version.served())
    await agent.until(version.name, "Verified")
    agent.engine.stop()
    report = await agent.until(version.name, "Loading")
    assert report.reason in ("EngineRestarted", "EngineAway")
    assert (await agent.get("/readyz"))[0] == 503
    status, body = await agent.ask(body=question(version.name, "Ticket 1"))
    assert (status, body["error"]["code"]) == (503, "model_not_ready")
    agent.engine.overlaid[version.name] = dict.fromkeys(version.tuned, "?")
    agent.engine.start()
    assert (await agent.until(version.name, "Failed")).reason == "AnswersDiffer"


async def test_a_slow_engine_keeps_its_adapters_until_it_was_slow_several_times(
    agent, tmp_path, monkeypatch
):
    version = publish_version(tmp_path / "out")
    agent.want(active=version.served())
    await agent.until(version.name, "Verified")
    keeper, answer = agent.process.keeper, Engine.list_models
    looks: list[bool] = []

    async def list_slowly(engine):
        looks.append(len(looks) < MAX_SLOW_LOOKS - 1 or len(looks) > MAX_SLOW_LOOKS)
        if looks[-1]:
            raise EngineSlow("no answer in 5 s")
        return await answer(engine)

    monkeypatch.setattr(Engine, "list_models", list_slowly)
    await eventually_async(lambda: asyncio.sleep(0, len(looks) > MAX_SLOW_LOOKS + 1))
    assert keeper.is_engine_ready
    assert keeper.find(version.name).state == "Verified"
    num_asked = len(agent.engine.bodies)
    await eventually_async(lambda: asyncio.sleep(0, not keeper.is_engine_ready))
    assert keeper.find(version.name).reason == "EngineSlow"
    monkeypatch.setattr(Engine, "list_models", answer)
    # It has the adapter, so it has not started again: more questions would be more load.
    await agent.until(version.name, "Verified")
    assert len(agent.engine.bodies) == num_asked
    assert agent.engine.calls.count(f"load {version.name}") == 1


async def test_an_engine_that_was_slow_and_started_again_is_given_its_adapters(
    agent, tmp_path, monkeypatch
):
    version = publish_version(tmp_path / "out")
    agent.want(active=version.served())
    await agent.until(version.name, "Verified")

    async def be_slow(_engine):
        raise EngineSlow("no answer in 5 s")

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "list_models", be_slow)
        report = await agent.until(version.name, "Loading")
        assert report.reason == "EngineSlow"
        agent.engine.start()
    await agent.until(version.name, "Verified")
    assert agent.engine.calls.count(f"load {version.name}") == 2


async def test_an_engine_that_lists_its_models_and_computes_nothing_is_away_until_it_computes(
    agent, tmp_path, monkeypatch
):
    version = publish_version(tmp_path / "out")
    agent.want(active=version.served())
    await agent.until(version.name, "Verified")
    monkeypatch.setattr(keeper_module, "SILENT_SECONDS", 0.05)
    monkeypatch.setattr("finetune_trainer.serve.agent.engine.TOKEN_SECONDS", 0.2)
    assert (await agent.get("/enginez"))[0] == 200
    agent.engine.hangs = True
    async with asyncio.timeout(10):
        while (status := (await agent.ask(body=question(version.name, "Ticket 1")))[0]) != 503:
            assert status == 400
    report = await agent.until(version.name, "Loading")
    assert report.reason == "EngineSlow"
    assert (await agent.get("/readyz"))[0] == 503
    assert (await agent.get("/enginez"))[0] == 503
    agent.engine.hangs = False
    await agent.until(version.name, "Verified")
    assert (await agent.get("/enginez"))[0] == 200
    assert agent.engine.calls.count(f"load {version.name}") == 1


@pytest.mark.parametrize("status", [404, 429, 500])
async def test_an_engine_that_refuses_the_token_does_not_hang(agent, tmp_path, monkeypatch, status):
    version = publish_version(tmp_path / "out")
    agent.want(active=version.served())
    await agent.until(version.name, "Verified")
    monkeypatch.setattr(keeper_module, "SILENT_SECONDS", 0.05)
    agent.engine.token_status = status
    await eventually_async(lambda: asyncio.sleep(0, agent.engine.calls.count("one token") > 3))
    assert (await agent.get("/readyz"))[0] == 200
    assert agent.engine.calls.count(f"load {version.name}") == 1


@pytest.fixture
def slow_question(monkeypatch):
    """Let one question get no answer in time, and note what is asked."""
    monkeypatch.setattr(keeper_module, "FIRST_PAUSE_SECONDS", 0.01)
    ask, asked, slow = Engine.ask, [], {"Ticket 7": 3}

    async def ask_slowly(engine, name, stored, **settings):
        text = stored.prompt[-1]["content"]
        asked.append((name, text))
        if name != "base" and slow.get(text, 0):
            slow[text] -= 1
            raise EngineSlow("no answer in 600 s")
        return await ask(engine, name, stored, **settings)

    monkeypatch.setattr(Engine, "ask", ask_slowly)
    return asked, slow


async def test_a_question_without_an_answer_in_time_costs_no_other_answer(
    agent, tmp_path, slow_question
):
    version = publish_version(tmp_path / "out", questions=60)
    agent.want(active=version.served())
    await agent.until(version.name, "Verified")
    asked, _ = slow_question
    times = Counter(text for name, text in asked if name == version.name)
    assert times.pop("Ticket 7") == 4
    # Up to seven are under way at once with the slow one, and are asked again.
    assert sum(number > 1 for number in times.values()) <= 3 * 7


async def test_a_version_is_given_up_after_tries_without_progress_until_the_engine_starts_again(
    agent, tmp_path, slow_question
):
    _, slow = slow_question
    slow["Ticket 7"] = 1000
    version = publish_version(tmp_path / "out", questions=60)
    agent.want(active=version.served())
    report = await agent.until(version.name, "Failed")
    assert report.reason == "EngineSlow"
    assert f"try {keeper_module.MAX_SLOW_TRIES}:" in report.message
    slow.clear()
    agent.engine.stop()
    await eventually_async(
        lambda: asyncio.sleep(0, not agent.process.keeper.is_engine_ready), timeout=10
    )
    agent.engine.start()
    await agent.until(version.name, "Verified")


async def test_the_version_with_traffic_is_verified_before_a_candidate_is_loaded(
    agent, tmp_path, monkeypatch, slow_question
):
    first, second = (publish_version(tmp_path / "out", number=n, shift=n) for n in (1, 2))
    loaded, load = {}, Engine.load

    async def note_and_load(engine, name, folder):
        loaded[name] = agent.process.keeper.find(first.name).state
        await load(engine, name, folder)

    monkeypatch.setattr(Engine, "load", note_and_load)
    agent.want(candidate=second.served(weight=0), active=first.served())
    await agent.until(second.name, "Verified")
    assert loaded == {first.name: "Loading", second.name: "Verified"}


async def test_a_refused_version_is_tried_again_after_growing_pauses(agent, tmp_path, monkeypatch):
    monkeypatch.setattr(keeper_module, "RETRY_SECONDS", 0.03)
    monkeypatch.setattr(keeper_module, "MAX_RETRY_SECONDS", 0.1)
    pauses, pause = [], agent.process.keeper._pause

    async def note_and_pause(seconds):
        if seconds != keeper_module.LOOK_SECONDS:
            pauses.append(seconds)
        await pause(seconds)

    monkeypatch.setattr(agent.process.keeper, "_pause", note_and_pause)
    version = publish_version(tmp_path / "out")
    agent.engine.refused = {version.name}
    agent.want(active=version.served())
    await eventually_async(lambda: asyncio.sleep(0, len(pauses) >= 4), timeout=10)
    assert pauses[:4] == [0.03, 0.06, 0.1, 0.1]
    agent.engine.refused = set()
    await agent.until(version.name, "Verified")


async def test_an_adapter_whose_load_changes_the_answers_of_others_is_refused(agent, tmp_path):
    first, second = (publish_version(tmp_path / "out", number=n, shift=n) for n in (1, 2))
    agent.want(active=first.served())
    await agent.until(first.name, "Verified")
    agent.engine.mixed_up = {second.name}
    agent.want(active=first.served(), candidate=second.served())
    report = await agent.until(second.name, "Failed")
    assert report.reason == "OthersDamaged"
    assert first.name in report.message
    assert second.name not in agent.engine.adapters


async def test_an_engine_that_lost_an_adapter_is_given_it_again(agent, tmp_path):
    version = publish_version(tmp_path / "out")
    agent.want(active=version.served())
    await agent.until(version.name, "Verified")
    agent.engine.adapters.clear()
    agent.engine.bodies.clear()
    await eventually_async(
        lambda: asyncio.sleep(0, agent.engine.calls.count(f"load {version.name}") == 2)
    )
    report = await agent.until(version.name, "Verified")
    assert report.verification.num_asked == 60
    # Ten questions come before traffic, the others beside it.
    await eventually_async(lambda: asyncio.sleep(0, len(agent.engine.bodies) >= 60))
    assert (await agent.report()).adapters[0].state == "Verified"


async def test_an_adapter_from_before_the_agent_started_is_loaded_anew(engine, tmp_path):
    version = publish_version(tmp_path / "out")
    engine.adapters[version.name] = {"Ticket 1": "stale"}
    async with running_agent(tmp_path / "agent", engine) as agent:
        agent.want(active=version.served())
        await agent.until(version.name, "Verified")
    assert engine.calls.index(f"unload {version.name}") < engine.calls.index(f"load {version.name}")


async def test_storage_that_is_away_is_waited_for(agent, tmp_path):
    version = publish_version(tmp_path / "out")
    away = tmp_path / "away"
    shutil.move(version.root, away)
    version.root.write_text("no folder")
    agent.want(active=version.served())

    async def told():
        found = (await agent.report()).adapters
        return found and found[0].state == "Fetching" and found[0].reason

    assert await eventually_async(told)
    version.root.unlink()
    shutil.move(away, version.root)
    await agent.until(version.name, "Verified")


async def test_a_defect_of_the_agent_refuses_nothing(agent, tmp_path, monkeypatch):
    version = publish_version(tmp_path / "out")
    honest, tries = asking_module.judge, []

    def fails_once(*arguments, **settings):
        tries.append(1)
        if len(tries) == 1:
            raise MemoryError
        return honest(*arguments, **settings)

    monkeypatch.setattr(asking_module, "judge", fails_once)
    agent.want(active=version.served())
    await agent.until(version.name, "Verified")
    assert len(tries) == 2


async def test_an_engine_that_starts_again_while_it_is_asked_refuses_nothing(
    agent, tmp_path, monkeypatch
):
    version = publish_version(tmp_path / "out")
    honest, tries = asking_module.judge, []

    def loses_the_adapter_once(questions, answers, **settings):
        tries.append(1)
        if len(tries) > 1:
            return honest(questions, answers, **settings)
        agent.engine.adapters.pop(version.name)
        return honest(questions, [each.base for each in questions], **settings)

    monkeypatch.setattr(asking_module, "judge", loses_the_adapter_once)
    agent.want(active=version.served())
    report = await agent.until(version.name, "Verified")
    assert (len(tries), report.verification.num_equal) == (2, 60)
    assert agent.engine.calls.count(f"load {version.name}") == 2


@pytest.mark.parametrize(
    ("report", "record", "about", "is_same"),
    [
        ({}, {}, {}, True),
        ({"engine": "Transformers 4.9.9"}, {}, {}, False),
        ({"engine": "vLLM 5.0.0"}, {}, {}, False),
        ({"engine": ""}, {}, {}, False),
        ({}, {"quantization": "nf4"}, {}, False),
        ({}, {"quantization": "nf4"}, {"quantized": True}, True),
        ({}, {}, {"quantized": True}, False),
        ({}, {}, {"dtype": "bfloat16"}, False),
        ({}, {"recipe": {"bfloat16": True}}, {"dtype": "bfloat16"}, True),
        ({}, {"recipe": {"use_gpu": True}}, {"device": "cpu"}, False),
        ({}, {"recipe": {"use_gpu": False}}, {"device": "cpu"}, True),
        ({}, {"recipe": {"use_gpu": False}}, {"device": "H100"}, False),
    ],
)
async def test_answers_must_be_equal_only_on_the_engine_of_the_evaluation(
    agent, tmp_path, monkeypatch, report, record, about, is_same
):
    version = publish_version(tmp_path / "out", report=report, record=record)
    found, honest = [], asking_module.judge

    def notes(*arguments, **settings):
        found.append(settings["is_same_engine"])
        return honest(*arguments, **settings)

    monkeypatch.setattr(asking_module, "judge", notes)
    agent.engine.stop()
    agent.engine.about = about
    agent.engine.start()
    agent.want(active=version.served())
    await agent.until(version.name, "Verified")
    assert found[-1] is is_same


async def test_a_refused_candidate_leaves_the_active_version_alone(agent, tmp_path):
    good, bad = (
        publish_version(tmp_path / "out", number=number, shift=number) for number in (1, 2)
    )
    agent.engine.base = bad.base
    agent.engine.ignored = {bad.name}
    agent.want(active=good.served(), candidate=bad.served(weight=0))
    await agent.until(bad.name, "Failed")
    await agent.until(good.name, "Verified")
    assert (await agent.get("/readyz"))[0] == 200
    assert (await agent.ask(body=question(good.name, "Ticket 1")))[0] == 200
    assert (await agent.ask(body=question(bad.name, "Ticket 1")))[0] == 404


@pytest.mark.parametrize("seed", range(3))
async def test_through_restarts_and_changes_every_answer_is_of_the_version_that_was_asked(
    agent, tmp_path, seed
):
    rng = random.Random(seed)
    versions = [publish_version(tmp_path / "out", number=n, shift=n) for n in range(1, 5)]
    bad = versions[3]
    agent.engine.base = bad.base
    agent.engine.ignored = {bad.name}
    wrong, active = [], versions[0]
    agent.want(active=active.served())
    await agent.until(active.name, "Verified")
    for _ in range(40):
        match rng.randrange(6):
            case 0:
                agent.engine.stop()
            case 1 if agent.engine.is_down:
                agent.engine.start()
            case 2:
                agent.engine.adapters.pop(rng.choice(versions).name, None)
            case 3:
                active, candidate, previous = rng.sample(versions, 3)
                agent.want(
                    active=active.served(),
                    candidate=candidate.served(weight=rng.choice([0, 5])),
                    previous=previous.served(),
                )
            case 4 if not agent.engine.is_down and active is not bad:
                await agent.until(active.name, "Verified")
        for version in rng.choices(versions, k=3):
            text = f"Ticket {rng.randrange(60)}"
            status, body = await agent.ask(body=question(version.name, text))
            if status == 200:
                said = body["choices"][0]["message"]["content"]
                wrong += [body] if said != version.tuned[text] or version is bad else []
            else:
                wrong += [body] if status not in (404, 503) else []
    assert wrong == []
    if agent.engine.is_down:
        agent.engine.start()
    agent.want(active=versions[0].served(), candidate=versions[1].served(), previous=bad.served())
    for version in versions[:2]:
        await agent.until(version.name, "Verified")
        status, _ = await agent.ask(body=question(version.name, "Ticket 1"))
        assert status == 200
    assert (await agent.until(bad.name, "Failed")).reason == "AnswersLikeBase"
