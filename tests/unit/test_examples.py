"""The example data keeps its promises: nothing of the test side occurs on the train side."""

from __future__ import annotations

import importlib.util
import random
import re
import runpy
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from finetune_api.v1alpha1.finetuneendpoint import FineTuneEndpoint
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_api.v1alpha1.finetuneschedule import FineTuneSchedule
from finetune_api.v1alpha1.finetunesweep import FineTuneSweep
from finetune_trainer.monitor.looking import Settings, look_at
from finetune_trainer.monitor.signals import Answered, fit_signals
from finetune_trainer.monitor.state import State
from finetune_trainer.monitor.users import UserRow

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(example: str) -> ModuleType:
    name = f"generate_{example[:2]}"
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / example / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def headlines() -> ModuleType:
    return load("01-headline-sentiment")


def test_companies_and_patterns_of_the_sides_are_disjoint(headlines: ModuleType) -> None:
    train, test = headlines.generate()
    assert not {h.company for h in train} & {h.company for h in test}
    assert not {h.pattern for h in train} & {h.pattern for h in test}
    first_words = [{h.company.split()[0] for h in side} for side in (train, test)]
    assert not first_words[0] & first_words[1]
    skeletons = [{skeleton(h.pattern) for h in side} for side in (train, test)]
    assert not skeletons[0] & skeletons[1]


def skeleton(pattern: str) -> str:
    return re.sub(r"\{\w+\}", "_", pattern).lower()


def test_there_is_enough_variety(headlines: ModuleType) -> None:
    train, test = headlines.generate()
    assert (len(train), len(test)) == (480, 120)
    assert len({h.pattern for h in train}) >= 40
    assert len({h.pattern for h in test}) >= 15
    assert min(len({h.company for h in side}) for side in (train, test)) >= 60
    assert len(headlines.companies(headlines.TRAIN_FIRST)) >= 60
    assert len({h.text for h in train + test}) == 600
    for side in (train, test):
        counts = Counter(h.label for h in side)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_the_sweep_tries_three_learning_rates_on_the_rows_of_the_first_example() -> None:
    body = yaml.safe_load((EXAMPLES / "04-three-experiments" / "sweep.yaml").read_text())
    sweep = FineTuneSweep.from_wire(body)
    assert sweep.spec.num_trials == 3
    first = yaml.safe_load((EXAMPLES / "01-headline-sentiment" / "job.yaml").read_text())
    for ours, theirs in zip(
        body["spec"]["template"]["dataset"]["sources"],
        first["spec"]["dataset"]["sources"],
        strict=True,
    ):
        assert Path(ours["uri"]).name == Path(theirs["uri"]).name
        assert ours["columns"] == theirs["columns"]
        assert ours["template"] == theirs["template"]


def test_drafts_of_the_sides_share_no_sentence_and_length_does_not_tell_them_apart() -> None:
    preferences = load("03-preferences")
    train, test = preferences.generate()
    assert (len(train), len(test)) == (preferences.NUM_TRAIN, preferences.NUM_TEST)
    assert len({pair.prompt for pair in train + test}) == len(train) + len(test)
    sides = (preferences.TRAIN, preferences.TEST)
    for name in ("products", "problems"):
        assert not {*getattr(sides[0], name)} & {*getattr(sides[1], name)}
    sentences = [
        {text for draft in (side.chosen, side.rejected) for part in draft for text in part}
        for side in sides
    ]
    assert not sentences[0] & sentences[1]
    for pairs in (train, test):
        longer = sum(len(pair.chosen) > len(pair.rejected) for pair in pairs)
        assert 0.3 < longer / len(pairs) < 0.7


def test_product_rows_differ_and_group_by_product() -> None:
    rows = load("02-product-copy").generate()
    assert len(rows) == 400
    assert len({row.facts for row in rows}) == 400
    assert set(Counter(row.product for row in rows).values()) == {4}
    for row in rows:
        assert f"name: {row.product};" in row.facts
        assert row.product in row.description


def test_the_endpoint_is_valid_and_asks_as_the_job_trains() -> None:
    endpoint = yaml.safe_load((EXAMPLES / "05-endpoint" / "endpoint.yaml").read_text())
    job = yaml.safe_load((EXAMPLES / "01-headline-sentiment" / "job.yaml").read_text())
    parsed = FineTuneEndpoint.from_wire(endpoint)
    assert parsed.spec.job_ref.name == job["metadata"]["name"]
    template = job["spec"]["dataset"]["sources"][0]["template"].replace("{{ headline }}", "{}")
    assert f'QUESTION = "{template}"' in (EXAMPLES / "05-endpoint" / "ask.py").read_text()


LOOP = EXAMPLES / "06-closed-loop"


def test_the_schedule_trains_what_its_first_job_trains_and_readers_ask() -> None:
    job = yaml.safe_load((LOOP / "job.yaml").read_text())
    schedule = yaml.safe_load((LOOP / "schedule.yaml").read_text())
    FineTuneJob.from_wire(job)
    parsed = FineTuneSchedule.from_wire(schedule)
    assert parsed.spec.endpoint_ref is not None
    name = job["metadata"]["name"]
    template = schedule["spec"]["jobTemplate"]["spec"]
    assert parsed.spec.endpoint_ref.name == name
    assert template["dataset"]["sources"][0] == job["spec"]["dataset"]["sources"][0]
    assert template["dataset"]["sources"][1]["uri"] == f"traffic://{name}"
    for field in ("model", "hyperparameters", "output"):
        assert template[field] == job["spec"][field]
    question = job["spec"]["dataset"]["sources"][0]["template"].replace("{{ headline }}", "{}")
    play = (LOOP / "play.py").read_text()
    assert f'QUESTION = "{question}"' in play
    assert f'MODEL = "{name}"' in play


def settings_of_the_readme() -> Settings:
    """Return the settings of the monitor that the example's commands give it."""
    told = re.search(
        r"finetune monitor captured --every 1m --window 1m --min-users (\d+)"
        r" --false-alarms-per-year (\d+);",
        (LOOP / "README.md").read_text(),
    )
    assert told is not None
    return Settings(
        every=timedelta(minutes=1),
        window=timedelta(minutes=1),
        min_users=int(told[1]),
        false_alarms_per_year=float(told[2]),
    )


def test_the_monitor_finds_the_new_vocabulary_of_the_year_and_nothing_before() -> None:
    one = runpy.run_path(str(EXAMPLES / "01-headline-sentiment" / "generate.py"))
    rng = random.Random(11)
    names = one["companies"](one["TRAIN_FIRST"])
    january = one["generate_side"](one["TRAIN_PATTERNS"], names, 600, rng)
    year = list(load("06-closed-loop").year(one, rng))
    signals = fit_signals(
        [Answered(prompt=f"Sentiment of: {row.text}", answer=row.label) for row in january]
    )
    settings = settings_of_the_readme()
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    end, state = begin, State(of="")
    for month in range(1, 13):
        rows = [
            UserRow(
                answered=Answered(prompt=f"Sentiment of: {row['headline']}", answer=row["label"]),
                user=row["user"],
            )
            for row in year
            if row["month"] == month
        ]
        end += settings.every
        state = look_at(rows, signals, state, settings, since=begin, end=end).state
        if state.changes:
            break
    assert {each.part for each in state.changes} == {"Vocabulary"}
    assert 8 <= month <= 10
