"""Curves over each other and parallel coordinates."""

from __future__ import annotations

import itertools

from finetune_trainer.experiments.comparison import compare_runs
from finetune_trainer.experiments.page import render_page
from finetune_trainer.experiments.pictures import (
    choose_colours,
    draw_coordinates,
    draw_curves,
)
from finetune_trainer.experiments.reading import read_run
from finetune_trainer.experiments.recipe import find_parameters
from finetune_trainer.experiments.run import Run
from kit.reports.experiment_runs import Made, comparison_page, documents, trials

RUNS = [read_run(made.name, documents(made)) for made in trials()]
COLOURS = list(range(8))


def test_only_the_best_of_many_runs_have_a_colour_of_their_own() -> None:
    many = [Run(name=str(number)) for number in range(20)]
    colours = choose_colours(many, best=list(range(19, -1, -1)))
    assert colours[:12] == [None] * 12
    assert colours[12:] == [7, 6, 5, 4, 3, 2, 1, 0]


def test_a_steep_beginning_is_cut_off_and_said() -> None:
    steep = Run(name="a", validation=[(1, 90.0), (2, 1.2), (3, 1.1), (4, 1.0)], step=4)
    picture = draw_curves([steep], [0])
    assert picture is not None
    assert "are cut off" in picture.words
    assert picture.lines[0].ring == (624.0, 237.5)
    assert draw_curves([Run(name="a", validation=[(1, 2.0)])], [0]) is None


def test_few_values_stand_at_even_distances_and_each_run_meets_every_axis() -> None:
    parameters = find_parameters([run.recipe for run in RUNS])
    losses = [run.validation_loss for run in RUNS]
    picture = draw_coordinates(RUNS, parameters, losses, COLOURS)
    assert picture is not None
    assert [axis.label for axis in picture.axes] == ["learningRate", "rank", "validation loss"]
    assert [tick.label for tick in picture.axes[0].ticks] == ["3e-5", "1e-4", "3e-4", "1e-3"]
    assert {len(line.points.split()) for line in picture.lines} == {3}
    assert draw_coordinates(RUNS, parameters[:1], losses, COLOURS) is None


def test_many_values_are_drawn_to_scale_and_a_run_without_loss_ends_before() -> None:
    recipes = [{"a": str(10**i), "b": str(i)} for i in range(8)]
    runs = [Run(name=str(i)) for i in range(8)]
    losses = [None, *(float(i) for i in range(7))]
    picture = draw_coordinates(runs, find_parameters(recipes), losses, COLOURS)
    assert picture is not None
    assert [len(line.points.split()) for line in picture.lines] == [2, *[3] * 7]
    first = [float(line.points.split(",")[0]) for line in picture.lines]
    steps = {round(b - a, 0) for a, b in itertools.pairwise(first)}
    assert steps == {81.0}  # powers of ten, on a logarithmic axis


def test_names_from_storage_cannot_be_markup() -> None:
    hostile = Run(name="<script>alert(1)</script>", notes=("<b>x</b>",), state="Evaluated")
    page = render_page(compare_runs([hostile]), title="<i>one</i>")
    assert "<script" not in page
    assert "<b>x" not in page
    assert "<i>one" not in page


def test_a_page_has_scores_on_validation_rows_where_there_are_any() -> None:
    heading = "score on validation rows"
    scored = comparison_page([Made(name="a", num_validation=50), Made(name="b")])
    assert heading in scored
    assert "exactMatch on validation rows" not in scored, "one run alone has nothing to differ from"
    assert heading not in comparison_page([Made(name="a"), Made(name="b")])
    both = [Made(name=name, num_questions=0, num_validation=50) for name in ("a", "b")]
    assert "exactMatch on validation rows" in comparison_page(both)
