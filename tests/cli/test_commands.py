"""The other local commands as users call them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from finetune_cli.local.validation import DATA_NOT_READ
from kit.cases.spec_cases import minimal_job
from kit.processes.cli import REPOSITORY, Cli

HEAVY = {"torch", "transformers", "boto3", "botocore", "kubernetes", "numpy", "rich"}
COMMANDS = [
    "init",
    "validate",
    "run",
    "plan",
    "verify",
    "chat",
    "submit",
    "status",
    "logs",
    "cp",
]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(minimal_job()))
    return Cli(tmp_path)


def imported_by(cli: Cli, *arguments: str) -> set[str]:
    command = [sys.executable, "-X", "importtime", "-m", "finetune_cli", *arguments]
    done = subprocess.run(
        command, env=cli.environment, cwd=cli.folder, capture_output=True, text=True
    )
    return {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}


@pytest.mark.parametrize("arguments", [("run", "--help"), ("submit", "--help")])
def test_help_of_a_command_loads_nothing_heavy(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert not imported_by(cli, *arguments) & HEAVY


def test_help_loads_next_to_nothing(cli: Cli) -> None:
    assert not imported_by(cli, "--help") & (HEAVY | {"pydantic", "yaml", "finetune_api"})


def test_validate_loads_no_training_or_cluster_library(cli: Cli) -> None:
    assert not imported_by(cli, "validate", "job.yaml") & HEAVY


def test_help_lists_the_commands(cli: Cli) -> None:
    done = cli("--help")
    assert done.code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in done.out


def test_init_then_validate(tmp_path: Path) -> None:
    cli = Cli(tmp_path, use_fake_trainer=False)  # init reads the data with prepare's own reader
    (cli.folder / "job.yaml").write_text(yaml.safe_dump(minimal_job()))
    (cli.folder / "data.csv").write_text("headline,label\nup,good\ndown,bad\n")
    done = cli("init", "--data", "data.csv", "--file", "mine.yaml")
    assert done.code == 0, done.err
    assert "wrote mine.yaml" in done.out
    done = cli("validate", "mine.yaml", "job.yaml", "-", stdin=yaml.safe_dump(minimal_job("third")))
    assert done.code == 0
    mine, power, *others = done.out.splitlines()
    assert (mine.split(":")[0], mine.split()[-1]) == ("mine.yaml", "valid")
    assert power.startswith("  goal, ")  # the other two have no goal
    assert "500 prompts" in power
    assert others == ["job.yaml: example is valid", "-: third is valid", DATA_NOT_READ]


def test_help_names_what_to_write_for_arguments_that_repeat(cli: Cli) -> None:
    assert "{FILE}..." in cli("validate", "--help").out
    assert "--set PATH=VALUE" in cli("run", "--help").out
    assert "--prompt TEXT" in cli("chat", "--help").out


def test_init_prints_the_proposal_alone(tmp_path: Path) -> None:
    cli = Cli(tmp_path, use_fake_trainer=False)
    (cli.folder / "rows.csv").write_text("sentence\n" + "a text\n" * 9)
    done = cli("init", "--data", "rows.csv", "--file", "-")
    (source,) = yaml.safe_load(done.out)["spec"]["dataset"]["sources"]
    assert (source["format"], source["columns"]) == ("Text", {"text": "sentence"})


def test_validate_tells_every_problem_and_ends_with_one(cli: Cli) -> None:
    (cli.folder / "bad.yaml").write_text(
        "apiVersion: finetune.dev/v1alpha1\nkind: FineTuneJob\nmetadata: {name: x}\nspec:\n"
        "  model: {}\n  hyperparameters: {learningRate: fast}\n"
    )
    done = cli("validate", "bad.yaml", "job.yaml")
    assert done.code == 1
    assert "bad.yaml:5: spec.model.uri: Required value" in done.out
    assert "bad.yaml:6: spec.hyperparameters.learningRate: Invalid value" in done.out
    assert "job.yaml: example is valid" in done.out


def test_validate_goes_on_after_a_bad_file_and_a_bad_document(cli: Cli) -> None:
    good, bad = minimal_job("good"), minimal_job("bad")
    bad["spec"]["model"]["uri"] = "hf://gpt2"
    (cli.folder / "several.yaml").write_text(yaml.safe_dump_all([bad, good]))
    (cli.folder / "torn.yaml").write_text(yaml.safe_dump(good) + "---\na: [\n")
    done = cli("validate", "missing.yaml", "several.yaml", "torn.yaml", "job.yaml")
    assert done.code == 64
    first, *rest = done.out.splitlines()
    assert first.startswith("several.yaml:")
    assert "must name owner and repository" in first
    assert rest == [
        "several.yaml: good is valid",
        "torn.yaml: good is valid",
        "job.yaml: example is valid",
        DATA_NOT_READ,
    ]
    missing, torn = done.err.splitlines()
    assert missing.startswith("error: missing.yaml: no such file")
    assert torn.startswith("error: torn.yaml:")
    assert "not valid YAML" in torn
    assert cli("validate", "job.yaml", "several.yaml").code == 1


def test_validate_reads_templates_as_prepare_does(cli: Cli) -> None:
    job = minimal_job()
    job["spec"]["dataset"]["sources"][0]["template"] = "{{ headline"
    (cli.folder / "job.yaml").write_text(yaml.safe_dump(job))
    for command in (("validate",), ("run",), ("submit", "--dry-run")):
        done = cli(*command, "job.yaml")
        assert "sources[0].template: not valid Jinja: line 1" in done.out + done.err
        assert done.code in (1, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "missing.yaml"), "missing.yaml: no such file"),
        (("report", "nosuch"), "nosuch: there is no such file or folder here, and no cluster"),
        (("run", "list.yaml"), "a mapping of fields, this is array; write apiVersion, kind"),
        (("validate", "broken.yaml"), "not valid YAML"),
        (("run", "wrong.yaml"), "wrong.yaml is not a valid FineTuneJob: 1 problem"),
        (
            ("run", "job.yaml", "--set", "checkpoint.everySteps=[1"),
            "--set checkpoint.everySteps=[1: the value [1 is not valid YAML",
        ),
        (
            ("run", "job.yaml", "--result", "nowhere/r.json"),
            "--result nowhere/r.json: there is no folder nowhere; name a file",
        ),
        (("run", "job.yaml", "--result", "."), "--result .: is a folder; name a file"),
    ],
)
def test_errors_are_one_message_without_traceback(
    cli: Cli, arguments: tuple[str, ...], message: str
) -> None:
    cli.environment["KUBECONFIG"] = str(cli.folder / "none")
    (cli.folder / "broken.yaml").write_text("a: [")
    (cli.folder / "list.yaml").write_text(yaml.safe_dump([minimal_job()]))
    wrong = minimal_job()
    wrong["spec"]["resources"] = {"nodes": 0}
    (cli.folder / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    done = cli(*arguments)
    assert done.code == 64
    assert done.err.startswith("error: ")
    assert message in done.err
    assert "Traceback" not in done.err


def test_compare_of_a_word_that_is_nothing_says_how_it_was_taken(tmp_path: Path) -> None:
    cli = Cli(tmp_path, use_fake_trainer=False)
    cli.environment["KUBECONFIG"] = str(tmp_path / "none")
    done = cli("compare", "nosuch")
    assert done.code == 64
    assert done.err.startswith("error: nosuch: there is no such file or folder here, and no")


def test_run_without_the_trainer_extra_says_what_to_install(cli: Cli) -> None:
    blocker = cli.folder / "sitecustomize.py"
    blocker.write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
    )
    cli.environment["PYTHONPATH"] = f"{cli.folder}:{cli.environment['PYTHONPATH']}"
    done = cli("run", "job.yaml")
    assert done.code == 64
    assert "'finetune-operator[trainer]'" in done.err


def test_examples_are_valid_and_reproducible(cli: Cli) -> None:
    for example in sorted((REPOSITORY / "examples").glob("[0-9]*")):
        for file in example.glob("*.yaml"):
            if "apiVersion: finetune.dev/" not in file.read_text():
                continue  # for another program: tests/chart applies it
            done = cli("validate", str(file))
            assert done.code == 0, done.out
        if not (example / "generate.py").exists():
            assert "01-headline-sentiment" in (example / "README.md").read_text()
            continue
        for out in ("a", "b"):
            command = [sys.executable, "generate.py", "--out", str(cli.folder / out)]
            subprocess.run(command, cwd=example, check=True, capture_output=True)
        made = sorted(path.name for path in (cli.folder / "a").iterdir())
        for name in made:
            assert (cli.folder / "a" / name).read_bytes() == (cli.folder / "b" / name).read_bytes()
