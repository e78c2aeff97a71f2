"""A file of any kind, damaged in any way, gives rows and errors or one refusal: no traceback."""

from __future__ import annotations

import gzip
import io
import json
import random
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.v1alpha1.spec.dataset import Source
from finetune_trainer.data.rows import RawRow
from finetune_trainer.errors import DataError, UserError
from finetune_trainer.prepare.reading.examples import open_source
from finetune_trainer.prepare.reading.sources import describe_file
from kit.processes.spreadsheet import ErrorCell, make_workbook

SECRET = "Zq7SecretZq7"
"""Stands in every file; no message may hold it."""

ROWS = [{"prompt": f"{SECRET} \u00e4 {n}", "completion": f"x {n}"} for n in range(20)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TABLE = "prompt;completion\n" + "".join(f'"{r["prompt"]}";{r["completion"]}\n' for r in ROWS)
CHATS = "".join(
    json.dumps(
        {"messages": [{"role": "user", "content": SECRET}, {"role": "assistant", "content": n}]}
    )
    + "\n"
    for n in "abcdefgh"
)


def as_parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


def as_workbook() -> bytes:
    cells = [
        ["prompt", "completion"],
        *([r["prompt"], 1.5] for r in ROWS),
        [True, ErrorCell("#N/A")],
    ]
    return make_workbook({"S": cells})


SEEDS: dict[str, bytes] = {
    "a.jsonl": LINES.encode(),
    "chat.jsonl": CHATS.encode(),
    "a.json": f"[{','.join(LINES.splitlines())}]".encode(),
    "latin.csv": TABLE.encode("cp1252"),
    "wide.csv": TABLE.encode("utf-16"),
    "a.csv.gz": gzip.compress(TABLE.encode()),
    "a.jsonl.zst": pa.Codec("zstd").compress(LINES.encode(), asbytes=True),
    "a.parquet": as_parquet(),
    "a.xlsx": as_workbook(),
}


def damage(content: bytes, draw: random.Random) -> bytes:
    body = bytearray(content)
    for _ in range(draw.randint(1, 5)):
        at = draw.randrange(len(body) + 1)
        match draw.randrange(4):
            case 0:
                body[at : at + 1] = draw.randbytes(1)
            case 1:
                del body[at : at + draw.randint(1, 30)]
            case 2:
                body[at:at] = draw.randbytes(draw.randint(1, 6))
            case _:
                body[at:at] = body[: draw.randint(0, 40)]
    return bytes(body)


def damage_parts(content: bytes, draw: random.Random) -> bytes:
    """Damage the files in an archive, so that more than the archive's own checks are met."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(sink, "w") as target:
        for name in source.namelist():
            part = source.read(name)
            target.writestr(name, damage(part, draw) if draw.random() < 0.3 else part)
    return sink.getvalue()


@pytest.mark.slow
@given(seed=st.integers(0, 2**32), name=st.sampled_from(sorted(SEEDS)), inside=st.booleans())
# The same every time: damage may make a text the name of a field, and names are told.
@settings(max_examples=400, derandomize=True)
def test_damage_is_told_without_a_row_s_text(
    tmp_path_factory: pytest.TempPathFactory, seed: int, name: str, inside: bool
) -> None:
    draw = random.Random(seed)
    change = damage_parts if inside and name.endswith(".xlsx") else damage
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(change(SEEDS[name], draw))
    columns = {"prompt": "prompt", "completion": "completion"}
    settings = {"header": draw.choice(["Auto", "Present", "Absent"]), "columns": columns}
    source = Source.model_validate({"uri": "file:///a", **(settings if "chat" not in name else {})})
    messages: list[str] = []
    try:
        file = describe_file(path, name=name)
        opened = open_source(source, [file], index=0, label="", conversational=True)
        convert = opened.conversion.build() if opened.conversion else None
        for label, row in opened.rows:
            outcome = convert(label, row) if convert and isinstance(row, RawRow) else row
            messages.append(getattr(outcome, "message", ""))
    except (DataError, UserError) as error:
        messages.append(error.message)
    assert not [message for message in messages if SECRET in message]
