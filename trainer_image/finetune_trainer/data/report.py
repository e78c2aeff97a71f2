"""``report.json`` of a prepared data set and the run's pointer to it.

The shape is a contract: camelCase, unknown fields refused, a default for every added field. The
report holds no times and no paths, so equal inputs give equal bytes.
"""

from __future__ import annotations

from pydantic import Field

from finetune_api.meta import APIModel
from finetune_api.protocol.stage_results import QuestionCount, RowCounts
from finetune_api.v1alpha1.spec.model import Model
from finetune_api.v1alpha1.status.dataset import InvalidRowPlace
from finetune_trainer.data.rows import RowErrors


class InvalidRow(APIModel):
    """One row that was left out."""

    file: str
    line: int
    reason: str
    message: str
    snippet: str


class InvalidRows(APIModel):
    """All rows that were left out."""

    total: int
    by_reason: dict[str, int]
    first: list[InvalidRow]
    """At most the first 100, in the order of sources, files and lines."""


class FileReport(APIModel):
    """One file of a source."""

    name: str
    bytes: int
    sha256: str = ""
    encoding: str | None = None
    """Of text; None for tables of other kinds."""
    encoding_reason: str | None = None
    rows: int
    """Usable rows."""


class SourceReport(APIModel):
    """One source: its format and rows."""

    files: list[FileReport]
    side: str
    weight: str = "1"
    """How often its train rows were written."""
    format: str | None
    """None when it has no rows."""
    format_reason: str
    rows: int
    invalid_rows: int


class RowPairReport(APIModel):
    """A row and the one that it repeats, is near to, or contradicts."""

    file: str
    line: int
    other_file: str
    other_line: int


class SplitRows(APIModel):
    """Rows of one side that a check speaks of."""

    side: str
    rows: int
    kinds: dict[str, int] = Field(default_factory=dict)
    """Of these, by kind; a row may be of several."""


HELD_OUT_PROMPTS = "heldOutPrompts"
"""In the counts of a check: distinct held-out prompts that also stand in training."""


class CheckReport(APIModel):
    """Result of one row check."""

    name: str
    flagged: int
    removed: int
    message: str
    counts: dict[str, int] = Field(default_factory=dict)
    """Occurrences by kind; of `personalData` the places replaced or found."""
    files: dict[str, int] = Field(default_factory=dict)
    """Flagged rows by file, of `personalData`; at most the first 100 by name."""
    sides: list[SplitRows] = Field(default_factory=list)
    """Flagged rows that are left, by side, of `personalData`."""
    pairs: list[RowPairReport] = Field(default_factory=list)
    """The first 20 pairs of rows it speaks of; all of those left out are in `removed-rows.jsonl`,
    all contradictions in `conflicts.jsonl`."""


class SplitReport(APIModel):
    """How the rows were divided."""

    test_percent: int
    validation_percent: int
    seed: int
    groups: int
    """Groups of rows that had to stay on one side: same group column, same or near prompt."""
    test_groups: int = 0
    """Of these, on the test side: independent questions that the verdict rests on."""
    wanted_test_groups: int = 0
    """How many make the 95 % interval of a share of hits at most 0.10 to either side."""
    widest_interval: str | None = None
    """Decimal string: how far it may reach to either side where all of them are asked."""
    labels: int | None = None
    """Labels whose shares are alike on all sides; null where answers are no labels, or too many."""
    largest_label_deviation: str | None = None
    """Decimal string: by how much a label's share of a side differs most from its share of all."""
    rows_drawn: int
    """Rows left by `maxRows`."""


class LengthBin(APIModel):
    """Rows of about the same length."""

    at_least: int
    """Shortest length; the next bin begins where this one ends, and the last one has no end."""
    rows: int


class LabelReport(APIModel):
    """One label and its rows on each side."""

    label: str
    train: int = 0
    validation: int = 0
    test: int = 0

    @property
    def total(self) -> int:
        """Rows of all sides."""
        return self.train + self.validation + self.test


class TokenReport(APIModel):
    """Lengths of one side in tokens, before truncation."""

    rows: int
    tokens: int
    p50: int
    p95: int
    longest: int
    truncated_rows: int
    truncated_share: str
    """Decimal string between 0 and 1."""
    rows_without_answer: int
    """Rows cut before their answer begins; training cannot use them."""
    examples: int = 0
    """Examples that the rows are trained as: several of a row where the chat template writes past
    turns otherwise than generation left them."""
    histogram: list[LengthBin] = Field(default_factory=list)
    """Lengths in bins of equal, round width."""


class TrainedReport(APIModel):
    """Training totals of one side, after truncation."""

    examples: int
    """Those with something to learn."""
    tokens: int
    longest: int
    squares: int
    """Sum of the squares of the lengths, for their deviation."""


class DatasetReport(APIModel):
    """``report.json``."""

    digest: str
    recipe_version: int
    rows: RowCounts
    sources: list[SourceReport]
    invalid_rows: InvalidRows
    checks: list[CheckReport]
    split: SplitReport
    max_sequence_length: int
    remedies: list[str] = Field(default_factory=list)
    """Changes so that the chat template is trained as it is used for inference."""
    tokens: dict[str, dict[str, TokenReport]]
    """By tokenizer (the model and its revision), then by side."""
    trained: dict[str, TrainedReport] = Field(default_factory=dict)
    """Content of the token files, by side."""
    labels: list[LabelReport] = Field(default_factory=list)
    """Where the answers are labels (at most 200, short): the most frequent first."""
    anchor_digest: str = ""
    """What looks at the rows of ``dataset.anchor`` are counted by; empty without them."""

    @property
    def num_leaked_prompts(self) -> int:
        """Held-out prompts that were left in training (``duplicates.leaked: Report``)."""
        return sum(check.counts.get(HELD_OUT_PROMPTS, 0) for check in self.checks)

    def tokens_of(self, model: Model) -> dict[str, TokenReport]:
        """Return the lengths in the tokens of a model, by side."""
        earlier = f"{model.uri}@{model.revision}"  # as versions before this one wrote it
        return self.tokens.get(tokenizer_name(model)) or self.tokens[earlier]


def tokenizer_name(model: Model) -> str:
    """Return the report's name for a model's token counts: of a folder the last part."""
    uri = model.uri
    if uri.startswith("file:"):
        uri = uri.rstrip("/").rpartition("/")[2]
    return f"{uri}@{model.revision}"


class DatasetPointer(APIModel):
    """``dataset.json`` of a run: which prepared data set it uses."""

    digest: str
    uri: str
    prefix: str
    """Key prefix of the data set under `spec.output.uri`."""
    manifest_digest: str
    """Digest over the data set's files; later stages refuse any other content."""
    rows: RowCounts
    sources: list[str]
    """URIs of the sources, as this run read them."""
    model_revision: str | None = None
    """Revision of the base model at the run's start; all stages insist on it."""
    questions: QuestionCount | None = None
    """How many held-out questions its evaluation asks; null where the job says it itself."""
    origins: str = ""
    """How many held-out prompts ``spec.initFrom`` was trained on, in a sentence; empty without."""
    taken_over: str | None = None
    """UID of the run that stands for this one; null where this one trains."""


FILE_CHARACTERS = 60
"""Of a longer name the end is kept: status has little room."""


def place_row(file: str, line: int, reason: str) -> InvalidRowPlace:
    """Say where an invalid row is, in the little room of a status."""
    short = file if len(file) <= FILE_CHARACTERS else "..." + file[3 - FILE_CHARACTERS :]
    return InvalidRowPlace(file=short, line=line, reason=reason[:63])


def report_invalid_rows(errors: RowErrors) -> InvalidRows:
    """Total and list the rows that were left out."""
    return InvalidRows(
        total=errors.total,
        by_reason=dict(sorted(errors.by_reason.items())),
        first=[
            InvalidRow(
                file=error.file,
                line=error.line,
                reason=error.reason,
                message=error.message,
                snippet=error.snippet,
            )
            for error in errors.first
        ],
    )
