"""Feedback through clients that people have, and who may not give it."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import openai
import pytest

from finetune_trainer.errors import StorageError
from finetune_trainer.serve.recorder import feedback, retention, spool
from finetune_trainer.serve.recorder.places import Place
from finetune_trainer.serve.response_ids import make_id
from finetune_trainer.traffic.deleting import delete_answer as delete_of_answer
from finetune_trainer.traffic.deleting import delete_user as delete_of_user
from finetune_trainer.traffic.drawn import is_review, write_open
from finetune_trainer.traffic.places import time_of
from finetune_trainer.traffic.reading import read_exchanges, read_feedback
from finetune_trainer.traffic.rows import Exchange
from kit.processes.eventually import eventually_async
from kit.servers.captured_endpoints import ask, endpoints
from kit.servers.running_front import RunningFront, endpoint, running_front, served
from kit.servers.running_recorder import capture, running_recorder
from kit.servers.streaming_engine import streaming_engine

MAIL = "max.mustermann@example-firma.de"


def client_of(front: RunningFront, key: str = "alice") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{front.url}/v1", api_key=key, max_retries=0)


@pytest.mark.parametrize("is_stored", [False, True])
async def test_the_openai_client_updates_retrieves_lists_and_deletes(
    tmp_path: Path, is_stored: bool
) -> None:
    async with endpoints(tmp_path) as (front, recorder), client_of(front) as client:
        ids = [await ask(front, recorder, f"question {number}") for number in range(3)]
        if is_stored:
            assert await recorder.keeper.store_all()
        given = {"rating": "down", "correction": f"  Write to {MAIL}\n", "reason": "tone"}
        updated = await client.chat.completions.update(ids[0], metadata=given)
        assert updated.id == ids[0]
        kept = {"rating": "down", "correction": "  Write to <EMAIL_1>", "reason": "tone"}
        found = await client.chat.completions.retrieve(ids[0])
        assert found.choices[0].message.content == "Hello from team-a.headline-v1"
        assert (found.model, found.model_dump()["metadata"]) == ("headline", kept)
        assert found.created == int(time_of(ids[0].removeprefix("chatcmpl-")).timestamp())
        messages = await client.chat.completions.messages.list(ids[0])
        assert [each.content for each in messages.data] == ["question 0"]
        listed = [each.id async for each in client.chat.completions.list(limit=2)]
        assert sorted(listed) == sorted(ids)
        assert [each[:29] for each in listed] == sorted((i[:29] for i in ids), reverse=True)
        rated = await client.chat.completions.list(metadata={"rating": "down"}, model="headline")
        assert [each.id for each in rated.data] == [ids[0]]
        unrated = await client.chat.completions.list(metadata={"rating": "none"})
        assert sorted(each.id for each in unrated.data) == sorted(ids[1:])
        gone = await client.chat.completions.delete(ids[0])
        assert (gone.id, gone.deleted) == (ids[0], True)
        for call in (client.chat.completions.retrieve, client.chat.completions.delete):
            with pytest.raises(openai.NotFoundError):
                await call(ids[0])
        await recorder.keeper.store_all()
        assert ids[0].removeprefix("chatcmpl-") not in recorder.at_rest()
        assert len(list(read_exchanges(recorder.store()))) == 2
        assert MAIL not in recorder.at_rest()


async def test_a_deletion_that_broke_off_is_ended_by_asking_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with endpoints(tmp_path) as (front, recorder), client_of(front) as client:
        about = await ask(front, recorder)
        assert await recorder.keeper.store_all()
        with monkeypatch.context() as patch:
            patch.setattr(retention, "delete_answer", _fail)
            with pytest.raises(openai.InternalServerError):
                await client.chat.completions.delete(about)
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.retrieve(about)
        assert about.removeprefix("chatcmpl-") in recorder.at_rest()
        assert (await client.chat.completions.delete(about)).deleted
        assert not list(recorder.store().list("segments/"))
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.delete(about)


def _fail(*_: object) -> None:
    raise StorageError("StorageUnavailable", "the storage is away")


async def test_nothing_that_takes_long_runs_on_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[int]] = {}

    def watch(module: Any, name: str) -> None:
        work = getattr(module, name)

        def noting(*arguments: Any) -> Any:
            threads.setdefault(name, set()).add(threading.get_ident())
            return work(*arguments)

        monkeypatch.setattr(module, name, noting)

    async with endpoints(tmp_path) as (front, recorder), client_of(front) as client:
        ids = [await ask(front, recorder, user=MAIL) for _ in range(2)]
        watch(spool, "parse_exchange")
        watch(retention, "write_exchange")
        watch(feedback, "scrub_text")
        assert len((await client.chat.completions.list()).data) == 2
        await client.chat.completions.update(ids[0], metadata={"correction": "better"})
        await client.chat.completions.delete(ids[0])
        recorder.keeper.places.clear()
        assert await recorder.keeper.store_all()
    assert threads.keys() == {"parse_exchange", "write_exchange", "scrub_text"}
    assert threading.get_ident() not in set.union(*threads.values())


async def test_a_later_entry_replaces_that_of_the_same_person_only(tmp_path: Path) -> None:
    async with endpoints(tmp_path, has_editors=True) as (front, recorder):
        about = await ask(front, recorder)
        for key, rating in (("alice", "down"), ("ed", "up"), ("alice", "up")):
            async with front.session.post(
                f"{front.url}/v1/feedback",
                json={"id": about, "rating": rating, "correction": f"by {key}"},
                headers={"Authorization": f"Bearer {key}"},
            ) as answer:
                assert answer.status == 200
                said = await answer.json()
                assert (said["object"], said["version"], said["rating"]) == ("feedback", 1, rating)
        entries = read_feedback(recorder.store())
        assert [(each.rating, each.correction) for each in entries] == [
            ("up", "by ed"),
            ("up", "by alice"),
        ]
        assert len({each.who for each in entries}) == 2
        assert "alice" not in "".join(each.who for each in entries)


@pytest.mark.parametrize("has_editors", [False, True])
async def test_a_key_reaches_no_answer_that_another_key_was_given(
    tmp_path: Path, has_editors: bool
) -> None:
    async with endpoints(tmp_path, has_editors=has_editors) as (front, recorder):
        about = await ask(front, recorder, user="u-7")
        async with client_of(front, "bob") as bob:
            for call in (bob.chat.completions.retrieve, bob.chat.completions.delete):
                with pytest.raises(openai.NotFoundError):
                    await call(about)
            with pytest.raises(openai.NotFoundError):
                await bob.chat.completions.update(about, metadata={"correction": "poison"})
            assert (await bob.chat.completions.list()).data == []
        async with client_of(front) as alice:
            assert [each.id for each in (await alice.chat.completions.list()).data] == [about]
        assert read_feedback(recorder.store()) == []


async def test_an_editor_reaches_all_answers_and_asks_for_none(tmp_path: Path) -> None:
    async with endpoints(tmp_path, has_editors=True) as (front, recorder):
        about = await ask(front, recorder, user="u-7")
        async with client_of(front, "ed") as editor:
            listed = await editor.chat.completions.list(model="headline")
            assert [each.id for each in listed.data] == [about]
            await editor.chat.completions.update(about, metadata={"rating": "up"})
            with pytest.raises(openai.NotFoundError):
                await editor.chat.completions.create(
                    model="headline", messages=[{"role": "user", "content": "hi"}]
                )
        url = f"{front.url}/v1/chat/completions?model=headline&user=u-7"
        for key, status in (("alice", 403), ("ed", 200)):
            headers = {"Authorization": f"Bearer {key}"}
            async with front.session.delete(url, headers=headers) as answer:
                assert answer.status == status
        assert list(read_exchanges(recorder.store())) == []


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("has_editors", [False, True])
async def test_without_a_key_nobody_reaches_an_answer_unless_the_endpoint_is_open_by_name(
    tmp_path: Path, is_open: bool, has_editors: bool
) -> None:
    async with streaming_engine() as engine:
        kept = capture(tmp_path, openToAll=is_open)
        if has_editors:
            kept["editorsFrom"] = {"secretRef": {"name": "editors"}}
        made = endpoint(served(1, engine.port), capture=kept)
        async with (
            running_recorder(tmp_path, made) as recorder,
            running_front(tmp_path, made, recorder=recorder.socket) as front,
        ):
            await front.set_keys("editors", ed="ed")
            about = await ask(front, recorder, user=MAIL)
            url = f"{front.url}/v1/chat/completions"
            given = {"id": about, "rating": "down"}
            for key in (None, "nobody"):
                headers = {} if key is None else {"Authorization": f"Bearer {key}"}
                answers = [
                    front.session.get(url, params={"model": "headline"}, headers=headers),
                    front.session.get(f"{url}/{about}", headers=headers),
                    front.session.post(f"{front.url}/v1/feedback", json=given, headers=headers),
                ]
                for waiting in answers:
                    async with waiting as answer:
                        assert answer.status == (200 if is_open else 401)
            assert bool(read_feedback(recorder.store())) is is_open
            async with front.session.delete(url, params={"user": MAIL}) as answer:
                assert answer.status == (200 if is_open else 401)
            assert await recorder.keeper.store_all()
            assert bool(list(read_exchanges(recorder.store()))) is not is_open
            if has_editors and not is_open:
                async with client_of(front, "ed") as editor:
                    assert len((await editor.chat.completions.list()).data) == 1


async def test_nobody_reaches_the_answers_of_another_endpoint(tmp_path: Path) -> None:
    async with endpoints(tmp_path) as (front, recorder):
        about = await ask(front, recorder)
        async with client_of(front, "eve") as eve:
            for call in (eve.chat.completions.retrieve, eve.chat.completions.delete):
                with pytest.raises(openai.NotFoundError):
                    await call(about)
            with pytest.raises(openai.NotFoundError):
                await eve.chat.completions.update(about, metadata={"rating": "up"})
            with pytest.raises(openai.NotFoundError):
                await eve.chat.completions.list(model="headline")
            assert (await eve.chat.completions.list()).data == []
        async with client_of(front, "nobody") as nobody:
            with pytest.raises(openai.AuthenticationError):
                await nobody.chat.completions.update(about, metadata={"rating": "up"})
            with pytest.raises(openai.AuthenticationError):
                await nobody.chat.completions.retrieve(about)
            with pytest.raises(openai.AuthenticationError):
                await nobody.chat.completions.list(model="headline")
        assert read_feedback(recorder.store()) == []
        assert len(list(recorder.keeper.spool.rows_of("headline"))) == 1


async def test_an_answer_that_was_not_captured_takes_no_feedback(tmp_path: Path) -> None:
    async with endpoints(tmp_path) as (front, _), client_of(front) as client:
        async with front.ask(key="alice", store=False) as answer:
            own = answer.headers["x-request-id"]
        time = time_of(own)
        forged = make_id("team-a/other", time, is_captured=True)
        lost = make_id("team-a/headline", time.replace(year=2020), is_captured=True)
        for about in (own, forged, lost, "chatcmpl-1", "..%2F..", f"{own}/x"):
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.update(about, metadata={"rating": "up"})
        young = make_id("team-a/headline", time, is_captured=True)
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.update(young, metadata={"rating": "up"})
        assert caught.value.status_code == 503
        assert caught.value.response.headers["Retry-After"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("rating", "sideways"), ("rating", 1), ("correction", 3), ("reason", "x" * 5000)],
        *[("other", 7), ("x" * 65, "y")],
    ],
)
async def test_a_wrong_field_is_named(tmp_path: Path, field: str, value: Any) -> None:
    async with endpoints(tmp_path) as (front, recorder), client_of(front) as client:
        about = await ask(front, recorder)
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.update(about, metadata={field: value})
        assert caught.value.param == field[:64]
        assert read_feedback(recorder.store()) == []


async def test_the_front_reports_what_the_recorder_has_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.serve.front.capturing.COUNT_SECONDS", 0.05)
    async with endpoints(tmp_path) as (front, recorder), client_of(front) as client:
        about = await ask(front, recorder)
        await client.chat.completions.update(about, metadata={"rating": "up"})
        assert await recorder.keeper.store_all()
        await recorder.keeper.count(recorder.keeper.places["headline"])

        async def is_reported() -> bool:
            captured = (await front.report())["captured"]
            place = recorder.keeper.places["headline"]
            told = {"uri": place.storage.uri, "rows": 1, "feedback": 1}
            return bool(captured == told)

        await eventually_async(is_reported)


async def test_all_answers_of_a_user_are_deleted(tmp_path: Path) -> None:
    async with endpoints(tmp_path) as (front, recorder):
        old = await ask(front, recorder, user=MAIL)
        assert await recorder.keeper.store_all()
        new = await ask(front, recorder, user=MAIL)
        other = await ask(front, recorder, user="bob")
        headers = {"Authorization": "Bearer alice"}
        async with front.session.delete(
            f"{front.url}/v1/chat/completions",
            params={"model": "headline", "user": MAIL},
            headers=headers,
        ) as answer:
            told = await answer.json()
            assert (told["deleted"], told["rows"]) == (True, 2)
        assert await delete_user(front, MAIL) == 0
        assert await recorder.keeper.store_all()
        assert [f"chatcmpl-{row.id}" for row in read_exchanges(recorder.store())] == [other]
        for about in (old, new):
            assert about.removeprefix("chatcmpl-") not in recorder.at_rest()


async def delete_user(front: RunningFront, user: str, *, key: str = "alice") -> int:
    """Return how many rows were removed."""
    async with front.session.delete(
        f"{front.url}/v1/chat/completions",
        params={"model": "headline", "user": user},
        headers={"Authorization": f"Bearer {key}"},
    ) as answer:
        assert answer.status == 200
        told = await answer.json()
        assert told["deleted"] is (told["rows"] > 0)
        return int(told["rows"])


async def test_a_key_deletes_of_a_user_only_what_it_was_answered(tmp_path: Path) -> None:
    async with endpoints(tmp_path) as (front, recorder):
        about = await ask(front, recorder, user=MAIL)
        assert await delete_user(front, MAIL, key="bob") == 0
        assert await recorder.keeper.store_all()
        assert await delete_user(front, MAIL, key="bob") == 0
        assert [f"chatcmpl-{each.id}" for each in read_exchanges(recorder.store())] == [about]
        assert await delete_user(front, MAIL) == 1
        assert list(read_exchanges(recorder.store())) == []


async def test_a_new_front_with_a_new_token_reaches_and_deletes_what_an_old_one_answered(
    tmp_path: Path,
) -> None:
    async with endpoints(tmp_path) as (front, recorder):
        abouts = [await ask(front, recorder, user=user) for user in (MAIL, MAIL, "bob")]
    # Another cluster: nothing is there but the storage.
    (tmp_path / "spool").rename(tmp_path / "gone")
    assert list((tmp_path / "gone").glob("*/*.jsonl")) == []
    async with (
        endpoints(tmp_path, token="another") as (front, recorder),
        client_of(front) as client,
    ):
        assert (await client.chat.completions.retrieve(abouts[0])).id == abouts[0]
        await client.chat.completions.update(abouts[0], metadata={"correction": "better"})
        assert (await client.chat.completions.delete(abouts[0])).deleted
        assert await delete_user(front, MAIL) == 1
        assert [f"chatcmpl-{row.id}" for row in read_exchanges(recorder.store())] == abouts[2:]


async def test_with_a_user_goes_what_people_said_of_answers_that_were_not_stored_yet(
    tmp_path: Path,
) -> None:
    async with endpoints(tmp_path) as (front, recorder), client_of(front) as client:
        about = await ask(front, recorder, user=MAIL)
        await client.chat.completions.update(about, metadata={"correction": "a secret plan"})
        assert "a secret plan" in recorder.at_rest()
        await delete_user(front, MAIL)
        assert "a secret plan" not in recorder.at_rest()
        assert about.removeprefix("chatcmpl-") not in recorder.at_rest()


async def test_an_answer_that_another_recorder_has_deleted_is_not_shown(tmp_path: Path) -> None:
    async with endpoints(tmp_path) as (front, recorder), client_of(front) as client:
        about = [await ask(front, recorder, user=user) for user in (MAIL, "bob")]
        place = recorder.keeper.places["headline"]
        user = recorder.keeper.people.hash("headline", place.whose, MAIL)
        delete_of_user(recorder.store(), user, until=retention.now())
        delete_of_answer(recorder.store(), about[1].removeprefix("chatcmpl-"))
        for each in about:
            for call in (client.chat.completions.retrieve, client.chat.completions.messages.list):
                with pytest.raises(openai.NotFoundError):
                    await call(each)
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.update(each, metadata={"correction": "too late"})
        assert "too late" not in recorder.at_rest()


@pytest.mark.parametrize("by", ["answer", "user"])
async def test_what_is_said_while_an_answer_is_deleted_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    find = retention.Keeper.find

    async def find_and_delete(self: retention.Keeper, place: Place, response_id: str) -> Exchange:
        row = await find(self, place, response_id)
        if by == "answer":
            delete_of_answer(self.store_of(place), row.id)
        else:
            delete_of_user(self.store_of(place), str(row.user), until=retention.now())
        return row

    async with endpoints(tmp_path) as (front, recorder), client_of(front) as client:
        about = await ask(front, recorder, user=MAIL)
        assert await recorder.keeper.store_all()
        monkeypatch.setattr(retention.Keeper, "find", find_and_delete)
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.update(about, metadata={"correction": "a secret plan"})
        assert "a secret plan" not in recorder.at_rest()


async def test_a_clock_that_is_set_back_lets_no_answer_of_a_user_escape_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with endpoints(tmp_path) as (front, recorder):
        about = await ask(front, recorder, user=MAIL)
        assert await recorder.keeper.store_all()
        earlier = retention.now() - timedelta(hours=5)
        monkeypatch.setattr(retention, "now", lambda: earlier)
        await delete_user(front, MAIL)
        assert about.removeprefix("chatcmpl-") not in recorder.at_rest()


async def test_what_is_said_last_counts_although_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with endpoints(tmp_path) as (front, recorder), client_of(front) as client:
        about = await ask(front, recorder)
        await client.chat.completions.update(about, metadata={"correction": "first"})
        earlier = retention.now() - timedelta(hours=5)
        monkeypatch.setattr("finetune_trainer.serve.recorder.feedback.now", lambda: earlier)
        for correction in ("second", "third"):
            await client.chat.completions.update(about, metadata={"correction": correction})
            (entry,) = read_feedback(recorder.store())
            assert entry.correction == correction


async def test_thumbs_down_count_once_per_user_in_the_rollout_that_answered(
    tmp_path: Path,
) -> None:
    async with streaming_engine() as engine:
        v1, v2 = served(1, engine.port), served(2, engine.port)
        spec: dict[str, Any] = {"capture": capture(tmp_path)}
        async with (
            running_recorder(tmp_path, endpoint(v1, **spec)) as recorder,
            running_front(tmp_path, endpoint(v1, **spec), recorder=recorder.socket) as front,
            client_of(front) as client,
        ):
            before = await ask(front, recorder, user="u0")
            front.follow(endpoint(v1, v2, weight=99, **spec))
            later = [await ask(front, recorder, user=f"u{number}") for number in range(8)]
            for about in (before, *later, *later):
                await client.chat.completions.update(about, metadata={"rating": "down"})
            active, candidate = await front.counts(99)
            # All come from one address: one sender is no evidence by repetition.
            assert sum(await front.num_bad("ThumbsDown")) == 1
            assert active["asked"] + candidate["asked"] == 8


async def test_the_page_for_editors_holds_no_answer_and_lets_only_its_own_script_run(
    tmp_path: Path,
) -> None:
    async with endpoints(tmp_path) as (front, recorder):
        await ask(front, recorder, "a question that only editors see")
        async with front.session.get(f"{front.url}/feedback/headline") as answer:
            text = await answer.text()
            assert answer.status == 200
        assert "Answers of headline" in text
        assert "only editors see" not in text
        assert "default-src 'none'" in text
        assert "connect-src 'self'" in text
        assert "script-src 'sha256-" in text
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        assert "innerHTML" not in text
        async with front.session.get(f"{front.url}/feedback/%3Cscript%3E") as answer:
            assert answer.status == 404


async def test_only_editors_are_asked_about_drawn_answers(tmp_path: Path) -> None:
    async with endpoints(tmp_path, has_editors=True) as (front, recorder):
        about = await ask(front, recorder)
        assert await recorder.keeper.store_all()
        write_open(recorder.store(), [about.removeprefix("chatcmpl-")])
        listed = {}
        for key in ("alice", "ed"):
            async with front.session.get(
                f"{front.url}/v1/chat/completions?model=headline&drawn=true",
                headers={"Authorization": f"Bearer {key}"},
            ) as answer:
                listed[key] = answer.status, (await answer.json()).get("data")
        assert listed["alice"] == (403, None)
        assert [each["id"] for each in listed["ed"][1]] == [about]
        for key in ("alice", "ed"):
            async with front.session.post(
                f"{front.url}/v1/feedback",
                json={"id": about, "rating": "down", "review": "drawn"},
                headers={"Authorization": f"Bearer {key}"},
            ) as answer:
                assert answer.status == 200
        assert [is_review(each) for each in read_feedback(recorder.store())] == [False, True]
        async with front.session.get(
            f"{front.url}/v1/chat/completions?model=headline&drawn=true",
            headers={"Authorization": "Bearer ed"},
        ) as answer:
            assert (await answer.json())["data"] == []
