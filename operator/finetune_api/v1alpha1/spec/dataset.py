"""``spec.dataset``: the examples, how they are read and how they are divided."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import (
    ATOMIC_LIST,
    SET_LIST,
    URI,
    APIModel,
    DecimalString,
    Integer,
    LocalObjectReference,
    SourceURI,
    Time,
    Unique,
)
from finetune_api.patterns import PRINTED_RULE, PROSE_RULE, SHA256_RULE, Texts
from finetune_api.v1alpha1.spec.privacy import Privacy

TRAFFIC = "traffic://"
"""Scheme of a source that is an endpoint of the same namespace."""

DatasetFormat = Literal[
    "Auto", "Chat", "PromptCompletion", "Text", "Alpaca", "ShareGPT", "Csv", "Preference"
]


TextEncodingName = Literal[
    "Auto",
    "UTF-8",
    "UTF-16",
    "UTF-16LE",
    "UTF-16BE",
    "UTF-32",
    "Windows-1250",
    "Windows-1251",
    "Windows-1252",
    "Windows-1253",
    "Windows-1254",
    "Windows-1255",
    "Windows-1256",
    "Windows-1257",
    "Windows-1258",
    "ISO-8859-1",
    "ISO-8859-2",
    "ISO-8859-15",
    "KOI8-R",
    "Macintosh",
    "Shift_JIS",
    "EUC-JP",
    "EUC-KR",
    "GB18030",
    "Big5",
]


class Columns(APIModel):
    """Which columns of a table hold what."""

    prompt: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Column with the input. Default: `prompt`, or the template."""
    completion: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Column with the expected answer. Default: `completion`. Numbers, booleans, objects and lists
    are written as JSON on one line, keys in the order of the file."""
    text: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Column with plain text, for format `Text`. Default: `text`."""
    chosen: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Column with the better of two answers, for format `Preference`. Default: `chosen`."""
    rejected: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Column with the worse of two answers, for format `Preference`. Default: `rejected`."""
    label: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Column that says whether `completion` is wanted (true or false), for format `Preference`.
    Default: `label`."""
    group: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Column whose equal values must stay on one side of the split (a customer, a conversation).
    The questions of one value count once together in scores between 0 and 1."""
    time: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Column with the time at which a row arose, for `split.by: Time`: ISO 8601 (`2026-11-25`,
    `2026-11-25T10:00:00Z`), or seconds or milliseconds since 1970; without a zone it is UTC."""
    slices: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=128)]],
            Field(min_length=1, max_length=4, json_schema_extra=SET_LIST),
            Unique,
        ]
        | None
    ) = None
    """Columns for `slice.column` of gates. Rows keep digests of the values; the model does not see
    them."""


class Provenance(APIModel):
    """Where the rows of a source come from, in the job's own words; nothing checks them.

    They stand in the model card and in the report, and do not change the data set.
    """

    licence: Annotated[str, Field(min_length=1, max_length=128), Texts(PRINTED_RULE)] | None = None
    """Licence or terms of the rows, for example `CC-BY-4.0` or `own data`."""
    legal_basis: Annotated[str, Field(min_length=1, max_length=512), Texts(PROSE_RULE)] | None = (
        None
    )
    """Why the rows may be used, for example `contract (GDPR Art. 6(1)(b))`."""
    origin: Annotated[str, Field(min_length=1, max_length=512), Texts(PROSE_RULE)] | None = None
    """Who or what made the rows, for example `help desk, written by our own staff`."""
    collected: Annotated[str, Field(min_length=1, max_length=64), Texts(PROSE_RULE)] | None = None
    """When the rows arose: a date or a period, for example `2026-01 to 2026-06`."""


class Source(APIModel):
    """One file or folder of examples, or what an endpoint has captured."""

    uri: SourceURI
    """Where the examples lie; a folder stands for all its `.jsonl`, `.ndjson`, `.json`, `.csv`,
    `.tsv`, `.parquet` and `.xlsx` files in the order of their names, else for its `.txt` and `.md`
    files, the text files also with `.gz` or `.zst` after the name. `*` and `?` stand for characters
    of one name and `**` for folders of any depth: `s3://data/2026/*.jsonl`.
    `traffic://ENDPOINT` stands for answers of a FineTuneEndpoint of the same namespace that people
    have corrected or rated."""
    since: Time | None = None
    """For `traffic://`: take answers from this time on. Default: all that are kept."""
    until: Time | None = None
    """For `traffic://`: take answers and feedback before this time. A FineTuneSchedule sets it to
    the time of the trigger. Default: all up to the time at which the job is prepared."""
    feedback: (
        Annotated[
            list[Literal["Corrections", "Ratings"]],
            Field(min_length=1, max_length=2, json_schema_extra=SET_LIST),
            Unique,
        ]
        | None
    ) = None
    """For `traffic://`: which feedback becomes rows. `Corrections`: the corrected text as the
    wanted answer, and for preferences the given answer as the worse one. `Ratings`: the answer,
    wanted or not, for `KTO`; for `SFT` the wanted ones; none for `DPO` and `ORPO`. Default:
    `Corrections`, and for `KTO` both."""
    max_percent_per_person: Annotated[Integer, Field(ge=1, le=100)] | None = None
    """For `traffic://`: most of the answers whose feedback one person may have given, in percent.
    Later ones of this person are left out. Of few people each may have given more, twice
    100 / (people + 1), and 100 answers of each person always count. Default: 20."""
    format: DatasetFormat = "Auto"
    """How a row is read. `Auto` recognises the format from the first rows' fields, and rows of
    another format from theirs. `Csv` maps columns through `columns` and `template`."""
    columns: Columns | None = None
    """Column names, where they differ from the format's own."""
    encoding: TextEncodingName = "Auto"
    """How text files are decoded. `Auto`: by the mark at their beginning, else as UTF-8, else by a
    sample of their lines; a file that may be one of several is refused. The report shows the
    choice.
    """
    header: Literal["Auto", "Present", "Absent"] = "Auto"
    """Whether the first row of a CSV file or a sheet names the columns. `Absent` names them
    `column1`, `column2` and so on; `Auto` takes the first row for names and refuses one that reads
    like data."""
    sheet: Annotated[str, Field(min_length=1, max_length=31)] | None = None
    """Sheet of an `.xlsx` file. Default: the first."""
    template: Annotated[str, Field(min_length=1, max_length=8192)] | None = None
    """Jinja template (sandboxed) that renders the prompt from a row's columns, for example
    `"Label this headline: {{ headline }}"`."""
    system: Annotated[str, Field(min_length=1, max_length=8192)] | None = None
    """System message put before every prompt of this source."""
    side: Literal["Split", "Train", "Validation", "Test"] = "Split"
    """`Split` divides the rows by `split`; the others put all rows of this source on one side."""
    weight: DecimalString = "1"
    """How often the train rows of this source are seen, against 1 for every row once: `"2"` writes
    each of them twice, `"0.5"` half of them, drawn by `split.seed`. At most 100; the other sides
    keep every row once."""
    credentials_ref: LocalObjectReference | None = None
    """Secret to read this source with. Default: the credentials of `output`."""
    provenance: Provenance | None = None
    """Licence, legal basis, origin and date of the rows, for the model card and the report."""

    @property
    def is_traffic(self) -> bool:
        """Whether the examples are what an endpoint has captured."""
        return self.uri.startswith(TRAFFIC)


class Split(APIModel):
    """How rows are divided; the division depends on the content and the seed alone."""

    test_percent: Annotated[Integer, Field(ge=0, le=90)] = 20
    """Share of the rows held out for the evaluation, in percent. The playbook's 80/20. 0 needs a
    source with `side: Test`: a job without held-out rows is refused before it trains."""
    validation_percent: Annotated[Integer, Field(ge=0, le=50)] = 5
    """Share of the rows used to watch the loss while training, in percent."""
    seed: Annotated[Integer, Field(ge=0, le=2147483647)] = 13
    """Seed of the division."""
    by: Literal["Content", "Time"] = "Content"
    """`Content` divides by content and seed; where answers are a few labels, every side has its
    share of each. `Time` holds out the latest rows by `columns.time`, and watches the loss on those
    before them: how will the model do on what comes? Rows that belong together go where the latest
    of them goes."""


class Duplicates(APIModel):
    """What becomes of rows that say the same, over all sources."""

    exact: Literal["Drop", "Keep"] = "Drop"
    """Rows with the prompt and the answer of another one; case, whitespace, Unicode form and
    punctuation at the ends do not count. `Drop` keeps the first in the order of the sources. The
    same prompt with another answer is no duplicate. Rows of a source bound to the test or
    validation side are never dropped."""
    near: Literal["Group", "Drop", "Keep"] = "Group"
    """Prompts that differ by a slip, order, a frame such as "could you tell me", HTML or Markdown
    around them, or an instruction that many prompts of one side share. `Group` keeps them all, on
    one side of the split. `Drop` also leaves out those whose answer is near to an earlier one's;
    short answers (labels) must be the same. `Keep` does not look for them."""
    leaked: Literal["Drop", "Report"] = "Drop"
    """Rows of a source bound to the train or validation side whose prompt is equal or near to one
    that a source holds out. `Report` keeps them, and the scores measure memory."""
    threshold: DecimalString = "0.8"
    """How much of two prompts must be the same to be near, weighted by how rare words are in the
    data; between 0.5 and 1."""


class Benchmark(APIModel):
    """A file or folder of examples that must not be trained on."""

    uri: URI
    """Where they lie, as in `sources`."""
    format: DatasetFormat = "Auto"
    """How a row is read, as in `sources`; `Text` with `columns.text` where there is a question and
    no answer."""
    columns: Columns | None = None
    """Column names, where they differ from the format's own."""
    template: Annotated[str, Field(min_length=1, max_length=8192)] | None = None
    """Jinja template that renders the prompt from a row's columns."""
    credentials_ref: LocalObjectReference | None = None
    """Secret to read it with. Default: the credentials of `output`."""


class Contamination(APIModel):
    """What the examples must not hold, so that a score on it means something."""

    against: Annotated[
        list[Benchmark], Field(min_length=1, max_length=16, json_schema_extra=ATOMIC_LIST)
    ]
    """Benchmarks: rows with an equal or near prompt are not used."""
    on_match: Literal["Drop", "Refuse"] = "Drop"
    """`Drop` leaves such rows out and tells how many; `Refuse` fails the job."""


class Anchor(APIModel):
    """A test side that an earlier job has prepared, and that stays held out."""

    digest: Annotated[str, Field(max_length=64), Texts(SHA256_RULE)]
    """Digest of that job's data set (`status.dataset.digest`), below the same `output.uri`."""
    test_sha256: Annotated[str, Field(max_length=64), Texts(SHA256_RULE)]
    """SHA-256 of its `test.jsonl` (`status.dataset.testSha256`). Another file is refused."""


class Dataset(APIModel):
    """The examples and how they are checked and divided."""

    sources: Annotated[
        list[Source], Field(min_length=1, max_length=16, json_schema_extra=ATOMIC_LIST)
    ]
    """Files or folders of examples, read in this order."""
    split: Split = Split()
    """Division into train, validation and test."""
    privacy: Privacy = Privacy()
    """What becomes of personal data and secrets."""
    max_invalid_rows: Annotated[Integer, Field(ge=0, le=1000000)] = 0
    """How many invalid rows are tolerated (and left out) before the job is refused. All of them are
    listed with file, line and reason in `invalid-rows.jsonl` of the data set or, if the job is
    refused, of the run; the first ones in `status` too."""
    on_too_long: Literal["Refuse", "Drop", "Truncate"] = "Refuse"
    """What happens to rows that are longer than `hyperparameters.maxSequenceLength`, so that their
    answer or a part of it would be cut away. `Refuse` refuses the job and names the first of them
    and the length that all fit; `Drop` leaves those rows out of all sides; `Truncate` trains on the
    remainder. Plain text (format `Text`) has no answer and is cut in any case.
    """
    max_rows: Annotated[Integer, Field(ge=1, le=10000000)] | None = None
    """Use at most this many rows, drawn by the split's seed. Default: all."""
    approval: Literal["Required", "NotRequired"] = "NotRequired"
    """`Required`: the job waits after `prepare`, without holding a GPU or a place in a queue, until
    a FineTuneApproval names the digest of its data set; nothing else is trained on. One that
    rejects it ends the job."""
    duplicates: Duplicates = Duplicates()
    """Rows that say the same."""
    on_conflict: Literal["Report", "Drop", "Refuse"] = "Report"
    """What becomes of rows with the same prompt, but for slips, and different short answers
    (labels). `Report` tells their files and lines; `Drop` leaves all of them out, but those of a
    source bound to the test side; `Refuse` fails the job."""
    contamination: Contamination | None = None
    """Benchmarks that the examples must not hold. Default: none."""
    anchor: Anchor | None = None
    """Test rows that are held out again, as they are. Rows of the sources whose prompt is equal or
    near to one of theirs are left out. The other rows are divided by `split`, and those on the test
    side stand beside the anchor. A FineTuneSchedule sets it from its second job on. Needs
    `evaluation.looks: Correct`. Default: none."""

    @property
    def benchmarks(self) -> list[Benchmark]:
        """The benchmarks that the examples must not hold."""
        return self.contamination.against if self.contamination else []
