"""Pages in a real browser: no error, no request, nothing cut, usable without a mouse.

Needs a Chromium on the PATH. The accessibility check needs axe-core, which is a package of the npm
registry: `npm pack axe-core`, and AXE=path/of/axe.min.js.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import pytest
import pytest_asyncio

from finetune_api.protocol.monitoring import REPORT_PAGE
from finetune_trainer.data.report import CheckReport, SplitRows
from finetune_trainer.evaluate.report.curve import draw_picture
from finetune_trainer.evaluate.sources.review.page import render_review
from finetune_trainer.evaluate.sources.review.verdicts import read_verdicts
from finetune_trainer.monitor.page import render_page as render_traffic
from finetune_trainer.monitor.running import HISTORY_KEY, REPORT_KEY
from finetune_trainer.prepare.report.page import render_page
from kit.reports.browser import Page, browsing, find_browser
from kit.reports.data_reports import report, sample
from kit.reports.evaluation_pages import RECORD, baseline_section, label_section, page
from kit.reports.report_cases import CASES, report_page
from kit.reports.reviews import RUBRIC, review
from kit.serving.monitored import MonitoredVersion

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
        SplitRows(side="train", rows=1000, kinds={"Email": 999, "NationalID": 2}),
        SplitRows(side="validation", rows=0),
        SplitRows(side="test", rows=234, kinds={"Email": 234}),
    ],
)


def traffic_page(num_looks: int) -> str:
    """Return the page of looks at answers that change after the third one."""
    with TemporaryDirectory() as folder:
        world = MonitoredVersion(Path(folder))
        for hour in range(num_looks):
            world.capture(hour, answer="" if hour < 3 else "bad")
            world.look(hour + 1)
        return world.traffic.read_bytes(REPORT_PAGE).decode()


def scored_traffic_page() -> str:
    """Return a page with scores of people, and a label of 200 characters in one word."""
    with TemporaryDirectory() as folder:
        world = MonitoredVersion(Path(folder))
        for hour in range(2):
            world.capture(hour)
            world.look(hour + 1)
        report = orjson.loads(world.traffic.read_bytes(REPORT_KEY))
        looks = orjson.loads(world.traffic.read_bytes(HISTORY_KEY))["looks"]
    report["quality"] = {
        "estimate": "0.81", "low": "0.76", "high": "0.85", "goal": "0.90",
        "metric": "exactMatch", "published": "0.95", "numPeople": 120, "numJudged": 4200,
        "numOpen": 7, "failure": "JudgeAway: 502",
    }  # fmt: skip
    label = "<script>alert(1)</script>" + "w" * 200
    report["parts"].append({**report["parts"][-1], "name": f"Labels/{label}"})
    return render_traffic("shop/copy", report, looks)


PAGES: dict[str, Callable[[], str]] = {
    "data": lambda: render_page(report(checks=[PERSONAL]), [sample()], reason_hidden=""),
    "evaluation": lambda: page(
        curve=draw_picture(RECORD), labels=label_section(), sections=[baseline_section()]
    ),
    "review": lambda: render_review(review()[0]),
    "traffic": lambda: traffic_page(8),
    "traffic of one look": lambda: traffic_page(1),
    "traffic with scores and a hostile label": lambda: scored_traffic_page(),
    **{f"evaluation of {name}": partial(report_page, make) for name, make in CASES.items()},
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


async def test_the_traffic_page_tells_scores_below_the_goal_and_a_judge_that_failed(
    tab: Page, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text(scored_traffic_page())
    await tab.open(path)
    text = await tab.run("document.body.innerText")
    assert "The share of good answers is below the goal of 0.90." in text
    assert "The judge could not be asked. JudgeAway: 502" in text


async def test_labels_above_a_matrix_stay_in_its_head(tab: Page, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(PAGES["evaluation of 4 labels"]())
    await tab.resize(390)
    await tab.open(path)
    below = """[...document.querySelectorAll('.matrix thead span')].filter((e) =>
      e.getBoundingClientRect().bottom > e.parentElement.getBoundingClientRect().bottom)
      .map((e) => e.textContent)"""
    assert await tab.run(below) == []


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


async def test_one_run_is_brought_out_by_keyboard(tab: Page, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(PAGES["comparison"]())
    await tab.resize(1280)
    await tab.open(path)
    faint = """[...document.querySelectorAll('polyline.line')]
      .filter((e) => Number(getComputedStyle(e).opacity) < 0.5).length"""
    assert await tab.run(faint) == 0
    await tab.press("Tab", 9)
    await tab.press("ArrowRight", 39)
    assert await tab.run("document.activeElement.id") == "pick0"
    assert await tab.run(faint) == 14  # seven other runs, in both pictures


SHOWN_ROWS = """[...document.querySelectorAll('#rows article')].filter((e) => !e.hidden)
  .map((e) => [e.dataset.number, e.dataset.fate].join(" "))"""


async def choose(tab: Page, field: str, letter: str) -> None:
    """Choose an option by its first letter, as a keyboard does."""
    await tab.run(f"document.getElementById('{field}').focus()")
    await tab.type_key(letter)


async def test_rows_are_found_filtered_and_ordered_by_keyboard(tab: Page, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(PAGES["evaluation of 77 labels"]())
    await tab.resize(1280)
    await tab.open(path)
    told = "document.getElementById('row-count').textContent"
    shown = await tab.run(SHOWN_ROWS)
    assert (len(shown), await tab.run(told)) == (20, "20 of 770 matching rows shown")
    assert {row.split()[1] for row in shown} == {"Regression"}
    await tab.run("document.getElementById('row-more').focus()")
    await tab.type_key(" ")
    assert len(await tab.run(SHOWN_ROWS)) == 40
    assert (
        await tab.run("document.activeElement.dataset.number")
        == (await tab.run(SHOWN_ROWS))[20].split()[0]
    )
    await tab.run("document.getElementById('row-words').focus()")
    await tab.type_text("QUESTION 769: gone")
    # Row 769, and question 769 in row 770.
    assert sorted(row.split()[0] for row in await tab.run(SHOWN_ROWS)) == ["769", "770"]
    await tab.press("Escape", 27)
    assert await tab.run(told) == "20 of 770 matching rows shown"
    await choose(tab, "row-fate", "i")
    assert {row.split()[1] for row in await tab.run(SHOWN_ROWS)} == {"Improvement"}
    await tab.press("Home", 36)  # a second letter would be read together with the first
    await choose(tab, "row-order", "a")
    assert [row.split()[0] for row in await tab.run(SHOWN_ROWS)][:3] == ["1", "2", "3"]
    assert tab.errors == []


SAVED = """new Promise((done) => {
  const made = URL.createObjectURL;
  URL.createObjectURL = (blob) => { blob.text().then(done); return made.call(URL, blob); };
  HTMLAnchorElement.prototype.click = function () { window.savedAs = this.download; };
  document.getElementById("save").click();
})"""


async def load_file(tab: Page, text: str) -> None:
    await tab.run(
        f"""(() => {{
  const files = new DataTransfer();
  const file = new File([{json.dumps(text)}], "mine.json");
  files.items.add(file);
  const input = document.getElementById("load");
  input.files = files.files;
  input.dispatchEvent(new Event("change"));
  // Read once more, which ends after the page has read it.
  return file.text().then(() => new Promise(requestAnimationFrame));
}})()"""
    )


async def test_a_review_is_judged_by_keyboard_alone_saved_and_read_back(
    tab: Page, tmp_path: Path
) -> None:
    hidden, key = review()
    path = tmp_path / "page.html"
    path.write_text(render_review(hidden))
    await tab.resize(1280)
    await tab.open(path)
    await tab.press("Tab", 9)
    assert await tab.run("document.activeElement.id") == "reviewer"
    await tab.type_text("Ann Müller")
    for _ in range(3):  # save, load, the first criterion
        await tab.press("Tab", 9)
    for place in range(len(key)):
        assert await tab.run("document.activeElement.type") == "radio"
        for _ in RUBRIC:
            await tab.press("1", 49)
        if place < len(key) - 1:
            assert await tab.run("document.activeElement.id") == "next"
            await tab.run("document.activeElement.click()")
            await tab.press("Tab", 9)
    told = await tab.run("document.getElementById('progress').textContent")
    assert told == "6 of 6 judged. Everything is judged: save the file."
    text = await tab.run(SAVED)
    assert await tab.run("savedAs") == f"verdicts-ann-müller-{hidden.digest[:8]}.json"
    file = read_verdicts(
        text.encode(), name="f", review=hidden.digest, items=list(key), rubric=RUBRIC
    )
    assert file.reviewer == "Ann Müller"
    assert file.count_missing(list(key), RUBRIC) == 0
    assert {c for each in file.items.values() for c in each.choices.values()} == {"left"}
    assert tab.errors == []
    assert tab.requests[0] == path.as_uri()
    assert not [url for url in tab.requests[1:] if not url.startswith("blob:")]


async def test_a_review_goes_on_where_the_browser_or_a_file_left_it(
    tab: Page, tmp_path: Path
) -> None:
    hidden, key = review()
    path = tmp_path / "page.html"
    path.write_text(render_review(hidden))
    await tab.resize(390)
    await tab.open(path)
    first = hidden.items[0].id
    await tab.run("document.querySelector('input[value=right]').click()")
    await tab.open(path)
    assert await tab.run("document.querySelector('input[value=right]').checked")
    await tab.run("document.getElementById('forget').click()")
    assert not await tab.run("document.querySelector('input[value=right]').checked")
    done = {"choices": dict.fromkeys(RUBRIC, "same"), "comment": "<b>fine</b>"}
    body = {"kind": "ReviewVerdicts", "review": hidden.digest, "reviewer": "Ben",
            "verdicts": {first: done}}  # fmt: skip
    progress = "document.getElementById('progress').textContent"
    problem = "document.getElementById('file-problem').textContent"
    for text, said in (
        ("{", "mine.json is damaged: it is no JSON."),
        ("[]", "mine.json is no file of verdicts."),
        (json.dumps({**body, "review": "0"}), "mine.json is about another review"),
        (json.dumps(body), ""),
    ):
        await load_file(tab, text)
        assert (await tab.run(problem)).startswith(said)
    assert await tab.run(progress) == "1 of 6 judged."
    assert await tab.run("document.getElementById('place').textContent") == "Question 2 of 6"
    text = json.loads(await tab.run(SAVED))
    assert text == body
    assert len(key) == 6


async def test_a_review_without_a_name_is_not_saved_and_says_why(tab: Page, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(render_review(review()[0]))
    await tab.resize(1280)
    await tab.open(path)
    await tab.run("document.getElementById('save').click()")
    assert await tab.run("document.activeElement.id") == "reviewer"
    assert (await tab.run("document.getElementById('name-problem').textContent")).startswith(
        "Write your name first"
    )
