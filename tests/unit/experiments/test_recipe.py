"""Settings by path, and which of them differ."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.experiments.recipe import find_parameters, flatten

RECORD = {"recipe": {"learning_rate": 0.0002, "global_batch_size": 16}, "revision": "abc"}


def test_what_auto_came_to_stands_in_its_place() -> None:
    spec = {"hyperparameters": {"learningRate": "auto", "seed": 42}, "model": {"revision": "main"}}
    assert flatten(spec, RECORD) == {
        "hyperparameters.learningRate": "0.0002 (auto)",
        "hyperparameters.seed": "42",
        "model.revision": "main",
        "model.pinned": "abc",
    }
    assert flatten(spec)["hyperparameters.learningRate"] == "auto"


def test_where_results_go_is_no_setting() -> None:
    spec = {"output": {"uri": "s3://x"}, "suspend": True, "queueName": "a", "method": {"loss": "x"}}
    assert flatten(spec) == {"method.loss": "x"}


def test_lists_have_a_path_for_each_part() -> None:
    spec = {
        "dataset": {"sources": [{"uri": "s3://a"}, {"uri": "s3://b"}]},
        "evaluation": {"gates": [{"name": "fair", "atLeast": "0.9"}], "metrics": []},
        "method": {"adapter": {"targetModules": ["q", "v"]}},
    }
    assert flatten(spec) == {
        "dataset.sources[0].uri": "s3://a",
        "dataset.sources[1].uri": "s3://b",
        "evaluation.gates[fair].name": "fair",
        "evaluation.gates[fair].atLeast": "0.9",
        "method.adapter.targetModules": "q, v",
    }


@pytest.mark.parametrize(
    "values",
    [
        ("1e-4", "0.0001"),
        ("1e-4", "2e-4"),
        ("1e-4", "0.0001 (auto)"),
        ("1e-4", None),
        ("Cosine", "Linear"),
    ],
)
def test_numbers_are_compared_as_numbers(values: Any) -> None:
    recipes = [{} if value is None else {"h.rate": value} for value in values]
    found = find_parameters(recipes)
    is_same = values in (("1e-4", "0.0001"), ("1e-4", "0.0001 (auto)"))
    assert bool(found) is not is_same
    if found:
        assert "-" in found[0].values or None not in values


def test_what_a_run_has_not_come_to_yet_is_no_difference() -> None:
    spec = {"hyperparameters": {"learningRate": "auto"}, "model": {"revision": "main"}}
    assert find_parameters([flatten(spec, RECORD), flatten(spec)]) == []
    other = {**spec, "hyperparameters": {"learningRate": "1e-3"}}
    (rate,) = find_parameters([flatten(spec, RECORD), flatten(spec), flatten(other, RECORD)])
    assert rate.values == ("0.0002 (auto)", "auto", "1e-3")


def test_labels_are_the_shortest_that_tell_apart() -> None:
    recipes = [
        {"method.adapter.rank": "8", "a.seed": "1", "b.seed": "1", "model.uri": "s3://a"},
        {"method.adapter.rank": "16", "a.seed": "2", "b.seed": "2", "model.uri": "s3://b"},
    ]
    labels = [each.label for each in find_parameters(recipes)]
    assert labels == ["a.seed", "b.seed", "rank", "model.uri"]
