"""What a step of a stage may need of its run: a work folder, the storage, the base model.

A step takes the parts that it needs. Only the modules ``stage.py`` know all of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.meta import LocalObjectReference
from finetune_api.names import traffic_prefix
from finetune_api.protocol.trainer import ResolvedJob, Stage
from finetune_trainer.data.keys import pointer_key, uri_of
from finetune_trainer.data.responses import read_responses
from finetune_trainer.data.rows import RESPONSE_ID
from finetune_trainer.errors import DataError, Stopped, TrainerError, UserError
from finetune_trainer.storage import (
    ObjectStore,
    StorageAccess,
    join_uri,
    open_patiently,
    open_store,
    read_json,
)
from finetune_trainer.storage.patience import EARLIER_STAGES
from finetune_trainer.traffic.reading import read_deleted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Say = Callable[[str], None]
"""Emits a message for people."""
LOG_BYTES = 64 * 1024
"""The end of a log that is kept: the reason of a failure stands there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workspace:
    """Scratch folder of a run on this node; it survives a restart of the process."""

    folder: Path

    def scratch(self, name: str, *, fresh: bool = False) -> Path:
        """Return a folder below the work folder, emptied first if ``fresh``."""
        path = self.folder / name
        if fresh and path.exists():
            # The folder itself may be a mount: only its content goes.
            for child in path.iterdir():
                shutil.rmtree(child) if child.is_dir() else child.unlink()
        path.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(kw_only=True)
class RunStorage:
    """The storage that a job writes to, for one of its stages.

    ``say`` reports a wait for storage. ``credentials_dir`` None uses the environment's identity.
    """

    job: ResolvedJob
    stage: Stage
    say: Say
    credentials_dir: Path | None = None
    _output: ObjectStore | None = field(default=None, init=False, repr=False)

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
            known = () if self.stage is Stage.PREPARE else EARLIER_STAGES
            self._output = open_patiently(
                self.job.spec.output.uri, self.access(), self.say, known=known
            )
        return self._output

    def open_traffic(self, endpoint: str) -> ObjectStore:
        """Open what an endpoint of the job's own namespace has captured.

        Raises:
            UserError: ``TrafficNotResolved``: the job file does not say where it lies.
        """
        place = next((each for each in self.job.traffic or () if each.endpoint == endpoint), None)
        if place is None:
            raise UserError(
                "TrafficNotResolved",
                f"dataset.sources: nothing says where the answers of traffic://{endpoint} are "
                "stored; on this machine give the folder of finetune serve --capture: "
                "finetune run --capture DIR",
            )
        uri = join_uri(place.uri, traffic_prefix(self.job.namespace, endpoint))
        access = replace(self.access(), credentials_name=place.credentials_secret)
        return open_patiently(uri, access, self.say)

    def count_deleted(self, folder: Path) -> int:
        """Return how many rows of a data set's folder come from answers that have been deleted."""
        return len(self.find_deleted(read_responses(folder)))

    def find_deleted(self, origins: Iterable[Mapping[str, Any]]) -> list[int]:
        """Return the positions of the rows that come from deleted answers.

        Args:
            origins: Of each row what :data:`ORIGIN` names; without a response id it is of a file.
        """
        places = self.job.traffic or ()
        deleted = [read_deleted(self.open_traffic(place.endpoint)) for place in places]
        found = []
        for position, origin in enumerate(origins) if deleted else ():
            if RESPONSE_ID in origin:
                time = datetime.fromisoformat(origin["time"])
                if any(each.covers(origin[RESPONSE_ID], origin["user"], time) for each in deleted):
                    found.append(position)
        return found

    def open_direct(self) -> ObjectStore:
        """Return the same storage without patience: its calls fail at once in an outage."""
        return open_store(self.job.spec.output.uri, self.access())

    def uri_of(self, key: str) -> str:
        """Return the full URI of a key under the output."""
        return uri_of(self.job, key)

    @contextmanager
    def keeping_logs(self, folder: Path) -> Iterator[None]:
        """Store the end of a folder's ``*.log`` files below the run if the block fails.

        They may quote rows, so they lie with the data and the error names the place.

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
        """Store the end of a folder's ``*.log`` files below the run; return the place."""
        return [uri for log in sorted(folder.glob("*.log")) if (uri := self._keep_log(log))]

    def _keep_log(self, log: Path) -> str:
        text = log.read_bytes()[-LOG_BYTES:]
        key = f"{self.job.run_prefix}/logs/{self.stage}-{log.name}"
        if not text.strip():
            return ""
        try:
            # Without patience: an outage of storage may be the failure.
            self.open_direct().write_bytes(key, text)
        except TrainerError:
            return ""  # the first failure must be reported
        return self.uri_of(key)


@dataclass(kw_only=True)
class BaseModel:
    """The base model of a run, fetched at most once, at the first stage's revision.

    ``download_seconds`` is how long this process has downloaded weights.
    """

    storage: RunStorage
    cache_dir: Path
    download_seconds: float = field(default=0.0, init=False)
    _found: tuple[Path, str] | None = field(default=None, init=False, repr=False)
    _has_weights: bool = field(default=False, init=False, repr=False)
    _said: set[str] = field(default_factory=set, init=False, repr=False)

    @property
    def name(self) -> str:
        """Public name of the base model: ``spec.model.name``, else what the URI suggests."""
        model = self.storage.job.spec.model
        if model.name:
            return model.name
        scheme, _, rest = model.uri.partition("://")
        path = rest.split("@")[0].strip("/")
        return path if scheme == "hf" else path.rsplit("/", 1)[-1]

    def fetch(self, *, include_weights: bool = True) -> tuple[Path, str]:
        """Return the local folder of the base model and its resolved revision.

        Without weights only megabytes are fetched, enough for ``prepare``.

        Raises:
            UserError: It is missing, or changed since the run's first stage.
        """
        if self._found is None or (include_weights and not self._has_weights):
            from finetune_trainer.storage.models.cache import fetch_model

            model = self.storage.job.spec.model
            if include_weights:
                self._say_once(f"loading the model {self.name}")
            self._found = fetch_model(
                model.uri,
                model.revision,
                self.storage.access(model.credentials_ref),
                self.cache_dir,
                include_weights=include_weights,
                allow_code=model.trust_remote_code,
                pinned=self._pinned_revision(),
                tell=self.storage.say,
                on_download=self._count_download if include_weights else lambda _: None,
            )
            self._has_weights = include_weights
        return self._found

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the base model's tokenizer; never from the network."""
        from finetune_trainer.model.load import load_tokenizer

        self._say_once(f"loading the tokenizer of {self.name}")
        folder, _ = self._found or self.fetch(include_weights=False)
        trust_remote_code = self.storage.job.spec.model.trust_remote_code
        return load_tokenizer(folder, trust_remote_code=trust_remote_code)

    def _count_download(self, seconds: float) -> None:
        self.download_seconds += seconds
        self.storage.say(f"downloaded the base model {self.name} in {seconds:.0f} s")

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.storage.say(text)

    def _pinned_revision(self) -> str | None:
        # A branch may move and a folder may change while a job waits in a queue.
        pointer = read_json(self.storage.output, pointer_key(self.storage.job)) or {}
        revision = pointer.get("modelRevision")
        return revision if isinstance(revision, str) else None
