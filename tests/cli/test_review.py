"""`finetune review`: two people judge, one by the page's file and one in the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_trainer.evaluate.sources.review.agreement import cohen_kappa
from finetune_trainer.evaluate.sources.review.blinding import Blind, KeyEntry
from finetune_trainer.evaluate.sources.review.exchange import to_argilla
from finetune_trainer.evaluate.sources.review.files import write_review
from finetune_trainer.evaluate.sources.review.verdicts import ReviewFile, Verdict
from finetune_trainer.storage import open_store, publish_folder
from kit.processes.cli import Cli
from kit.reports.reviews import RUBRIC, review, verdicts_of

FACTS = {
    "job": "team-a/parcels",
    "uid": "u",
    "reviewersWanted": 2,
    "required": True,
    "certainty": "0.95",
    "questions": {"asked": 9, "answeredAlike": 3, "random": 5, "worst": 1},
}


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path, use_fake_trainer=False)


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Blind, dict[str, KeyEntry]]:
    """The folder of a run whose evaluation waits for reviewers."""
    hidden, key = review()
    made = tmp_path / "made"
    made.mkdir()
    write_review(made, hidden, key, facts=FACTS)
    publish_folder(open_store(str(tmp_path / "run")), "evaluation", made, created_by="a test")
    return tmp_path / "run", hidden, key


def write(path: Path, file: ReviewFile) -> str:
    path.write_text(file.to_json())
    return path.name


def test_two_people_judge_and_agree_as_scikit_learn_would_say(
    cli: Cli, tmp_path: Path, run: tuple[Path, Blind, dict[str, KeyEntry]]
) -> None:
    folder, hidden, key = run
    ann = write(tmp_path / "ann.json", verdicts_of("Ann", hidden, key))
    chosen = ("left", "same", "right", "right", "left", "same")
    said = {
        item.id: Verdict(choices=dict.fromkeys(hidden.rubric, side))
        for item, side in zip(hidden.items, chosen, strict=True)
    }
    write(tmp_path / "ben.json", ReviewFile(review=hidden.digest, reviewer="Ben", items=said))
    done = cli("review", "submit", "run", ann, "ben.json", "-o", "json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    sides = [next(iter(verdicts_of("Ann", hidden, key).items[name].choices.values()))
             for name in key]  # fmt: skip
    expected = cohen_kappa(sides, [said[name].choices["voice"] for name in key])
    voice = answer["judged"][1]
    assert voice["cohenKappa"] == f"{expected:.4f}"
    stored = folder / "review" / f"{answer['digest']}.json"
    body = json.loads(stored.read_text())
    assert body["reviewers"] == ["Ann", "Ben"]
    assert len(body["evaluation"]) == len(body["review"]) == 64
    assert f"finetune publish JOB.yaml --panel {answer['digest']}" in done.err
    text = cli("review", "submit", "run", "ben.json", ann)
    assert "CRITERION" in text.out
    assert answer["digest"] in text.out  # the order of the files says nothing


def test_the_page_comes_without_the_key(
    cli: Cli, tmp_path: Path, run: tuple[Path, Blind, dict[str, KeyEntry]]
) -> None:
    done = cli("review", "open", f"file://{run[0]}", "--no-open")
    assert done.code == 0, done.err
    page = Path(done.out.strip())
    assert run[1].digest in page.read_text()
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]


def test_preferences_are_rows_that_prepare_reads(
    cli: Cli, tmp_path: Path, run: tuple[Path, Blind, dict[str, KeyEntry]]
) -> None:
    _, hidden, key = run
    names = [write(tmp_path / f"{n}.json", verdicts_of(n, hidden, key)) for n in ("Ann", "Ben")]
    done = cli("review", "export", "run", *names)
    assert done.code == 0, done.err
    assert "wrote 5 pairs to preferences.jsonl; left out: 0 ties, 1 with an empty" in done.out
    found = cli("data", "inspect", "preferences.jsonl")
    assert "Preference: 5 of the first 5 rows are preferences" in found.out, found.err
    assert "5 usable, 0 invalid" in found.out


def test_questions_go_to_argilla_and_come_back_as_files(
    cli: Cli, tmp_path: Path, run: tuple[Path, Blind, dict[str, KeyEntry]]
) -> None:
    assert cli("review", "export", "run", "--to", "argilla").code == 0
    records = json.loads((tmp_path / "argilla.json").read_text())
    assert records == to_argilla(run[1])
    for record in records:
        record["responses"] = {
            name: [{"value": "same", "user_id": "ann@example.org"}] for name in RUBRIC
        }
    (tmp_path / "done.json").write_text(json.dumps(records))
    done = cli("review", "import", "run", "done.json", "--from", "argilla")
    assert done.code == 0, done.err
    assert done.out.strip() == f"verdicts-ann-example-org-{run[1].digest[:8]}.json"
    records[0]["responses"]["voice"][0]["value"] = "A"
    (tmp_path / "done.json").write_text(json.dumps(records))
    refused = cli("review", "import", "run", "done.json")
    assert refused.code == 64
    assert "voice is A, it must be left, same or right" in refused.err


def test_a_panel_that_is_not_whole_is_refused_and_nothing_is_stored(
    cli: Cli, tmp_path: Path, run: tuple[Path, Blind, dict[str, KeyEntry]]
) -> None:
    folder, hidden, key = run
    ann = verdicts_of("Ann", hidden, key)
    one = write(tmp_path / "ann.json", ann)
    half = ReviewFile(review=ann.review, reviewer="Ben", items={next(iter(key)): Verdict()})
    for files, said in (
        ([one], "1 reviewer(s) of the 2 that evaluation.review.reviewers asks for"),
        ([one, write(tmp_path / "ben.json", half)], "Ben has not judged 6 of 6 items"),
        ([one, write(tmp_path / "again.json", ann)], "are both by Ann"),
        ([one, "nowhere.json"], "cannot read nowhere.json"),
    ):
        done = cli("review", "submit", "run", *files)
        assert (done.code, said in done.err) == (64, True), done.err
    assert not (folder / "review").exists()


def test_a_run_without_a_review_says_how_to_ask_for_one(cli: Cli, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "report.json").write_text("{}")
    publish_folder(open_store(str(tmp_path / "run")), "evaluation", made, created_by="a test")
    done = cli("review", "open", "run/evaluation/report.json", "--no-open")
    assert done.code == 73
    assert "its job asks for no review; set evaluation.review" in done.err
