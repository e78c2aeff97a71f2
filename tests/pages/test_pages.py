"""Pages in a real browser: no error, no request, nothing cut, usable without a mouse.

Needs a Chromium on the PATH. The accessibility check needs axe-core, which is a package of the npm
registry: `npm pack axe-core`, and AXE=path/of/axe.min.js.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from finetune_trainer.data.report import CheckReport, SideRows
from finetune_trainer.evaluate.curve import draw_picture
from finetune_trainer.prepare.page import render_page
from support.browser import Page, browsing, find_browser
from support.data_reports import report, sample
from support.evaluation_pages import RECORD, label_section, page

BROWSER = find_browser()
AXE = os.environ.get("AXE", "")
WIDTHS = (390, 1280)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")

PERSONAL = CheckReport(
    name="personalData",
    flagged=1234,
    removed=0,
    message="replaced personal data or secrets by placeholders such as <EMAIL_1> in 1234 rows",
    counts={"Email": 1300, "NationalID": 2},
    sides=[
        SideRows(side="train", rows=1000, kinds={"Email": 999, "NationalID": 2}),
        SideRows(side="validation", rows=0),
        SideRows(side="test", rows=234, kinds={"Email": 234}),
    ],
)

PAGES: dict[str, Callable[[], str]] = {
    "data": lambda: render_page(report(checks=[PERSONAL]), [sample()], reason_hidden=""),
    "evaluation": lambda: page(curve=draw_picture(RECORD), labels=label_section()),
}

CUT = """[...document.querySelectorAll("main *")].filter((e) => !e.closest("thead, .out-of-sight")
  && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map((e) => e.outerHTML.slice(0, 80))"""
FINDINGS = """axe.run({resultTypes: ["violations"]}).then((found) =>
  found.violations.map((v) => `${v.id}: ${v.nodes[0].html}`))"""


@pytest_asyncio.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Page]:
    assert BROWSER is not None
    async with browsing(BROWSER, tmp_path / "profile") as tab:
        yield tab


@pytest.mark.parametrize("name", PAGES)
async def test_page_makes_no_request_has_no_error_and_cuts_nothing(
    tab: Page, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "page.html"
    path.write_text(PAGES[name]())
    await tab.resize(1280)
    await tab.open(path)
    for width in WIDTHS:
        for dark in (False, True):
            await tab.resize(width, dark=dark)
            assert await tab.run(CUT) == []
            assert await tab.run("document.documentElement.scrollWidth <= innerWidth")
    await tab.resize(794, media="print")
    assert await tab.run(CUT) == []
    assert tab.errors == []
    assert tab.requests == [path.as_uri()]


@pytest.mark.skipif(not AXE, reason="AXE names no axe.min.js")
@pytest.mark.parametrize("name", PAGES)
async def test_accessibility_check_has_no_findings(tab: Page, tmp_path: Path, name: str) -> None:
    path = tmp_path / "page.html"
    path.write_text(PAGES[name]())
    await tab.resize(1280)
    await tab.open(path)
    await tab.run(Path(AXE).read_text())
    for width in WIDTHS:
        for dark in (False, True):
            await tab.resize(width, dark=dark)
            assert await tab.run(FINDINGS) == []


async def test_findings_are_filtered_by_keyboard_and_the_count_is_told(
    tab: Page, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text(PAGES["data"]())
    await tab.resize(1280)
    await tab.open(path)
    shown = "[...document.querySelectorAll('#findings tbody tr')].filter((e) => !e.hidden).length"
    told = "document.querySelector('[aria-live]').textContent"
    assert (await tab.run(shown), await tab.run(told)) == (3, "3 of 3 shown")
    await tab.press("Tab", 9)
    assert await tab.run("document.activeElement.id") == "filter"
    await tab.type_text("ROWS.CSV:7 csv")
    assert (await tab.run(shown), await tab.run(told)) == (1, "1 of 3 shown")
    await tab.press("Escape", 27)
    assert (await tab.run(shown), await tab.run(told)) == (3, "3 of 3 shown")
