"""The records of looks at held-out sides, and which of them saw the same prompts.

Each look has an object of its own, ``looks/all/<number>.json``, which is written once and never
changed. It keeps digests of the prompts that were held out, so that a changed row does not begin
the count anew. Full blocks of records are put together in ``looks/all/block-<number>.json``.

Looks of earlier versions lie under ``looks/<side>/<number>.json`` and know their side alone.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import heapq
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.normal import normalise_text
from finetune_trainer.data.rows import prompt_of
from finetune_trainer.storage import AlreadyExists, ObjectNotFound, ObjectStore

LOOKS_PREFIX = "looks/all/"
LEAST_SHARE = 0.1
"""Of the prompts of a look: what an earlier one must have seen of them to count."""
MAX_DIGESTS = 1000
"""Digests that a record keeps, the smallest ones: of larger sides shares are estimated."""
BLOCK_RECORDS = 256
_DIGEST = np.dtype("<u4")
Digests = NDArray[np.uint32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeldOutPrompts:
    """What a held-out side asks.

    Attributes:
        side: Digest of what its rows say. With ``dataset.anchor`` of the rows that were sealed.
        number: Different prompts.
        digests: The smallest of their digests, ascending.
    """

    side: str
    number: int
    digests: Digests


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Look:
    """A look on record.

    Attributes:
        name: What was held against which goal; empty where the record is damaged.
        held_out: At what; None where the record is damaged.
        num_earlier: Looks at the same side that are on record in the earlier form.
        uid: Of the job.
    """

    name: str = ""
    held_out: HeldOutPrompts | None = None
    num_earlier: int = 0
    uid: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LookCount:
    """Which look it is.

    Attributes:
        number: From 1.
        num_seen: Prompts of this one that earlier looks saw.
        num_prompts: Prompts of this one.
    """

    number: int
    num_seen: int
    num_prompts: int


def read_held_out_prompts(rows: Iterable[Mapping[str, Any]], *, sealed: str = "") -> HeldOutPrompts:
    """Return what looks at a held-out side are counted by.

    A prompt is known by its last message, without the words that most of them begin or end with.
    Where several prompts have the same, the messages before it count too, as far as they tell
    these prompts apart. So neither a system message in front, another template nor another answer
    makes it another prompt.

    Args:
        rows: Prepared rows, which can be read several times.
        sealed: Digest of the sealed rows, if ``dataset.anchor`` names some.
    """
    frame = _find_frame(_texts_of(row)[-1].split() for row in rows)
    left = {tuple(_digest_texts(_texts_of(row), frame)) for row in rows}
    found: set[int] = set()
    length = 1
    while left:
        sharing = Counter(prompt[:length] for prompt in left)
        done = {p for p in left if len(p) <= length or sharing[p[:length]] == 1}
        found.update(int.from_bytes(_hash(b"".join(p[:length]), 4), "little") for p in done)
        left -= done
        length += 1
    return HeldOutPrompts(
        side=sealed or digest_rows(rows),
        number=len(found),
        digests=np.array(sorted(found)[:MAX_DIGESTS], dtype=_DIGEST),
    )


def _texts_of(row: Mapping[str, Any]) -> list[str]:
    """Return the normalised text of each message of a prompt."""
    prompt = prompt_of(dict(row))
    contents = [prompt] if isinstance(prompt, str) else [m.get("content") for m in prompt]
    return [
        normalise_text(each if isinstance(each, str) else json.dumps(each, sort_keys=True))
        for each in contents or [""]
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Frame:
    """Words that more than half of the prompts begin and end with: what templates add."""

    start: list[str]
    end: list[str]

    def cut(self, words: list[str]) -> list[str]:
        """Return the words within the frame; all of them where there are none."""
        left = words[len(self.start) :] if words[: len(self.start)] == self.start else words
        if self.end and left[-len(self.end) :] == self.end:
            left = left[: -len(self.end)]
        return left or words


def _find_frame(prompts: Iterable[list[str]]) -> _Frame:
    """Return the frame of prompts, from a sample that does not depend on their order."""
    tagged = ((_hash(" ".join(words).encode("utf-8", "replace"), 8), words) for words in prompts)
    sample = [words for _, words in heapq.nsmallest(MAX_DIGESTS, tagged)]
    start = _find_common(sample)
    within = [_Frame(start=start, end=[]).cut(words) for words in sample]
    return _Frame(start=start, end=_find_common([words[::-1] for words in within])[::-1])


def _find_common(prompts: Sequence[list[str]]) -> list[str]:
    common: list[str] = []
    left = prompts
    while True:
        words = Counter(each[len(common)] for each in left if len(each) > len(common))
        word, number = max(words.items(), key=itemgetter(1), default=("", 0))
        if 2 * number <= len(prompts):
            return common
        left = [each for each in left if each[len(common) : len(common) + 1] == [word]]
        common.append(word)


def _digest_texts(texts: Sequence[str], frame: _Frame) -> Iterator[bytes]:
    """Yield the digest of each message, the last one first."""
    last = normalise_text(" ".join(frame.cut(texts[-1].split())))
    for text in (last, *reversed(texts[:-1])):
        yield _hash(text.encode("utf-8", "surrogatepass"), 8)


def _hash(data: bytes, size: int) -> bytes:
    return hashlib.blake2b(data, digest_size=size).digest()


def find_seen(held_out: HeldOutPrompts, earlier: HeldOutPrompts) -> Digests:
    """Return the digests of a side's prompts that an earlier one has too."""
    return np.intersect1d(held_out.digests, earlier.digests, assume_unique=True)


def share_seen(held_out: HeldOutPrompts, earlier: HeldOutPrompts) -> float:
    """Return the share of a side's prompts that an earlier one has too.

    Of sides with more than :data:`MAX_DIGESTS` prompts it is estimated from the digests up to the
    greatest that both would keep.
    """
    cut = [s.digests[-1] for s in (held_out, earlier) if s.number > len(s.digests) > 0]
    digests = held_out.digests
    kept = int((digests <= min(cut)).sum()) if cut else len(digests)
    return len(find_seen(held_out, earlier)) / kept if kept else 0.0


def count_before(
    held_out: HeldOutPrompts, looks: Iterable[Look], *, num_earlier: int = 0
) -> LookCount:
    """Count a look among those before it.

    A look counts if it was at the same side, if it saw a tenth of the prompts, or if its record is
    damaged.

    Args:
        held_out: What is looked at.
        looks: All looks before.
        num_earlier: Looks at the same side that are on record in the earlier form.
    """
    number, share = 1, 0.0
    earlier = {held_out.side: num_earlier}
    seen: list[Digests] = [held_out.digests] if num_earlier else []
    for look in looks:
        if look.held_out is None:
            number += 1
            continue
        found = share_seen(held_out, look.held_out)
        if look.held_out.side == held_out.side or found >= LEAST_SHARE - 1e-9:
            number, share = number + 1, max(share, found)
            earlier[look.held_out.side] = max(look.num_earlier, earlier.get(look.held_out.side, 0))
            seen.append(find_seen(held_out, look.held_out))
    num_seen = len(np.unique(np.concatenate(seen))) if seen else 0
    share = max(share, num_seen / max(1, len(held_out.digests)))
    return LookCount(
        number=number + sum(earlier.values()),
        num_seen=round(share * held_out.number),
        num_prompts=held_out.number,
    )


def next_look(store: ObjectStore, held_out: HeldOutPrompts, *, uid: str) -> int:
    """Return which look at a side comes next; those of the job with this uid do not count.

    Raises:
        StorageError: Storage failed.
        UserError: The credentials do not let it read.
    """
    looks = [look for look in read_looks(store).values() if look.uid != uid]
    num_earlier = max(list_earlier(store, held_out.side), default=0)
    return count_before(held_out, looks, num_earlier=num_earlier).number


def list_earlier(store: ObjectStore, side: str) -> list[int]:
    """Return the numbers of the looks at a side in the earlier form, ascending."""
    return _list_numbers(store, earlier_prefix(side))


def earlier_prefix(side: str) -> str:
    """Return the key prefix of the looks at a side in the earlier form."""
    return f"looks/{side}/"


def _list_numbers(store: ObjectStore, prefix: str) -> list[int]:
    names = (re.fullmatch(r"(\d{1,9})\.json", i.key[len(prefix) :]) for i in store.list(prefix))
    return sorted(int(found[1]) for found in names if found)


def read_looks(store: ObjectStore, known: Mapping[int, Look] | None = None) -> dict[int, Look]:
    """Return all looks on record by their number, ascending, beside those that are known.

    Full blocks are read as one object, and written as one if nobody has.
    """
    numbers = _list_numbers(store, LOOKS_PREFIX)
    wanted = [number for number in numbers if number not in (known or {})]
    texts: dict[int, str] = {}
    last = numbers[-1] if numbers else 0
    blocks = set() if known else {number // BLOCK_RECORDS for number in wanted}
    for block in sorted(block for block in blocks if last >= (block + 1) * BLOCK_RECORDS):
        texts |= _read_block(store, block, wanted)
    for number in wanted:
        if number not in texts:
            texts[number] = _read_text(store, number)
    return dict(sorted({**(known or {}), **{n: parse_look(t) for n, t in texts.items()}}.items()))


def _read_block(store: ObjectStore, block: int, wanted: Iterable[int]) -> dict[int, str]:
    """Return the records of a full block; what is new to storage is written there."""
    key = f"{LOOKS_PREFIX}block-{block}.json"
    try:
        found = json.loads(store.read_bytes(key))
        return {int(number): str(text) for number, text in found.items()}
    except (ObjectNotFound, ValueError, AttributeError, RecursionError):
        pass  # not written yet, or damaged: the records themselves are there
    texts = {n: _read_text(store, n) for n in wanted if n // BLOCK_RECORDS == block}
    with contextlib.suppress(AlreadyExists):
        store.write_bytes(key, json.dumps(texts).encode(), if_absent=True)
    return texts


def _read_text(store: ObjectStore, number: int) -> str:
    return store.read_bytes(look_key(number)).decode("utf-8", "replace")


def look_key(number: int) -> str:
    """Return the key of the record of a look."""
    return f"{LOOKS_PREFIX}{number}.json"


def word_look(look: Look, about: Mapping[str, str]) -> str:
    """Return the record of a look at a side; ``about`` is what it tells people."""
    assert look.held_out is not None
    record = {
        **about,
        "uid": look.uid,
        "look": look.name,
        "side": look.held_out.side,
        "numPrompts": look.held_out.number,
        "prompts": base64.b64encode(look.held_out.digests.tobytes()).decode(),
        "numEarlier": look.num_earlier,
    }
    return json.dumps(record, indent=1, sort_keys=True) + "\n"


def parse_look(text: str) -> Look:
    """Return the look of a record; an empty one where the record is damaged."""
    try:
        record = json.loads(text)
        digests = np.frombuffer(base64.b64decode(record["prompts"], validate=True), dtype=_DIGEST)
        return Look(
            name=str(record["look"]),
            held_out=HeldOutPrompts(
                side=str(record["side"]),
                number=max(len(digests), int(record["numPrompts"])),
                digests=np.unique(digests)[:MAX_DIGESTS],
            ),
            num_earlier=max(0, int(record["numEarlier"])),
            uid=str(record.get("uid", "")),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, binascii.Error):
        return Look()  # damaged, and a look all the same


def digest_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the digest of what the rows of a side say, in whatever order they stand."""
    said = sorted(to_digest({k: v for k, v in row.items() if k != "metadata"}) for row in rows)
    return to_digest(said)


def to_digest(value: Any) -> str:
    """Return the digest of a value of JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
