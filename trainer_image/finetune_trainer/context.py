"""What every stage works with: the job, where it reads and writes, and whom it tells."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.meta import LocalObjectReference
from finetune_api.protocol.trainer import Environment, ResolvedJob, Stage
from finetune_trainer.data.keys import pointer_key, uri_of
from finetune_trainer.errors import DataError, Stopped, TrainerError, UserError
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.storage import (
    ObjectStore,
    StorageAccess,
    open_patiently,
    open_store,
    read_json,
)
from finetune_trainer.storage.patience import EARLIER_STAGES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from finetune_trainer.decision import PublishDecision


def read_job(path: Path, *, digest: str | None = None) -> ResolvedJob:
    """Read ``job.json``.

    Args:
        path: Where it lies.
        digest: The sha256 that it must have, in hex digits; None for whichever it has.

    Raises:
        UserError: The file is missing, is not a job, or not the one of the digest; the message
            names file and field.
    """
    try:
        content = path.read_bytes()
        if digest is not None and hashlib.sha256(content).hexdigest() != digest:
            raise UserError(
                "JobFileChanged",
                f"{path} is not the job file that this stage was created with (sha256 {digest}):"
                " somebody replaced the ConfigMap that holds it. Nothing was read or written."
                " Create the job anew (finetune retry), and find out who may change ConfigMaps in"
                " its namespace",
            )
        return ResolvedJob.from_json(content.decode())
    except OSError as error:
        raise UserError("JobFileUnreadable", f"cannot read the job file {path}: {error}") from error
    except ValueError as error:
        raise UserError("InvalidJob", f"{path} is not a valid job: {error}") from error


def cache_dir() -> Path:
    """Return where base models of this node are kept."""
    given = os.environ.get(Environment.CACHE_DIR)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune"


LOG_BYTES = 64 * 1024
"""Of a log this much is kept: the end, where the reason stands."""


@dataclass(kw_only=True)
class StageContext:
    """One stage's view of the world.

    Attributes:
        job: The effective job.
        emit: Where events go.
        work_dir: Scratch folder of this run on this node; survives a restart of the process.
        cache_dir: Base models, shared by all runs on this node.
        cache_is_shared: The cache is a volume that all pods of the run mount.
        approved_data: Digest of the only data set the stage may read; None for whichever is the
            run's.
        decision: Who lets the candidate be published that does not get there by itself, if somebody
            does.
        credentials_dir: Mounted Secrets, one folder each; None uses the environment's identity.
    """

    job: ResolvedJob
    emit: EventEmitter
    work_dir: Path
    cache_dir: Path
    credentials_dir: Path | None = None
    cache_is_shared: bool = False
    approved_data: str | None = None
    decision: PublishDecision | None = None
    _output: ObjectStore | None = field(default=None, repr=False)
    _model: tuple[Path, str] | None = field(default=None, repr=False)
    _model_has_weights: bool = field(default=False, repr=False)
    _told: set[str] = field(default_factory=set, repr=False)

    @classmethod
    def from_environment(
        cls,
        job: ResolvedJob,
        emit: EventEmitter,
        *,
        approved_data: str | None = None,
        decision: PublishDecision | None = None,
    ) -> StageContext:
        """Build the context from the environment variables of the contract."""
        work = os.environ.get(Environment.WORK_DIR) or str(
            Path(tempfile.gettempdir()) / "finetune" / job.uid
        )
        cache = cache_dir()
        credentials = os.environ.get(Environment.CREDENTIALS_DIR)
        work_dir = Path(work)
        try:
            work_dir.mkdir(parents=True, exist_ok=True)
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                "WorkDirUnwritable",
                f"cannot create the work folder {work} or the cache folder {cache}: {error}; set "
                f"{Environment.WORK_DIR} and {Environment.CACHE_DIR} to writable folders",
            ) from error
        return cls(
            job=job,
            emit=emit,
            work_dir=work_dir,
            cache_dir=cache,
            credentials_dir=Path(credentials) if credentials else None,
            cache_is_shared=os.environ.get(Environment.CACHE_IS_SHARED) == "1",
            approved_data=approved_data,
            decision=decision,
        )

    def access(self, reference: LocalObjectReference | None = None) -> StorageAccess:
        """Return how storage is reached with the given Secret, by default the output's."""
        chosen = reference or self.job.spec.output.credentials_ref
        s3 = self.job.spec.s3
        return StorageAccess(
            endpoint=s3.endpoint,
            region=s3.region,
            addressing=s3.addressing,
            credentials_dir=self.credentials_dir,
            credentials_name=chosen.name if chosen else None,
        )

    @property
    def output(self) -> ObjectStore:
        """Storage rooted at ``spec.output.uri``; its calls outlast minutes of outage."""
        if self._output is None:
            known = () if self.emit.stage is Stage.PREPARE else EARLIER_STAGES
            self._output = open_patiently(
                self.job.spec.output.uri, self.access(), self.emit.message, known=known
            )
        return self._output

    def uri_of(self, key: str) -> str:
        """Return the full URI of a key under the output."""
        return uri_of(self.job, key)

    @contextmanager
    def keeping_logs(self, folder: Path) -> Iterator[None]:
        """Store the end of a folder's logs below the run if the block fails, and say where.

        Logs of processes may quote rows: they lie with the data, and the error names the place.

        Args:
            folder: Where processes of the block write ``*.log``.

        Raises:
            TrainerError: As the block raised it.
        """
        try:
            yield
        except (UserError, DataError, Stopped):
            raise
        except TrainerError as error:
            if kept := self.keep_logs(folder):
                error.message += f"; what the processes wrote is in {', '.join(kept[:2])}"
            raise

    def keep_logs(self, folder: Path) -> list[str]:
        """Store the end of a folder's logs below the run; returns where those that could be lie.

        Args:
            folder: Where processes have written ``*.log``.
        """
        return [uri for log in sorted(folder.glob("*.log")) if (uri := self._keep_log(log))]

    def _keep_log(self, log: Path) -> str:
        text = log.read_bytes()[-LOG_BYTES:]
        key = f"{self.job.run_prefix}/logs/{self.emit.stage}-{log.name}"
        if not text.strip():
            return ""
        try:
            # Without patience: the failure may be that storage is away.
            open_store(self.job.spec.output.uri, self.access()).write_bytes(key, text)
        except TrainerError:
            return ""  # the failure itself must be told
        return self.uri_of(key)

    def scratch(self, name: str, *, fresh: bool = False) -> Path:
        """Return a folder below the work folder, emptied first if ``fresh``."""
        path = self.work_dir / name
        if fresh and path.exists():
            # The folder itself may be a mount: only its content goes.
            for child in path.iterdir():
                shutil.rmtree(child) if child.is_dir() else child.unlink()
        path.mkdir(parents=True, exist_ok=True)
        return path

    def model_folder(self, *, include_weights: bool = True) -> tuple[Path, str]:
        """Return the local folder of the base model and its resolved revision.

        Args:
            include_weights: False fetches configuration and tokenizer only, megabytes instead of
                gigabytes: all that ``prepare`` needs.

        Raises:
            UserError: It is not there, or no longer what the run's first stage found.
        """
        if self._model is None or (include_weights and not self._model_has_weights):
            from finetune_trainer.storage.models.cache import fetch_model

            model = self.job.spec.model
            if include_weights:
                self._tell_once(f"loading the model {self.model_name}")
            self._model = fetch_model(
                model.uri,
                model.revision,
                self.access(model.credentials_ref),
                self.cache_dir,
                include_weights=include_weights,
                allow_code=model.trust_remote_code,
                pinned=self._pinned_revision(),
                tell=self.emit.message,
            )
            self._model_has_weights = include_weights
        return self._model

    def _tell_once(self, text: str) -> None:
        """Say what is about to take seconds without a word."""
        if text not in self._told:
            self._told.add(text)
            self.emit.message(text)

    def _pinned_revision(self) -> str | None:
        # A branch may move and a folder may change while a job waits in a queue.
        pointer = read_json(self.output, pointer_key(self.job)) or {}
        revision = pointer.get("modelRevision")
        return revision if isinstance(revision, str) else None

    @property
    def model_name(self) -> str:
        """Public name of the base model, as an inference server would serve it."""
        return public_model_name(self.job)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the base model's tokenizer; never from the network."""
        from finetune_trainer.model.load import load_tokenizer

        self._tell_once(f"loading the tokenizer of {self.model_name}")
        folder, _ = self._model or self.model_folder(include_weights=False)
        return load_tokenizer(folder, trust_remote_code=self.job.spec.model.trust_remote_code)


def public_model_name(job: ResolvedJob) -> str:
    """Return ``spec.model.name``, else what the URI suggests."""
    model = job.spec.model
    if model.name:
        return model.name
    scheme, _, rest = model.uri.partition("://")
    path = rest.split("@")[0].strip("/")
    return path if scheme == "hf" else path.rsplit("/", 1)[-1]
