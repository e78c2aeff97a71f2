"""The page for editors in a real browser: late answers, answers in no JSON, all scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from finetune_trainer.serve.editors.page import editors_page
from kit.reports.browser import Page, browsing, find_browser

BROWSER = find_browser()

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")


@dataclass
class Endpoint:
    """An endpoint with 25 captured answers.

    Attributes:
        hold: Lists of all answers wait for this.
        away: Status with which a proxy answers in its place; 0: none.
        saved: The feedback that came in.
        labels: What the model answers by turns; empty: other texts.
    """

    hold: asyncio.Event = field(default_factory=asyncio.Event)
    away: int = 0
    saved: list[dict[str, Any]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    async def page(self, request: web.Request) -> web.Response:
        return editors_page(request.match_info["name"])

    async def list(self, request: web.Request) -> web.Response:
        if self.away:
            return web.Response(status=self.away, text="<html>Who are you?</html>")
        rating = request.query.get("metadata[rating]")
        if rating is None:
            await self.hold.wait()
        first = int(request.query.get("after", "-1")) + 1
        numbers = range(25)[first : first + 20]
        return web.json_response({
            "data": [row(number, rating, self.labels) for number in numbers],
            "last_id": str(numbers[-1]), "has_more": first == 0,
        })  # fmt: skip

    async def save(self, request: web.Request) -> web.Response:
        if self.away:
            return web.Response(status=self.away, text="<html>Who are you?</html>")
        self.saved.append(await request.json())
        return web.json_response({})


def row(number: int, rating: str | None, labels: list[str]) -> dict[str, Any]:
    text = "أين طردي؟" if number else "<script>alert(1)</script><b>bold</b>"
    text = labels[number % len(labels)] if labels else text + "\r\nline"
    return {
        "id": str(number), "created": 1767225600, "version": 3, "metadata": {"rating": rating},
        "request": {"messages": [{"role": "user", "content": f"{rating} {number}"}]},
        "choices": [{"message": {"content": text}}],
    }  # fmt: skip


@pytest_asyncio.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Page]:
    assert BROWSER is not None
    async with browsing(BROWSER, tmp_path / "profile") as tab:
        yield tab


@pytest_asyncio.fixture
async def endpoint(tab: Page) -> AsyncIterator[Endpoint]:
    made, app = Endpoint(), web.Application()
    app.router.add_get("/feedback/{name}", made.page)
    app.router.add_get("/v1/chat/completions", made.list)
    app.router.add_post("/v1/feedback", made.save)
    async with TestServer(app) as server:
        await tab.resize(390)
        await tab.visit(str(server.make_url("/feedback/copy")))
        await tab.run("document.getElementById('key').value = 'key'")
        yield made
        made.hold.set()


SHOW = "document.querySelector('#door button').click()"
STATUS = "document.getElementById('status').textContent"
QUESTIONS = (
    "[...document.querySelectorAll('article .text:nth-of-type(1)')].map((e) => e.textContent)"
)


async def wait_for(tab: Page, condition: str) -> None:
    """Wait until a condition holds in the page."""
    await tab.run(
        f"new Promise((done) => {{ const look = () => ({condition}) ? done() : "
        "requestAnimationFrame(look); look(); })"
    )


async def show_answers(tab: Page, endpoint: Endpoint) -> None:
    endpoint.hold.set()
    await tab.run(SHOW)
    await wait_for(tab, "document.querySelectorAll('article').length === 20")


def choose(value: str) -> str:
    return (
        f"(() => {{ const filter = document.getElementById('filter'); filter.value = '{value}'; "
        "filter.dispatchEvent(new Event('change')); })()"
    )


async def test_answers_of_an_earlier_choice_that_arrive_late_are_not_shown(
    tab: Page, endpoint: Endpoint
) -> None:
    await tab.run(SHOW)
    await tab.run(choose("up"))
    await wait_for(tab, "document.querySelectorAll('article').length === 20")
    endpoint.hold.set()
    await tab.run("fetch('/v1/chat/completions')")  # answered after the one that was held
    assert {text.split()[0] for text in await tab.run(QUESTIONS)} == {"up"}
    more = "document.getElementById('more')"
    await tab.run(f"{more}.click(); {more}.click()")
    await wait_for(tab, "document.querySelectorAll('article').length > 20")
    assert len(await tab.run(QUESTIONS)) == 25
    await wait_for(tab, "document.activeElement.tagName === 'ARTICLE'")
    assert "up 20" in await tab.run("document.activeElement.textContent")
    assert tab.errors == []


@pytest.mark.parametrize("status", [502, 200])
async def test_an_answer_in_no_json_is_told_with_its_status(
    tab: Page, endpoint: Endpoint, status: int
) -> None:
    endpoint.away = status
    await tab.run(SHOW)
    await wait_for(tab, f"{STATUS} !== ''")
    words = f"The endpoint answered with status {status}, but in no JSON."
    assert await tab.run(STATUS) == words


async def test_what_no_endpoint_has_taken_is_not_told_as_saved(
    tab: Page, endpoint: Endpoint
) -> None:
    await show_answers(tab, endpoint)
    endpoint.away = 200
    await tab.run("document.querySelector('article').act.d()")
    await wait_for(tab, f"{STATUS}.includes('200')")
    assert (await tab.run(STATUS)).startswith("Not saved")


async def test_an_answer_that_nobody_touched_is_no_correction(
    tab: Page, endpoint: Endpoint
) -> None:
    await show_answers(tab, endpoint)
    assert await tab.run("document.querySelector('article b, article script')") is None
    assert await tab.run("[...document.querySelectorAll('article .text')].every((e) => e.dir)")
    await tab.run("document.querySelector('article').act.e()")
    await tab.run("document.querySelector('article').act.d()")
    await wait_for(tab, f"{STATUS} === 'Saved.'")
    assert [(each["rating"], each["correction"]) for each in endpoint.saved] == [("down", "")]
    assert await tab.run("document.documentElement.scrollWidth <= innerWidth")
    assert tab.errors == []


@pytest.mark.parametrize(
    ("labels", "offered"),
    [
        (["refund", "parcel", "other"], ["other", "parcel", "refund"]),
        (["refund", "parcel"] * 5 + ["refnud"] + ["parcel"] * 14, ["parcel", "refund"]),
        ([f"text {number}" for number in range(25)], []),
    ],
)
async def test_labels_that_come_again_are_offered_to_who_corrects(
    tab: Page, endpoint: Endpoint, labels: list[str], offered: list[str]
) -> None:
    endpoint.labels = labels
    await show_answers(tab, endpoint)
    await tab.run("document.querySelector('article').act.e()")
    shown = "[...document.querySelectorAll('article:first-child .labels button')]"
    assert await tab.run(f"{shown}.map((e) => e.textContent)") == offered
    if offered:
        await tab.run(f"{shown}[0].click()")
        await tab.run("document.querySelector('article').act.d()")
        await wait_for(tab, f"{STATUS} === 'Saved.'")
        assert endpoint.saved[0]["correction"] == offered[0]
    assert tab.errors == []
