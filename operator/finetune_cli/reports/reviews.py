"""Finds the review of a run, reads reviewers' files, and stores what they said together."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_cli.cluster.client import Cluster
from finetune_cli.errors import CliError
from finetune_cli.exits import STORAGE
from finetune_cli.local.job import cache_root
from finetune_cli.local.verify import make_access, storage_error

if TYPE_CHECKING:
    from finetune_trainer.evaluate.sources.review.blinding import Blind, KeyEntry
    from finetune_trainer.evaluate.sources.review.panel import Judged
    from finetune_trainer.evaluate.sources.review.verdicts import ReviewFile
    from finetune_trainer.storage import StorageAccess

TAILS = ("/review/page.html", "/manifest.json", "/report.json", "/report.html")


@dataclass(frozen=True, kw_only=True)
class Source:
    """The evaluation of a run.

    Attributes:
        job: The FineTuneJob, if it was found by its name.
    """

    uri: str
    access: StorageAccess
    job: dict[str, Any] | None = None

    @property
    def run_uri(self) -> str:
        """Folder of the run."""
        return self.uri.rsplit("/", 1)[0]

    def fetch(self, folder: Path, *names: str) -> str:
        """Fetch files of the evaluation, checked by its manifest, and return its digest.

        Raises:
            CliError: They do not exist, or storage cannot be read.
        """
        from finetune_trainer.errors import TrainerError
        from finetune_trainer.storage import fetch_folder, open_store, read_manifest

        try:
            store = open_store(self.uri, self.access)
            held = {file.path for file in read_manifest(store, "").files}
            missing = [name for name in names if name not in held]
            if missing:
                raise CliError(
                    f"{self.uri} holds no {', '.join(missing)}: its job asks for no review; set "
                    "evaluation.review in the job",
                    exit_code=STORAGE,
                )
            return fetch_folder(store, "", folder, only=set(names)).digest
        except TrainerError as error:
            raise storage_error(error) from error


def find_source(
    target: str, cluster: Cluster | None, *, endpoint: str | None, region: str | None
) -> Source:
    """Return the evaluation of a run.

    Args:
        target: Folder or URI of a run or of its evaluation, or the name of a job on a cluster.
        cluster: The job's cluster; None for a folder or URI.
        endpoint: URL of the S3 server.
        region: S3 region.

    Raises:
        CliError: There is no such job, or it has no evaluation yet.
    """
    if cluster is None:
        return Source(uri=_evaluation_of(target), access=make_access(endpoint, region))
    job = cluster.get_job(target)
    report = job.get("status", {}).get("evaluation", {}).get("reportUri")
    if not report:
        phase = job.get("status", {}).get("phase", "Pending")
        raise CliError(f"FineTuneJob {target} has no evaluation yet; it is {phase}")
    s3 = job["spec"].get("s3", {})
    access = make_access(endpoint or s3.get("endpoint"), region or s3.get("region"))
    return Source(uri=_evaluation_of(report), access=access, job=job)


def waits_for_review(source: Source, opened: Opened) -> bool:
    """Return whether the run's publication waits for the panel's result."""
    if source.job is None:
        return bool(opened.facts.get("required"))
    from finetune_cli.views.state import is_terminal

    review = source.job["spec"].get("evaluation", {}).get("review", {})
    return bool(review.get("required")) and not is_terminal(source.job)


def is_place(target: str) -> bool:
    """Whether this names a folder or URI, and not a job on a cluster."""
    return "://" in target or "/" in target or Path(target).exists()


def find_page(source: Source) -> Path:
    """Return a verified copy of the page; the key that undoes the blinding is not fetched."""
    from finetune_trainer.evaluate.sources.review.files import PAGE_NAME

    name = hashlib.sha256(source.uri.encode()).hexdigest()[:16]
    folder = cache_root() / "pages" / name
    folder.mkdir(parents=True, exist_ok=True)
    source.fetch(folder, PAGE_NAME)
    return folder / PAGE_NAME


def read_blind(source: Source) -> Blind:
    """Return what reviewers see."""
    from finetune_trainer.evaluate.sources.review.files import ITEMS_NAME, read_items

    with tempfile.TemporaryDirectory() as folder:
        source.fetch(Path(folder), ITEMS_NAME)
        return read_items((Path(folder) / ITEMS_NAME).read_bytes())


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A review with its key.

    Attributes:
        key: Which model gave which answer.
    """

    blind: Blind
    key: dict[str, KeyEntry]
    facts: dict[str, Any]


def open_review(source: Source) -> Opened:
    """Return a review with its key, which ends its blinding."""
    from finetune_trainer.evaluate.sources.review.files import (
        ITEMS_NAME,
        KEY_NAME,
        read_items,
        read_key,
    )

    with tempfile.TemporaryDirectory() as folder:
        digest = source.fetch(Path(folder), ITEMS_NAME, KEY_NAME)
        blind = read_items((Path(folder) / ITEMS_NAME).read_bytes())
        key, facts = read_key((Path(folder) / KEY_NAME).read_bytes())
    facts = {**facts, "evaluation": digest, "review": blind.digest}
    return Opened(blind=blind, key=key, facts=facts)


def read_files(opened: Opened, files: Sequence[Path]) -> list[ReviewFile]:
    """Read the files of a whole panel, in the order of their reviewers' names.

    Raises:
        CliError: One of them cannot be used, or the panel is not complete.
    """
    from finetune_trainer.evaluate.sources.review.verdicts import ReviewFileError, require_panel

    found = {str(file): read_file(opened.blind, file) for file in files}
    try:
        require_panel(
            found,
            items=list(opened.key),
            rubric=opened.blind.rubric,
            reviewers=int(opened.facts["reviewersWanted"]),
        )
    except ReviewFileError as error:
        raise CliError(str(error)) from error
    return sorted(found.values(), key=lambda each: each.reviewer)


def read_file(blind: Blind, file: Path) -> ReviewFile:
    """Read one reviewer's file.

    Raises:
        CliError: There is none, or it is not of this review.
    """
    from finetune_trainer.evaluate.sources.review.verdicts import ReviewFileError, read_verdicts

    names = [item.id for item in blind.items]
    try:
        return read_verdicts(
            file.read_bytes(), name=str(file), review=blind.digest, items=names,
            rubric=blind.rubric,
        )  # fmt: skip
    except OSError as error:
        raise CliError(f"cannot read {file}: {error.strerror}") from error
    except ReviewFileError as error:
        raise CliError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The stored result of all reviewers.

    Attributes:
        judged: Counts and agreement, overall first.
        evaluation: Digest of the evaluation that was reviewed.
    """

    judged: Sequence[Judged]
    text: str
    uri: str
    evaluation: str

    @property
    def digest(self) -> str:
        """Names the file."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def store_panel(source: Source, opened: Opened, files: Sequence[ReviewFile]) -> Panel:
    """Count the verdicts, and store them in the run's folder under their digest.

    Raises:
        CliError: Storage failed.
    """
    from finetune_trainer.errors import TrainerError
    from finetune_trainer.evaluate.sources.review.panel import judge, panel_to_json
    from finetune_trainer.storage import AlreadyExists, join_uri, open_store

    certainty = float(opened.facts["certainty"])
    judged = judge(files, opened.key, rubric=opened.blind.rubric, certainty=certainty)
    text = panel_to_json(judged, files, opened.key, facts=opened.facts)
    name = f"review/{hashlib.sha256(text.encode()).hexdigest()}.json"
    try:
        store = open_store(source.run_uri, source.access)
        with suppress(AlreadyExists):  # the name is the content
            store.write_bytes(name, text.encode(), if_absent=True)
    except TrainerError as error:
        raise storage_error(error) from error
    uri = join_uri(store.uri, name)
    return Panel(judged=judged, text=text, uri=uri, evaluation=opened.facts["evaluation"])


def describe_panel(panel: Panel) -> str:
    """Return the panel's result as a table and a sentence for each thing to know."""
    from finetune_cli.views.layout import table

    rows = []
    for judged in panel.judged:
        wire = judged.to_wire()
        counts = wire["random"]
        rate = f"{wire['winRate']} [{wire['winRateLow']}, {wire['winRateHigh']}]"
        kappa = wire.get("cohenKappa") or wire.get("fleissKappa") or "-"
        rows.append([
            judged.name, *(str(counts[model]) for model in ("tuned", "same", "base")),
            rate if "winRate" in wire else "-",
            wire.get("agreement", "-"), kappa, wire.get("krippendorffAlpha", "-"),
        ])  # fmt: skip
    columns = ("CRITERION", "TUNED", "SAME", "BASE", "WIN RATE", "AGREED", "KAPPA", "ALPHA")
    worst = panel.judged[0].worst
    lines = [*table(rows, columns), ""]
    if worst.total():
        lines.append(
            "of the questions drawn for their bad score, which are not counted above: tuned "
            f"{worst['tuned']}, same {worst['same']}, base {worst['base']} overall"
        )
    lines.append("verdicts over all reviewers; a tie is half a win")
    lines.append(f"stored: {panel.uri}")
    return "\n".join(lines)


def summarize_panel(panel: Panel) -> str:
    """Return the panel's result in one sentence."""
    wire = panel.judged[0].to_wire()
    reviewers = len(json.loads(panel.text)["reviewers"])
    if "winRate" not in wire:
        return f"{reviewers} reviewer(s): both models answer every question alike"
    kappa = wire.get("cohenKappa") or wire.get("fleissKappa")
    return (
        f"{reviewers} reviewer(s): tuned preferred to base in {wire['winRate']} "
        f"[{wire['winRateLow']}, {wire['winRateHigh']}], a tie as half; agreement "
        f"{wire.get('agreement', 'of one')}{f', kappa {kappa}' if kappa else ''}"
    )


def verdicts_name(reviewer: str, review: str) -> str:
    """Return what a reviewer's file is called, as the page calls it."""
    name = re.sub(r"\W+", "-", reviewer.lower())
    return f"verdicts-{name}-{review[:8]}.json"


def _evaluation_of(target: str) -> str:
    uri = target.rstrip("/")
    for tail in TAILS:
        uri = uri.removesuffix(tail)
    if "://" not in uri:
        uri = f"file://{Path(uri).expanduser().absolute()}"
    return uri if uri.endswith("/evaluation") else f"{uri}/evaluation"
