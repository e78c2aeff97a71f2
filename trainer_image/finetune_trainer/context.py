"""The context of a stage: its job, work folder, storage, base model and events.

Stages pass its parts to their steps; no step receives the context.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.protocol.trainer import Environment, ResolvedJob
from finetune_trainer.errors import UserError
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.run import BaseModel, RunStorage, Workspace

if TYPE_CHECKING:
    from finetune_trainer.decision import PublishDecision


def read_job(path: Path, *, digest: str | None = None) -> ResolvedJob:
    """Read ``job.json``; its hex sha256 must be ``digest``, None for any.

    Raises:
        UserError: The file is missing, is not a job, or has another digest; the message names file
            and field.
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


@dataclass(kw_only=True)
class StageContext:
    """The inputs and services of one stage.

    Attributes:
        job: The effective job.
        emit: Destination of events.
        work_dir: Scratch folder of this run on this node; survives a restart of the process.
        cache_dir: Base models, shared by all runs on this node.
        cache_is_shared: The cache is a volume that all pods of the run mount.
        approved_data: Digest of the only permitted data set; None for any.
        decision: Decision to publish a candidate; None without one.
        credentials_dir: Mounted Secrets, one folder each; None uses the environment's identity.
        workspace: The work folder.
        storage: The run's storage.
        model: The base model.
    """

    job: ResolvedJob
    emit: EventEmitter
    work_dir: Path
    cache_dir: Path
    credentials_dir: Path | None = None
    cache_is_shared: bool = False
    approved_data: str | None = None
    decision: PublishDecision | None = None
    workspace: Workspace = field(init=False, repr=False)
    storage: RunStorage = field(init=False, repr=False)
    model: BaseModel = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.workspace = Workspace(folder=self.work_dir)
        self.storage = RunStorage(
            job=self.job,
            stage=self.emit.stage,
            say=self.emit.message,
            credentials_dir=self.credentials_dir,
        )
        self.model = BaseModel(storage=self.storage, cache_dir=self.cache_dir)

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
