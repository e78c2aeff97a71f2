"""``evaluation.maxSamples: auto``: as many questions as goal and gates take."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.protocol.stage_results import QuestionCount
from finetune_api.protocol.trainer import Stage, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob, FineTuneJobSpec
from finetune_trainer.data.asking import draw_questions, order_questions, order_rows
from finetune_trainer.data.held_out import HeldOut, gather_held_out, read_held_out
from finetune_trainer.evaluate.questions import gather_questions
from finetune_trainer.prepare.stage import has_version
from finetune_trainer.run import RunStorage
from finetune_trainer.verdict.sample_size import choose_number, count_questions
from kit.cases.spec_cases import changed, minimal_job

ACCURATE = {"metric": "exactMatch", "atLeast": "0.80"}
JUDGE = {"endpoint": "https://judge.example/v1", "model": "m"}


def spec_with(goal: dict[str, str] | None = None, **evaluation: Any) -> FineTuneJobSpec:
    change: dict[str, Any] = {"spec.evaluation": {"maxSamples": "auto", **evaluation}}
    if goal:
        change["spec.goal"] = goal
    return FineTuneJob.from_wire(changed(minimal_job(), change)).spec


def gate(**asked: Any) -> list[dict[str, Any]]:
    return [{"name": "g", "metric": "exactMatch", **asked}]


def held_out(
    count: int, *, per_group: int = 1, every: int = 1, labels: int = 0, has_prompt: bool = True
) -> list[HeldOut]:
    """Return questions, of which one in `every` belongs to the slice of gate g."""
    return [
        HeldOut(
            group=f"group {number // per_group}",
            gates=frozenset({"g"} if number % every == 0 else ()),
            label=bytes([number % labels]) if labels else None,
            has_prompt=has_prompt,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("goal", "evaluation", "questions", "number", "enough", "words"),
    [
        (ACCURATE, {}, held_out(2000), 641, True, "goal.atLeast 0.80 takes 641 independent"),
        ({**ACCURATE, "atLeast": "0.999"}, {}, held_out(100_000), 33303, True, "at 0.9995"),
        ({**ACCURATE, "atLeast": "0.9"}, {}, held_out(3), 3, False, "and there are 3: add exam"),
        (ACCURATE, {}, held_out(640), 640, False, "640 of 640 held-out questions are asked, too"),
        ({**ACCURATE, "atLeast": "0"}, {}, held_out(99), 30, True, "the least by evaluation.minP"),
        # Plain text is no prompt that such a goal rests on.
        (
            {**ACCURATE, "atLeast": "0"},
            {}, held_out(30) + held_out(30, has_prompt=False), 54, True, "the least by evaluation",
        ),
        (
            {"metric": "contains", "overBase": "0.30"},
            {}, held_out(4000), 1888, True, "goal.overBase 0.30 takes 1,888",
        ),
        # With a goal at which nearly all is right the difference varies less.
        (
            {"metric": "contains", "overBase": "0.30", "atLeast": "0.95"},
            {}, held_out(4000), 1400, True, "goal.overBase 0.30 takes 1,400",
        ),
        (None, {}, held_out(4000), 402, True, "a number, 402 independent prompts"),
        (None, {}, held_out(100), 100, False, "and there are 100"),
        (None, {}, held_out(4000), 402, True, "95 % interval of a share of hits reaches at most"),
        # Plain text has no answers whose share of hits could be told.
        (
            None, {}, held_out(20_000, has_prompt=False),
            500, True, "asked: 0 of the 20,000 have a prompt, the others have nothing but a loss",
        ),
        (None, {}, held_out(70, has_prompt=False), 70, True, "70 of 70"),
        (
            None, {}, held_out(900) + held_out(8000, has_prompt=False),
            500, True, "900 of the 8,900 have a prompt",
        ),
        (
            None, {}, held_out(9000) + held_out(8000, has_prompt=False),
            725, True, "402 independent prompts are wanted",
        ),
        (None, {"review": {"sample": 450}}, held_out(4000), 450, True, "evaluation.review.sample"),
        ({"metric": "loss", "atMost": "1"}, {}, held_out(4000), 500, True, "how much loss varies"),
        (
            {"metric": "loss", "atMost": "1"},
            {}, held_out(4000, has_prompt=False), 500, True, "where there are as many",
        ),
        ({"metric": "loss", "atMost": "1"}, {}, held_out(70), 70, True, "70 of 70"),
        # Scores in between vary less than hits and misses of the same mean.
        ({"metric": "rougeL", "atLeast": "0.80"}, {}, held_out(4000), 641, True, "takes 641"),
        (
            {"metric": "judgeWinRate", "atLeast": "0.5"},
            {"judge": JUDGE}, held_out(4000), 100, False, "raise evaluation.judge.sample and maxC",
        ),
        # A judge's win for the one is the other's loss: twice the rows of two models that both may
        # be right.
        (
            {"metric": "judgeWinRate", "overBase": "0.3"},
            {"judge": {**JUDGE, "sample": 10_000, "maxCalls": 100_000}},
            held_out(9000), 3888, True, "so that a model that gains 0.35 meets",
        ),
        (
            {"metric": "judgeWinRate", "overBase": "0.3", "atLeast": "0.8"},
            {"judge": {**JUDGE, "sample": 10_000, "maxCalls": 100_000}},
            held_out(9000), 749, True, "goal.atLeast 0.8 takes 749",
        ),
        # What any score meets takes nothing.
        (None, {"gates": gate(atLeast="0.8")}, held_out(4000), 641, True, "gate g: atLeast 0.8"),
        (None, {"gates": gate(atMost="0.2")}, held_out(4000), 641, True, "is at 0.15 meets all"),
        (
            None,
            {"gates": gate(metric="rougeL", overPublished="-0.02")},
            held_out(4000), 2157, True, "gate g: overPublished -0.02 takes",
        ),
        (
            None, {"gates": gate(atLeast="0.8", severity="Warn")},
            held_out(4000), 402, True, "as no goal or gate takes a number",
        ),
        (
            None, {"gates": gate(metric="forgetting.bitsPerByte", atMost="1"), "forgetting": {}},
            held_out(4000), 402, True, "as no goal or gate takes a number",
        ),
    ],
)  # fmt: skip
def test_as_many_are_asked_as_goal_and_gates_take(
    goal: dict[str, str] | None,
    evaluation: dict[str, Any],
    questions: list[HeldOut],
    number: int,
    enough: bool,
    words: str,
) -> None:
    chosen = choose_number(spec_with(goal, **evaluation), questions)
    assert (chosen.number, chosen.enough) == (number, enough)
    assert words in chosen.message


@pytest.mark.slow
def test_a_slice_has_as_many_as_its_gate_takes() -> None:
    spec = spec_with(gates=gate(atLeast="0.8", slice={"source": "rare.jsonl"}))
    questions = held_out(100_000, every=50)
    chosen = choose_number(spec, questions)
    order = order_questions([q.group for q in questions], seed=spec.dataset.split.seed)
    inside = [bool(questions[place].gates) for place in order[: chosen.number]]
    assert (sum(inside), inside[-1]) == (641, True)
    few = choose_number(spec, held_out(5000, every=50))
    assert (few.number, few.enough) == (5000, False)
    assert "and there are 100: add examples" in few.message


def number_of(gates: list[dict[str, Any]], **more: Any) -> int:
    names = frozenset(each["name"] for each in gates)
    questions = [HeldOut(group=str(i), gates=names) for i in range(9000)]
    return choose_number(spec_with(gates=gates), questions, **more).number


def several(count: int, **asked: Any) -> list[dict[str, Any]]:
    """Return gates that each ask something else."""
    return [
        {**gate(**asked)[0], "name": f"g{i}", "slice": {"source": f"{i}"}} for i in range(count)
    ]


def test_more_gates_take_more_prompts_each() -> None:
    numbers = [number_of(several(count, atLeast="0.8")) for count in (1, 2, 16)]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    "beside",
    [
        {"atLeast": "0.99", "severity": "Warn"},
        {"atLeast": "0.80"},  # the same, written otherwise
        {"atLeast": "0.8", "certainty": "0.9"},
    ],
)
def test_what_stops_nothing_and_what_asks_the_same_costs_a_gate_nothing(
    beside: dict[str, Any],
) -> None:
    alone = gate(atLeast="0.8")
    assert number_of([*alone, {**gate(**beside)[0], "name": "h"}]) == number_of(alone) == 641
    assert number_of([*alone, {**gate(atLeast="0.7")[0], "name": "h"}]) > 641


@pytest.mark.slow
def test_a_gate_on_the_published_version_takes_none_before_there_is_one() -> None:
    questions = [HeldOut(group=str(i), gates=frozenset("g")) for i in range(9000)]
    spec = spec_with({**ACCURATE, "atLeast": "0.9"}, gates=gate(overPublished="0"))
    first = choose_number(spec, questions, has_published=False)
    assert (first.number, first.enough) == (304, True)
    assert first.message.endswith("overPublished takes none, for nothing is published yet")
    later = choose_number(spec, questions)
    assert later.number == 2651
    assert "nothing is published" not in later.message


def test_whether_a_version_is_published_is_looked_up_where_it_decides(tmp_path: Path) -> None:
    def look(**evaluation: Any) -> bool:
        body = changed(
            minimal_job("tiny"),
            {"spec.output.uri": f"file://{tmp_path}/out", "spec.evaluation": evaluation},
        )
        job = resolve_job(FineTuneJob.from_wire(body), namespace="default", uid="mine")
        return has_version(RunStorage(job=job, stage=Stage.PREPARE, say=print))

    asked = {"maxSamples": "auto", "gates": gate(overPublished="0")}
    assert look(maxSamples="auto", gates=gate(overBase="0"))
    assert look(maxSamples=500, gates=gate(overPublished="0"))
    assert not look(**asked)
    path = tmp_path / "out/versions/default/tiny/1/manifest.json"
    for uid, counts in (("mine", False), ("other", True)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"files": [], "inputs": {"uid": uid}}))
        assert look(**asked) is counts


@pytest.mark.parametrize("metric", ["loss", "exactMatch"])
@pytest.mark.parametrize("there", [0, 1, 3])
def test_every_gates_slice_has_two_prompts_where_there_are_as_many(metric: str, there: int) -> None:
    asked = {"atMost": "2"} if metric == "loss" else {"atLeast": "0.3", "severity": "Warn"}
    spec = spec_with(gates=gate(metric=metric, slice={"source": "rare.jsonl"}, **asked))
    questions = [HeldOut(group=str(i)) for i in range(10_000)]
    order = order_questions([q.group for q in questions], seed=spec.dataset.split.seed)
    for place in order[600 : 600 + 100 * there : 100]:
        questions[place] = HeldOut(group=str(place), gates=frozenset("g"))
    chosen = choose_number(spec, questions)
    least = 500 if metric == "loss" else 402
    assert chosen.number == {0: least, 1: 601, 3: 701}[there]
    assert chosen.enough
    assert ("of the slice of gate g" in chosen.message) is bool(there)


def test_gates_that_their_number_makes_hopeless_are_told() -> None:
    gates = [
        {**gate(atLeast=f"0.{50 + i}", certainty="0.999")[0], "name": f"g{i}"} for i in range(16)
    ]
    chosen = choose_number(spec_with(gates=gates), held_out(4000))
    assert (chosen.number, chosen.enough) == (500, False)
    assert "so many gates at this certainty can be shown by no number" in chosen.message


def test_graded_scores_have_as_many_bounds_as_hits_have() -> None:
    def choose(count: int, metric: str, **evaluation: Any) -> QuestionCount:
        asked = {"atLeast": "0.5", "certainty": "0.999", "metric": metric}
        gates = several(count, **asked)
        names = frozenset(each["name"] for each in gates)
        questions = [HeldOut(group=str(i), gates=names) for i in range(20_000)]
        return choose_number(spec_with(gates=gates, **evaluation), questions)

    own = {"customMetric": {"path": "/own.py"}}
    for metric, more in (("custom", own), ("rougeL", {})):
        chosen = choose(3, metric, **more)
        assert chosen.enough
        assert chosen.number == choose(3, "contains").number
        hopeless = choose(11, metric, **more)
        assert not hopeless.enough
        assert "shown by no number" in hopeless.message


def test_rows_that_belong_together_count_once() -> None:
    # One of each group is asked before the second of any.
    assert choose_number(spec_with(ACCURATE), held_out(9000, per_group=10)).number == 641
    half = [HeldOut(group="same" if i % 2 else str(i)) for i in range(3000)]
    assert choose_number(spec_with(ACCURATE), half).number == 641
    few = choose_number(spec_with(ACCURATE), held_out(3000, per_group=10))
    assert (few.number, few.enough) == (3000, False)
    assert "so that these 3,000 count as 300: add examples" in few.message


def test_a_model_must_also_show_that_it_is_better_than_one_label() -> None:
    lopsided = [HeldOut(group=str(i), label=b"a" if i % 50 else b"b") for i in range(9000)]
    told = choose_number(spec_with(ACCURATE), lopsided)
    assert told.number > choose_number(spec_with(ACCURATE), held_out(9000, labels=9)).number
    assert "more than always giving the most frequent label takes" in told.message
    assert "a model that gains 0.01 meets" in told.message


@pytest.mark.slow
def test_rare_labels_take_more_where_each_counts_the_same() -> None:
    goal = {"metric": "macroF1", "atLeast": "0.7"}
    even = choose_number(spec_with(goal), held_out(60_000, labels=2))
    rare = [HeldOut(group=str(i), label=b"a" if i % 50 else b"b") for i in range(60_000)]
    assert choose_number(spec_with(goal), rare).number > 5 * even.number


@given(
    at_least=st.integers(1, 98).map(lambda percent: f"{percent / 100}"),
    certainties=st.tuples(*2 * [st.sampled_from(["0.5", "0.8", "0.95", "0.99", "0.999"])]),
    count=st.integers(1, 2500),
    per_group=st.integers(1, 6),
)
@settings(deadline=None, max_examples=40)
def test_never_more_than_are_held_out_and_the_more_the_surer(
    at_least: str, certainties: tuple[str, str], count: int, per_group: int
) -> None:
    questions = held_out(count, per_group=per_group)
    numbers = []
    for certainty in sorted(certainties):
        goal = {"metric": "contains", "atLeast": at_least, "certainty": certainty}
        chosen = choose_number(spec_with(goal), questions)
        assert min(30, count) <= chosen.number <= count
        assert chosen.number == count or chosen.enough
        numbers.append(chosen.number)
    assert numbers == sorted(numbers)


@given(
    number=st.integers(1, 6000),
    few=st.integers(1, 600),
    more=st.integers(1, 6000),
    num_groups=st.integers(1, 6000),
)
@settings(max_examples=30)
def test_whoever_asks_more_asks_those_that_few_are(
    number: int, few: int, more: int, num_groups: int
) -> None:
    few, more = sorted((few, more))
    groups = [str(min(i, num_groups)) for i in range(number)]
    asked = draw_questions(groups, most=few, seed=3)
    assert set(asked) <= set(draw_questions(groups, most=more, seed=3))
    assert asked == sorted(set(asked))
    assert len(asked) == min(number, few)
    assert len({groups[i] for i in asked}) == min(few, len(set(groups)))


def test_questions_that_are_alone_are_drawn_as_by_chance_alone() -> None:
    groups = [str(number) for number in range(300)]
    assert order_questions(groups, seed=7) == order_rows(300, seed=7)


def test_questions_are_those_that_the_evaluation_gathers(tmp_path: Path) -> None:
    rng = random.Random(5)
    rows = [
        {
            "prompt": f"p{rng.randrange(60)}",
            "completion": rng.choice(["yes", "No."]),
            **({"label": rng.random() < 0.8} if number % 7 == 0 else {}),
            "metadata": {"source": rng.choice("ab"), "group": f"g{rng.randrange(20)}"},
        }
        for number in range(200)
    ]
    rows.append({"text": "plain text", "metadata": {"source": "a", "group": "t"}})
    spec = spec_with(gates=gate(atLeast="0", slice={"source": "b"}))
    asked = gather_questions(rows, max_questions=10**6, seed=0)
    found = gather_held_out(rows, spec.evaluation.gates, seed=0).questions
    assert [each.group for each in found] == [each.group for each in asked]
    assert [each.has_prompt for each in found] == [each.prompt is not None for each in asked]
    inside = [any(row["metadata"]["source"] == "b" for row in each.rows) for each in asked]
    assert [bool(each.gates) for each in found] == inside
    (tmp_path / "test.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    side = read_held_out(tmp_path, spec.evaluation.gates, seed=spec.dataset.split.seed)
    chosen = count_questions(spec, side)
    assert chosen is not None
    assert chosen.number == 30
    assert count_questions(FineTuneJob.from_wire(minimal_job()).spec, side) is None
