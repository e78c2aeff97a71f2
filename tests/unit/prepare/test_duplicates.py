"""Copies, near prompts, leaks and contradictions: what is left out, what stays together."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune_api.v1alpha1.spec.dataset import Dataset
from finetune_trainer.data.normal import normalise_text
from finetune_trainer.data.rows import Example, Side, make_example
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.duplicates.comparing import Compared, compare_rows
from finetune_trainer.prepare.rows.normal import normalise_row
from finetune_trainer.prepare.rows.spool import Spool, pack_rows
from kit.planted.duplicates import WRAPPERS
from kit.planted.measured import measure_all

Row = tuple[str, str]


def example(
    number: int, row: Row, side: Side | None = None, group: str | None = None, file: str = "a"
) -> Example:
    prompt, completion = row
    canonical = {"prompt": prompt, "completion": completion}
    return make_example(canonical, file=file, line=number, side=side, group_value=group)


def compare(
    examples: Sequence[Example],
    *,
    benchmark: Sequence[Row] = (),
    show: Callable[[str], str] = str,
    **settings: Any,
) -> Compared:
    dataset = Dataset.model_validate({"sources": [{"uri": "s3://b/x.jsonl"}], **settings})
    with tempfile.TemporaryDirectory() as folder, Spool(Path(folder) / "rows.jsonl") as spool:
        spool.add(pack_rows(examples))
        rows = [example(n, row, file="benchmark") for n, row in enumerate(benchmark, start=1)]
        spool.add(pack_rows(rows, is_benchmark=True))
        return compare_rows(spool, dataset, show=show)


def compare_loose(rows: Sequence[Row], **settings: Any) -> Compared:
    return compare([example(n, row) for n, row in enumerate(rows, start=1)], **settings)


def lines_left(compared: Compared) -> list[int]:
    return compared.marks.lines[compared.keys.positions].tolist()


def groups_of(compared: Compared) -> list[set[int]]:
    """Return the groups of more than one row, as sets of lines."""
    groups: dict[bytes, set[int]] = {}
    for line, group in zip(lines_left(compared), compared.keys.groups.tolist(), strict=True):
        groups.setdefault(group, set()).add(line)
    return sorted((group for group in groups.values() if len(group) > 1), key=min)


def removed(compared: Compared) -> list[tuple[str, int, int]]:
    return [(row["check"], row["line"], row["otherLine"]) for row in compared.removed_rows()]


def filler(number: int, *, seed: int = 5) -> list[Row]:
    """Return distinct rows that have nothing in common but a few words."""
    rng = random.Random(seed)

    def word() -> str:
        return "".join(rng.choices("bcdfgklmnprst", k=2)) + "a" + "".join(rng.choices("eiou", k=3))

    def words() -> str:
        return " ".join(word() for _ in range(6))

    return [(f"please tell me about {words()}", f"it is {words()}") for _ in range(number)]


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  How DO I\n\tpay?  ", "how do i pay"),
        ("Straße", "strasse"),
        ("\ufb01ne \u2014 it\u2019s \u201cso\u201d", "fine - it's \"so"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("\uff11\uff12\uff13\uff01", "123"),
        ("?!", "?!"),
        ("good :)", "good :)"),
        ("C++", "c++"),
        ("-5", "-5"),
        ("", ""),
        ("これは何ですか。", "これは何ですか"),
    ],
)
def test_texts_are_equal_but_for_form_case_blanks_and_punctuation_at_the_ends(
    text: str, normal: str
) -> None:
    assert normalise_text(text) == normal


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "c"}),
        ({"text": "a"}, {"text": "b"}),
        (
            {"prompt": "a", "completion": "b", "label": True},
            {"prompt": "a", "completion": "b", "label": False},
        ),
        (
            {"prompt": "a", "completion": "b", "rejected": "c"},
            {"prompt": "a", "completion": "b", "rejected": "d"},
        ),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            {
                "messages": [
                    {"role": "system", "content": "s"},
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b"},
                ]
            },
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b", "weight": 0},
                    {"role": "user", "content": "c"},
                    {"role": "assistant", "content": "d"},
                ]
            },
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b"},
                    {"role": "user", "content": "c"},
                    {"role": "assistant", "content": "d"},
                ]
            },
        ),
    ],
    ids=["answer", "text", "verdict", "rejected", "system", "weight"],
)
def test_rows_that_teach_something_else_are_no_copies(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert normalise_row(one).row_digest != normalise_row(other).row_digest


@pytest.mark.slow
def test_planted_copies_leaks_and_contradictions_are_found() -> None:
    scores = {score.kind: score for score in measure_all(1800, seed=11)}
    for kind in ("exact", "caseSpace", "conflict"):
        assert (scores[kind].recall, scores[kind].precision) == (1.0, 1.0), kind
    for kind in ("typo", "template", "reordering", "near, all"):
        assert scores[kind].recall >= 0.95, kind
        assert scores[kind].precision >= 0.99, kind
    for kind in ("leak", *(f"leak, {wrapper}" for wrapper in WRAPPERS), "near, dropped"):
        assert scores[kind].recall >= 0.95, kind
        assert scores[kind].precision >= 0.99, kind


def test_the_first_copy_is_kept_and_both_places_are_on_record() -> None:
    compared = compare_loose(
        [("How?", "So."), ("Why?", "Thus."), ("how", "so"), ("HOW ?", "SO!"), ("How?", "Else.")]
    )
    assert lines_left(compared) == [1, 2, 5]
    assert removed(compared) == [("duplicateRows", 3, 1), ("duplicateRows", 4, 1)]
    assert "a:3 and a:1, a:4 and a:1" in compared.findings[0].message


def test_copies_are_kept_on_request_and_counted() -> None:
    compared = compare_loose([("How?", "So."), ("how", "so")], duplicates={"exact": "Keep"})
    assert lines_left(compared) == [1, 2]
    assert compared.findings[0].num_flagged == 1
    assert groups_of(compared) == [{1, 2}]


def test_several_references_of_one_prompt_are_all_kept_together() -> None:
    meaning = "name[Aromi], eatType[pub], food[French], area[riverside]"
    references = [
        "Aromi is a French pub by the riverside, quite a nice one.",
        "By the riverside there is a pub with French food called Aromi.",
        "A pub on the river that serves French dishes is named Aromi.",
    ]
    compared = compare_loose([*((meaning, text) for text in references), *filler(30)])
    assert removed(compared) == []
    assert groups_of(compared) == [{1, 2, 3}]
    assert compared.conflicts == []


TEMPLATES: list[Callable[[int], str]] = [
    lambda n: f"What is {n} plus {3 * n + 7}?",
    lambda n: f"Classify the headline into sport, politics or culture: event {n} begins",
    lambda n: f"name[Place {n}], eatType[pub], area[riverside], near[Hotel {n % 7}]",
    lambda n: json_record(n),
    lambda n: f"def f(x): return x + {n}",
    lambda n: "".join(chr(0x4E00 + (n * 7 + k * 131) % 900) for k in range(12)),
]


def json_record(n: int) -> str:
    return f'{{"id": {n}, "amount": {n * 13 % 97}, "currency": "EUR", "customer": "c{n % 11}"}}'


@pytest.mark.slow
@pytest.mark.parametrize("write", TEMPLATES)
@pytest.mark.parametrize("number", [12, 60, 400])
def test_prompts_of_one_template_are_not_near(write: Callable[[int], str], number: int) -> None:
    compared = compare_loose([(write(n), f"the answer number {n}") for n in range(number)])
    assert len(lines_left(compared)) == number
    assert groups_of(compared) == []


def test_the_order_of_rows_changes_no_group() -> None:
    rows = [*filler(200), ("What is my card limit abroad", "x y z q r s t")]
    rows += [(f"{prompt} thank you", answer) for prompt, answer in rows[:40]]
    rows += [(prompt.replace("please", "plaese"), answer) for prompt, answer in rows[40:80]]
    turned = rows[::-1]
    one, other = (
        {
            frozenset(order[line - 1] for line in group)
            for group in groups_of(compare_loose(order, duplicates={"exact": "Keep"}))
        }
        for order in (rows, turned)
    )
    assert one == other
    assert len(one) == 80


def test_a_chain_of_near_prompts_is_taken_apart_and_told() -> None:
    words = [row[0].split()[-1] for row in filler(400)]
    chain = [
        (" ".join(words[n : n + 14]), f"answer {n} of this chain here and now") for n in range(200)
    ]
    compared = compare_loose([*chain, *filler(200, seed=6)], duplicates={"threshold": "0.5"})
    assert max(map(len, groups_of(compared)), default=1) <= 20
    (finding,) = [finding for finding in compared.findings if finding.name == "nearPrompts"]
    assert "taken apart" in finding.message


def test_groups_are_the_closure_of_column_prompt_and_near_prompt() -> None:
    rows = filler(60)
    near = rows[2][0] + " thanks"
    examples = [
        example(1, rows[0], group="ann"),
        example(2, rows[1], group="ann"),
        example(3, (rows[1][0], "another answer to the same, and a long one"), group="bob"),
        example(4, rows[2], group="bob"),
        example(5, (near, "an answer to the near one, as long as others"), group="eve"),
        *(example(n + 3, rows[n], group=f"g{n}") for n in range(3, 60)),
    ]
    assert groups_of(compare(examples)) == [{1, 2, 3, 4, 5}]
    assert groups_of(compare(examples, duplicates={"near": "Keep"})) == [{1, 2, 3, 4}]


def test_a_prompt_that_everybody_has_does_not_join_all_customers() -> None:
    rows = filler(120)
    examples = []
    for n, row in enumerate(rows):
        examples.append(example(2 * n + 1, row, group=f"customer {n}"))
        examples.append(example(2 * n + 2, ("hello", f"hi number {n}"), group=f"customer {n}"))
    compared = compare(examples)
    assert groups_of(compared) == [{2 * n + 1, 2 * n + 2} for n in range(120)]


def test_case_twins_of_one_prompt_stay_together_however_many_they_are() -> None:
    twins = [
        ("What now?".swapcase() if n % 2 else "What now?", f"{n} a b c d e") for n in range(80)
    ]
    compared = compare_loose([*twins, *filler(40)])
    assert groups_of(compared) == [set(range(1, 81))]


def test_rows_bound_to_train_that_are_close_to_held_out_ones_are_left_out() -> None:
    rows = filler(60)
    held_out, train = rows[:20], rows[20:]
    twins = [(prompt.upper() + " ?", answer) for prompt, answer in held_out[:10]]
    twins += [
        (f"{prompt} thanks", "another answer to it altogether") for prompt, _ in held_out[10:15]
    ]
    examples = [
        *(example(n, row, Side.TRAIN) for n, row in enumerate([*train, *twins], start=1)),
        *(example(n, row, Side.TEST) for n, row in enumerate(held_out, start=101)),
    ]
    for near in ("Group", "Keep"):
        compared = compare(examples, duplicates={"near": near})
        assert removed(compared) == [("leakedRows", 41 + n, 101 + n) for n in range(15)]
        assert lines_left(compared) == [*range(1, 41), *range(101, 121)]


def test_validation_gives_way_to_test_and_train_to_both() -> None:
    rows = filler(30)
    examples = [
        example(1, rows[0], Side.TRAIN),
        example(2, rows[0], Side.VALIDATION),
        example(3, rows[0], Side.TEST),
        example(4, rows[1], Side.TRAIN),
        example(5, rows[1], Side.VALIDATION),
        *(example(n + 10, row, Side.TRAIN) for n, row in enumerate(rows[2:])),
    ]
    assert removed(compare(examples)) == [
        ("leakedRows", 1, 2),
        ("leakedRows", 2, 3),
        ("leakedRows", 4, 5),
    ]


def test_a_held_out_file_is_never_thinned_and_its_copies_elsewhere_go() -> None:
    rows = filler(20)
    examples = [
        *(example(n, row) for n, row in enumerate(rows, start=1)),
        example(101, rows[0], Side.TEST),
        example(102, rows[0], Side.TEST),
    ]
    compared = compare(examples)
    assert removed(compared) == [("duplicateRows", 1, 101)]
    assert lines_left(compared) == [*range(2, 21), 101, 102]


def test_rows_close_to_a_benchmark_are_left_out_or_refused() -> None:
    rows = filler(40)
    examples = [
        *(example(n, row) for n, row in enumerate(rows, start=1)),
        example(101, rows[3], Side.TEST),
    ]
    benchmark = [(rows[1][0].upper(), "x"), (f"hello {rows[2][0]}", "y"), (rows[3][0], "z")]
    against: dict[str, Any] = {"against": [{"uri": "s3://b/bench.jsonl"}]}
    compared = compare(examples, benchmark=benchmark, contamination=against)
    assert removed(compared) == [
        ("duplicateRows", 4, 101),
        ("contaminatedRows", 2, 1),
        ("contaminatedRows", 3, 2),
    ]
    assert "a:2 and benchmark:1" in compared.findings[1].message
    assert set(lines_left(compared)) == {1, *range(5, 41), 101}
    with pytest.raises(DataError) as caught:
        compare(examples, benchmark=benchmark, contamination={**against, "onMatch": "Refuse"})
    assert caught.value.reason == "Contaminated"
    assert "a:2 and benchmark:1" in caught.value.message


def test_near_copies_with_the_same_answer_are_left_out_on_request() -> None:
    rows = filler(40)
    near = [
        (f"{rows[0][0]} thanks", rows[0][1]),
        (f"{rows[1][0]} thanks", "quite another answer, and not a short one"),
    ]
    compared = compare_loose([*rows, *near], duplicates={"near": "Drop"})
    assert removed(compared) == [("nearDuplicateRows", 41, 1)]
    assert groups_of(compared) == [{2, 42}]


CONFLICTING = [
    ("Where is my card?", "card_arrival"),
    ("where is my CARD", "lost_card"),
    ("Where is my crad?", "card_arrival"),
    ("My refund is missing", "refund"),
    ("My refnud is missing", "lost_refund"),
    ("How do I pay?", "a long answer that explains at some length how to pay"),
    ("How do I pay?", "transfer"),
    ("Is 7 odd?", "yes"),
    ("Is 8 odd?", "no"),
]


def labelled(number: int) -> list[Row]:
    return [(prompt, f"label {n % 3}") for n, (prompt, _) in enumerate(filler(number))]


def test_questions_with_two_labels_are_told_by_file_and_line() -> None:
    compared = compare_loose([*CONFLICTING, *labelled(60)])
    assert [(row["line"], row["otherLine"]) for row in compared.conflicting_rows()] == [
        (1, 2),
        (2, 1),
        (3, 2),
        (4, 5),
        (5, 4),
    ]
    (finding,) = [f for f in compared.findings if f.name == "contradictoryLabels"]
    assert finding.message.startswith("2 question(s) have more than one label, in 5 rows: a:1 and")
    assert [(pair.line, pair.other_line) for pair in finding.pairs] == [(1, 2), (2, 3), (4, 5)]
    assert "card" not in finding.message
    assert removed(compared) == []


def test_contradictions_are_left_out_or_refused_on_request() -> None:
    rows = [*CONFLICTING, *labelled(60)]
    dropped = compare_loose(rows, onConflict="Drop")
    assert [line for _, line, _ in removed(dropped)] == [1, 2, 3, 4, 5]
    with pytest.raises(DataError) as caught:
        compare_loose(rows, onConflict="Refuse")
    assert caught.value.reason == "ContradictoryLabels"
    assert "2 question(s)" in caught.value.message
    assert "refund" not in caught.value.message


def order(number: object, **more: object) -> str:
    return json.dumps({"article": "a long name of an article", "order": {"number": number}, **more})


def test_json_answers_to_one_prompt_are_compared_by_value() -> None:
    rows = [
        ("Send 12 green chairs.", order(12)),
        ("send 12 green chairs", order(13)),
        ("Send 4 tables.", order(4, color="Red")),
        ("Send 4 tables.", '{"color": "red", "order": {"number": 4.0}, "article": "%s"}'),
        ("Send 2 lamps to Jon.", order(2, name="Jon")),
        ("Send 2 lamps to John.", order(2, name="John")),
        ("Write a shop.", order(1)),
        ("Write a shop.", "a long answer that is no JSON at all but prose, and some more of it"),
        ("List 3 colors.", '["a", 3, "a list of several words and some more of these"]'),
        ("List 3 colors.", '["b", 3, "a list of several words and some more of these"]'),
    ]
    rows[3] = (rows[3][0], rows[3][1] % "a long name of an article")
    compared = compare_loose([*rows, *filler(60)])
    lines = [(row["line"], row["otherLine"]) for row in compared.conflicting_rows()]
    assert lines == [(1, 2), (2, 1), (9, 10), (10, 9)]
    (finding,) = [f for f in compared.findings if f.name == "contradictoryLabels"]
    assert finding.counts == {"order": 1, "a list": 1}
    assert "12" not in finding.message
    dropped = compare_loose([*rows, *filler(60)], onConflict="Drop")
    assert [line for _, line, _ in removed(dropped)] == [1, 2, 9, 10]


def test_a_json_answer_is_a_text_where_it_is_nested_too_deeply() -> None:
    deep = '{"a":' * 600 + "%s" + "}" * 600
    rows = [("What is it?", deep % 1), ("And what is this?", deep % 2), *filler(60)]
    assert lines_left(compare_loose([*rows, rows[0]])) == list(range(1, 63))


def test_empty_json_answers_are_compared_by_value() -> None:
    ones, others = (
        normalise_row({"prompt": "p", "completion": answer}).answer_digest
        for answer in ("{}", "{ }")
    )
    assert ones == others


def test_json_with_another_long_text_is_a_second_reference() -> None:
    texts = [
        f"It is the {n} reason, and we have written it down at some length here." for n in "ab"
    ]
    rows = [("Why?", json.dumps({"label": "x", "notes": [{"why": text}]})) for text in texts]
    rows += [("How?", json.dumps({"label": label, "why": texts[0]})) for label in "xy"]
    compared = compare_loose([*rows, *filler(60)])
    assert [row["line"] for row in compared.conflicting_rows()] == [3, 4]


def test_the_names_of_fields_that_differ_are_masked_short_and_few() -> None:
    several = {f"{n} {'long ' * 20}": 1 for n in range(20)}
    rows = [(f"Who is {n}?", json.dumps({"ada@example.com": n})) for n in (1, 2)]
    rows += [(prompt, answer.replace(": ", ": 4")) for prompt, answer in rows]
    rows += [("How many?", "{}"), ("How many?", json.dumps(several))]
    compared = compare_loose([*rows, *filler(60)], show=lambda name: name.replace("ada", "<X>"))
    (finding,) = [f for f in compared.findings if f.name == "contradictoryLabels"]
    assert len(finding.counts) == 10
    assert max(map(len, finding.counts)) == 64
    assert finding.counts["<X>@example.com"] == 2
    assert "ada" not in finding.message


def test_near_prompts_with_different_labels_are_what_is_to_be_learned() -> None:
    rows = labelled(60)
    prompt, label = rows[0]
    twin, contrast = (f"{prompt} now", label), (f"{prompt} today", "label 9")
    compared = compare_loose([*rows, twin, contrast])
    assert groups_of(compared) == [{1, 61}]


def test_most_rows_are_drawn_among_distinct_ones() -> None:
    rows = filler(30)
    compared = compare_loose([*rows, *rows, *rows], maxRows=30)
    assert lines_left(compared) == list(range(1, 31))


def test_rows_without_any_prompt_are_compared_without_harm() -> None:
    assert lines_left(compare_loose([("", "a b"), ("", "c d"), ("?", "e f")])) == [1, 2, 3]
    assert lines_left(compare_loose([("only one", "a")])) == [1]


def test_copies_of_a_fixed_test_side_are_told_as_an_overlap_of_the_sources() -> None:
    rows = [("What is due?", "rent"), ("Who pays?", "we do"), ("Who  pays?", "We do")]
    fixed = [example(n, row, side=Side.TEST, file="test") for n, row in enumerate(rows[:1], 11)]
    compared = compare([*(example(n, row) for n, row in enumerate(rows, 1)), *fixed])
    assert removed(compared) == [("duplicateRows", 1, 11), ("duplicateRows", 3, 2)]
    message = next(each.message for each in compared.findings if each.name == "duplicateRows")
    assert "; 1 of them stand in a fixed test or validation side too" in message


def test_kept_leaks_are_counted_by_the_held_out_prompts_that_stand_in_training() -> None:
    rows = filler(40)
    examples = [
        *(example(n, row, Side.TRAIN) for n, row in enumerate(rows[:30], start=1)),
        example(31, (rows[0][0].upper(), "the same question"), Side.TRAIN),
        example(41, rows[0], Side.TEST),
        example(42, (rows[0][0], "another reference of the same prompt"), Side.TEST),
        example(43, (f"{rows[1][0]} thanks", rows[1][1]), Side.TEST),
        *(example(n, row, Side.TEST) for n, row in enumerate(rows[30:], start=44)),
    ]
    compared = compare(examples, duplicates={"leaked": "Report", "exact": "Keep"})
    (leaks,) = [finding for finding in compared.findings if finding.name == "leakedRows"]
    assert (leaks.num_flagged, leaks.num_removed) == (3, 0)
    assert leaks.counts == {"heldOutPrompts": 2}


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("is_wrapped_in_train", [False, True])
def test_leaks_are_seen_through_what_stands_around_all_prompts_of_one_side(
    wrapper: str, is_wrapped_in_train: bool
) -> None:
    rows = filler(90)
    wrapped = [(wrapper.format(prompt), answer) for prompt, answer in rows]
    train, test = (wrapped, rows) if is_wrapped_in_train else (rows, wrapped)
    examples = [
        *(example(n, row, Side.TRAIN) for n, row in enumerate(train[:60], start=1)),
        *(example(n, row, Side.TEST) for n, row in enumerate(test[40:], start=101)),
    ]
    assert removed(compare(examples)) == [("leakedRows", 41 + n, 101 + n) for n in range(20)]


def test_two_tasks_on_the_same_texts_are_not_near() -> None:
    rows = filler(100)
    tasks = [
        f"here comes task number {word} of all that we have for you today"
        for word in ("one", "two", "three", "four", "five", "six", "seven", "eight")
    ]
    prompts = [
        (f"{tasks[n % 8]} {row[0]}", f"a long answer {n} to it") for n, row in enumerate(rows)
    ]
    twins = [
        (f"{tasks[(n + 1) % 8]} {row[0]}", f"another one {n} altogether this time")
        for n, row in enumerate(rows)
    ]
    compared = compare_loose([*prompts, *twins], duplicates={"near": "Drop"})
    assert removed(compared) == []


TRANSLATE, SUMMARISE = "translate the text into German: {}", "{} is to be summarised in short"
OTHER = "my sister {0} went to the town of {0} by boat"


@pytest.mark.parametrize(
    ("train_frame", "test_frame", "train_answer", "is_leak"),
    [
        (TRANSLATE, SUMMARISE, OTHER, False),
        (TRANSLATE, "what does this say: {}", OTHER, False),
        (TRANSLATE, SUMMARISE, "the given answer {0} of the test", True),
        (TRANSLATE, SUMMARISE, "Well, the given answer {0} of the test!", True),
        (TRANSLATE, TRANSLATE, OTHER, True),
        (TRANSLATE, TRANSLATE.replace("{}", "please {}"), OTHER, True),
        ("{}", SUMMARISE, OTHER, True),
    ],
    ids=["other end", "other beginning", "same answer", "near answer", "same", "longer", "none"],
)
def test_two_tasks_on_the_same_texts_are_a_leak_only_with_near_answers(
    train_frame: str, test_frame: str, train_answer: str, is_leak: bool
) -> None:
    questions = [prompt.removeprefix("please tell me about ") for prompt, _ in filler(90)]
    train = [(train_frame.format(q), train_answer.format(n)) for n, q in enumerate(questions[:60])]
    test = [
        (test_frame.format(q), f"the given answer {n} of the test")
        for n, q in enumerate(questions[40:], start=40)
    ]
    examples = [
        *(example(n, row, Side.TRAIN) for n, row in enumerate(train, start=1)),
        *(example(n, row, Side.TEST) for n, row in enumerate(test, start=101)),
    ]
    leaks = [("leakedRows", 41 + n, 101 + n) for n in range(20)]
    assert removed(compare(examples)) == (leaks if is_leak else [])


def test_markup_around_another_label_is_no_copy_and_no_leak() -> None:
    rows = filler(60)
    examples = [
        *(example(n, (prompt, "a"), Side.TRAIN) for n, (prompt, _) in enumerate(rows[:40])),
        *(
            example(n, (f"<p>{prompt}</p>", "b"), Side.TEST)
            for n, (prompt, _) in enumerate(rows[20:], start=101)
        ),
    ]
    assert removed(compare(examples)) == []


ANSWER = "your {} is sent to the address that we know within five working days of the week"


@pytest.mark.parametrize(
    ("one", "other", "is_dropped"),
    [
        (ANSWER.format("card"), ANSWER.format("card").replace("address", "addresses"), True),
        (ANSWER.format("card"), f"Hello, {ANSWER.format('card')}, thank you", True),
        (ANSWER.format("card and 5 EUR"), ANSWER.format("card and 6 EUR"), False),
        (ANSWER.format("card"), "no, we never send anything to anybody, ask at the counter", False),
        (ANSWER.format("card"), f"<div><p>{ANSWER.format('<b>card</b>')}</p></div>", True),
        (f"# Cards\n\n{ANSWER.format('**card**')}", f"Cards {ANSWER.format('card')}", True),
        (ANSWER.format("card"), f"<p>{ANSWER.format('card and 5 EUR')}</p>", False),
        (f"<p class='a'>{ANSWER.format('card')}", f"<ol><li>{ANSWER.format('card')}", False),
        (ANSWER.format("2**3**4"), ANSWER.format("234"), False),
        ("order_card", "order_card", True),
        ("order_card", "order_cards", False),
        ("order_card", ANSWER.format("card"), False),
    ],
)
def test_near_prompts_with_near_answers_are_dropped_and_others_stay(
    one: str, other: str, is_dropped: bool
) -> None:
    rows = [*filler(60), ("could a lost card be ordered anew", one)]
    rows.append(("could a lost card be ordered anew please", other))
    compared = compare_loose(rows, duplicates={"near": "Drop"})
    assert removed(compared) == ([("nearDuplicateRows", 62, 61)] if is_dropped else [])


def test_near_drop_leaves_conflicts_to_be_told() -> None:
    rows = [*filler(60), ("could a lost card be ordered anew", "yes")]
    rows.append(("could a lost card be orderedd anew", "no"))
    compared = compare_loose(rows, duplicates={"near": "Drop"})
    assert removed(compared) == []
    assert [record["line"] for record in compared.conflicting_rows()] == [61, 62]
