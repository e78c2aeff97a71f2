"""The report of a prepared data set, and its sentences. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from finetune_api.protocol.stage_results import QuestionCount, RowCounts
from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.evaluation.scoring import LIKELIHOOD_METRICS
from finetune_trainer.data.prepared import REPORT_NAME
from finetune_trainer.data.report import (
    CheckReport,
    DatasetReport,
    FileReport,
    LabelReport,
    LengthBin,
    RowPairReport,
    SourceReport,
    SplitReport,
    SplitRows,
    TokenReport,
    TrainedReport,
    report_invalid_rows,
    tokenizer_name,
)
from finetune_trainer.data.rows import RowErrors, RowFile, Side, join_errors
from finetune_trainer.data.token_files import TokenTotals
from finetune_trainer.prepare.checks.checks import Finding
from finetune_trainer.prepare.privacy.step import make_shield
from finetune_trainer.prepare.reading.columns.unread import NUM_NAMES_SHOWN
from finetune_trainer.prepare.reading.examples import SourceRows, file_label
from finetune_trainer.prepare.reading.files.encodings import UTF8
from finetune_trainer.prepare.reading.files.file_types import is_plain
from finetune_trainer.prepare.reading.sources import SourceFile
from finetune_trainer.prepare.splits.dividing import Division
from finetune_trainer.prepare.splits.strata import word_width
from finetune_trainer.prepare.tokens import TokenStatistics
from finetune_trainer.prepare.version import RECIPE_VERSION
from finetune_trainer.statistics.needed import count_wanted, widest_half


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """The sources as fetched and read."""

    files: list[list[SourceFile]]
    rows: list[SourceRows]

    @property
    def errors(self) -> RowErrors:
        """All unreadable rows."""
        return join_errors(source.errors for source in self.rows)


def make_report(
    job: ResolvedJob,
    digest: str,
    read: Input,
    division: Division,
    findings: Sequence[Finding],
    tokens: dict[Side, TokenStatistics],
    totals: dict[Side, TokenTotals],
    *,
    rows: RowCounts,
    remedies: Sequence[str],
    labels: Sequence[LabelReport],
) -> DatasetReport:
    """Build the report of a data set; the labels are already masked."""
    spec = job.spec
    split = spec.dataset.split
    return DatasetReport(
        digest=digest,
        recipe_version=RECIPE_VERSION,
        rows=rows,
        sources=[_report_source(job, read, index) for index in range(len(read.files))],
        invalid_rows=report_invalid_rows(read.errors),
        checks=report_findings(findings),
        split=SplitReport(
            test_percent=split.test_percent,
            validation_percent=split.validation_percent,
            seed=split.seed,
            groups=division.num_groups,
            rows_drawn=division.num_rows,
            test_groups=division.num_test_groups,
            wanted_test_groups=count_wanted(),
            # Of all of them: how many a job asks, the report, which jobs share, does not know.
            widest_interval=f"{widest_half(division.num_test_groups):.3f}",
            labels=division.num_labels,
            largest_label_deviation=(
                None if division.largest_deviation is None else f"{division.largest_deviation:.4f}"
            ),
        ),
        max_sequence_length=spec.hyperparameters.max_sequence_length,
        remedies=[*remedies, *_describe_examples(tokens)],
        tokens={
            tokenizer_name(spec.model): {
                side.value: report_tokens(statistics) for side, statistics in tokens.items()
            }
        },
        trained={
            side.value: TrainedReport(
                examples=total.num_examples,
                tokens=total.num_tokens,
                longest=total.longest,
                squares=total.squares,
            )
            for side, total in totals.items()
        },
        labels=list(labels),
    )


def _describe_examples(tokens: dict[Side, TokenStatistics]) -> list[str]:
    train = tokens.get(Side.TRAIN)
    if train is None or train.num_examples == train.num_rows:
        return []
    return [
        f"{train.num_rows} train rows are trained as {train.num_examples} examples, one for each "
        "answer where needed: the chat template writes past turns otherwise than generation left "
        "them, so several answers of a row cannot be learned from one text"
    ]


def _report_source(job: ResolvedJob, read: Input, index: int) -> SourceReport:
    source, rows = job.spec.dataset.sources[index], read.rows[index]
    label = source_label(job, index)
    return SourceReport(
        files=[
            FileReport(
                name=file.name,
                bytes=file.num_bytes,
                sha256=file.sha256,
                encoding=file.encoding.name if file.encoding else None,
                encoding_reason=file.encoding.reason if file.encoding else None,
                rows=rows.num_rows_of_file.get(file_label(label, file.name), 0),
            )
            for file in read.files[index]
        ],
        side=source.side,
        weight=source.weight,
        format=rows.recognised.format if rows.recognised else None,
        # Names of fields are the first row where a table has no header.
        format_reason=make_shield(job.spec.dataset.privacy).shield_text(
            rows.recognised.reason if rows.recognised else "it has no readable rows"
        ),
        rows=rows.num_rows,
        invalid_rows=rows.errors.total,
    )


def check_empty_files(job: ResolvedJob, read: Input) -> list[Finding]:
    """Say which files of plain text give no row, in one finding."""
    empty = [
        file.name
        for index, (files, rows) in enumerate(zip(read.files, read.rows, strict=True))
        for file in files
        if is_plain(file.name)
        and not rows.num_rows_of_file.get(file_label(source_label(job, index), file.name))
    ]
    if not empty:
        return []
    more = f" and {len(empty) - NUM_NAMES_SHOWN} more" if len(empty) > NUM_NAMES_SHOWN else ""
    message = f"these files have no text to learn: {', '.join(empty[:NUM_NAMES_SHOWN])}{more}"
    return [Finding(name="emptyFiles", num_flagged=len(empty), message=message)]


def report_encodings(tell: Callable[[str], None], files: Sequence[SourceFile]) -> None:
    """Say which files are not in UTF-8, once for each encoding."""
    names: dict[tuple[str, str], list[str]] = {}
    for file in files:
        if file.encoding is not None and file.encoding.codec != UTF8.codec:
            names.setdefault((file.encoding.name, file.encoding.reason), []).append(file.name)
    for (encoding, reason), found in names.items():
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        tell(f"{found[0]}{more} read as {encoding}: {reason}")


def report_sentences(
    tell: Callable[[str], None],
    job: ResolvedJob,
    report: DatasetReport,
    *,
    reused: bool,
    questions: QuestionCount | None = None,
) -> None:
    """Emit the report in sentences.

    ``reused`` says that the data set was there already; ``questions`` is the number of held-out
    questions if the job leaves it open.
    """
    rows = report.rows
    verb = "reused" if reused else "prepared"
    tell(
        f"{verb} data set {report.digest[:12]}: {rows.train} train, {rows.validation} validation, "
        f"{rows.test} test rows"
    )
    for source in report.sources:
        tell(f"{source.rows} rows of format {source.format or 'unknown'}: {source.format_reason}")
    if report.invalid_rows.total:
        totals = ", ".join(f"{k} {v}" for k, v in report.invalid_rows.by_reason.items())
        tell(f"left out {report.invalid_rows.total} invalid rows ({totals}); see {REPORT_NAME}")
    for check in report.checks:
        if check.message:
            tell(check.message)
    for sentence in _describe_split(job, report.split, questions):
        tell(sentence)
    for remedy in report.remedies:
        tell(remedy)
    for side, tokens in report.tokens_of(job.spec.model).items():
        if tokens.truncated_rows:
            tell(
                f"{tokens.truncated_rows} of {tokens.rows} {side} rows exceed "
                f"maxSequenceLength {report.max_sequence_length} and are cut (p95 {tokens.p95}, "
                f"longest {tokens.longest}); {tokens.rows_without_answer} lose their whole answer"
            )


def count_rows(sides: Mapping[Side, RowFile]) -> RowCounts:
    """Count the rows of each side as they are written."""
    return RowCounts(**{side.value: len(rows) for side, rows in sides.items()})


def _describe_split(
    job: ResolvedJob, split: SplitReport, questions: QuestionCount | None
) -> list[str]:
    sentences = []
    if split.labels is not None:
        words = f"every side has its share of each of the {split.labels} labels"
        if any(source.side != "Split" for source in job.spec.dataset.sources):
            words = (
                f"there are {split.labels} labels; sides that sources are bound to keep the shares "
                "that they came with"
            )
        sentences.append(f"{words} (largest difference {split.largest_label_deviation})")
    if questions is not None:
        return [*sentences, questions.message]
    goal = job.spec.goal
    if goal is not None and goal.metric in LIKELIHOOD_METRICS:
        return sentences  # its interval depends on the losses, not on their number alone
    if not split.test_groups:
        return sentences  # as earlier versions wrote it
    metric = goal.metric if goal else ""
    return [*sentences, word_width(job.spec.evaluation, metric, split.test_groups)]


def count_divided(division: Division) -> RowCounts:
    """Count the rows of each side as they are divided."""
    return RowCounts(
        train=division.count(Side.TRAIN),
        validation=division.count(Side.VALIDATION),
        test=division.count(Side.TEST),
    )


def source_label(job: ResolvedJob, index: int) -> str:
    """Return the prefix of file names; empty for a single source."""
    return f"sources[{index}]" if len(job.spec.dataset.sources) > 1 else ""


def report_findings(findings: Sequence[Finding]) -> list[CheckReport]:
    """Bring findings into the report's shape."""
    return [
        CheckReport(
            name=finding.name,
            flagged=finding.num_flagged,
            removed=finding.num_removed,
            message=finding.message,
            counts=dict(finding.counts),
            files=dict(finding.files),
            sides=[
                SplitRows(side=one.side.value, rows=one.num_rows, kinds=dict(one.kinds))
                for one in finding.sides
            ],
            pairs=[
                RowPairReport(
                    file=pair.file,
                    line=pair.line,
                    other_file=pair.other_file,
                    other_line=pair.other_line,
                )
                for pair in finding.pairs
            ],
        )
        for finding in findings
    ]


def report_tokens(statistics: TokenStatistics) -> TokenReport:
    """Bring token statistics into the report's shape."""
    return TokenReport(
        rows=statistics.num_rows,
        tokens=statistics.num_tokens,
        p50=statistics.p50,
        p95=statistics.p95,
        longest=statistics.longest,
        truncated_rows=statistics.num_truncated,
        truncated_share=f"{statistics.num_truncated / statistics.num_rows:.4f}",
        rows_without_answer=statistics.num_without_answer,
        examples=statistics.num_examples,
        histogram=[LengthBin(at_least=each.at_least, rows=each.count) for each in statistics.bins],
    )
