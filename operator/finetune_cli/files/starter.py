"""Writes a commented first job file, fitted to the user's data where it can be looked at."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_cli.errors import CliError
from finetune_cli.files.data import DataGuess, format_words, inspect_data
from finetune_cli.files.documents import to_yaml

if TYPE_CHECKING:
    from finetune_trainer.prepare.reading.proposals import Proposal

DEFAULT_MODEL = "hf://HuggingFaceTB/SmolLM2-135M-Instruct"
TOOL_MODEL = "hf://Qwen/Qwen2.5-0.5B-Instruct"
"""What is proposed for rows with tools: the chat template of the other leaves them out."""

DEFAULT_DATA = "file://./data.jsonl"
DEFAULT_OUTPUT = "file://./out"

TEST_PERCENT = 20

MIN_LENGTH = 256
"""Shortest maxSequenceLength that is proposed, and the step up to the fourth of it."""

NUM_OUTLIERS_SHOWN = 5
NUM_UNREAD_SHOWN = 10

MAX_LENGTH = 1048576
"""Longest that the API takes."""

TEMPLATE = """\
# A fine-tuning job. Run it here:       finetune run {file}
#                   or on a cluster:    finetune submit {file}
# Check it and its data first:          finetune validate --data {file}
# Every field: docs/reference/finetunejob.md
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata:
  name: {name}
spec:
{goal}
  model:
    # hf://org/name, s3://bucket/prefix, pvc://claim/path or file:///path
    uri: {model}
  dataset:
    sources:
{source}
    # Rows held out to compare base and tuned model, and to watch the loss; in percent.
    split: {{testPercent: {test_percent}, validationPercent: 5, seed: 13}}
    # Personal data and secrets in the rows are replaced by default, for example an address by
    # <EMAIL_1>. The next line switches that off. Keep its quotes: a bare Off is no text in YAML.
    # privacy: {{action: "Off"}}    # or Drop, Refuse, Report
{outliers}  method:
    objective: {objective}
    adapter:
      type: LoRA          # LoRA, DoRA, RsLoRA, QLoRA (GPU only) or Full
      rank: 16
      alpha: 32
      dropout: "0"        # kubectl needs these quotes
      # targetModules: [all-linear]    # by default without the experts of a mixture
  hyperparameters:
    epochs: "3"
    learningRate: auto    # or for example "2e-4"
    globalBatchSize: auto # or a number
{length}
    seed: 42
  checkpoint:
    # everySteps: 50      # what an interrupted run goes on from
    keepLast: 2
  output:
    # Where data set, adapter and report go: file://./folder or s3://bucket/prefix
    uri: {output}
{credentials}
  resources:
    nodes: 1
    gpusPerNode: 1        # 0: CPU. Without a GPU `finetune run` uses the CPU by itself
    strategy: Auto        # DDP, ZeRO2, ZeRO3 or FSDP2
"""

GOAL_OF_LABELS = 'goal: {metric: exactMatch, atLeast: "0.90", overBase: "0.10"}'
GOAL_LABELS = f"""\
  # What the tuned model must reach on held-out rows before it is published.
  {GOAL_OF_LABELS}"""

GOAL_JSON = """\
  # What the tuned model must reach on held-out rows before it is published. jsonSchema in
  # evaluation holds answers against a schema.
  goal: {metric: jsonFieldF1, overBase: "0.10"}"""

GOAL_TEXT = """\
  # What the tuned model must reach on held-out rows before it is published.
  goal: {metric: rougeL, overBase: "0.05"}"""

GOAL_LOSS = """\
  # What the tuned model must reach on held-out rows before it is published.
  goal: {metric: loss, overBase: "0.10"}"""

GOAL_PREFERENCE = """\
  # How often the tuned model must hold the better answer of held-out rows for likelier.
  goal: {metric: preferenceAccuracy, atLeast: "0.70"}"""

CREDENTIALS = """\
    # Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, on a cluster; here the environment.
    # credentialsRef: {name: s3-rw}"""


def render_starter(
    *,
    file: Path,
    data: str | None = None,
    model: str | None = None,
    output: str | None = None,
    test_percent: int = TEST_PERCENT,
    guess: DataGuess | None = None,
) -> tuple[str, DataGuess | None]:
    """Return the text of the job file, and the apparent content of the data file.

    Args:
        file: Where it will be written; relative URIs count from its folder.
        data: Local file or URI of the examples.
        model: URI or local folder of the base model.
        output: URI or local folder of the results.
        test_percent: Share of the rows to hold out.
        guess: The known content of the data file; None reads it.

    Raises:
        CliError: The data file cannot be read.
    """
    if guess is None and data and "://" not in data:
        guess = inspect_data(Path(data))
    default_model = TOOL_MODEL if guess is not None and guess.has_tools else DEFAULT_MODEL
    folder = file.absolute().parent
    uri = _uri(data, folder) if data else DEFAULT_DATA
    text = TEMPLATE.format(
        file=file,
        name=_name(data or file.stem),
        goal=_goal(guess),
        model=_quoted(_uri(model, folder) if model else default_model),
        source=_source(uri, guess),
        test_percent=test_percent,
        objective=guess.proposal.objective if guess else "SFT",
        length=_length(guess),
        outliers=_outliers(guess),
        output=_quoted(_uri(output, folder) if output else DEFAULT_OUTPUT),
        credentials=CREDENTIALS,
    )
    return text, guess


def write_starter(file: Path, text: str, *, is_forced: bool) -> None:
    """Write the file, never over an existing one unless forced.

    Raises:
        CliError: It exists, or cannot be written.
    """
    try:
        with file.open("w" if is_forced else "x", encoding="utf-8") as target:
            target.write(text)
    except FileExistsError as error:
        raise CliError(
            f"{file} exists; choose another with -o, or overwrite with --force"
        ) from error
    except OSError as error:
        raise CliError(f"cannot write {file}: {error.strerror or error}") from error


def describe_guess(guess: DataGuess) -> str:
    """Say in a sentence what a data file seems to hold."""
    proposal = guess.proposal
    parts = [f"format {format_words(proposal.format, guess.names)}"]
    if proposal.objective == "DPO":
        better, worse = proposal.chosen or "chosen", proposal.rejected or "rejected"
        parts.append(f"pairs of answers: {better} is better than {worse}")
    elif proposal.format != "Text":
        parts.append(f"the answers are {_answers_of(proposal)}")
    if guess.encodings:
        parts.append(f"encoding {', '.join(guess.encodings)}")
    if guess.unread:
        parts.append(f"left out: {', '.join(map(_one_line, guess.unread[:NUM_UNREAD_SHOWN]))}")
    rows = f"{guess.num_rows:,} rows" if guess.is_whole else f"its first {guess.num_rows:,} rows"
    return f"{', '.join(parts)} (from {rows})"


def describe_columns(guess: DataGuess) -> list[str]:
    """Say which columns are kept out of the prompt and which one ties rows, a sentence each."""
    proposal = guess.proposal
    sentences = [
        f"Column {_one_line(each.name)} is kept out of the prompt: it {each.why}."
        for each in proposal.left_out
    ]
    if proposal.group is not None:
        name = _one_line(proposal.group)
        sentences.append(f"Rows with the same {name} stay on one side of the split.")
    sentences += [_one_line(sentence) for sentence in guess.unlike]
    return sentences


def _answers_of(proposal: Proposal) -> str:
    if proposal.has_json:
        return "JSON"
    return "short labels" if proposal.has_labels else "texts"


def _goal(guess: DataGuess | None) -> str:
    if guess is None:
        return GOAL_TEXT
    if guess.proposal.format == "Text":
        return GOAL_LOSS
    if guess.proposal.objective == "DPO":
        return GOAL_PREFERENCE
    if guess.proposal.has_json:
        return GOAL_JSON
    return GOAL_LABELS if guess.proposal.has_labels else GOAL_TEXT


def _length(guess: DataGuess | None) -> str:
    if guess is None:
        return "    maxSequenceLength: 1024"
    length = round_length(guess.longest)
    rows = f"{guess.num_rows:,} rows" if guess.is_whole else f"the first {guess.num_rows:,} rows"
    rows = f"all others of {rows}" if guess.outliers else rows
    return (
        f"    # Estimated: the longest of {rows} has at most {guess.longest:,} tokens.\n"
        f"    maxSequenceLength: {length}"
    )


def _outliers(guess: DataGuess | None) -> str:
    """Return the policy that leaves out rows far longer than all others, if there are any."""
    if guess is None or not guess.outliers:
        return ""
    shown = [
        f"    #   {_one_line(row.file)}:{row.line}: about {row.num_tokens:,} tokens\n"
        for row in guess.outliers[:NUM_OUTLIERS_SHOWN]
    ]
    more = len(guess.outliers) - len(shown)
    return (
        "    # Rows that are far longer than all others, and would decide the memory of all:\n"
        + "".join(shown)
        + (f"    #   ... and {more:,} more\n" if more else "")
        + "    onTooLong: Drop\n"
    )


def round_length(longest: int) -> int:
    """Return the length limit to propose for rows of up to ``longest`` tokens."""
    step = MIN_LENGTH if longest <= 4 * MIN_LENGTH else 4 * MIN_LENGTH
    return min(MAX_LENGTH, -(-longest // step) * step)


def _source(uri: str, guess: DataGuess | None) -> str:
    lines = [f"      - uri: {_quoted(uri)}"]
    if guess is None:
        lines.append(
            "        format: Auto"
            "    # Chat, PromptCompletion, Text, Alpaca, ShareGPT, Csv or Preference"
        )
        return "\n".join(lines)
    proposal = guess.proposal
    lines.append(f"        format: {proposal.format}")
    if guess.header != "Auto":
        lines.append("        # The first row reads like data; Present if it names the columns.")
        lines.append(f"        header: {guess.header}")
    if proposal.format in ("Csv", "Text") and proposal.fields != ("text",):
        seen = ", ".join(map(_one_line, proposal.fields))
        lines.append(f"        # The columns seen are {seen}.")
    lines += [f"        # {line}" for line in describe_columns(guess)]
    if proposal.columns:
        lines.append(f"        columns: {_quoted(proposal.columns)}")
    lines += _template_lines(proposal)
    return "\n".join(lines)


def _template_lines(proposal: Proposal) -> list[str]:
    if proposal.template is not None:
        lines = proposal.template.splitlines()
        return ["        template: |-", *(f"          {line}" for line in lines)]
    if proposal.prompt is None or proposal.format != "Csv":
        return []
    from finetune_trainer.prepare.reading.proposals import make_template

    example = make_template([proposal.prompt])
    return [
        "        # A template puts more around the prompt's columns:",
        f"        # template: {_quoted(example)}",
    ]


def _one_line(column: str) -> str:
    """Return a column's name as a comment can hold it."""
    return " ".join("".join(c if c.isprintable() else " " for c in column).split())


def _uri(place: str, folder: Path) -> str:
    """Write a local path relative to the job file where it lies below it, else in full."""
    if "://" in place:
        _require_scheme(place)
        return place
    path = Path(os.path.abspath(place))
    if path.is_relative_to(folder):
        return f"file://./{path.relative_to(folder).as_posix()}"
    return f"file://{path}"


def _require_scheme(uri: str) -> None:
    scheme = uri.partition("://")[0]
    if scheme in ("http", "https"):
        raise CliError(
            f"{uri}: web addresses are not read; download it and give its path. A model on "
            "the Hugging Face Hub is hf://owner/name, a data set there hf://datasets/owner/name"
        )
    if scheme not in ("file", "hf", "pvc", "s3"):
        raise CliError(
            f"{uri}: {scheme}:// is not read; give a path, or a URI that begins with file://, "
            "hf://, pvc:// or s3://"
        )


def format_unread(data: str, file: Path) -> str:
    """Say that data behind a URI was not looked at, and what reads it."""
    keys = " with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY set" if data[:5] == "s3://" else ""
    return (
        f"{data} was not looked at: init reads files by their path. Its format is left to Auto; "
        f"`finetune validate --data {file}`{keys} reads it"
    )


def _name(text: str) -> str:
    stem = Path(text.rstrip("/")).stem or "job"
    name = re.sub(r"[^a-z0-9]+", "-", stem.lower())[:52].strip("-")
    return name if name and name not in ("job", "data", "train") else "my-first-job"


def _quoted(value: str | dict[str, str]) -> str:
    """Return a scalar or mapping as YAML on one line, in quotes where needed."""
    dumped = to_yaml(value, default_flow_style=True, width=10_000)
    return dumped.removesuffix("...\n").strip()
