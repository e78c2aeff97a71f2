"""YAML is read as Kubernetes reads it, and problems come with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from finetune_cli.app import app
from finetune_cli.errors import CliError
from finetune_cli.files.documents import (
    find_problems,
    parse_documents,
    read_documents,
    read_single,
    to_yaml,
)
from finetune_cli.local.validation import judge_file

GOOD = """\
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata:
  name: example
spec:
  model: {uri: hf://a/b}
  dataset:
    sources:
      - uri: s3://data/x.jsonl
        format: Auto
  hyperparameters:
    learningRate: "2e-4"
  output:
    uri: s3://models
"""


def problems(text: str) -> list[str]:
    return [
        line for document in parse_documents(text, "job.yaml") for line in find_problems(document)
    ]


def test_good_job_has_no_problems() -> None:
    assert problems(GOOD) == []


@pytest.mark.parametrize("goal", ["{metric: exactMatch, atLeast: 0,9}", "{atLeast: 0,9, a: b}"])
def test_a_decimal_comma_between_brackets_is_not_taken_for_two_fields(goal: str) -> None:
    text = GOOD.replace("spec:\n", f"spec:\n  goal: {goal}\n")
    with pytest.raises(CliError, match=r'job.yaml:6: atLeast: 0,9 .* write atLeast: "0\.9"'):
        list(parse_documents(text, "job.yaml"))
    assert problems(GOOD.replace("format: Auto", "columns: {slices: [0, 9]}"))  # read, and refused


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            'learningRate: "2e-4"',
            "learningRate: fast",
            "job.yaml:12: spec.hyperparameters.learningRate",
        ),
        ("hyperparameters:", "hyperparamters:", "job.yaml:11: spec.hyperparamters: unknown field"),
        (
            "format: Auto",
            "format: Autos",
            "job.yaml:10: spec.dataset.sources[0].format: Unsupported",
        ),
        (
            "    uri: s3://models",
            "    url: s3://models",
            "job.yaml:13: spec.output.uri: Required value",
        ),
        ("kind: FineTuneJob\n", "", "job.yaml:1: kind: Required value"),
        ("name: example", "name: Example", "job.yaml:4: metadata.name: Invalid value"),
    ],
)
def test_problem_carries_the_line_of_its_field(old: str, new: str, line: str) -> None:
    assert any(found.startswith(line) for found in problems(GOOD.replace(old, new)))


def test_a_template_that_is_no_jinja_is_told_with_its_source_and_line() -> None:
    template = "        template: |\n          {{ headline }}\n          {{ label | uper }}\n"
    (line,) = problems(GOOD.replace("        format: Auto\n", template))
    assert line == (
        "job.yaml:10: spec.dataset.sources[0].template: not valid Jinja: line 2: there is no "
        "filter 'uper'"
    )


def test_a_chat_template_that_is_no_jinja_is_told_with_its_place() -> None:
    model = """model:
    uri: hf://a/b
    chatTemplate:
      text: "{% for message in messages %}{{ message.content }}"
"""
    (line,) = problems(GOOD.replace("model: {uri: hf://a/b}\n", model))
    assert line.startswith("job.yaml:9: spec.model.chatTemplate.text: not valid Jinja: line 1")


def test_a_schema_that_is_none_is_told_with_its_line() -> None:
    evaluation = """  evaluation:
    answerPattern: "("
    jsonSchema:
      text: '{"properties": {"a": {"type": "text"}}}'
"""
    found = problems(GOOD + evaluation)
    first = len(GOOD.splitlines()) + 2
    assert found[0].startswith(f"job.yaml:{first}: spec.evaluation.answerPattern: Invalid value:")
    assert found[1].startswith(f"job.yaml:{first + 2}: spec.evaluation.jsonSchema.text:")
    assert "at properties/a/type: 'text'" in found[1]


@pytest.mark.parametrize(
    ("written", "text"),
    [("2e-4", "2e-4"), ("0.10", "0.10"), ("1", "1"), ("3.0", "3"), (".5", "0.5"), ("1E-4", "1e-4"),
     ("1.50e+2", "1.50e2"), ("0.1234567890123", "0.1234567890123"), ("auto", "auto")],
)  # fmt: skip
def test_a_decimal_without_quotes_is_text_as_it_is_written(written: str, text: str) -> None:
    (document,) = parse_documents(GOOD.replace('"2e-4"', written), "job.yaml")
    assert document.body["spec"]["hyperparameters"]["learningRate"] == text
    assert find_problems(document) == []


@pytest.mark.parametrize("written", [".inf", ".nan", "-2e-4", "true", "0.12345678901234567"])
def test_what_is_no_decimal_is_refused_without_quotes_too(written: str) -> None:
    (line,) = problems(GOOD.replace('"2e-4"', written))
    assert line.startswith("job.yaml:12: spec.hyperparameters.learningRate: ")


def test_numbers_of_other_fields_stay_numbers() -> None:
    text = GOOD.replace('learningRate: "2e-4"', "maxSteps: 16.0")
    (document,) = parse_documents(text, "job.yaml")
    steps = document.body["spec"]["hyperparameters"]["maxSteps"]
    assert (type(steps), steps) == (float, 16.0)
    assert find_problems(document) == []
    (other,) = parse_documents("kind: ConfigMap\nepochs: 0.5\nn: 3\n", "x")
    assert [type(value) for value in other.body.values()] == [str, float, int]


def test_validate_says_which_decimals_only_finetune_takes_as_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(GOOD.replace('"2e-4"', "2e-4\n    epochs: 3\n    weightDecay: '0.1'"))
    (verdict,) = judge_file(str(file))
    assert verdict.is_valid
    assert verdict.lines == (
        f"{file}: example is valid",
        f"{file}:12: note: spec.hyperparameters.learningRate is not in quotes: finetune takes it "
        "and submits it as text, kubectl apply needs quotes",
    )


def test_dates_stay_text() -> None:
    (document,) = parse_documents("a: 2026-01-01\nb: 010\nc: 1:30\nd: yes\n", "x")
    assert document.body == {"a": "2026-01-01", "b": 8, "c": "1:30", "d": True}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: \x1f\n", "job.yaml:2: not valid YAML: the character #x001f is not allowed"),
        ("a: [1, 2", "job.yaml:1:9: not valid YAML"),
        ("a: 1\nb: c: d\n", "job.yaml:2:5: not valid YAML"),
        ("spec:\n  a: 1\n  a: 2\n", "job.yaml:3: spec.a is given twice (first in line 2)"),
        ("a: !!python/object:os.system x", "not valid YAML"),
    ],
)
def test_bad_yaml_is_told_with_its_place(text: str, message: str) -> None:
    with pytest.raises(CliError) as caught:
        list(parse_documents(text, "job.yaml"))
    assert message in caught.value.message


def test_lines_count_over_several_documents() -> None:
    text = f"---\n{GOOD}---\n{GOOD.replace('s3://models', 'http://models')}"
    assert problems(text)[0].startswith(f"job.yaml:{2 * GOOD.count(chr(10)) + 2}: spec.output.uri")


def test_empty_documents_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(f"---\n---\n{GOOD}---\n# nothing\n")
    assert len(read_documents(str(file))) == 1


def test_unreadable_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    (tmp_path / "binary.yaml").write_bytes(b"\x89PNG\xff")
    (tmp_path / "two.yaml").write_text(f"{GOOD}---\n{GOOD.replace('example', 'other')}")
    cases = {
        "missing.yaml": "no such file; `finetune init` writes a starter",
        ".": "is a folder",
        "empty.yaml": "there is no FineTuneJob in it",
        "binary.yaml": "is not text in UTF-8",
        "two.yaml": "holds 2 objects (line 1: example, line 16: other)",
    }
    for name, message in cases.items():
        with pytest.raises(CliError) as caught:
            read_single(str(tmp_path / name))
        assert message in caught.value.message
        assert caught.value.exit_code == 64


@pytest.mark.parametrize("kind", ["[FineTuneSweep]", "{a: 1}", "7"])
def test_a_kind_that_is_no_word_is_told_as_a_problem(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(GOOD.replace("kind: FineTuneJob", f"kind: {kind}"))
    (verdict,) = judge_file(str(file))
    assert [line for line in verdict.lines if line.startswith(f"{file}:2: kind: ")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["FineTuneSweep", "FineTuneApproval", "FineTuneEndpoint"])
def test_a_file_of_another_of_our_kinds_is_told_in_one_line_what_to_do_with_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.yaml").write_text(GOOD.replace("kind: FineTuneJob", f"kind: {kind}"))
    for command in (["run"], ["plan"], ["submit"], ["run", "--set", "hyperparameters.seed=1"]):
        error = CliRunner().invoke(app, [*command, "other.yaml"]).exception
        assert isinstance(error, CliError)
        assert error.message == (
            f"other.yaml is a {kind}, not a FineTuneJob: kubectl apply -f other.yaml sends it to a"
            " cluster; finetune validate other.yaml checks it"
        )
        assert error.exit_code == 64


@pytest.mark.parametrize(
    "text", ["1e-2", "2E5", ".5", "0.01", "3", "0o17", "1e400", "auto", "2026-01-01", "yes", "~"]
)
def test_text_is_written_so_that_kubectl_does_not_take_it_for_a_number(text):
    written = to_yaml({"learningRate": text})
    (document,) = parse_documents(written, "-")
    assert document.body == {"learningRate": text}
    assert ("'" in written) is (text != "auto")
