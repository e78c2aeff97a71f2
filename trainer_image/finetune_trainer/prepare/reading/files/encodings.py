"""Finds the encoding of a text file.

A byte order mark decides, then valid UTF-8. Other files are judged by a sample of the lines that
are not plain ASCII. A file with several possible encodings is refused, because a wrong guess would
train on garbled words.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_trainer.errors import DataError
from finetune_trainer.prepare.reading.files.opening import CHUNK_BYTES, open_bytes

if TYPE_CHECKING:
    from charset_normalizer.models import CharsetMatch

CODECS = {
    "UTF-8": "utf-8",
    "UTF-16": "utf-16",
    "UTF-16LE": "utf-16-le",
    "UTF-16BE": "utf-16-be",
    "UTF-32": "utf-32",
    "Windows-1250": "cp1250",
    "Windows-1251": "cp1251",
    "Windows-1252": "cp1252",
    "Windows-1253": "cp1253",
    "Windows-1254": "cp1254",
    "Windows-1255": "cp1255",
    "Windows-1256": "cp1256",
    "Windows-1257": "cp1257",
    "Windows-1258": "cp1258",
    "ISO-8859-1": "iso8859_1",
    "ISO-8859-2": "iso8859_2",
    "ISO-8859-15": "iso8859_15",
    "KOI8-R": "koi8_r",
    "Macintosh": "mac_roman",
    "Shift_JIS": "cp932",
    "EUC-JP": "euc_jp",
    "EUC-KR": "cp949",
    "GB18030": "gb18030",
    "Big5": "big5",
}
"""Encodings by the API's names, as Python knows them. The Windows variants of Shift_JIS and EUC-KR
hold all of the others and are what files are really written in."""

# ISO-8859-1 and -15 accept any bytes; where they differ from Windows-1252, files mean the latter.
_GUESSED = (
    "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "iso8859_2", "koi8_r",
    "mac_roman", "cp932", "euc_jp", "cp949", "gb18030", "big5",
)  # fmt: skip
_USUAL = "cp1252"
_RARE = "mac_roman"
_TWINS = frozenset({"cp1250", "iso8859_2"})
_MARKS = (
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF32_LE, "UTF-32"),  # begins like the mark of UTF-16
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_EXPORT = "export the rows as .csv or .jsonl"
BINARY_MARKS = {
    b"\x89PNG": ("a PNG picture", _EXPORT),
    b"\xff\xd8\xff": ("a JPEG picture", _EXPORT),
    b"%PDF-": ("a PDF document", _EXPORT),
    b"SQLite format 3": ("an SQLite database", _EXPORT),
    b"\xd0\xcf\x11\xe0": ("an Office file of the old kind (.xls)", "save it as .xlsx or .csv"),
    b"PK\x03\x04": ("a ZIP archive or an Excel workbook", "name a workbook .xlsx, or unpack it"),
    b"PAR1": ("a Parquet file", "name it .parquet"),
    b"\x1f\x8b": ("a gzip archive", "add .gz to its name"),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", "add .zst to its name"),
}
"""First bytes of files with misleading names, their kind, and the remedy."""
SAMPLE_BYTES = 32 * 1024
_MOST_MESS = 0.3
_TIE = 0.02
"""Scores of charset-normalizer (from 0 to 1) that are this near to each other decide nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEncoding:
    """The encoding of a file: the API's name, Python's codec, and the reason in words."""

    name: str
    codec: str
    reason: str


UTF8 = TextEncoding(name="UTF-8", codec="utf-8", reason="it is valid UTF-8")


def choose_encoding(path: Path, *, file: str, wanted: str = "Auto") -> TextEncoding:
    """Decide how a text file is decoded; all but UTF-8 has then been decoded once.

    UTF-8 with some invalid lines is read as UTF-8: those lines are bad rows. ``wanted`` is the
    API's name of an encoding, or ``Auto``.

    Raises:
        DataError: ``WrongEncoding``: the file cannot be decoded, or ``Auto`` cannot decide.
            ``UnreadableFile``: the archive is damaged, or the file is no text.
    """
    with open_bytes(path, file=file) as stream:
        head = stream.read(4096)
    for first_bytes, (kind, remedy) in BINARY_MARKS.items():
        if head.startswith(first_bytes):
            raise DataError("UnreadableFile", f"{file} is {kind} and no text; {remedy}")
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if wanted != "Auto":
        chosen = _take_wanted(wanted, marked, head, file)
    elif marked is not None:
        chosen = _named(marked, f"the file begins with the mark of {marked}")
    elif wide := _find_zeros(head):
        chosen = _named(wide, "every other byte is zero")
    elif _is_utf8(path, file):
        return UTF8
    else:
        chosen = _guess(path, file)
    if chosen.codec != "utf-8":
        _require_decodable(path, file, chosen)
    return chosen


def _named(name: str, reason: str) -> TextEncoding:
    return TextEncoding(name=name, codec=CODECS[name], reason=reason)


def _take_wanted(wanted: str, marked: str | None, head: bytes, file: str) -> TextEncoding:
    if marked is not None and not wanted.startswith(marked):
        raise DataError(
            "WrongEncoding",
            f"{file} begins with the mark of {marked}, and the source's encoding is {wanted}; "
            f"set encoding: {marked}, or leave it out",
        )
    chosen = _named(wanted, "encoding is set in the job")
    if marked is not None:  # the codec of the mark leaves the mark itself out
        return TextEncoding(name=wanted, codec=CODECS[marked], reason=chosen.reason)
    if wanted == "UTF-16":  # files without a mark are in the order of the machines of today
        order = "utf-16-be" if _find_zeros(head) == "UTF-16BE" else "utf-16-le"
        return TextEncoding(name=wanted, codec=order, reason=chosen.reason)
    return chosen


def _find_zeros(head: bytes) -> str | None:
    """Recognise UTF-16 without a mark by the zero bytes of its Latin letters and line ends."""
    pairs = len(head) // 2
    if pairs < 4:
        return None
    even, odd = head[0 : 2 * pairs : 2].count(0), head[1 : 2 * pairs : 2].count(0)
    if odd > pairs // 3 and not even:
        return "UTF-16LE"
    return "UTF-16BE" if even > pairs // 3 and not odd else None


def _is_utf8(path: Path, file: str) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_bytes(path, file=file) as stream:
        try:
            while chunk := stream.read(CHUNK_BYTES):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _guess(path: Path, file: str) -> TextEncoding:
    sample, num_utf8 = _take_sample(path, file)
    if num_utf8:
        return _named("UTF-8", "most of it is UTF-8; lines that are not are bad rows")
    candidates = _find_candidates(sample)
    names = [name for name, codec in CODECS.items() if codec in candidates]
    if _USUAL in candidates:
        names = ["Windows-1252"]
    if len(names) == 1:
        return _named(names[0], "it is not UTF-8, and a sample of its lines reads like this")
    found = f"may be {' or '.join(names)}" if names else "reads like none that is known"
    raise DataError(
        "WrongEncoding",
        f"{file} is not UTF-8 and {found}: set encoding of its source in dataset.sources, for "
        f"example to {names[0] if names else 'Windows-1252'}, or save the file as UTF-8",
    )


def _take_sample(path: Path, file: str) -> tuple[bytes, int]:
    """Return some lines that are not plain ASCII, and how many of all of them are UTF-8."""
    lines: dict[bytes, None] = {}  # each once: repeated text reads as noise to the scores
    num_bytes = num_utf8 = 0
    with open_bytes(path, file=file) as stream:
        while line := stream.readline(CHUNK_BYTES):
            if line.isascii():
                continue
            try:
                line.decode()
                num_utf8 += 1
            except UnicodeDecodeError as error:
                # A line in pieces may be cut within a character.
                num_utf8 += len(line) == CHUNK_BYTES and error.start > len(line) - 4
            if len(line) > SAMPLE_BYTES and not lines:
                line = _cut_between_words(line[:SAMPLE_BYTES])
            if num_bytes + len(line) <= SAMPLE_BYTES and line not in lines:
                lines[line] = None
                num_bytes += len(line)
    return b"".join(lines), num_utf8


def _cut_between_words(line: bytes) -> bytes:
    end = max(line.rfind(byte) for byte in (b" ", b'"', b",", b"\n"))
    return line[:end] if end > 0 else line


def _find_candidates(sample: bytes) -> set[str]:
    """Return the codecs that read the sample equally well, by charset-normalizer's scores."""
    # Imported here: files in UTF-8 do not need it.
    from charset_normalizer import from_bytes

    # The whole text: the default of 2.5 KB is too short to distinguish alphabets.
    matches: Sequence[CharsetMatch] = list(
        from_bytes(
            sample,
            steps=1,
            chunk_size=len(sample),
            threshold=_MOST_MESS,
            cp_isolation=list(_GUESSED),
        )
    )
    if not matches:
        return set()
    least_mess = min(match.chaos for match in matches)
    matches = [match for match in matches if match.chaos <= least_mess + _TIE]
    if any(_USUAL in _same_text(match) for match in matches):
        matches = [match for match in matches if match.encoding != _RARE]
    most_sense = max(match.coherence for match in matches)
    matches = [match for match in matches if match.coherence >= most_sense - _TIE]
    return _with_twin({codec for match in matches for codec in _same_text(match)}, sample)


def _with_twin(candidates: set[str], sample: bytes) -> set[str]:
    """Add the other of two Central European encodings that scores cannot distinguish."""
    if not candidates & _TWINS or any(0x80 <= byte < 0xA0 for byte in sample):
        return candidates - {"iso8859_2"}  # these bytes are letters in one, controls in the other
    same = len({sample.decode(codec, "replace") for codec in _TWINS}) == 1
    return (candidates - _TWINS) | {"cp1250"} if same else candidates | _TWINS


def _same_text(match: CharsetMatch) -> set[str]:
    """Return the codecs that give the same text as a match: which of them it is does not matter."""
    codecs_found = {match.encoding, *match.could_be_from_charset}
    return {_USUAL} if _USUAL in codecs_found else {match.encoding}


def _require_decodable(path: Path, file: str, chosen: TextEncoding) -> None:
    decoder = codecs.getincrementaldecoder(chosen.codec)()
    num_bytes = 0
    line = 1
    with open_bytes(path, file=file) as stream:
        while True:
            chunk = stream.read(CHUNK_BYTES)
            kept = decoder.getstate()[0]
            try:
                line += decoder.decode(chunk, final=not chunk).count("\n")
            except UnicodeDecodeError as error:
                read = error.object[: error.start].decode(chosen.codec, "ignore")
                raise DataError(
                    "WrongEncoding",
                    f"{file}:{line + read.count(chr(10))}: byte "
                    f"{num_bytes - len(kept) + error.start + 1} is not {chosen.name} "
                    f"({chosen.reason}); set encoding of its source to the right one, or save the "
                    "file as UTF-8",
                ) from error
            num_bytes += len(chunk)
            if not chunk:
                return
