"""`finetune init` looks at the data and writes a job that is valid."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_cli.errors import CliError
from finetune_cli.files.data import inspect_data
from finetune_cli.files.documents import find_problems, parse_document, parse_documents
from finetune_cli.files.starter import (
    describe_columns,
    describe_guess,
    format_unread,
    render_starter,
    write_starter,
)


def jsonl(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
TURNS = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
FILES = {
    "chat.jsonl": (jsonl(CHAT), "Chat"),
    "pairs.jsonl": (jsonl({"prompt": "a", "completion": "b"}), "PromptCompletion"),
    "alpaca.json": (json.dumps([{"instruction": "a", "input": "", "output": "b"}]), "Alpaca"),
    "sharegpt.jsonl": (
        jsonl({"conversations": TURNS}),
        "ShareGPT",
    ),
    "text.jsonl": (jsonl({"text": "a"}), "Text"),
    "table.csv": ("headline,label\nup,good\ndown,bad\nup2,good\ndown2,bad\n", "Csv"),
    "intents.csv": ("text,category\na,x\nb,y\n", "Csv"),
}


@pytest.mark.parametrize("name", FILES)
def test_starter_fits_the_data_and_is_valid(name: str, tmp_path: Path) -> None:
    content, expected = FILES[name]
    data = tmp_path / name
    data.write_text(content)
    text, guess = render_starter(file=tmp_path / "job.yaml", data=str(data))
    assert guess is not None
    assert guess.proposal.format == expected
    (document,) = parse_documents(text, "job.yaml")
    assert find_problems(document) == []
    source = parse_document(document).spec.dataset.sources[0]
    assert source.format == expected
    assert source.uri == f"file://./{name}"


def test_starter_without_data_is_valid() -> None:
    text, guess = render_starter(file=Path("job.yaml"))
    assert guess is None
    (document,) = parse_documents(text, "job.yaml")
    assert find_problems(document) == []


def test_goal_follows_what_the_answers_are(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("headline,label\n" + "up,good\ndown,bad\n" * 5)
    (tmp_path / "b.csv").write_text("facts,description\n" + "a,long text of its own\nb,other\n")
    orders = [{"prompt": f"p{n}", "completion": {"a": {"b": n % 2}}} for n in range(10)]
    (tmp_path / "c.jsonl").write_text(jsonl(*orders))
    texts = [{"query": f"p{n}", "answer": json.dumps([{"a": n % 2}])} for n in range(10)]
    (tmp_path / "d.jsonl").write_text(jsonl(*texts))
    for name, metric in (
        ("a.csv", "exactMatch"),
        ("b.csv", "rougeL"),
        ("c.jsonl", "jsonFieldF1"),
        ("d.jsonl", "jsonFieldF1"),
    ):
        text, _ = render_starter(file=tmp_path / "job.yaml", data=str(tmp_path / name))
        (document,) = parse_documents(text, "job.yaml")
        goal = parse_document(document).spec.goal
        assert goal is not None
        assert goal.metric == metric


ENDINGS = ["You are welcome.", "Happy to help!", "Any time!", "My pleasure."]
CHATS = {
    "labels": ([["Which?", ("refund", "delivery")]], "exactMatch"),
    "labels after answers": ([["Where?", ("In Rome.",)], ["So?", ("late", "lost")]], "exactMatch"),
    "texts": ([["Where?", tuple(f"In town {n}." for n in range(20))]], "rougeL"),
    "endings": ([["Where?", ("In Rome.",)], ["Thanks!", tuple(ENDINGS)]], "rougeL"),
    "JSON": ([["Who?", ('{"name": "Ann"}', '{"name": "Bob"}')]], "jsonFieldF1"),
}


@pytest.mark.parametrize("chat_format", ["Chat", "ShareGPT"])
@pytest.mark.parametrize("kind", CHATS)
def test_goal_follows_the_last_answers_of_conversations(
    kind: str, chat_format: str, tmp_path: Path
) -> None:
    turns, metric = CHATS[kind]
    names = ("role", "content") if chat_format == "Chat" else ("from", "value")
    speakers = ("user", "assistant") if chat_format == "Chat" else ("human", "gpt")
    field = "messages" if chat_format == "Chat" else "conversations"

    def talk(n: int) -> list[dict[str, str]]:
        said = [(f"{asked} {n}", answers[n % len(answers)]) for asked, answers in turns]
        texts = [text for both in said for text in both]
        return [
            dict(zip(names, (speakers[at % 2], text), strict=True)) for at, text in enumerate(texts)
        ]

    data = tmp_path / "a.jsonl"
    data.write_text(jsonl(*({field: talk(n)} for n in range(20))))
    text, guess = render_starter(file=tmp_path / "job.yaml", data=str(data))
    (document,) = parse_documents(text, "job.yaml")
    goal = parse_document(document).spec.goal
    assert goal is not None
    assert goal.metric == metric
    assert guess is not None
    said = {"exactMatch": "labels", "jsonFieldF1": "JSON", "rougeL": "texts"}[metric]
    assert f"the answers are {'short ' * (said == 'labels')}{said}" in describe_guess(guess)


@pytest.mark.parametrize(("num_calls", "metric"), [(4, "exactMatch"), (5, "rougeL")])
def test_a_few_rows_with_calls_of_tools_change_no_goal(
    num_calls: int, metric: str, tmp_path: Path
) -> None:
    function = {"name": "find", "arguments": "{}"}
    call = {"tool_calls": [{"id": "a", "type": "function", "function": function}]}
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}

    def row(n: int) -> dict:
        said = call if n < num_calls else {"content": ("late", "lost")[n % 2]}
        asked = {"role": "user", "content": f"Which {n}?"}
        return {"messages": [asked, {"role": "assistant", **said}], "tools": [tool]}

    (tmp_path / "a.jsonl").write_text(jsonl(*map(row, range(20))))
    text, _ = render_starter(file=tmp_path / "job.yaml", data=str(tmp_path / "a.jsonl"))
    (document,) = parse_documents(text, "job.yaml")
    goal = parse_document(document).spec.goal
    assert goal is not None
    assert goal.metric == metric


def test_columns_are_chosen_by_name_and_groups_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("id,customer_id,query,intent\n1,7,hello,greet\n2,8,bye,leave\n")
    found = inspect_data(file).proposal
    assert (found.prompt, found.completion, found.group) == ("query", "intent", "customer_id")


def test_a_group_needs_a_value_in_every_row_and_an_answer_may_be_a_number(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    row = {"user_id": 7, "query": "hello", "label": 1}
    file.write_text(jsonl(row, {**row, "user_id": None, "query": "bye"}))
    found = inspect_data(file).proposal
    assert (found.prompt, found.completion, found.group) == ("query", "label", None)


def test_odd_column_names_do_not_break_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    rows = "".join(f"a{n},b{n % 2},c{n},d{n}\n" for n in range(5))
    file.write_text('"a\nb: c",group,"x, y",{z}\n' + rows)
    text, guess = render_starter(file=tmp_path / "job.yaml", data=str(file))
    (document,) = parse_documents(text, "job.yaml")
    assert find_problems(document) == []
    columns = parse_document(document).spec.dataset.sources[0].columns
    assert guess is not None
    assert columns is not None
    assert (columns.prompt, columns.completion, columns.group) == ("x, y", "{z}", "group")
    assert "# The columns seen are a b: c, group, x, y, {z}" in text


def test_columns_that_are_kept_out_of_the_prompt_are_named_with_the_reason(tmp_path: Path) -> None:
    rows = (f"TCK-{1000 + n},C{n % 8},Where is it {n}?,{n % 3},q{n % 3}\n" for n in range(40))
    (tmp_path / "a.csv").write_text("ticket,customer,body,code,queue\n" + "".join(rows))
    text, guess = render_starter(file=tmp_path / "job.yaml", data=str(tmp_path / "a.csv"))
    assert guess is not None
    identifier, giveaway, group = describe_columns(guess)
    assert "Column ticket is kept out of the prompt: it has another value" in identifier
    assert "Column code is kept out of the prompt: it predicts the answer in 100 %" in giveaway
    assert "same customer" in group
    for sentence in (identifier, giveaway, group):
        assert f"# {sentence}\n" in text


@pytest.mark.parametrize(
    "write",
    [
        lambda n: f"{n % 27 + 1:02}.03.2026 08:{n:02}",
        lambda n: f"2026-03-{n % 27 + 1:02}",
        lambda n: f"2026-03-01T10:00:{n:02}+01:00",
        lambda n: f"3/{n % 27 + 1}/2026, 1:05 PM",
    ],
)
def test_dates_are_kept_out_of_the_prompt(write: Callable[[int], str], tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    rows = (f'"{write(n)}",Text {n % 30},Phone,{("late", "lost")[n % 3 % 2]}\n' for n in range(40))
    file.write_text("Eingang,Freitext,Kanal,Kategorie\n" + "".join(rows))
    found = inspect_data(file).proposal
    assert [each.name for each in found.left_out] == ["Eingang"]
    assert (found.prompt, found.completion) == ("Freitext", "Kategorie")
    file.write_text("text,version\n" + "".join(f"Text {n},1.2.{n}\n" for n in range(40)))
    assert inspect_data(file).proposal.left_out == ()


def test_the_starter_says_that_personal_data_is_replaced_and_how_to_switch_it_off() -> None:
    text, _ = render_starter(file=Path("job.yaml"))
    assert "Personal data and secrets in the rows are replaced by default" in text
    (document,) = parse_documents(text, "job.yaml")
    assert parse_document(document).spec.dataset.privacy.action == "Redact"
    (document,) = parse_documents(text.replace("# privacy:", "privacy:"), "job.yaml")
    assert parse_document(document).spec.dataset.privacy.action == "Off"


def test_places_are_used_as_given(tmp_path: Path) -> None:
    text, _ = render_starter(
        file=tmp_path / "job.yaml", data="s3://data/x.jsonl", model="/models/a", output="s3://out"
    )
    assert "uri: s3://data/x.jsonl" in text
    assert "uri: file:///models/a" in text
    assert "uri: s3://out" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.csv", None, "no such file"),
        ("empty.csv", "", "is empty"),
        ("header.csv", "a,b\n", "holds no rows"),
        ("a.doc", "x", "extension .doc; use .jsonl"),
        ("a.jsonl", "{nope", "a.jsonl:1: not JSON"),
        ("b.jsonl", "[1]", "expected an object with named fields"),
        ("c.csv", "%PDF-1.7", "c.csv is a PDF document and no text; export the rows as .csv"),
        ("", None, "expected a file, a folder with files"),
        ("*.csv", None, "expected a file, a folder with files"),
    ],
)
def test_bad_data_is_explained(
    name: str, content: str | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(CliError) as caught:
        render_starter(file=Path("job.yaml"), data=str(tmp_path / name))
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("https://example.org/rows.jsonl", "download it and give its path"),
        ("gs://bucket/rows.jsonl", "begins with file://, hf://, pvc:// or s3://"),
    ],
)
def test_an_address_that_no_job_takes_is_refused_with_what_to_do(uri: str, message: str) -> None:
    with pytest.raises(CliError) as caught:
        render_starter(file=Path("job.yaml"), data=uri)
    assert uri in caught.value.message
    assert message in caught.value.message


def test_data_that_was_not_looked_at_is_told() -> None:
    told = format_unread("s3://bucket/rows.jsonl", Path("job.yaml"))
    assert "s3://bucket/rows.jsonl was not looked at" in told
    assert "validate --data job.yaml` with AWS_ACCESS_KEY_ID" in told
    assert "AWS" not in format_unread("hf://datasets/a/b", Path("job.yaml"))


def test_files_of_a_folder_with_other_columns_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,x\nb,y\n")
    (tmp_path / "b.csv").write_text("text,topic,label\na,t,x\nb,t,y\n")
    _, guess = render_starter(file=tmp_path / "job.yaml", data=str(tmp_path))
    assert guess is not None
    (told,) = describe_columns(guess)
    a, b = tmp_path / "a.csv", tmp_path / "b.csv"
    assert told == f"{b} has other columns than {a}: it also has topic."


def test_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    write_starter(file, "a", is_forced=False)
    with pytest.raises(CliError, match="exists"):
        write_starter(file, "b", is_forced=False)
    write_starter(file, "c", is_forced=True)
    assert file.read_text() == "c"
