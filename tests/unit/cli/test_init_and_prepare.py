"""What `finetune init` writes is what the stage prepare accepts, and both refuse the same files."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.protocol.stage_results import PrepareResult
from finetune_api.protocol.trainer import Stage
from finetune_cli.errors import CliError
from finetune_cli.files.documents import find_problems, parse_document, parse_documents, read_single
from finetune_cli.files.starter import render_starter, write_starter
from finetune_cli.local.job import plan_run
from finetune_trainer.errors import TrainerError
from finetune_trainer.prepare.reading.files.file_types import (
    COMPRESSIONS,
    EXTENSIONS,
    compression_of,
    extension_of,
)
from finetune_trainer.prepare.stage import prepare
from finetune_trainer.report.events import EventEmitter
from kit.models.tiny_tokenizer import TinyContext
from kit.processes.spreadsheet import make_workbook

NUM_ROWS = 20


def run_prepare(job_file: Path) -> PrepareResult:
    folder = job_file.parent
    run = plan_run(
        read_single(str(job_file)),
        namespace="default",
        work_dir=folder / "work",
        # The files hold too few rows for a verdict.
        overrides=["evaluation.minPrompts=1", "goal=null"],
    )
    emit = EventEmitter(Stage.PREPARE, stream=io.StringIO())
    context = TinyContext(job=run.job, emit=emit, work_dir=run.work_dir, cache_dir=folder / "cache")
    return prepare(context)


def rows_of(make: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
    return [make(number) for number in range(NUM_ROWS)]


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def as_table(delimiter: str, *names: str, codec: str = "utf-8") -> bytes:
    rows = [names, *([f"{name} no. {n}" for name in names] for n in range(NUM_ROWS))]
    return "".join(delimiter.join(row) + "\n" for row in rows).encode(codec)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


CHAT = rows_of(lambda n: {"messages": [turn("user", f"ask {n}"), turn("assistant", f"say {n}")]})
SHAREGPT = rows_of(
    lambda n: {
        "conversations": [
            {"from": "human", "value": f"ask {n}"},
            {"from": "gpt", "value": f"say {n}"},
        ]
    }
)
PAIRS = rows_of(lambda n: {"prompt": f"ask {n}", "completion": f"say {n}"})
ALPACA = rows_of(lambda n: {"instruction": f"ask {n}", "input": "", "output": f"say {n}"})
TEXTS = rows_of(lambda n: {"text": f"text {n}"})
SENTENCES = rows_of(lambda n: {"sentence": f"text {n}"})
LABELLED = rows_of(lambda n: {"text": f"text {n}", "label": n % 2})
TICKETS = rows_of(lambda n: {"id": n, "user_id": n // 2, "query": f"q {n}", "reply": f"r {n}"})
PARTLY = [{"id": 1}, *PAIRS[1:]]
BETTER = rows_of(lambda n: {"prompt": f"ask {n}", "chosen": f"say {n}", "rejected": "no"})
WHOLE = rows_of(
    lambda n: {
        "chosen": [turn("user", f"ask {n}"), turn("assistant", f"say {n}")],
        "rejected": [turn("user", f"ask {n}"), turn("assistant", "no")],
        "score": n,
    }
)
PASSAGES = "\n\n".join(f"Passage {n}." + f" word{n}" * 400 for n in range(NUM_ROWS)).encode()
VERDICTS = [{**row, "label": n % 2 == 0} for n, row in enumerate(PAIRS)]

COLUMNS_QA = {"prompt": "question", "completion": "answer"}
COLUMNS_FRENCH = {"prompt": "question", "completion": "r\u00e9ponse"}
GOOD: dict[str, tuple[bytes, str, dict[str, str] | None]] = {
    "chat.jsonl": (as_jsonl(CHAT), "Chat", None),
    "chat.parquet": (as_parquet(CHAT), "Chat", None),
    "sharegpt.json": (json.dumps({"data": SHAREGPT}).encode(), "ShareGPT", None),
    "pairs.jsonl": (as_jsonl(PAIRS), "PromptCompletion", None),
    "pairs.ndjson": (as_jsonl(PAIRS), "PromptCompletion", None),
    "lines.json": (as_jsonl(PAIRS), "PromptCompletion", None),
    "mark.jsonl": (b"\xef\xbb\xbf" + as_jsonl(PAIRS), "PromptCompletion", None),
    "pairs.csv": (as_table(",", "prompt", "completion"), "PromptCompletion", None),
    "alpaca.json": (json.dumps(ALPACA).encode(), "Alpaca", None),
    "text.jsonl": (as_jsonl(TEXTS), "Text", None),
    "text.csv": (as_table(",", "text"), "Text", None),
    "sentence.csv": (as_table(",", "sentence"), "Text", {"text": "sentence"}),
    "sentence.tsv": (as_table("\t", "sentence"), "Text", {"text": "sentence"}),
    "sentence.jsonl": (as_jsonl(SENTENCES), "Text", {"text": "sentence"}),
    "labelled.parquet": (as_parquet(LABELLED), "Csv", {"prompt": "text", "completion": "label"}),
    "comma.csv": (as_table(",", "question", "answer"), "Csv", COLUMNS_QA),
    "semicolon.csv": (as_table(";", "question", "answer"), "Csv", COLUMNS_QA),
    "bar.CSV": (as_table("|", "question", "answer"), "Csv", COLUMNS_QA),
    "tab.csv": (as_table("\t", "question", "answer"), "Csv", COLUMNS_QA),
    "tab.tsv": (as_table("\t", "question", "answer"), "Csv", COLUMNS_QA),
    "commas.tsv": (
        as_table("\t", "one, two, three", "answer"),
        "Csv",
        {"prompt": "one, two, three", "completion": "answer"},
    ),
    "blanks.csv": (as_table(",", " question ", "answer"), "Csv", COLUMNS_QA),
    "wide.jsonl": (as_jsonl(PAIRS).decode().encode("utf-16"), "PromptCompletion", None),
    "wide.csv": (as_table(",", "question", "answer").decode().encode("utf-16"), "Csv", COLUMNS_QA),
    "latin.csv": (as_table(";", "question", "r\u00e9ponse", codec="cp1252"), "Csv", COLUMNS_FRENCH),
    "excel.csv": (
        b"sep=;\r\n"
        + as_table(";", "question", "r\u00e9ponse", codec="cp1252").replace(b"\n", b"\r\n")
        + b";\r\n" * 3,
        "Csv",
        COLUMNS_FRENCH,
    ),
    "packed.jsonl.gz": (gzip.compress(as_jsonl(CHAT)), "Chat", None),
    "packed.csv.zst": (
        pa.Codec("zstd").compress(as_table(",", "question", "answer"), asbytes=True),
        "Csv",
        COLUMNS_QA,
    ),
    "book.xlsx": (
        make_workbook({"S": [["question", "answer"], *([f"q{n}", n] for n in range(NUM_ROWS))]}),
        "Csv",
        COLUMNS_QA,
    ),
    "headless.csv": (
        as_table(",", "what", "how").partition(b"\n")[2].replace(b"how no. 1", b"how no. 0"),
        "Csv",
        {"prompt": "column1", "completion": "column2"},
    ),
    "tickets.csv": (
        as_table(",", "subject", "body", "queue"),
        "Csv",
        {"completion": "queue"},
    ),
    "my rows (1).csv": (as_table(",", "question", "answer"), "Csv", COLUMNS_QA),
    "odd-names.csv": (
        b'"Ask: {now}, please",true\n' + as_table(",", "question", "answer").partition(b"\n")[2],
        "Csv",
        {"prompt": "Ask: {now}, please", "completion": "true"},
    ),
    "notes.txt": (PASSAGES, "Text", None),
    "notes.md": (b"---\ntitle: Notes\n---\n" + PASSAGES, "Text", None),
    "better.jsonl": (as_jsonl(BETTER), "Preference", None),
    "whole.parquet": (as_parquet(WHOLE), "Preference", None),
    "verdicts.jsonl": (as_jsonl(VERDICTS), "Preference", None),
    "tickets.jsonl": (
        as_jsonl(TICKETS),
        "Csv",
        {"prompt": "query", "completion": "reply", "group": "user_id"},
    ),
    "tickets.parquet": (
        as_parquet(TICKETS),
        "Csv",
        {"prompt": "query", "completion": "reply", "group": "user_id"},
    ),
}

BAD: dict[str, tuple[bytes, str]] = {
    "empty.jsonl": (b"", "no rows"),
    "header.csv": (b"question,answer\n", "no rows"),
    "empty.csv": (b"", "is empty"),
    "broken.jsonl": (b'{"prompt": "a", "completion": "b"}\n{nope\n', "broken.jsonl:2: not JSON"),
    "list.jsonl": (b"[1]\n", "list.jsonl:1: the row is a list"),
    "broken.json": (b'[{"text": "a"},', "broken.json is not JSON"),
    "number.json": (b"5", "number.json holds a number"),
    "object.json": (b'{"rows": []}', "object.json holds an object"),
    "deep.json": (b"[" * 100_000, "deep.json is not JSON"),
    "torn.parquet": (as_parquet(PAIRS)[:-20], "torn.parquet is not a readable Parquet file"),
    "wide.jsonl": (b"\xff\xfe{\x00}\x00\x00", "wide.jsonl:1: byte 7 is not UTF-16"),
    "mixed.csv": ("question,answer\n\u00e0,b\n".encode() + b"voil\xe0,b\n", "not valid UTF-8"),
    "mixed.jsonl": ('{"text": "\u00e0"}\n'.encode() + b'{"text": "\xe0"}\n', "is not UTF-8"),
    "polish.csv": (
        "question,answer\nProsz\u0119 dzi\u015b o kart\u0119 \u015bwie\u017c\u0105,tak\n".encode(
            "iso8859_2"
        ),
        "is not UTF-8 and may be Windows-1250 or",
    ),
    "torn.csv.gz": (gzip.compress(as_table(",", "question", "answer"))[:-9], "cut off or damaged"),
    "torn.xlsx": (make_workbook({"S": [["text"]]})[:99], "not a readable Excel workbook"),
    "short.csv": (b"question,answer\na\n", "short.csv:2: has 1 fields"),
    "twice.csv": (b"text,text\na,b\n", "names text more than once"),
    "numbers.jsonl": (b'{"a": 1, "b": 2}\n', "no known format fits the fields a, b"),
    "rows.doc": (b"a\n", ".doc"),
    "empty.txt": (b"", "no rows"),
    "picture.csv": (b"\x89PNG\r\n\x1a\n", "is a PNG picture"),
    "parquet.csv": (as_parquet(PAIRS), "name it .parquet"),
}


def test_every_file_type_has_a_case() -> None:
    assert {extension_of(name) for name in GOOD} == set(EXTENSIONS)
    assert {compression_of(name) for name in GOOD} == {None, *COMPRESSIONS}


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD)
def test_what_init_writes_is_prepared(name: str, tmp_path: Path) -> None:
    content, expected, columns = GOOD[name]
    (tmp_path / name).write_bytes(content)
    file = tmp_path / "job.yaml"
    text, guess = render_starter(file=file, data=str(tmp_path / name))
    write_starter(file, text, is_forced=False)
    source = yaml.safe_load(text)["spec"]["dataset"]["sources"][0]
    assert (source["format"], source.get("columns")) == (expected, columns)
    assert guess is not None
    assert guess.num_rows == NUM_ROWS
    rows = run_prepare(file).rows
    assert rows.train + rows.validation + rows.test == NUM_ROWS


@pytest.mark.parametrize(
    ("rows", "objective"), [(BETTER, "DPO"), (WHOLE, "DPO"), (VERDICTS, "KTO"), (PAIRS, "SFT")]
)
def test_init_chooses_the_objective_that_the_rows_can_teach(
    rows: list[dict[str, Any]], objective: str, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(as_jsonl(rows))
    text, _ = render_starter(file=tmp_path / "job.yaml", data=str(tmp_path / "rows.jsonl"))
    spec = yaml.safe_load(text)["spec"]
    assert spec["method"]["objective"] == objective
    assert (spec["goal"]["metric"] == "preferenceAccuracy") == (objective == "DPO")


@pytest.mark.slow
def test_answers_with_a_verdict_are_not_learned_as_examples(tmp_path: Path) -> None:
    (tmp_path / "verdicts.jsonl").write_bytes(as_jsonl(VERDICTS))
    file = tmp_path / "job.yaml"
    text, _ = render_starter(file=file, data=str(tmp_path / "verdicts.jsonl"))
    file.write_text(text.replace("KTO", "SFT").replace("Preference", "Auto"))
    with pytest.raises(TrainerError, match=r"set method\.objective: KTO"):
        run_prepare(file)


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_what_prepare_refuses_init_refuses_with_a_reason(name: str, tmp_path: Path) -> None:
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    file = tmp_path / "job.yaml"
    with pytest.raises(CliError) as caught:
        render_starter(file=file, data=str(tmp_path / name))
    assert message in caught.value.message
    assert name in caught.value.message
    text, _ = render_starter(file=file, data=f"file://{tmp_path / name}")
    write_starter(file, text, is_forced=False)
    with pytest.raises(TrainerError):
        run_prepare(file)


@pytest.mark.slow
@given(
    names=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4, unique=True),
    suffix=st.sampled_from([".csv", ".tsv", ".jsonl"]),
)
@settings(deadline=None, max_examples=150)
def test_columns_of_any_name_give_a_valid_job_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    data = folder / f"rows{suffix}"
    if suffix == ".jsonl":
        data.write_bytes(as_jsonl([dict.fromkeys(names, "a")] * 3))
    else:
        with data.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",")
            writer.writerows([names, *[["a"] * len(names)] * 3])
    try:
        text, _ = render_starter(file=folder / "job.yaml", data=str(data))
    except CliError:
        return
    (document,) = parse_documents(text, "job.yaml")
    assert find_problems(document) == []
    source = parse_document(document).spec.dataset.sources[0]
    chosen = source.columns.to_wire().values() if source.columns else ()
    # A first row such as `0,a` is taken for data, and columns without names are counted.
    counted = [f"column{n}" for n in range(1, len(names) + 1)] if source.header == "Absent" else []
    assert set(chosen) <= {*names, *(name.strip() for name in names), *counted}


@pytest.mark.slow
def test_init_needs_no_library_of_the_trainer(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(GOOD["semicolon.csv"][0])
    (tmp_path / "rows.parquet").write_bytes(GOOD["chat.parquet"][0])
    program = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'jinja2', 'pyarrow', 'boto3', 'numpy'):\n"
        "    sys.modules[name] = None\n"
        "from finetune_cli.__main__ import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program, "init", "--file", "-", "--data"]
    done = subprocess.run(
        [*command, "rows.csv"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "columns: {prompt: question, completion: answer}" in done.stdout
    done = subprocess.run(
        [*command, "rows.parquet"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 64
    assert " needs pyarrow; pip install 'finetune-operator[trainer]'" in done.stderr
    assert "Traceback" not in done.stderr
