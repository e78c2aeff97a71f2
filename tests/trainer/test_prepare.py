"""Stage prepare, from files to a published data set, on real storage."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from finetune_api.protocol.stage_results import PrepareResult
from finetune_api.protocol.trainer import RAW_COPIES, Environment, ResolvedJob, Stage
from finetune_trainer.data.prepared import Prepared, read_prepared, read_tokens
from finetune_trainer.data.rows import Side
from finetune_trainer.data.token_files import mapped_file
from finetune_trainer.errors import DataError, RowsRefused, StorageError, TrainerError, UserError
from finetune_trainer.evaluate.questions import gather_questions
from finetune_trainer.model.chat_format import read_format
from finetune_trainer.model.encoding import ChatTokenizer, make_encoder
from finetune_trainer.prepare import building, intake, tokens
from finetune_trainer.prepare.duplicates import bands, near, signatures
from finetune_trainer.prepare.licence import require_licence
from finetune_trainer.prepare.reading import examples
from finetune_trainer.prepare.stage import prepare
from finetune_trainer.report.events import EventEmitter
from kit.models.awkward_templates import OPENS_REASONING
from kit.models.tiny_tokenizer import CHATML, TinyContext, make_tokenizer
from kit.servers.seaweedfs import SeaweedS3, s3

__all__ = ["s3"]

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

needs_real_data = pytest.mark.skipif(
    not REAL_DATA.is_dir(), reason="the real data sets are not beside this repository"
)


class Context(TinyContext):
    """A context that keeps its events."""

    @property
    def events(self) -> list[dict[str, Any]]:
        stream = self.emit._stream
        assert isinstance(stream, io.StringIO)
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    @property
    def messages(self) -> str:
        return "\n".join(event.get("message", "") for event in self.events)


MakeContext = Callable[..., Context]


@pytest.fixture
def make_context(tmp_path: Path) -> MakeContext:
    """Build the context of a run over files below ``tmp_path / "in"``."""

    def make(
        *sources: dict[str, Any] | str,
        name: str = "run",
        output: str = "out",
        spec: dict[str, Any] | None = None,
        chat_template: bool = True,
        **dataset: Any,
    ) -> Context:
        entries = [{"uri": s} if isinstance(s, str) else s for s in sources or ("in/rows.jsonl",)]
        for entry in entries:
            if "://" not in entry["uri"]:
                entry["uri"] = f"file://{tmp_path / entry['uri']}"
        job = ResolvedJob.model_validate(
            {
                "namespace": "team-a",
                "name": name,
                "uid": f"uid-{name}",
                "spec": {
                    "model": {"uri": "hf://example/tiny"},
                    "dataset": {"sources": entries, **dataset},
                    "output": {"uri": f"file://{tmp_path / output}"},
                    "evaluation": {"minPrompts": 1},
                    **(spec or {}),
                },
            }
        )
        context = Context(
            job=job,
            emit=EventEmitter(Stage.PREPARE, stream=io.StringIO()),
            work_dir=tmp_path / "work" / name,
            cache_dir=tmp_path / "cache",
        )
        context.model.chat_template = CHATML if chat_template else None
        return context

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


Write = Callable[[str, str | bytes], Path]


def pairs(number: int) -> str:
    return as_jsonl({"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(number))


def as_jsonl(rows: Iterable[object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def prepare_and_read(context: Context) -> tuple[PrepareResult, Prepared]:
    return prepare(context), read_prepared(context.storage.output, context.job, context.work_dir)


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_sources_of_any_kind_are_read_weighed_and_told(
    make_context: MakeContext, write: Write
) -> None:
    write("2026/a.jsonl.gz", gzip.compress(pairs(20).encode("utf-16")))
    rows = "".join(f"Meine Karte {n} g\u00fcltig?;ja\n" for n in range(10))
    write("2026/b.csv", ("question;answer\n" + rows).encode("cp1252"))
    write("2026/notes.txt", "no data")
    context = make_context(
        {"uri": "in/2026/*.jsonl.gz", "weight": "2.5"},
        {"uri": "in/**/*.csv", "columns": {"prompt": "question", "completion": "answer"}},
    )
    result, prepared = prepare_and_read(context)
    assert (result.rows.test, result.rows.validation) == (6, 1)
    of_source: dict[str, list[str]] = {}
    for row in prepared.train:
        name = row["metadata"]["source"]
        of_source.setdefault(name, []).append(row["prompt"][0]["content"])
    first, second = of_source["sources[0]/a.jsonl.gz"], of_source["sources[1]/2026/b.csv"]
    assert len(first) == (5 * len(set(first)) + 1) // 2
    assert len(second) == len(set(second))
    assert all(text.endswith("g\u00fcltig?") for text in second)
    assert len(prepared.train) == result.rows.train == len(first) + len(second)
    report = prepared.report
    assert [source.files[0].encoding for source in report.sources] == ["UTF-16", "Windows-1252"]
    assert [source.weight for source in report.sources] == ["2.5", "1"]
    assert "a.jsonl.gz read as UTF-16: the file begins with the mark of UTF-16" in context.messages
    assert "2026/b.csv read as Windows-1252" in context.messages
    assert "by the weights of the sources (2.5, 1)" in context.messages


def test_a_data_set_is_divided_counted_and_published(
    make_context: MakeContext, write: Write, tmp_path: Path
) -> None:
    write("rows.jsonl", pairs(100))
    context = make_context()
    result, prepared = prepare_and_read(context)
    assert (result.rows.train, result.rows.validation, result.rows.test) == (75, 5, 20)
    assert result.uri == f"file://{tmp_path}/out/datasets/{result.digest}"
    assert not result.reused
    assert not (context.work_dir / RAW_COPIES).exists()
    assert result.num_invalid_rows == result.num_truncated_rows == 0
    assert [len(prepared.train), len(prepared.validation), len(prepared.test)] == [75, 5, 20]
    row = prepared.train[0]
    assert [m["role"] for m in (*row["prompt"], *row["completion"])] == ["user", "assistant"]
    assert row["metadata"]["source"] == "rows.jsonl"
    number = row["metadata"]["line"] - 1
    assert row["completion"][0]["content"] == f"It is {number}."
    report = prepared.report
    assert report.sources[0].format == "PromptCompletion"
    assert report.sources[0].files[0].rows == 100
    assert report.split.groups == 100
    tokens = report.tokens["hf://example/tiny@main"]
    assert tokens["train"].tokens == result.num_tokens
    assert set(tokens) == {"train", "validation", "test"}
    assert "prepared data set" in context.messages
    folder = tmp_path / "out" / "datasets" / result.digest
    assert {path.name for path in folder.iterdir()} == {
        "train.jsonl",
        "validation.jsonl",
        "test.jsonl",
        "chat.json",
        "train.tokens.parquet",
        "validation.tokens.parquet",
        "report.json",
        "report.html",
        "README.md",
        "manifest.json",
    }
    pointer = json.loads((tmp_path / "out/runs/team-a/run/uid-run/dataset.json").read_text())
    assert pointer["digest"] == result.digest
    assert pointer["rows"] == {"train": 75, "validation": 5, "test": 20}


def test_ranks_map_what_the_encoder_makes_of_the_rows_and_no_rows_are_fetched(
    make_context: MakeContext, write: Write
) -> None:
    long = {"prompt": "why? " * 80, "completion": "because"}
    write("rows.jsonl", pairs(60) + as_jsonl([long]))
    context = make_context(
        spec={"hyperparameters": {"maxSequenceLength": 128}}, on_too_long="Truncate"
    )
    _, prepared = prepare_and_read(context)
    chat_format = read_format(prepared.folder)
    encoder = make_encoder(context.job, context.model.load_tokenizer(), chat_format)
    encoded = [example for row in prepared.train for example in encoder.encode_row(row)]
    expected = [example for example in encoded if example.has_answer]

    fetched = read_tokens(context.storage.output, context.job, context.work_dir / "other-node")
    with pa.memory_map(str(mapped_file(fetched.folder, Side.TRAIN))) as source:
        mapped = pa.ipc.open_stream(source).read_all().to_pydict()
    assert mapped["input_ids"] == [e.input_ids for e in expected]
    assert mapped["labels"] == [e.labels for e in expected]
    trained = fetched.report.trained["train"]
    assert trained.examples == len(expected) < len(prepared.train)
    assert trained.tokens == sum(len(e.input_ids) for e in expected)
    assert trained.longest == max(len(e.input_ids) for e in expected)
    assert not list(fetched.folder.glob("*.jsonl"))


@pytest.mark.parametrize("is_shared", [True, False])
def test_weights_are_fetched_before_gpus_are_held_where_later_stages_find_them(
    make_context: MakeContext, write: Write, is_shared: bool
) -> None:
    write("rows.jsonl", pairs(40))
    context = make_context()
    context.cache_is_shared = is_shared
    prepare(context)
    assert context.model.has_weights is is_shared
    write("rows.jsonl", "not json\n")
    refused = make_context(name="refused")
    refused.cache_is_shared = is_shared
    with pytest.raises(DataError):
        prepare(refused)
    assert not refused.model.has_weights


def test_the_same_input_gives_the_same_bytes_in_another_place(
    make_context: MakeContext, write: Write, tmp_path: Path
) -> None:
    write("rows.jsonl", pairs(50))
    write("copy/rows.jsonl", pairs(50))
    first = prepare(make_context())
    second = prepare(make_context("in/copy/rows.jsonl", name="other", output="out2"))
    assert first.digest == second.digest
    one, two = (files_below(tmp_path / out / "datasets") for out in ("out", "out2"))
    manifest = f"{first.digest}/manifest.json"
    assert json.loads(one.pop(manifest))["files"] == json.loads(two.pop(manifest))["files"]
    assert one == two


def test_the_same_source_and_recipe_is_prepared_once(
    make_context: MakeContext, write: Write
) -> None:
    write("rows.jsonl", pairs(50))
    first = prepare(make_context())
    other = make_context(name="other")
    second = prepare(other)
    assert second.reused
    assert second.model_copy(update={"reused": False}) == first
    assert other.model.num_tokenizer_loads == 0
    assert "reused data set" in other.messages
    assert read_prepared(other.storage.output, other.job, other.work_dir).digest == first.digest


@pytest.mark.parametrize(
    "changed",
    [
        {"split": {"seed": 14}},
        {"max_rows": 40},
        {"spec": {"hyperparameters": {"maxSequenceLength": 512}}},
        {"spec": {"model": {"uri": "hf://example/other"}}},
    ],
)
def test_another_recipe_is_another_version(
    make_context: MakeContext, write: Write, changed: dict[str, Any]
) -> None:
    write("rows.jsonl", pairs(50))
    first = prepare(make_context())
    second = prepare(make_context(name="other", **changed))
    assert not second.reused
    assert second.digest != first.digest


def test_changed_source_bytes_are_another_version(make_context: MakeContext, write: Write) -> None:
    write("rows.jsonl", pairs(50))
    first = prepare(make_context())
    write("rows.jsonl", pairs(51))
    second = prepare(make_context())
    assert not second.reused
    assert second.digest != first.digest


def test_the_loser_of_a_race_uses_what_the_winner_published(
    make_context: MakeContext, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("rows.jsonl", pairs(50))
    late = make_context(name="late")
    load = late.model.load_tokenizer

    def load_while_the_other_publishes() -> Any:
        winner = prepare(make_context(name="winner"))
        assert not winner.reused
        return load()

    monkeypatch.setattr(late.model, "load_tokenizer", load_while_the_other_publishes)
    result, prepared = prepare_and_read(late)
    assert prepared.digest == result.digest
    assert len(prepared.train) == result.rows.train


def test_a_folder_stands_for_all_its_files_and_sources_may_be_mixed(
    make_context: MakeContext, write: Write
) -> None:
    write("set/b.jsonl", as_jsonl({"messages": chat(f"b{n}", "x")} for n in range(10)))
    write("set/a.csv", "prompt,completion\n" + "".join(f"a{n},x\n" for n in range(10)))
    write("set/notes.txt", "not data")
    write("set/.hidden.jsonl", "no")
    write("more.json", json.dumps([{"text": f"c{n}"} for n in range(10)]))
    _, prepared = prepare_and_read(make_context({"uri": "in/set/", "format": "Auto"}))
    assert prepared.report.sources[0].rows == 20
    context = make_context("in/set/b.jsonl", "in/set/a.csv", "in/more.json")
    _, prepared = prepare_and_read(context)
    rows = [*prepared.train, *prepared.validation, *prepared.test]
    assert {row["metadata"]["source"] for row in rows} == {
        "sources[0]/b.jsonl",
        "sources[1]/a.csv",
        "sources[2]/more.json",
    }
    assert [s.format for s in prepared.report.sources] == ["Chat", "PromptCompletion", "Text"]


def chat(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def mixed_rows(number: int) -> str:
    return as_jsonl(
        row
        for n in range(number)
        for row in (
            {"messages": chat(f"first {n}", f"one {n}")},
            {"prompt": f"second {n}", "completion": f"two {n}", "messages": None},
            {"instruction": f"third {n}", "input": "", "output": f"three {n}"},
            {"prompt": f"fourth {n}", "completion": f"four {n}"},
            {"text": f"a fifth {n}"},
        )
    )


def test_rows_of_several_formats_in_one_file_are_read_each_by_its_fields(
    make_context: MakeContext, write: Write
) -> None:
    write("rows.jsonl", mixed_rows(20))
    _, prepared = prepare_and_read(make_context())
    (source,) = prepared.report.sources
    assert (source.rows, source.invalid_rows) == (100, 0)
    assert source.format == "PromptCompletion"
    counts = "PromptCompletion 40, Chat 20, Alpaca 20, Text 20"
    assert source.format_reason.endswith(f"; rows kept: {counts}")
    shapes = {tuple(sorted(row.keys() - {"metadata"})) for row in prepared.train}
    assert shapes == {("completion", "prompt"), ("messages",), ("text",)}
    assert "unreadFields" not in {check.name for check in prepared.report.checks}


def test_a_row_beside_those_of_its_file_is_invalid_if_the_model_cannot_learn_it(
    make_context: MakeContext, write: Write
) -> None:
    odd = [
        {"messages": chat("q", "a")},
        {"text": "a text", "answer": "beside it"},
        {"prompt": "one", "completion": None, "text": "a part of it"},
    ]
    write("rows.jsonl", pairs(30) + as_jsonl(odd))
    context = make_context(chat_template=False, maxInvalidRows=3)
    _, prepared = prepare_and_read(context)
    (source,) = prepared.report.sources
    assert (source.rows, source.invalid_rows) == (30, 3)
    assert "NoChatTemplate" in prepared.report.invalid_rows.by_reason


def test_sources_bound_to_a_side_stay_there(make_context: MakeContext, write: Write) -> None:
    write("train.jsonl", pairs(30))
    write("test.jsonl", as_jsonl({"prompt": f"t{n}", "completion": "x"} for n in range(7)))
    result, prepared = prepare_and_read(
        make_context(
            {"uri": "in/train.jsonl", "side": "Train"}, {"uri": "in/test.jsonl", "side": "Test"}
        )
    )
    assert (result.rows.train, result.rows.validation, result.rows.test) == (30, 0, 7)
    assert {row["metadata"]["source"] for row in prepared.test} == {"sources[1]/test.jsonl"}


def test_a_model_without_chat_template_gets_plain_text(
    make_context: MakeContext, write: Write
) -> None:
    write("rows.jsonl", pairs(20))
    _, prepared = prepare_and_read(make_context(chat_template=False))
    assert all(isinstance(row["prompt"], str) for row in prepared.train)


def test_bad_rows_within_the_limit_are_left_out_and_reported(
    make_context: MakeContext, write: Write
) -> None:
    bad = '{"prompt": "x"}\n{"prompt": "x", "completion": ""}\nnot json\n'
    write("rows.jsonl", pairs(30) + bad)
    context = make_context(max_invalid_rows=3)
    result, prepared = prepare_and_read(context)
    assert result.num_invalid_rows == 3
    assert result.rows.train + result.rows.validation + result.rows.test == 30
    invalid = prepared.report.invalid_rows
    assert invalid.by_reason == {"EmptyAnswer": 1, "MissingColumn": 1, "NotJson": 1}
    assert [(row.file, row.line) for row in invalid.first] == [
        ("rows.jsonl", 31),
        ("rows.jsonl", 32),
        ("rows.jsonl", 33),
    ]
    assert "left out 3 invalid rows" in context.messages


def test_too_many_bad_rows_refuse_the_data_set_and_list_them(
    make_context: MakeContext, write: Write, tmp_path: Path
) -> None:
    write("rows.jsonl", pairs(30) + '{"prompt": \n' * 150)
    with pytest.raises(DataError) as caught:
        prepare(make_context(max_invalid_rows=7))
    assert caught.value.reason == "InvalidRows"
    message = caught.value.message
    assert all(f"rows.jsonl:{line}: not JSON" in message for line in range(31, 36))
    assert "rows.jsonl:36" not in message
    assert "150 invalid row(s), allowed are 7 (dataset.maxInvalidRows)" in message
    assert "[NotJson 150]" in message
    assert "set dataset.maxInvalidRows to 150 to leave them out and go on with the 30" in message
    listing = json.loads((tmp_path / "out/runs/team-a/run/uid-run/invalid-rows.json").read_text())
    assert (listing["total"], len(listing["first"])) == (150, 100)
    assert not (tmp_path / "out" / "datasets").exists()
    assert not (tmp_path / "out/runs/team-a/run/uid-run/dataset.json").exists()


def test_where_no_row_is_good_nobody_is_told_to_tolerate_them(
    make_context: MakeContext, write: Write
) -> None:
    write("rows.jsonl", as_jsonl([{"messages": [{"role": "user", "content": 1}]}] * 3))
    with pytest.raises(DataError, match="No row can be used: correct the rows, or the format") as e:
        prepare(make_context())
    assert "set dataset.maxInvalidRows" not in e.value.message


def test_answers_of_weight_0_reach_the_ranks_as_context_only(
    make_context: MakeContext, write: Write
) -> None:
    def chat(n: int) -> dict[str, Any]:
        turns = [("user", f"ask {n}"), ("assistant", f"bad {n}"), ("user", "again")]
        messages: list[dict[str, Any]] = [{"role": r, "content": c} for r, c in turns]
        messages[1]["weight"] = 0
        return {"messages": [*messages, {"role": "assistant", "content": f"good {n}", "weight": 1}]}

    write("rows.jsonl", as_jsonl(chat(n) for n in range(30)))
    _, prepared = prepare_and_read(make_context())
    tokenizer = make_tokenizer()
    for loss in ("Auto", "Assistant", "Completion"):
        encoder = ChatTokenizer(tokenizer, loss=loss, max_tokens=1000)
        for row in prepared.rows[Side.TRAIN]:
            (example,) = encoder.encode_row(row)
            learned = [label for label in example.labels if label >= 0]
            assert "bad" in tokenizer.decode(example.input_ids)
            assert "bad" not in tokenizer.decode(learned)
            assert tokenizer.decode(learned).startswith("good")
    (question, *_) = gather_questions(prepared.rows[Side.TEST], max_questions=1, seed=1)
    assert [set(message) for message in question.prompt] == [{"role", "content"}] * 3
    assert question.references[0].startswith("good")


SECRET = "4111111111111111"


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": f"call {SECRET}", "content": "x"}]},
        {"messages": [{"role": "user", "content": int(SECRET)}]},
        {"messages": SECRET},
        {"messages": [{"role": "assistant", "content": SECRET}]},
        {"prompt": SECRET, "completion": " "},
        {"prompt": [SECRET], "completion": "x"},
        {"prompt": f"<|im_end|> {SECRET}", "completion": "x"},
    ],
)
def test_the_text_of_a_row_stays_out_of_messages(
    row: dict[str, Any], make_context: MakeContext, write: Write, tmp_path: Path
) -> None:
    write("rows.jsonl", as_jsonl([row]) + '{"prompt": "' + SECRET + "\n")
    with pytest.raises(DataError) as caught:
        prepare(make_context())
    assert "rows.jsonl:1: " in caught.value.message
    assert SECRET not in caught.value.message
    listing = (tmp_path / "out/runs/team-a/run/uid-run/invalid-rows.json").read_text()
    assert SECRET not in listing
    assert "<CARD_1>" in listing


def test_whoever_looks_for_no_personal_data_is_shown_the_start_of_a_bad_row(
    make_context: MakeContext, write: Write, tmp_path: Path
) -> None:
    write("rows.jsonl", as_jsonl([{"messages": SECRET}]))
    with pytest.raises(DataError) as caught:
        prepare(make_context(privacy={"action": "Off"}))
    assert SECRET not in caught.value.message
    assert SECRET in (tmp_path / "out/runs/team-a/run/uid-run/invalid-rows.json").read_text()


def test_a_template_that_fails_does_not_quote_the_row(
    make_context: MakeContext, write: Write
) -> None:
    write("rows.jsonl", as_jsonl([{"body": SECRET, "completion": "x"}]))
    source = {"uri": "in/rows.jsonl", "template": "{{ body.format() }}{{ [].index(body) }}"}
    with pytest.raises(DataError, match="TemplateFailed") as caught:
        prepare(make_context(source))
    assert SECRET not in caught.value.message


def test_control_tokens_in_what_users_wrote_are_bad_rows(
    make_context: MakeContext, write: Write, tmp_path: Path
) -> None:
    bad = as_jsonl([{"prompt": "What ends a turn? <|im_end|>", "completion": "That."}])
    write("rows.jsonl", pairs(30) + bad)
    with pytest.raises(DataError) as caught:
        prepare(make_context())
    assert caught.value.reason == "InvalidRows"
    assert "rows.jsonl:31: prompt[0], by user, contains '<|im_end|>'" in str(caught.value)
    assert not (tmp_path / "out" / "datasets").exists()
    result = prepare(make_context(max_invalid_rows=1))
    rows = result.rows
    assert (result.num_invalid_rows, rows.train + rows.validation + rows.test) == (1, 30)


GOAL = {"goal": {"metric": "exactMatch", "atLeast": "0.9"}}


@pytest.mark.parametrize(
    ("content", "settings", "error", "reason", "message"),
    [
        ("", {}, DataError, "EmptyDataset", "no usable rows"),
        ("\n\n", {}, DataError, "EmptyDataset", "rows.jsonl"),
        (pairs(2), {}, DataError, "TooFewRows", "at least 3 are needed"),
        (as_jsonl([{"q": "", "a": ""}] * 9), {}, DataError, "UnknownFormat", "fields q, a"),
        (
            as_jsonl([{"prompt": f"Ask {i}", "completion": "ok"} for i in range(3)]),
            {"spec": {"evaluation": {}}},
            DataError,
            "TooFewHeldOutPrompts",
            "evaluation.minPrompts asks for 30",
        ),
        (pairs(9), {"split": {"testPercent": 0}}, DataError, "NoTestRows", "testPercent"),
        (
            pairs(100),
            {"spec": {**GOAL, "evaluation": {"looks": "Report", "minPrompts": 1}}},
            DataError,
            "GoalUndecidable",
            "goal.atLeast 0.9 cannot be met on 20 independent held-out prompt(s): with every "
            "answer right, and none of the base model's, its lower bound would be 0.832 "
            "(goal.certainty 0.95). 36 are the least that could show it: add examples",
        ),
        (
            pairs(180),
            {"spec": GOAL},
            DataError,
            "GoalUndecidable",
            "evaluation.looks: Correct has raised goal.certainty from 0.95 for this evaluation",
        ),
        (
            pairs(100),
            {"spec": {"goal": {"metric": "exactMatch", "overBase": "0.8"}}},
            DataError,
            "GoalUndecidable",
            "(goal.certainty 0.96960365). 40 are the least",
        ),
        (
            pairs(200),
            {"spec": {**GOAL, "evaluation": {"maxSamples": 35, "minPrompts": 1}}},
            DataError,
            "GoalUndecidable",
            "raise evaluation.maxSamples from 35",
        ),
        (
            pairs(100),
            {"spec": {"goal": {"metric": "exactMatch", "atLeast": "1"}}},
            DataError,
            "GoalUndecidable",
            "goal.atLeast 1 cannot be shown by any number of held-out prompts",
        ),
        (
            as_jsonl([{"text": f"line {n}"} for n in range(30)]),
            {"spec": GOAL},
            DataError,
            "MetricUnsuitable",
            "goal.metric exactMatch",
        ),
        (
            as_jsonl([{"text": f"line {n}"} for n in range(30)]),
            {"spec": {"evaluation": {"minPrompts": 1, "review": {}}}},
            DataError,
            "NothingToReview",
            "every held-out row is plain text",
        ),
        (
            pairs(30),
            {"spec": {"hyperparameters": {"maxSequenceLength": 16}}},
            DataError,
            "AllRowsTooLong",
            "maxSequenceLength 16",
        ),
    ],
)
def test_unusable_data_is_refused_and_nothing_published(
    make_context: MakeContext,
    write: Write,
    tmp_path: Path,
    content: str,
    settings: dict[str, Any],
    error: type[TrainerError],
    reason: str,
    message: str,
) -> None:
    write("rows.jsonl", content)
    with pytest.raises(error) as caught:
        prepare(make_context(**settings))
    assert caught.value.reason == reason
    assert message in caught.value.message
    assert not (tmp_path / "out" / "datasets").exists()


def test_early_stopping_by_rows_that_were_left_out_is_refused_before_training(
    make_context: MakeContext, write: Write
) -> None:
    write("rows.jsonl", pairs(20))
    held_out = as_jsonl([{"prompt": f"Held out {n}?", "completion": "Yes."} for n in range(9)])
    write("test.jsonl", held_out)
    write("validation.jsonl", held_out)
    context = make_context(
        {"uri": "in/rows.jsonl", "side": "Train"},
        {"uri": "in/test.jsonl", "side": "Test"},
        {"uri": "in/validation.jsonl", "side": "Validation"},
        spec={"checkpoint": {"earlyStopping": {"patience": 2}}},
    )
    with pytest.raises(DataError) as caught:
        prepare(context)
    assert caught.value.reason == "NoValidationRows"
    assert caught.value.message.startswith("checkpoint.earlyStopping: no validation row is left")


@pytest.mark.parametrize(
    ("source", "error", "reason", "message"),
    [
        ({"uri": "in/absent.jsonl"}, UserError, "DatasetNotFound", "holds other.doc, rows.jsonl"),
        ({"uri": "in/absent"}, UserError, "DatasetNotFound", "no data set at"),
        ({"uri": "in/other.doc"}, UserError, "DatasetNotFound", ".parquet"),
        ({"uri": "in/rows.jsonl", "side": "Test"}, DataError, "NoTrainRows", "side: Split"),
        (
            {"uri": "in/rows.jsonl", "template": "{{ nope }}"},
            UserError,
            "MissingColumn",
            "'nope' is undefined; the row has: prompt, completion",
        ),
        (
            {"uri": "in/rows.jsonl", "template": "{% if %}"},
            UserError,
            "InvalidTemplate",
            "dataset.sources[0].template: not valid Jinja: line 1",
        ),
        (
            {"uri": "in/rows.jsonl", "columns": {"group": "customer"}},
            UserError,
            "MissingColumn",
            "no column 'customer'",
        ),
    ],
)
def test_a_wrong_source_is_the_users_error(
    make_context: MakeContext,
    write: Write,
    source: dict[str, Any],
    error: type[TrainerError],
    reason: str,
    message: str,
) -> None:
    write("rows.jsonl", pairs(30))
    write("other.doc", "x")
    with pytest.raises(error) as caught:
        prepare(make_context(source))
    assert caught.value.reason == reason
    assert message in caught.value.message


def test_a_goal_is_checked_against_a_reused_data_set_too(
    make_context: MakeContext, write: Write
) -> None:
    write("rows.jsonl", as_jsonl([{"text": f"line {n}"} for n in range(30)]))
    assert not prepare(make_context()).reused
    with pytest.raises(DataError) as caught:
        prepare(make_context(name="other", spec=GOAL))
    assert caught.value.reason == "MetricUnsuitable"


@pytest.mark.parametrize(
    ("card", "declared", "allowed", "words"),
    [
        ("mit", None, '["MIT", "apache-*"]', ""),
        ("mit", None, '["apache-*"]', "'mit', which is not one that base models may have here"),
        ("gemma", "mit", '["mit"]', "'gemma', which is not one"),
        (None, "mit", '["mit"]', ""),
        (None, None, '["mit"]', "states no licence, neither in its card"),
        (None, None, None, ""),
        (None, None, "[]", "(none); choose another model"),
    ],
)
def test_the_licence_of_the_base_model_is_told_and_held_against_those_allowed(
    make_context: MakeContext,
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    card: str | None,
    declared: str | None,
    allowed: str | None,
    words: str,
) -> None:
    write("rows.jsonl", pairs(3))
    model = {"uri": "hf://example/tiny", **({"licence": declared} if declared else {})}
    context = make_context(spec={"model": model})
    context.cache_dir.mkdir()
    if card:
        (context.cache_dir / "README.md").write_text(f"---\nlicense: {card}\n---\n")
    if allowed is not None:
        monkeypatch.setenv(Environment.ALLOWED_LICENCES, allowed)
    if words:
        with pytest.raises(UserError) as refused:
            require_licence(context.job.spec.model, context.cache_dir, context.storage.say)
        assert refused.value.reason == "LicenceNotAllowed"
        assert words in refused.value.message
    else:
        require_licence(context.job.spec.model, context.cache_dir, context.storage.say)
    assert (card or declared or "look it up before") in context.messages


def test_equal_prompts_stay_on_one_side_and_copies_are_left_out(
    make_context: MakeContext, write: Write
) -> None:
    rows = [{"prompt": f"p{n % 20}", "completion": f"c{n % 40}"} for n in range(120)]
    write("rows.jsonl", as_jsonl(rows))
    context = make_context()
    _, prepared = prepare_and_read(context)
    sides = [
        {row["prompt"][0]["content"] for row in rows}
        for rows in (prepared.train, prepared.validation, prepared.test)
    ]
    assert sum(len(side) for side in sides) == 20
    (check,) = [check for check in prepared.report.checks if check.name == "duplicateRows"]
    assert (check.flagged, check.removed, len(check.pairs)) == (80, 80, 20)
    assert "80 of 120 rows repeat another row" in context.messages
    assert "rows.jsonl:41 and rows.jsonl:1" in context.messages
    removed = [
        json.loads(line)
        for line in (prepared.folder / "removed-rows.jsonl").read_text().splitlines()
    ]
    assert len(removed) == 80
    assert removed[0] == {
        "file": "rows.jsonl",
        "line": 41,
        "check": "duplicateRows",
        "otherFile": "rows.jsonl",
        "otherLine": 1,
    }


def test_case_and_space_twins_of_a_fixed_test_side_are_not_trained_on(
    make_context: MakeContext, write: Write
) -> None:
    test = [{"prompt": f"What is {n} called?", "completion": f"It is {n}."} for n in range(80)]
    twins = [
        {"prompt": f"  WHAT is {n}  called ? ", "completion": f"it is {n}"} for n in range(0, 80, 2)
    ]
    write("train.jsonl", pairs(60) + as_jsonl(twins))
    write("test.jsonl", as_jsonl(test))
    context = make_context(
        {"uri": "in/train.jsonl", "side": "Train"}, {"uri": "in/test.jsonl", "side": "Test"}
    )
    result, prepared = prepare_and_read(context)
    assert (result.rows.train, result.rows.test) == (60, 80)
    assert "40 rows of sources bound to train or validation are close to" in context.messages
    assert "sources[0]/train.jsonl:61 and sources[1]/test.jsonl:1" in context.messages
    assert "the verdict rests on 80 independent held-out prompts" in context.messages
    split = prepared.report.split
    assert (split.test_groups, split.wanted_test_groups) == (80, 104)


def test_rows_close_to_a_fixed_test_side_are_kept_where_the_job_says_so_and_it_is_told(
    make_context: MakeContext, write: Write
) -> None:
    write("rows.jsonl", pairs(40))
    sources = [{"uri": "in/rows.jsonl", "side": side} for side in ("Train", "Test")]
    context = make_context(*sources, duplicates={"leaked": "Report"})
    result, prepared = prepare_and_read(context)
    assert (result.rows.train, result.rows.test) == (40, 40)
    (leaked,) = (each for each in prepared.report.checks if each.name == "leakedRows")
    assert (leaked.flagged, leaked.removed) == (40, 0)
    assert "40 rows of sources bound to train or validation are close to" in context.messages
    assert "the scores measure memory" in context.messages


def test_rows_of_a_benchmark_are_not_trained_on_and_count_into_the_version(
    make_context: MakeContext, write: Write
) -> None:
    write("rows.jsonl", pairs(60))
    path = write("exam.jsonl", as_jsonl([{"question": "what is 3"}]))
    exam = {"uri": f"file://{path}", "format": "Text", "columns": {"text": "question"}}
    context = make_context(contamination={"against": [exam]})
    result, prepared = prepare_and_read(context)
    lines = {row["metadata"]["line"] for rows in prepared.rows.values() for row in rows}
    assert lines == set(range(1, 61)) - {4}
    assert "dataset.contamination.against[0]/exam.jsonl:1" in context.messages
    write("exam.jsonl", as_jsonl([{"question": "what is 5"}]))
    assert prepare(make_context(contamination={"against": [exam]})).digest != result.digest
    write("exam.jsonl", "{}\n")
    with pytest.raises(DataError, match=r"contamination\.against") as caught:
        prepare(make_context(contamination={"against": [exam]}))
    assert caught.value.reason == "BenchmarkUnreadable"


def test_the_latest_rows_are_held_out_on_request(make_context: MakeContext, write: Write) -> None:
    rows = [
        {
            "prompt": f"What is {n}?",
            "completion": f"It is {n}.",
            "created": f"2026-01-{n % 28 + 1:02}",
        }
        for n in range(112)
    ]
    write("rows.jsonl", as_jsonl(rows))
    source = {"uri": "in/rows.jsonl", "columns": {"time": "created"}}
    split = {"by": "Time", "testPercent": 25, "validationPercent": 0}
    _, prepared = prepare_and_read(make_context(source, split=split))
    days = [rows[row["metadata"]["line"] - 1]["created"] for row in prepared.test]
    assert sorted(set(days)) == [f"2026-01-{day:02}" for day in range(22, 29)]


def test_columns_for_slices_reach_the_held_out_rows_as_digests(
    make_context: MakeContext, write: Write
) -> None:
    languages = ("de", "русский", None)
    rows = [
        {"prompt": f"What is {n}?", "completion": "x", "language": languages[n % 3]}
        for n in range(60)
    ]
    write("rows.jsonl", as_jsonl(rows))
    source = {"uri": "in/rows.jsonl", "columns": {"slices": ["language"]}}
    gate = {"name": "g", "metric": "loss", "atMost": "9"}
    found = [{**gate, "slice": {"column": "language", "value": "русский"}}]
    context = make_context(source, spec={"evaluation": {"gates": found, "minPrompts": 1}})
    _, prepared = prepare_and_read(context)
    held_out = [r["metadata"].get("slices", {}) for r in prepared.test]
    assert any(held_out)
    assert all(set(kept) <= {"language"} for kept in held_out)
    assert "русский" not in (prepared.folder / "test.jsonl").read_text()
    missing = [{**gate, "slice": {"column": "language", "value": "fr"}}]
    other = make_context(dict(source), spec={"evaluation": {"gates": missing, "minPrompts": 1}})
    with pytest.raises(DataError, match=r"column language with value \"fr\": no held-out row"):
        prepare(other)


def test_the_most_rows_are_drawn_before_the_split(make_context: MakeContext, write: Write) -> None:
    write("rows.jsonl", pairs(100))
    result = prepare(make_context(max_rows=40))
    assert (result.rows.train, result.rows.validation, result.rows.test) == (30, 2, 8)


def test_a_run_without_data_set_says_what_to_do(make_context: MakeContext, write: Write) -> None:
    write("rows.jsonl", pairs(10))
    context = make_context()
    with pytest.raises(UserError) as caught:
        read_prepared(context.storage.output, context.job, context.work_dir)
    assert caught.value.reason == "DatasetNotPrepared"
    assert "run stage prepare" in caught.value.message


@pytest.mark.parametrize("objective", ["SFT", "KTO"])
def test_only_the_approved_data_set_is_read(
    make_context: MakeContext, write: Write, objective: str
) -> None:
    def label(n: int) -> dict[str, bool]:
        return {"label": bool(n % 2)} if objective == "KTO" else {}

    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n}.", **label(n)} for n in range(60)]
    write("rows.jsonl", as_jsonl(rows))
    context = make_context(spec={"method": {"objective": objective}})
    first = prepare(context)
    reads = {"output": context.storage.output, "job": context.job, "work_dir": context.work_dir}
    assert read_prepared(**reads, approved=first.digest).digest == first.digest
    assert read_tokens(**reads, approved=first.digest).digest == first.digest

    write("rows.jsonl", as_jsonl([*rows, {**rows[0], "prompt": "What is new?"}]))
    again = prepare(context)  # the same run, after somebody has looked at its first data set
    for read in (read_prepared, read_tokens):
        with pytest.raises(UserError) as caught:
            read(**reads, approved=first.digest)
        assert caught.value.reason == "DatasetNotApproved"
        assert first.digest in caught.value.message
        assert again.digest in caught.value.message


def test_a_tampered_data_set_is_named_and_refused(
    make_context: MakeContext, write: Write, tmp_path: Path
) -> None:
    write("rows.jsonl", pairs(30))
    result = prepare(make_context())
    folder = tmp_path / "out" / "datasets" / result.digest
    train = folder / "train.jsonl"
    train.write_bytes(train.read_bytes().replace(b"It is", b"It as"))
    with pytest.raises(StorageError, match=r"train\.jsonl"):
        prepare(make_context(name="other"))


def test_a_data_set_replaced_together_with_its_manifest_is_refused(
    make_context: MakeContext, write: Write, tmp_path: Path
) -> None:
    write("rows.jsonl", pairs(30))
    context = make_context()
    result = prepare(context)
    key = tmp_path / "out/runs/team-a/run/uid-run/dataset.json"
    pointer = json.loads(key.read_text())
    key.write_text(json.dumps({**pointer, "manifestDigest": "0" * 64}))
    with pytest.raises(StorageError) as caught:
        read_prepared(context.storage.output, context.job, context.work_dir)
    assert caught.value.reason == "DatasetChanged"
    assert result.digest in caught.value.message


def make_s3_context(
    server: SeaweedS3, tmp_path: Path, source: str, output: str, name: str = "run"
) -> Context:
    spec = {
        "model": {"uri": "hf://example/tiny"},
        "dataset": {"sources": [{"uri": source, "credentialsRef": {"name": "s3-read-only"}}]},
        "evaluation": {"minPrompts": 1},
        "output": {"uri": output, "credentialsRef": {"name": "s3-read-write"}},
        "s3": {"endpoint": server.endpoint},
    }
    return Context(
        job=ResolvedJob.model_validate(
            {"namespace": "team-a", "name": name, "uid": f"uid-{name}", "spec": spec}
        ),
        emit=EventEmitter(Stage.PREPARE, stream=io.StringIO()),
        work_dir=tmp_path / name,
        cache_dir=tmp_path / "cache",
        credentials_dir=server.credentials_dir,
    )


def test_a_data_set_on_s3_is_prepared_once_for_two_runs(s3: SeaweedS3, tmp_path: Path) -> None:
    bucket = s3.new_bucket()
    s3.client().put_object(Bucket=bucket, Key="in/a/rows.jsonl", Body=pairs(40).encode())
    s3.client().put_object(Bucket=bucket, Key="in/b/rows.jsonl", Body=pairs(40).encode())
    output = f"s3://{bucket}/models"
    first, prepared = prepare_and_read(
        make_s3_context(s3, tmp_path, f"s3://{bucket}/in/a/rows.jsonl", output)
    )
    assert first.uri == f"{output}/datasets/{first.digest}"
    assert len(prepared.train) == first.rows.train == 30
    second, _ = prepare_and_read(
        make_s3_context(s3, tmp_path, f"s3://{bucket}/in/b", output, name="second")
    )
    assert second.reused
    assert second.digest == first.digest


@pytest.mark.parametrize(
    ("source", "reason", "message"),
    [
        ("s3://{bucket}/in/absent.jsonl", "DatasetNotFound", "holds rows.jsonl"),
        ("s3://{bucket}/absent/", "DatasetNotFound", "holds nothing"),
        ("s3://no-such-bucket-here/rows.jsonl", None, "no-such-bucket-here"),
    ],
)
def test_a_source_missing_on_s3_is_the_users_error(
    s3: SeaweedS3, tmp_path: Path, source: str, reason: str | None, message: str
) -> None:
    bucket = s3.new_bucket()
    s3.client().put_object(Bucket=bucket, Key="in/rows.jsonl", Body=pairs(40).encode())
    context = make_s3_context(s3, tmp_path, source.format(bucket=bucket), f"s3://{bucket}/out")
    with pytest.raises(UserError) as caught:
        prepare(context)
    assert reason in (caught.value.reason, None)
    assert message in caught.value.message


def count_left_out(prepared: Prepared) -> int:
    """Return how many rows the checks took out as copies of others."""
    return sum(check.removed for check in prepared.report.checks)


@needs_real_data
def test_banking77_is_read_from_csv_with_a_template(make_context: MakeContext) -> None:
    source = {
        "uri": f"file://{REAL_DATA}/banking77/train.csv",
        "format": "Csv",
        "columns": {"completion": "category"},
        "template": "Which intent is this?\n{{ text }}",
    }
    result, prepared = prepare_and_read(make_context(source))
    num_copies = count_left_out(prepared)
    num_rows = result.rows.train + result.rows.validation + result.rows.test
    assert num_rows + num_copies == 10_003
    assert result.rows.test == pytest.approx(num_rows / 5, rel=0.01)
    with (REAL_DATA / "banking77" / "train.csv").open(encoding="utf-8", newline="") as stream:
        expected = {(row["text"], row["category"]) for row in csv.DictReader(stream)}
    rows = [*prepared.train, *prepared.validation, *prepared.test]
    got = {
        (
            row["prompt"][0]["content"].removeprefix("Which intent is this?\n"),
            row["completion"][0]["content"],
        )
        for row in rows
    }
    assert got <= expected
    assert len(expected - got) <= num_copies
    assert prepared.report.split.labels == 77
    assert float(prepared.report.split.largest_label_deviation or 1) <= 0.01


@needs_real_data
def test_e2e_keeps_each_meaning_on_one_side(make_context: MakeContext) -> None:
    source = {
        "uri": f"file://{REAL_DATA}/e2e/devset.csv",
        "columns": {"prompt": "mr", "completion": "ref", "group": "mr"},
    }
    result, prepared = prepare_and_read(make_context(source))
    num_rows = result.rows.train + result.rows.validation + result.rows.test
    assert num_rows + count_left_out(prepared) == 4_672
    meanings = [
        {row["prompt"][0]["content"] for row in rows}
        for rows in (prepared.train, prepared.validation, prepared.test)
    ]
    assert sum(map(len, meanings)) == len(set.union(*meanings))
    assert len(set.union(*meanings)) >= prepared.report.split.groups
    assert result.rows.test == pytest.approx(num_rows / 5, rel=0.05)


class TestChatTemplates:
    """The job's own template and arguments."""

    ROWS = '{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n'
    TEMPLATE = (
        "{% for m in messages %}{% if loud and m['role'] == 'assistant' %}{{ '!' }}{% endif %}"
        "{{ m['content'] }}{{ eos_token if m['role'] == 'assistant' }}"
        "{% endfor %}{% if add_generation_prompt and loud %}{{ '!' }}{% endif %}"
    )

    def prepare_with(
        self, make_context: MakeContext, write: Callable[..., Path], **model: Any
    ) -> tuple[Context, dict[str, Any]]:
        write("rows.jsonl", self.ROWS)
        spec = {"model": {"uri": "hf://example/tiny", **model}}
        context = make_context(
            spec=spec, split={"testPercent": 50, "validationPercent": 0}, chat_template=False
        )
        result = prepare(context)
        folder = context.storage.output.list(f"datasets/{result.digest}/chat.json")
        (item,) = folder
        return context, json.loads(context.storage.output.read_bytes(item.key))

    @pytest.mark.parametrize("as_file", [False, True])
    def test_a_template_makes_conversations_of_a_base_model(
        self,
        make_context: MakeContext,
        write: Callable[..., Path],
        as_file: bool,
    ) -> None:
        path = write("chat.jinja", self.TEMPLATE)
        template = {"uri": f"file://{path}"} if as_file else {"text": self.TEMPLATE}
        _, found = self.prepare_with(make_context, write, chatTemplate=template)
        assert found["template"] == self.TEMPLATE

    def test_arguments_are_written_into_the_template(
        self, make_context: MakeContext, write: Callable[..., Path]
    ) -> None:
        _, found = self.prepare_with(
            make_context,
            write,
            chatTemplate={"text": self.TEMPLATE},
            chatTemplateArguments={"loud": "true"},
        )
        assert "set loud = true" in found["template"]

    @pytest.mark.parametrize(
        ("model", "reason", "words"),
        [
            (
                {"chatTemplate": {"text": "{{ x }}"}, "chatTemplateArguments": {"loud": "1"}},
                "UnknownTemplateArgument",
                "names loud, which the chat template does not read; it reads x",
            ),
            ({"chatTemplate": {"text": "{% if %}"}}, "ChatTemplateUnusable", "model.chatTemplate"),
            ({"chatTemplate": {"uri": "file:///nowhere/x"}}, "ChatTemplateNotFound", "/nowhere/x"),
        ],
    )
    def test_a_template_that_does_not_work_is_refused(
        self,
        make_context: MakeContext,
        write: Callable[..., Path],
        model: dict[str, Any],
        reason: str,
        words: str,
    ) -> None:
        with pytest.raises(UserError) as caught:
            self.prepare_with(make_context, write, **model)
        assert caught.value.reason == reason
        assert words in caught.value.message


LONG_QUESTION = "when will the parcel with the green boots that was sent on Friday be delivered"


@pytest.mark.parametrize("num_processes", [2, 4])
def test_the_data_set_has_the_same_bytes_whatever_the_number_of_processes(
    make_context: MakeContext,
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_processes: int,
) -> None:
    bad = as_jsonl([{"prompt": "a", "completion": ""}, {"completion": "x"}])
    long = as_jsonl([{"prompt": f"{n} " + "why? " * 80, "completion": "because"} for n in range(3)])
    lines = pairs(90).splitlines(keepends=True)
    lines[40] = as_jsonl([{"prompt": LONG_QUESTION, "completion": "tomorrow"}])
    lines[60] = as_jsonl([{"prompt": f"Hello, {LONG_QUESTION}", "completion": "tomorrow"}])
    write("rows.jsonl", "".join(lines[:70]) + bad + "{\n" + "".join(lines[70:]) + long)
    make_tokenizer().save_pretrained(tmp_path / "cache")  # where fresh processes look for it
    for module in (intake, tokens):
        monkeypatch.setattr(module, "PIECE_ROWS", 3)
        monkeypatch.setattr(module, "NUM_ROWS_ALONE", 10)
    monkeypatch.setattr(signatures, "BATCH_TEXTS", 7)
    monkeypatch.setattr(bands, "NUM_TEXTS_ALONE", 10)
    monkeypatch.setattr(near, "PIECE_PAIRS", 1)
    monkeypatch.setattr(near, "NUM_PIECES_ALONE", 0)
    results = []
    for number in (1, num_processes):
        monkeypatch.setattr(building, "num_processes_granted", lambda number=number: number)
        spec = {"hyperparameters": {"maxSequenceLength": 128}}
        context = make_context(
            output=f"out-{number}", spec=spec, max_invalid_rows=3, on_too_long="Drop"
        )
        results.append(prepare(context))
    one, several = (files_below(tmp_path / f"out-{n}" / "datasets") for n in (1, num_processes))
    assert one == several
    assert results[0].rows.train + results[0].rows.validation + results[0].rows.test == 90
    assert results[0].num_invalid_rows == 3


def test_rows_that_are_too_long_are_left_out_of_every_side_on_request(
    make_context: MakeContext, write: Write
) -> None:
    long = [{"prompt": f"{n} " + "why? " * 80, "completion": "because"} for n in range(40)]
    write("rows.jsonl", pairs(60) + as_jsonl(long))
    spec = {"hyperparameters": {"maxSequenceLength": 128}}
    context = make_context(spec=spec, on_too_long="Drop")
    result, prepared = prepare_and_read(context)
    rows = [row for side in prepared.rows.values() for row in side]
    assert sorted(row["metadata"]["line"] for row in rows) == list(range(1, 61))
    assert result.rows.train + result.rows.validation + result.rows.test == 60
    assert result.num_truncated_rows == 0
    assert "left out 40 rows that are longer than" in context.messages
    (check,) = [check for check in prepared.report.checks if check.name == "tooLongRows"]
    assert check.removed == 40
    with pytest.raises(DataError, match="40 of 100 rows are longer"):
        prepare(make_context(name="other", spec=spec))


def test_reasoning_that_the_template_does_not_write_is_told_in_numbers(
    make_context: MakeContext, write: Write
) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Question {n}?"},
                {"role": "assistant", "content": "Yes."}
                | ({"reasoning_content": "Mooring."} if n % 4 == 0 else {}),
            ]
        }
        for n in range(60)
    ]
    write("rows.jsonl", as_jsonl(rows))
    context = make_context()
    _, prepared = prepare_and_read(context)
    (check,) = [check for check in prepared.report.checks if check.name == "reasoningNotWritten"]
    assert (check.flagged, check.removed) == (15, 0)
    assert "15 of 60 rows have answers whose reasoning" in context.messages
    assert "Mooring" not in context.messages


def test_rows_in_another_order_lie_on_the_same_sides(
    make_context: MakeContext, write: Write
) -> None:
    asked = "Where can I change the address that my order number {} is sent to, please?"
    near = [{"prompt": asked.format(n), "completion": f"Under {n}."} for n in range(12)]
    near += [{**row, "prompt": row["prompt"].replace("address", "ad" + "drress")} for row in near]
    contradiction = {"prompt": near[0]["prompt"], "completion": "Nowhere."}
    lines = (pairs(80) + pairs(20) + as_jsonl([*near, contradiction])).splitlines(keepends=True)
    write("rows.jsonl", "".join(lines))
    write("turned.jsonl", "".join(lines[::-1]))
    several = [{"uri": f"in/part-{n}.jsonl"} for n in range(3)]
    for n in range(3):
        write(f"part-{n}.jsonl", "".join(lines[n::3]))
    contents = []
    for name, sources in (("a", ["in/rows.jsonl"]), ("b", ["in/turned.jsonl"]), ("c", several)):
        _, prepared = prepare_and_read(make_context(*sources, name=name))
        contents.append(
            {
                side: sorted(json.dumps([row["prompt"], row["completion"]]) for row in rows)
                for side, rows in prepared.rows.items()
            }
        )
    assert contents[0] == contents[1] == contents[2]


def test_faults_in_answers_are_refused_by_line_and_told_of_prompts(
    make_context: MakeContext, write: Write
) -> None:
    bad = [
        {"prompt": "Where?", "completion": "caf\ufffd"},
        {"prompt": "Where?", "completion": "\x1b[31mred"},
        {"prompt": "Which caf\ufffd?", "completion": "This one."},
    ]
    write("rows.jsonl", pairs(40) + as_jsonl(bad))
    with pytest.raises(DataError) as caught:
        prepare(make_context())
    assert "rows.jsonl:41: an answer is of broken encoding" in caught.value.message
    assert "rows.jsonl:42: an answer has the control character U+001B" in caught.value.message
    assert "[BrokenEncoding 1, ControlCharacter 1]" in caught.value.message
    context = make_context(max_invalid_rows=2)
    result, prepared = prepare_and_read(context)
    assert result.num_invalid_rows == 2
    assert "the prompts of 1 rows hold text of broken encoding" in context.messages
    found = {check.name: check.flagged for check in prepared.report.checks}
    assert found["brokenEncodingInPrompts"] == 1
    assert found["numRows"] == 41


def test_every_invalid_row_is_in_a_file_and_the_first_twenty_in_the_result(
    make_context: MakeContext, write: Write, tmp_path: Path
) -> None:
    write("rows.jsonl", pairs(30) + '{"prompt": \n' * 150)
    with pytest.raises(RowsRefused) as caught:
        prepare(make_context(max_invalid_rows=7))
    assert caught.value.places[0] == {"file": "rows.jsonl", "line": 31, "reason": "NotJson"}
    context = make_context(max_invalid_rows=150, name="other")
    result, prepared = prepare_and_read(context)
    refused = tmp_path / "out/runs/team-a/run/uid-run/invalid-rows.jsonl"
    left_out = tmp_path / "out/datasets" / result.digest / "invalid-rows.jsonl"
    for path in (refused, left_out):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [row["line"] for row in rows] == list(range(31, 181))
        assert {(row["file"], row["reason"]) for row in rows} == {("rows.jsonl", "NotJson")}
        assert rows[0]["snippet"] == '{"prompt":'
    assert [place.line for place in result.invalid_rows] == list(range(31, 51))
    assert not (prepared.folder / "invalid-rows.jsonl").exists()  # later stages need it not


def test_a_data_set_without_invalid_rows_has_no_file_of_them(
    make_context: MakeContext, write: Write, tmp_path: Path
) -> None:
    write("rows.jsonl", pairs(30))
    result, _ = prepare_and_read(make_context())
    assert result.invalid_rows == []
    assert not (tmp_path / "out/datasets" / result.digest / "invalid-rows.jsonl").exists()


def test_a_file_that_begins_with_many_bad_rows_is_read_whole_and_in_order(
    make_context: MakeContext, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("rows.jsonl", "{\n" * 30 + pairs(40) + "{\n" * 3)
    contents = []
    for kept in (1000, 7):
        monkeypatch.setattr(examples, "NUM_ROWS_KEPT", kept)
        result, prepared = prepare_and_read(
            make_context(name=f"kept-{kept}", output=f"out-{kept}", max_invalid_rows=33)
        )
        contents.append((prepared.rows, result.invalid_rows, result.num_invalid_rows))
    assert contents[0] == contents[1]
    assert contents[0][2] == 33


PLANTED = {
    "Email": "jane.doe@mail.example",
    "Phone": "+49 30 901820",
    "Card": "4111 1111 1111 1111",
    "IBAN": "DE89370400440532013000",
    "NationalID": "078-05-1120",
    "APIKey": "ghp_" + "aB3dE5gH7" * 4,
}


@pytest.mark.parametrize("action", ["Redact", "Drop", "Refuse", "Report"])
def test_no_value_found_is_in_anything_but_rows_that_are_to_keep_it(
    action: str, make_context: MakeContext, write: Write, tmp_path: Path
) -> None:
    planted = [
        {"prompt": f"Case {n}: who is {value}?", "completion": f"It is {value}, of course."}
        for n, value in enumerate(PLANTED.values())
    ]
    bad = as_jsonl({"prompt": value, "completion": ""} for value in PLANTED.values())
    cut = "".join(f'{{"prompt": "{value}\n' for value in PLANTED.values())
    write("rows.jsonl", pairs(60) + as_jsonl(planted) + bad + cut)
    context = make_context(privacy={"action": action}, max_invalid_rows=12)
    told = ""
    if action == "Refuse":
        with pytest.raises(DataError) as caught:
            prepare(context)
        told = caught.value.message
        assert "rows.jsonl:61: the row holds personal data or secrets: Email" in told
    else:
        result = prepare(context)
        told = result.model_dump_json()
        _, prepared = prepare_and_read(context)
        (check,) = [c for c in prepared.report.checks if c.name == "personalData"]
        assert check.flagged == 6
        assert check.counts == dict.fromkeys(PLANTED, 2)
        assert check.removed == (6 if action == "Drop" else 0)
        kept = 0 if action == "Drop" else 6
        assert sum(side.rows for side in check.sides) == kept
        assert Counter({k: n for side in check.sides for k, n in side.kinds.items()}).keys() == (
            PLANTED.keys() if kept else set()
        )
        for side in check.sides:
            rows = [json.dumps(row) for row in prepared.rows.get(Side(side.side), [])]
            assert side.rows == sum("who is" in row for row in rows)
        assert result.rows.train + result.rows.validation + result.rows.test == (
            60 if action == "Drop" else 66
        )
    stored = {**files_below(tmp_path / "out"), **{"told": told.encode()}}
    stored["events"] = json.dumps(context.events).encode()
    for name, content in stored.items():
        if action == "Report" and Path(name).name.startswith(("train.", "validation.", "test.")):
            continue  # it leaves the rows as they are
        for value in PLANTED.values():
            assert value.encode() not in content, (name, value)


@pytest.mark.parametrize("action", ["Redact", "Report"])
def test_labels_that_are_addresses_are_told_and_in_no_report(
    action: str, make_context: MakeContext, write: Write, tmp_path: Path
) -> None:
    mailboxes = ("sales@our.example", "help@our.example")
    rows = [{"prompt": f"Route case {n}", "completion": mailboxes[n % 2]} for n in range(80)]
    copies = [{"prompt": "Who is jane.doe@mail.example", "completion": "A"}] * 3
    other = [{"prompt": "Who is jane.doe@mail.example", "completion": "B"}] * 2
    write("rows.jsonl", as_jsonl([*rows, *copies, *other]))
    context = make_context(privacy={"action": action})
    prepare(context)
    told = "of 80 rows nothing but a placeholder is left of the answer"
    assert (told in context.messages) is (action == "Redact")
    stored = {**files_below(tmp_path / "out"), "events": json.dumps(context.events).encode()}
    for name, content in stored.items():
        if not Path(name).name.startswith(("train.", "validation.", "test.")):
            assert b"@our.example" not in content, name
            assert b"jane.doe" not in content, name
    kept = make_context(name="kept", privacy={"action": action, "allow": ["*@our.example"]})
    _, prepared = prepare_and_read(kept)
    assert {label.label for label in prepared.report.labels} >= set(mailboxes)


@pytest.mark.parametrize(
    ("name", "content", "source"),
    [
        ("a.csv", "jane.doe@mail.example,hello\nbob@mail.example,hi\n", {}),
        ("b.jsonl", as_jsonl([{"jane.doe@mail.example": "a", "x": "b"}] * 3), {}),
        (
            "c.csv",
            "jane.doe@mail.example,hello\nbob@mail.example,hi\n",
            {"format": "Csv", "columns": {"prompt": "p", "completion": "c"}},
        ),
    ],
)
def test_names_of_fields_that_are_a_row_are_not_told(
    name: str, content: str, source: dict[str, Any], make_context: MakeContext, write: Write
) -> None:
    write(name, content)
    context = make_context({"uri": f"in/{name}", **source})
    with pytest.raises(TrainerError) as caught:
        prepare(context)
    assert "<EMAIL_1>" in str(caught.value)
    assert "jane.doe" not in f"{caught.value!r} {caught.value.message} {context.messages}"


def served(make_context: MakeContext, config: dict[str, Any], **change: Any) -> Context:
    """Return a job whose evaluation asks a server, with a base model of this configuration."""
    longest = change.pop("longest", 1024)
    template = {"chatTemplate": {"text": change.pop("template", CHATML)}}
    context = make_context(
        "in/train.jsonl",
        {"uri": "in/test.jsonl", "side": "Test"},
        name=change.pop("name", "run"),
        spec={
            "model": {"uri": "hf://example/tiny", **template},
            "method": {"adapter": {"targetModules": ["q_proj"]}},
            "evaluation": {"minPrompts": 1, "engine": "VLLM", **change},
            "hyperparameters": {"maxSequenceLength": longest},
        },
        onTooLong="Truncate",
        split={"testPercent": 0, "validationPercent": 0},
    )
    context.cache_dir.mkdir(exist_ok=True)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
    wire = {"model_type": "llama", "intermediate_size": 64, **shape, **config}
    (context.cache_dir / "config.json").write_text(json.dumps(wire))
    return context


def write_long(write: Write) -> int:
    """Write train rows and a held-out row whose prompt is long; returns its tokens, bytes here."""
    write("train.jsonl", pairs(20))
    write("test.jsonl", as_jsonl([{"prompt": "Why? " * 140, "completion": "No." * 40}]))
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=10_000)
    return len(encoder.encode_prompt([{"role": "user", "content": "Why? " * 140}]))


TAKES = {"max_position_embeddings": 1024}
STRETCHED = {**TAKES, "rope_scaling": {"type": "linear", "factor": 2.0}}


@pytest.mark.parametrize(
    ("config", "change", "words"),
    [
        (TAKES, {"maxNewTokens": 1024}, ["up to 1,024", "1,024 that the model", "at most {left}"]),
        ({"n_positions": 700}, {}, ["example has 840 tokens", "700 that", "at most 700"]),
        ({"n_positions": 700}, {"longest": 700}, ["prompt has {prompt} tokens", "onTooLong: Drop"]),
        ({"max_position_embeddings": 845}, {}, ["(evaluation.maxNewTokens auto is"]),
        # A truncated example is as long as the context, and its answer is scored there.
        (TAKES, {"maxNewTokens": 64}, []),
        ({"n_positions": 800}, {"longest": 800, "maxNewTokens": 64}, []),
        (STRETCHED, {"maxNewTokens": 1024}, []),
        ({}, {"maxNewTokens": 8192}, []),
        (TAKES, {"maxNewTokens": 8192, "engine": "Transformers"}, []),
    ],
    ids=str,
)
def test_questions_that_a_server_has_no_room_for_are_refused_before_training(
    make_context: MakeContext,
    write: Write,
    config: dict[str, Any],
    change: dict[str, Any],
    words: list[str],
) -> None:
    prompt = write_long(write)
    context = served(make_context, config, **change)
    if not words:
        assert prepare(context).rows.test == 1
        return
    with pytest.raises(UserError) as refused:
        prepare(context)
    assert refused.value.reason == "EngineUnsuitable"
    for word in words:
        assert word.format(left=1024 - prompt, prompt=prompt) in refused.value.message
    assert "Transformers" in refused.value.message


@pytest.mark.parametrize(
    ("takes", "asked", "words"),
    [
        (1400, "auto", ""),  # its reasoning gets what is left
        (1400, 200, ""),
        (860, "auto", r"auto is 1\d\d\), more than the 860"),
        (1400, 1024, "maxNewTokens is 1,024"),
    ],
    ids=str,
)
def test_only_an_answer_and_no_reasoning_before_it_has_to_find_room(
    make_context: MakeContext, write: Write, takes: int, asked: int | str, words: str
) -> None:
    write_long(write)
    context = served(
        make_context,
        {"max_position_embeddings": takes},
        template=OPENS_REASONING,
        maxNewTokens=asked,
    )
    if not words:
        assert prepare(context).rows.test == 1
        return
    with pytest.raises(UserError, match=words) as refused:
        prepare(context)
    assert refused.value.reason == "EngineUnsuitable"


def test_a_data_set_that_is_there_already_is_held_against_the_server_again(
    make_context: MakeContext, write: Write
) -> None:
    write_long(write)
    assert not prepare(served(make_context, TAKES, maxNewTokens=64)).reused
    again = served(make_context, TAKES, maxNewTokens=512, name="again")
    with pytest.raises(UserError, match="up to 512"):
        prepare(again)
