"""Examples are shown as they are trained: every token's text once, marked by its label."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.rows import Side
from finetune_trainer.data.token_files import PackedTokens, TokenFiles
from finetune_trainer.prepare.report.samples import (
    MAX_PIECE_CHARACTERS,
    MAX_PIECES,
    Piece,
    read_samples,
    shorten,
    split_pieces,
)


def decode(ids: Sequence[int]) -> str:
    return "".join(chr(97 + i % 26) for i in ids)


def strip_start(ids: Sequence[int]) -> str:
    """Decode as SentencePiece does: the blank before the first word is not written."""
    return "".join(f" w{i}" for i in ids)[1:]


@given(st.lists(st.tuples(st.integers(0, 25), st.booleans()), min_size=1, max_size=40))
def test_pieces_hold_all_text_and_alternate(tokens: list[tuple[int, bool]]) -> None:
    ids = [token for token, _ in tokens]
    labels = [token if learned else -100 for token, learned in tokens]
    pieces = split_pieces(ids, labels, decode)
    assert "".join(piece.text for piece in pieces) == decode(ids)
    marks = [piece.is_learned for piece in pieces for _ in piece.text]
    assert marks == [learned for _, learned in tokens]
    assert all(a.is_learned != b.is_learned for a, b in itertools.pairwise(pieces))


def test_a_piece_keeps_the_blank_that_stands_before_it() -> None:
    pieces = split_pieces([1, 2, 3], [-100, 2, 3], strip_start)
    assert [piece.text for piece in pieces] == ["w1", " w2 w3"]


def pack(input_ids: list[int], labels: list[int]) -> PackedTokens:
    """Return one example as it is handed on."""
    packed = PackedTokens()
    packed.add(input_ids, labels)
    return packed


def test_shortest_median_and_longest_are_read_back(tmp_path: Path) -> None:
    with TokenFiles(tmp_path) as files:
        for length in (5, 2, 9, 4, 3):
            files.add(Side.TRAIN, pack([0] * length, [-100] * (length - 1) + [0]))
    samples = read_samples(tmp_path, decode)
    assert [(s.what, s.position, s.num_tokens, s.num_learned) for s in samples] == [
        ("the shortest", 2, 2, 1),
        ("one of median length", 4, 4, 1),
        ("the longest", 3, 9, 1),
    ]


def test_one_example_is_shown_once_and_none_not_at_all(tmp_path: Path) -> None:
    with TokenFiles(tmp_path) as files:
        files.add(Side.TRAIN, pack([1, 2], [-100, 2]))
    assert [sample.num_tokens for sample in read_samples(tmp_path, decode)] == [2]
    assert read_samples(tmp_path, decode, Side.VALIDATION) == []


def test_long_texts_and_many_pieces_lose_their_middle_and_say_so() -> None:
    long = Piece(text="x" * 10_000 + "END", is_learned=True)
    (shown,) = shorten([long])
    assert len(shown.text) < MAX_PIECE_CHARACTERS + 60
    assert shown.text.endswith("END")
    assert "characters ..." in shown.text
    many = shorten([Piece(text=str(i), is_learned=i % 2 == 0) for i in range(100)])
    assert len(many) == MAX_PIECES + 1
    assert many[-1].text == "99"
