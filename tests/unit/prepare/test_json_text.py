"""A key that stands twice in an object loses a value, so its row is refused by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.rows import RawRow, RowError
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.reading.files.files import read_rows
from finetune_trainer.prepare.reading.files.json_text import JsonParser, find_repeated_key

GOOD = '{"prompt": "a", "completion": "b"}'
BAD = {
    "at the top": ('{"prompt": "a", "prompt": "c", "completion": "b"}', "the key 'prompt'"),
    "with equal values": ('{"prompt": "a", "completion": "b", "prompt": "a"}', "the key 'prompt'"),
    "with blanks": ('{"prompt"  : 1,\t"prompt":2}', "the key 'prompt'"),
    "in a message": ('{"messages": [{"role": "user", "role": "x"}]}', "the key 'role'"),
    "by an escape": ('{"a": 1, "\\u0061": 2}', "the key 'a'"),
    "a row's text": ('{"completion": {"Ann Smith": 1, "Ann Smith": 2}}', "a key"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_a_repeated_key_makes_its_row_invalid(name: str, ending: str, tmp_path: Path) -> None:
    bad, words = BAD[name]
    lines = [GOOD, bad, GOOD]
    path = tmp_path / f"rows.{ending}"
    path.write_text("\n".join(lines) if ending == "jsonl" else f"[{','.join(lines)}]")
    first, second, third = read_rows(path, file=path.name)
    assert isinstance(first, RawRow)
    assert isinstance(third, RawRow)
    assert isinstance(second, RowError)
    assert (second.file, second.line, second.reason) == (path.name, 2, "RepeatedKey")
    assert f"an object has {words} more than once" in second.message
    assert "Ann" not in second.message


def test_the_same_key_in_several_objects_is_fine(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": '{"a": 1, "a": 2}'}, {"role": "x"}]}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    (found,) = read_rows(path, file=path.name)
    assert isinstance(found, RawRow)
    assert found.fields == row


def test_a_key_twice_beside_the_rows_of_a_document_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(f'{{"data": [], "data": [{GOOD}]}}')
    with pytest.raises(DataError, match="the key 'data' more than once beside its rows"):
        list(read_rows(path, file=path.name))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@pytest.mark.slow
@given(JSON)
def test_json_without_repeated_keys_is_read_as_it_is(value: object) -> None:
    parser = JsonParser()
    found = parser.parse(json.dumps(value))
    assert found == value
    assert parser.num_repeating == 0
    assert find_repeated_key(found) is None
