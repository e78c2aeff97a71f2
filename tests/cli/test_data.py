"""`finetune data`, `validate --data`, `run --until`: the stage's judgement before any job."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_cli.local.validation import DATA_NOT_READ, MODEL_NOT_READ
from kit.models.tiny_tokenizer import make_tokenizer
from kit.processes.cli import Cli
from kit.processes.disks import needs_root, small_disk

SECRET = "Zanzibar-77"
"""A text of a row that no message may repeat."""


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path, use_fake_trainer=False, is_preloaded=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as far as `prepare` needs it: configuration and tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    make_tokenizer().save_pretrained(folder)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 300}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def pairs(number: int, *, start: int = 0) -> list[dict[str, str]]:
    return [
        {"prompt": f"Where is parcel {n}?", "completion": ("late", "lost")[n % 3 == 0]}
        for n in range(start, start + number)
    ]


def write_job(folder: Path, model: Path, **spec: Any) -> Path:
    body = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "parcels"},
        "spec": {
            "model": {"uri": f"file://{model}"},
            "dataset": {"sources": [{"uri": "file://./rows.jsonl"}]},
            "evaluation": {"minPrompts": 5},
            "output": {"uri": "file://./out"},
            **spec,
        },
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(body))
    return path


def test_inspect_tells_format_labels_lengths_and_split_without_a_model(
    cli: Cli, tmp_path: Path
) -> None:
    write_rows(tmp_path / "rows.jsonl", pairs(200))
    done = cli("data", "inspect", "rows.jsonl")
    assert done.code == 0, done.out + done.err
    for words in (
        "PromptCompletion: ",
        "200 usable, 0 invalid",
        "150 train, 10 validation, 40 test rows",
        "tokens, estimated",
        "words",
        "maxSequenceLength: ",
        "late: 133",
        "lost: 67",
        "give one with --model",
        "nothing would be refused",
    ):
        assert words in done.out, words


def test_inspect_shows_rows_as_trained_and_measures_them_with_a_model(
    cli: Cli, tmp_path: Path, model: Path
) -> None:
    write_rows(tmp_path / "rows.jsonl", pairs(200))
    done = cli("data", "inspect", "rows.jsonl", "--model", str(model), "-o", "json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [each["unit"] for each in found["lengths"]] == ["tokens"]
    counts = {each["label"]: sum(each[side] for side in ("train", "validation", "test"))
              for each in found["report"]["labels"]}  # fmt: skip
    assert counts == {"late": 133, "lost": 67}
    assert next(sample["what"] for sample in found["samples"]) == "the shortest"
    learned = {p["text"] for s in found["samples"] for p in s["pieces"] if p["learned"]}
    assert learned <= {"late<|im_end|>", "lost<|im_end|>"}
    longest = found["lengths"][0]["longest"]
    assert found["proposal"]["maxSequenceLength"] >= longest
    assert not (tmp_path / "out").exists()


def test_inspect_tells_all_refusals_at_once_and_never_a_rows_text(cli: Cli, tmp_path: Path) -> None:
    rows: list[Any] = [*pairs(8), {"prompt": SECRET}, {"prompt": "", "completion": SECRET}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with path.open("a") as stream:
        stream.write(f"{{{SECRET}\n")
    done = cli("data", "inspect", "rows.jsonl")
    assert done.code == 1
    for words in ("InvalidRows", "rows.jsonl:9", "rows.jsonl:11", "TooFewHeldOutPrompts"):
        assert words in done.out, words
    assert SECRET not in done.out + done.err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no rows"),
        (b'{"prompt": "a",\n"completion": "b"}\n' * 9, "rows.jsonl:1: not JSON"),
        (b"{'prompt': 'a', 'completion': 'b'}\n" * 9, "stand in double quotes"),
        (b"\x00\x01\x02\xff\xfe" * 50, "rows.jsonl"),
        (b"null\n[]\n3\n", "rows.jsonl"),
        (b'{"a": {"b": 1}}\n' * 50, "rows.jsonl"),
    ],
)
def test_inspect_of_what_is_no_data_ends_with_a_sentence(
    cli: Cli, tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    done = cli("data", "inspect", "rows.jsonl")
    assert done.code in (1, 64, 65)
    assert words in done.out + done.err
    assert "Traceback" not in done.out + done.err


@pytest.mark.parametrize("named", ["parts", "parts/*.jsonl"])
def test_inspect_takes_a_folder_and_a_pattern_as_a_job_does(
    cli: Cli, tmp_path: Path, named: str
) -> None:
    (tmp_path / "parts").mkdir()
    rows = pairs(200)
    write_rows(tmp_path / "parts" / "a.jsonl", rows[:100])
    write_rows(tmp_path / "parts" / "b.jsonl", rows[100:])
    (tmp_path / "parts" / "dataset_info.json").write_text('{"mine": {"file_name": "a.jsonl"}}')
    done = cli("data", "inspect", named)
    assert done.code == 0, done.out + done.err
    assert "200 usable, 0 invalid" in done.out


def test_an_identifier_in_the_prompts_of_a_job_is_told(
    cli: Cli, tmp_path: Path, model: Path
) -> None:
    rows = [{**row, "ticket": f"TCK-{1000 + 37 * n}"} for n, row in enumerate(pairs(200))]
    write_rows(tmp_path / "rows.jsonl", rows)
    source = {
        "uri": "file://./rows.jsonl",
        "columns": {"completion": "completion"},
        "template": "{{ ticket }}: {{ prompt }}",
    }
    write_job(tmp_path, model, dataset={"sources": [source]})
    done = cli("data", "prepare", "job.yaml")
    assert done.code == 0, done.err
    folder = next((tmp_path / "out/datasets").iterdir())
    report = json.loads((folder / "report.json").read_text())
    told = {check["name"]: check["flagged"] for check in report["checks"]}
    assert told["identifiersInPrompts"] == 200


def test_inspect_of_a_uri_that_is_none_names_it_and_no_job(cli: Cli) -> None:
    done = cli("data", "inspect", "https://example.org/rows.jsonl")
    assert done.code == 64
    assert "https://example.org/rows.jsonl: " in done.err
    assert "FineTuneJob" not in done.err


def test_inspect_takes_several_files_for_one_data_set(cli: Cli, tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", pairs(100))
    (tmp_path / "b.csv").write_text(
        "question,answer\n" + "".join(f"What is {n}?,number {n} it is\n" for n in range(100))
    )
    done = cli("data", "inspect", "a.jsonl", "b.csv")
    assert done.code == 0, done.out + done.err
    assert "Csv: proposed by the names of its columns and what they hold" in done.out
    assert "{format: Csv, columns: {prompt: question, completion: answer}}" in done.out
    assert "150 train, 10 validation, 40 test rows" in done.out


def test_prepare_leaves_a_page_that_report_finds_and_a_run_reuses(
    tmp_path: Path, model: Path
) -> None:
    cli = Cli(tmp_path, use_fake_trainer=False)  # once as users start it, from nothing
    write_rows(tmp_path / "rows.jsonl", pairs(200))
    write_job(tmp_path, model)
    done = cli("data", "prepare", "job.yaml")
    assert done.code == 0, done.err
    folder = next((tmp_path / "out/datasets").iterdir())
    assert f"finetune data report file://{folder}" in done.out
    pages = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    page = cli("data", "report", str(folder), "--no-open")
    assert (page.code, page.out.strip()) == (0, str(folder / "report.html"))
    text = cli("data", "report", f"file://{folder}", "--print").out
    assert "150 train, 10 validation, 40 test rows" in text
    assert "late: 133" in text
    again = cli("run", "job.yaml", "--until", "prepare", "-o", "json")
    assert json.loads(again.out)["results"]["prepare"]["reused"] is True
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == pages


def test_run_until_an_unknown_stage_says_which_there_are(
    cli: Cli, tmp_path: Path, model: Path
) -> None:
    write_job(tmp_path, model)
    done = cli("run", "job.yaml", "--until", "cook")
    assert done.code == 64
    assert "--until cook" in done.err
    assert "prepare, train, evaluate" in done.err


def test_report_of_a_folder_that_is_no_data_set_says_so(cli: Cli, tmp_path: Path) -> None:
    done = cli("data", "report", str(tmp_path))
    assert done.code == 64
    assert "manifest" in done.err


def test_validate_opens_the_data_and_goes_on_with_the_next_file(
    cli: Cli, tmp_path: Path, model: Path
) -> None:
    rows: list[Any] = [*pairs(40), {"prompt": SECRET}]
    write_rows(tmp_path / "rows.jsonl", rows)
    bad = write_job(tmp_path, model).rename(tmp_path / "bad.yaml")
    write_job(tmp_path, model, dataset={
        "sources": [{"uri": "file://./rows.jsonl"}], "maxInvalidRows": 1},
        evaluation={"minPrompts": 5, "maxSamples": "auto"})  # fmt: skip
    assert cli("validate", "bad.yaml", "job.yaml").code == 0
    done = cli("validate", "--data", "bad.yaml", "job.yaml")
    assert done.code == 1
    first, second = done.out.split("job.yaml: parcels")
    assert first.startswith("bad.yaml: parcels is valid, but")
    assert "rows.jsonl:41" in first
    assert "30 train, 2 validation, 8 test rows" in second
    assert "8 of 8 held-out questions are asked, too few" in second
    assert SECRET not in done.out + done.err
    assert not (tmp_path / "out").exists()
    assert bad.exists()


def test_diff_counts_added_removed_and_changed_rows_and_names_their_lines(
    cli: Cli, tmp_path: Path, model: Path
) -> None:
    write_rows(tmp_path / "rows.jsonl", pairs(200))
    write_job(tmp_path, model)
    assert cli("data", "prepare", "job.yaml").code == 0
    folder = next((tmp_path / "out/datasets").iterdir())
    assert cli("data", "diff", str(folder), "rows.jsonl").code == 0
    changed = [*pairs(198), *pairs(5, start=1000)]
    changed[3] = {**changed[3], "completion": "late"}
    write_rows(tmp_path / "new.jsonl", changed)
    done = cli("data", "diff", str(folder), "new.jsonl", "-o", "json")
    assert done.code == 1, done.err
    found = json.loads(done.out)
    assert found["rows"] == {"before": 200, "after": 203}
    assert (found["added"], found["removed"], found["changed"]) == (5, 2, 1)
    assert found["firstChanged"] == [
        {"before": {"file": "rows.jsonl", "line": 4}, "after": {"file": "new.jsonl", "line": 4}}
    ]
    text = cli("data", "diff", "rows.jsonl", "new.jsonl").out
    assert "changed answer 1 (rows.jsonl:4 -> new.jsonl:4)" in text
    assert "parcel" not in text


def test_validate_with_the_model_tells_rows_whose_answer_would_be_cut_beside_all_else(
    cli: Cli, tmp_path: Path, model: Path
) -> None:
    rows: list[Any] = [*pairs(40), {"prompt": "word " * 100, "completion": "late"}, {"prompt": "x"}]
    write_rows(tmp_path / "rows.jsonl", rows)
    limits = {"hyperparameters": {"maxSequenceLength": 128}}
    write_job(tmp_path, model, **limits)
    done = cli("validate", "--data", "--with-model", "job.yaml")
    assert done.code == 1
    assert "InvalidRows: " in done.out
    assert "rows.jsonl:42" in done.out
    too_long = next(line for line in done.out.splitlines() if "RowsTooLong: " in line)
    assert "rows.jsonl:41" in too_long
    assert "Set it to 5" in too_long  # the length that all rows fit into
    assert cli("validate", "--with-model", "job.yaml").code == 64


@pytest.mark.parametrize(
    ("evaluation", "change", "words"),
    [
        ({"engine": "VLLM", "maxNewTokens": 1024}, {}, ["prompt has", "evaluation.maxNewTokens"]),
        # Beside what is refused of the same rows.
        (
            {"engine": "VLLM", "maxNewTokens": 1024, "minPrompts": 500},
            {},
            ["prompt has", "TooFewHeldOutPrompts"],
        ),
        ({"engine": "VLLM"}, {"model_type": "mixtral", "num_local_experts": 4}, ["all-linear"]),
        ({"engine": "VLLM", "maxNewTokens": 64}, {}, []),
        ({"engine": "Transformers", "maxNewTokens": 1024}, {}, []),
    ],
    ids=str,
)
def test_validate_with_the_model_tells_what_no_server_could_be_asked(
    cli: Cli,
    tmp_path: Path,
    model: Path,
    evaluation: dict[str, Any],
    change: dict[str, Any],
    words: list[str],
) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 64, "max_position_embeddings": 1024}  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **shape, **change}))
    write_rows(tmp_path / "rows.jsonl", pairs(200))
    write_job(
        tmp_path,
        folder,
        evaluation={"minPrompts": 5, **evaluation},
        method={"adapter": {"targetModules": ["all-linear"]}},
    )
    done = cli("validate", "--data", "--with-model", "job.yaml")
    assert done.code == bool(words), done.out + done.err
    assert ("EngineUnsuitable: evaluation.engine VLLM: " in done.out) == bool(words)
    for word in words:
        assert word in done.out


@pytest.mark.parametrize(
    ("options", "last"), [([], DATA_NOT_READ), (["--data"], MODEL_NOT_READ)], ids=str
)
def test_validate_ends_with_what_it_did_not_read(
    cli: Cli, tmp_path: Path, options: list[str], last: str
) -> None:
    write_rows(tmp_path / "rows.jsonl", pairs(200))
    write_job(tmp_path, tmp_path / "not-there")
    done = cli("validate", *options, "job.yaml")
    assert (done.code, done.out.splitlines()[-1]) == (0, last), done.err


def test_validate_refuses_what_prepare_refuses_for_the_same_reason(
    cli: Cli, tmp_path: Path, model: Path
) -> None:
    tools = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"Where is parcel {n}?"},
                {"role": "assistant", "content": "late"},
            ],
            "tools": tools,
        }
        for n in range(150)
    ]
    cases: dict[str, tuple[list[Any], dict[str, Any]]] = {
        "TooFewHeldOutPrompts": (pairs(100), {"evaluation": {}}),
        "TemplateDropsTools": (chats, {}),
    }
    for reason, (rows, spec) in cases.items():
        write_rows(tmp_path / "rows.jsonl", rows)
        write_job(tmp_path, model, **spec)
        # The model is on this disk, so its tokenizer is read.
        done = cli("validate", "--data", "job.yaml")
        assert done.code == 1
        assert MODEL_NOT_READ not in done.out
        prepared = cli("data", "prepare", "job.yaml")
        assert prepared.code == 65
        (told,) = (line for line in done.out.splitlines() if f"{reason}: " in line)
        assert told.partition(": ")[2] in prepared.err


def test_validate_of_data_that_is_not_there_names_it(cli: Cli, tmp_path: Path, model: Path) -> None:
    write_job(tmp_path, model)
    done = cli("validate", "--data", "job.yaml")
    assert done.code == 1
    assert "DatasetNotFound" in done.out
    assert "rows.jsonl" in done.out


def test_values_of_people_are_in_no_output(cli: Cli, tmp_path: Path, model: Path) -> None:
    rows = pairs(200)
    for n in range(0, 200, 7):
        rows[n]["prompt"] += f" Write to anna.meier{n}@example.org"
    write_rows(tmp_path / "rows.jsonl", rows)
    done = cli("data", "inspect", "rows.jsonl", "--model", str(model))
    assert done.code == 0, done.err
    assert "personalData" in done.out
    assert re.search(r"\n  2\d train rows: Email 2\d\n", done.out)
    assert "anna.meier" not in done.out + done.err
    write_job(tmp_path, model)
    assert cli("data", "prepare", "job.yaml").code == 0
    folder = next((tmp_path / "out/datasets").iterdir())
    texts = {path.name: path.read_text() for path in folder.glob("*.[hjm][tsd]*")}
    assert {"report.html", "report.json"} <= texts.keys()
    assert not [name for name, text in texts.items() if "anna.meier" in text]
    assert "email 29" in texts["report.html"].lower()


def test_ctrl_c_while_data_is_prepared_is_one_line_and_the_next_attempt_begins_anew(
    cli: Cli, tmp_path: Path, model: Path
) -> None:
    write_rows(tmp_path / "rows.jsonl", pairs(200))
    write_job(tmp_path, model)
    with cli.start("data", "prepare", "job.yaml") as process:
        assert process.stdout is not None
        next(line for line in process.stdout if "prepare: read file" in line)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 79
    (told,) = err.splitlines()
    assert told.startswith("error: stopped in stage prepare ")
    assert told.endswith("To go on: finetune data prepare job.yaml")
    assert not (tmp_path / "out/datasets").exists()
    assert cli("data", "prepare", "job.yaml").code == 0


@needs_root
@pytest.mark.parametrize("option", ["--output-dir", "--work-dir"])
def test_a_disk_that_fills_up_ends_with_what_to_do(
    cli: Cli, tmp_path: Path, model: Path, option: str
) -> None:
    write_rows(tmp_path / "rows.jsonl", pairs(400))
    write_job(tmp_path, model)
    with small_disk(tmp_path / "disk", "64k"):
        done = cli("data", "prepare", "job.yaml", option, "disk")
        assert not list((tmp_path / "disk").rglob("manifest.json"))
    assert done.code == 73, done.out + done.err
    first, *rest = done.err.splitlines()
    assert first.startswith("error: stage prepare failed (DiskFull): ")
    assert "ree space" in first
    assert f"{option} for " in rest[0]
    assert "Traceback" not in done.err


def test_inspect_of_a_folder_leaves_out_what_programs_fill_and_says_so(
    cli: Cli, tmp_path: Path
) -> None:
    for folder in ("mine", "mine/.venv", "mine/node_modules", "mine/cache"):
        (tmp_path / folder).mkdir()
        write_rows(tmp_path / folder / "rows.jsonl", pairs(200))
    done = cli("data", "inspect", "mine")
    assert done.code == 0, done.out + done.err
    first = done.out.splitlines()[0].split(maxsplit=2)[2]
    assert (
        first == "mine/.venv, mine/cache, mine/node_modules: name such a folder itself to read it"
    )
    assert "200 usable, 0 invalid" in done.out


def test_a_table_of_json_lines_is_not_called_csv(cli: Cli, tmp_path: Path) -> None:
    rows = [{"question": row["prompt"], "answer": row["completion"]} for row in pairs(200)]
    write_rows(tmp_path / "rows.jsonl", rows)
    words = "table from jsonl (written format: Csv)"
    assert f"{words}: proposed" in cli("data", "inspect", "rows.jsonl").out
    assert words in cli("init", "--data", "rows.jsonl").out
