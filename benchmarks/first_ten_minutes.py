"""A newcomer's walk: ten data sets from ``init`` to a verified version or a refusal.

Each data set is made in a folder of its own. Then the commands of the README run there as a
newcomer types them, and every line that they print is kept. A walk ends at the first failure.

Usage: ``make walk`` (``SETS="excel-csv tools"``; ``KEEP=DIR`` goes on where it stopped;
``RECORD=1`` writes ``benchmarks/results/first_ten_minutes.md``).
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pyarrow
import pyarrow.parquet

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY / "tools")]

import base_model  # noqa: E402

RESULT = REPOSITORY / "benchmarks" / "results" / "first_ten_minutes.md"
ISSUES = {
    "delivery": ("my parcel has not come", "the courier went to the wrong door", "the box is late"),
    "billing": ("I was charged twice", "the invoice has a wrong amount", "my refund is missing"),
    "account": ("I cannot sign in", "my password is refused", "the code by mail never comes"),
}
OPENINGS = ("Hello,", "Good morning,", "Please help:", "Since {day}", "Hi team,", "Once again,")
THINGS = (
    *("lamp", "chair", "kettle", "jacket", "printer"),
    *("bicycle", "tent", "mirror", "piano", "rug"),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
REPLIES = {
    "delivery": "We are sorry. We ask the courier about your {thing} and write to you tomorrow.",
    "billing": "We are sorry. We check the payment for your {thing} and pay back what is too much.",
    "account": "We are sorry. We send a new link, and you can see your {thing} again.",
}


@dataclass(frozen=True)
class Ticket:
    """One message of a customer, its label and the reply."""

    text: str
    label: str
    reply: str


def make_tickets(count: int) -> list[Ticket]:
    """Return different tickets, the same ones in each call."""
    rng = random.Random(count)
    made: dict[str, Ticket] = {}
    while len(made) < count:
        label = rng.choice(sorted(ISSUES))
        thing, day = rng.choice(THINGS), rng.choice(DAYS)
        opening = rng.choice(OPENINGS).format(day=day)
        number = rng.randrange(2, 900)
        text = (
            f"{opening} {rng.choice(ISSUES[label])}, it is about {number} pieces of "
            f"the {thing} from {rng.choice(DAYS)}."
        )
        made[text] = Ticket(text, label, REPLIES[label].format(thing=thing))
    return list(made.values())


def write_lines(file: Path, rows: Iterator[Any]) -> None:
    """Write JSON lines."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_tools(folder: Path) -> str:
    """OpenAI's chat format with tool calls."""
    tool = {
        "type": "function",
        "function": {
            "name": "open_ticket",
            "description": "Opens a ticket for a team.",
            "parameters": {"type": "object", "properties": {"team": {"type": "string"}}},
        },
    }

    def call(label: str) -> dict[str, Any]:
        function = {"name": "open_ticket", "arguments": json.dumps({"team": label})}
        return {
            "role": "assistant",
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        }

    rows = (
        {"messages": [{"role": "user", "content": each.text}, call(each.label)], "tools": [tool]}
        for each in make_tickets(300)
    )
    write_lines(folder / "calls.jsonl", rows)
    return "calls.jsonl"


def write_preferences(folder: Path) -> str:
    """OpenAI's preference format."""
    rows = (
        {
            "input": {"messages": [{"role": "user", "content": each.text}]},
            "preferred_output": [{"role": "assistant", "content": each.reply}],
            "non_preferred_output": [{"role": "assistant", "content": "That is not our fault."}],
        }
        for each in make_tickets(300)
    )
    write_lines(folder / "preferences.jsonl", rows)
    return "preferences.jsonl"


def write_excel_csv(folder: Path) -> str:
    """What a German Excel writes: latin-1, semicolons, an ID column."""
    with (folder / "tickets.csv").open("w", encoding="latin-1", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(("Nr", "Meldung des Käufers", "Gefühlte Abteilung"))
        for number, each in enumerate(make_tickets(300), 1001):
            writer.writerow((number, f"{each.text} Grüße", each.label))
    return "tickets.csv"


def write_alpaca(folder: Path) -> str:
    """Alpaca's three fields in one JSON list."""
    rows = [
        {"instruction": "Answer the customer.", "input": each.text, "output": each.reply}
        for each in make_tickets(300)
    ]
    (folder / "alpaca.json").write_text(json.dumps(rows, indent=1))
    return "alpaca.json"


def write_sharegpt(folder: Path) -> str:
    """ShareGPT's conversations."""
    rows = [
        {
            "conversations": [
                {"from": "human", "value": each.text},
                {"from": "gpt", "value": each.reply},
            ]
        }
        for each in make_tickets(300)
    ]
    (folder / "sharegpt.json").write_text(json.dumps(rows))
    return "sharegpt.json"


def write_parquet(folder: Path) -> str:
    """A table in Parquet."""
    tickets = make_tickets(300)
    table = pyarrow.table(
        {"message": [each.text for each in tickets], "team": [each.label for each in tickets]}
    )
    pyarrow.parquet.write_table(table, folder / "tickets.parquet")
    return "tickets.parquet"


def write_xlsx(folder: Path) -> str:
    """An Excel workbook with one sheet of inline strings (ECMA-376)."""
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    documents = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    packages = "http://schemas.openxmlformats.org/package/2006"
    rows = [("message", "team"), *((each.text, each.label) for each in make_tickets(300))]
    cells = "".join(
        "<row>"
        + "".join(f'<c t="inlineStr"><is><t>{escape(c)}</t></is></c>' for c in row)
        + "</row>"
        for row in rows
    )
    sheet = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{packages}/content-types">'
        '<Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{sheet}.sheet.main+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{sheet}.worksheet+xml"/>'
        "</Types>",
        "_rels/.rels": f'<Relationships xmlns="{packages}/relationships"><Relationship Id="rId1" '
        f'Type="{documents}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{documents}"><sheets>'
        '<sheet name="tickets" sheetId="1" r:id="rId1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{packages}/relationships">'
        f'<Relationship Id="rId1" Type="{documents}/worksheet" Target="worksheets/sheet1.xml"/>'
        "</Relationships>",
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{cells}</sheetData>'
        "</worksheet>",
    }
    with zipfile.ZipFile(folder / "tickets.xlsx", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, f'<?xml version="1.0" encoding="UTF-8"?>{content}')
    return "tickets.xlsx"


def write_texts(folder: Path) -> str:
    """A folder with one text file per letter."""
    (folder / "letters").mkdir()
    for number, each in enumerate(make_tickets(300)):
        (folder / "letters" / f"{number:03d}.txt").write_text(f"{each.text}\n\n{each.reply}\n")
    return "letters"


def write_table(count: int) -> Callable[[Path], str]:
    """Return what writes an ordinary CSV file of so many rows."""

    def write(folder: Path) -> str:
        with (folder / "tickets.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("message", "team"))
            writer.writerows((each.text, each.label) for each in make_tickets(count))
        return "tickets.csv"

    return write


@dataclass(frozen=True)
class DataSet:
    """What a newcomer has, and which settings the run gets on a machine without a GPU."""

    write: Callable[[Path], str]
    settings: tuple[str, ...] = ()


SETS = {
    "tools": DataSet(write_tools),
    # Learning from preferences reads every row four times: the newcomer asks for 20 steps.
    "preferences": DataSet(write_preferences, ("hyperparameters.maxSteps=20",)),
    "excel-csv": DataSet(write_excel_csv),
    # The whole training of one set takes 12 minutes of a core: these ask for 30 steps of 87.
    "alpaca": DataSet(write_alpaca, ("hyperparameters.maxSteps=30",)),
    "sharegpt": DataSet(write_sharegpt, ("hyperparameters.maxSteps=30",)),
    "parquet": DataSet(write_parquet, ("hyperparameters.maxSteps=30",)),
    "xlsx": DataSet(write_xlsx, ("hyperparameters.maxSteps=30",)),
    "txt": DataSet(write_texts, ("hyperparameters.maxSteps=30",)),
    # Three passes over 50,000 rows take days on two cores: the newcomer asks for 60 steps.
    "50k": DataSet(write_table(50_000), ("hyperparameters.maxSteps=60",)),
    "150": DataSet(write_table(150)),
}


@dataclass
class Step:
    """One command: what was typed, what came, how it ended."""

    command: str
    exit_code: int
    seconds: float
    output: str


@dataclass
class Walk:
    """The commands over one data set."""

    name: str
    steps: list[Step] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """How it ended, in words."""
        last = self.steps[-1]
        verb = last.command.split()[1]
        if last.exit_code:
            return f"refused by `{verb}` (exit code {last.exit_code})"
        return "published and verified" if verb == "verify" else f"`{verb}` passed"


def walk(name: str, folder: Path, model: Path, *, until: str) -> Walk:
    """Make the data set in ``folder`` and run the commands there until one fails."""
    folder.mkdir(parents=True)
    data = SETS[name].write(folder)
    taken = Walk(name)

    def go(*words: str) -> bool:
        taken.steps.append(run_command(words, folder, model))
        print(f"{name}: {words[0]}: exit code {taken.steps[-1].exit_code}", flush=True)
        return taken.steps[-1].exit_code == 0

    settings = [word for each in SETS[name].settings for word in ("--set", each)]
    if not go("init", "--data", data, "--model", str(model)):
        return taken
    if not go("validate", "job.yaml", "--data", "--with-model") or until == "validate":
        return taken
    if not go("run", "job.yaml", *settings):
        return taken
    found = re.search(r"(\S*/versions/\S+?manifest\.json)", taken.steps[-1].output)
    if found:
        # The output has "." for the folder; a URI needs the whole path.
        go("verify", found.group(1).replace("file://.", f"file://{folder}"))
    return taken


def run_command(words: tuple[str, ...], folder: Path, model: Path) -> Step:
    """Run one command of the CLI as a process; its output loses paths of this machine."""
    environment = os.environ | {
        "PYTHONPATH": f"{REPOSITORY / 'operator'}:{REPOSITORY / 'trainer_image'}",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
    }
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "finetune_cli", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    named = {str(folder): ".", str(model): "MODEL", str(Path.home()): "~"}

    def hide(text: str) -> str:
        for path, name in named.items():
            text = text.replace(path, name)
        return text

    seconds = time.monotonic() - start
    return Step(hide(" ".join(("finetune", *words))), done.returncode, seconds, hide(done.stdout))


def render(walks: list[Walk]) -> str:
    """Return the page: a table of outcomes, then every line of every walk."""
    today = datetime.datetime.now(tz=datetime.UTC).date()
    lines = [
        "# The first ten minutes",
        "",
        "Command: `make walk RECORD=1`. Ten data sets of its own, from `init` to a",
        "verified version, or to the first command that refuses them. Every line that was printed",
        "stands below. MODEL is the folder of SmolLM2-135M-Instruct.",
        "",
        f"Hardware: {os.cpu_count()} cores, {platform.machine()}, no GPU. Date: {today}.",
        "",
        "| data set | outcome | seconds |",
        "|---|---|---|",
    ]
    for each in walks:
        seconds = " + ".join(f"{step.seconds:.0f}" for step in each.steps)
        lines.append(f"| {each.name} | {each.outcome} | {seconds} |")
    for each in walks:
        lines += ["", f"## {each.name}"]
        for step in each.steps:
            printed = [line.rstrip() for line in step.output.rstrip().splitlines()]
            lines += ["", "```", f"$ {step.command}", *printed, "```"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Walk; the exit code is 1 if a command ended by a traceback."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)}")
    parser.add_argument("--keep", type=Path, help="folder to keep walks in, and to go on from")
    parser.add_argument("--until", choices=("validate", "end"), default="end")
    parser.add_argument("--record", action="store_true", help=f"write {RESULT.name}")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.sets) - set(SETS)):
        parser.error(f"no data set {', '.join(unknown)}: there are {', '.join(SETS)}")
    model = base_model.ensure_model()
    walks = []
    with tempfile.TemporaryDirectory() as scratch:
        kept = arguments.keep or Path(scratch)
        kept.mkdir(parents=True, exist_ok=True)
        for name in arguments.sets or SETS:
            file = kept / f"{name}.json"
            if file.exists():
                held = json.loads(file.read_text())
                walks.append(Walk(name, [Step(**step) for step in held["steps"]]))
                continue
            with tempfile.TemporaryDirectory() as place:
                walks.append(walk(name, Path(place) / name, model, until=arguments.until))
            file.write_text(json.dumps(asdict(walks[-1])))
    page = render(walks)
    if arguments.record:
        RESULT.write_text(page)
    print(page.partition("\n## ")[0])
    return int("Traceback (most recent call last)" in page)


if __name__ == "__main__":
    sys.exit(main())
