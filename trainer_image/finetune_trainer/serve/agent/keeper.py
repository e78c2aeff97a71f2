"""Keeps the wanted versions in the engine: fetched, loaded, verified, and unloaded in the end."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from finetune_api.protocol.serving import AdapterState
from finetune_trainer.errors import TrainerError
from finetune_trainer.serve.agent.asking import AboutEngine, verify
from finetune_trainer.serve.agent.base import Base
from finetune_trainer.serve.agent.bounds import Refusal
from finetune_trainer.serve.agent.engine import Engine, EngineAway, EngineRefused, EngineSlow
from finetune_trainer.serve.agent.fetching import Fetched, run_to_its_end
from finetune_trainer.serve.agent.wanted import Key, Wanted
from finetune_trainer.serve.logs import log_defect
from finetune_trainer.serve.verification import Verdict

GRACE_SECONDS = 30.0
"""An adapter that nobody serves stays loaded for so long, so that streams end."""
LOOK_SECONDS = 1.0
"""Time between two looks at the engine."""
MAX_SLOW_LOOKS = 6
"""After so many looks in a row without an answer in time, the engine counts as away."""
FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 30.0
NUM_FETCHED_TOGETHER = 2
NUM_ASKED_TOGETHER = 8

log = logging.getLogger(__name__)

Fetch = Callable[[Wanted, Path], Fetched]
Pause = Callable[[float], Awaitable[object]]


@dataclass(kw_only=True)
class Adapter:
    """A version on this server.

    Attributes:
        wanted: The version as the status names it.
        sha256: Digest of its manifest, as it was read; empty until then.
        state: How far it is.
        reason: Why it failed, or what it waits for, as a CamelCase cause.
        num_open: Requests that it answers now.
        is_leaving: It is being unloaded, and cannot be wanted back before that is done.
    """

    wanted: Wanted
    folder: Path
    sha256: str = ""
    state: AdapterState = "Fetching"
    reason: str = ""
    message: str = ""
    verdict: Verdict | None = None
    num_open: int = 0
    is_leaving: bool = False
    task: asyncio.Task[None] | None = field(default=None, repr=False)
    leaving: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def is_settled(self) -> bool:
        """Whether it is verified or has failed."""
        return self.state in ("Verified", "Failed")

    def is_of(self, wanted: Wanted) -> bool:
        """Whether it is the version that is wanted, as far as that says which one."""
        is_read = not self.sha256 or wanted.sha256 in ("", self.sha256)
        return is_read and self.wanted.agrees_with(wanted)

    def set(self, state: AdapterState, reason: str = "", message: str = "") -> None:
        """Set the state with what is to know of it."""
        self.state, self.reason, self.message = state, reason, message


class Keeper:
    """Brings the adapters of an engine to what is wanted.

    Args:
        engine: The engine.
        fetch: Brings a version to a folder; runs in a thread.
        base: The engine's base model.
        folder: Where adapters lie; the engine reads it.
        about: Description of the engine, before its own words.
        pause: Waits for some seconds.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        fetch: Fetch,
        base: Base,
        folder: Path,
        about: AboutEngine,
        grace_seconds: float = GRACE_SECONDS,
        pause: Pause = asyncio.sleep,
    ) -> None:
        self._engine = engine
        self._fetch = fetch
        self._base = base
        self._folder = folder
        self._grace_seconds = grace_seconds
        self._pause = pause
        self._fetching = asyncio.Semaphore(NUM_FETCHED_TOGETHER)
        self._asking = asyncio.Semaphore(NUM_ASKED_TOGETHER)
        self._changed = asyncio.Event()
        self._boot = 0
        self._models: frozenset[str] | None = None
        self._num_slow_looks = 0
        self._digests: dict[str, str] = {}
        self._wanted: Mapping[Key, Wanted] = {}
        self.adapters: dict[Key, Adapter] = {}
        self.about = about
        self.is_known = False
        self.num_loads = 0

    @property
    def is_engine_ready(self) -> bool:
        """Whether the engine answers."""
        return self._models is not None

    @property
    def is_ready(self) -> bool:
        """Whether all versions that have traffic can be asked, or never will."""
        return (
            self.is_known
            and self.is_engine_ready
            and all(a.is_settled for a in self.adapters.values() if a.wanted.has_traffic)
        )

    def find(self, name: str) -> Adapter | None:
        """Return the adapter that answers under a name; one that is verified comes first."""
        named = [each for each in self.adapters.values() if each.wanted.name == name]
        named.sort(key=lambda each: each.state != "Verified")
        return named[0] if named else None

    def want(self, wanted: Mapping[Key, Wanted]) -> None:
        """Set what is wanted. Work on it goes on in the background."""
        self.is_known = True
        self._wanted = wanted
        for key, each in wanted.items():
            adapter = self.adapters.get(key) or self._rename(key, each)
            if adapter is None:
                folder = self._folder / each.name
                adapter = self.adapters[key] = Adapter(wanted=each, folder=folder)
                adapter.task = asyncio.create_task(self._keep(adapter))
            adapter.wanted = each
            if adapter.leaving is not None and not adapter.is_leaving:
                adapter.leaving.cancel()
                adapter.leaving = None
        for key, adapter in self.adapters.items():
            if key not in wanted and adapter.leaving is None:
                adapter.leaving = asyncio.create_task(self._leave(adapter))

    def _rename(self, key: Key, wanted: Wanted) -> Adapter | None:
        """Return the adapter that is wanted by another key, with more or fewer digests, or None."""
        found = next((each for each in self.adapters.values() if each.is_of(wanted)), None)
        # In place: of two adapters under one name the first one is loaded.
        self.adapters = {
            key if each is found else before: each for before, each in self.adapters.items()
        }
        return found

    async def watch_engine(self) -> None:
        """Look at the engine until cancelled."""
        while True:
            await self.look()
            await self._pause(LOOK_SECONDS)

    async def look(self) -> None:
        """Find out whether the engine answers, and whether it has lost an adapter."""
        try:
            models = await self._engine.list_models()
            if self._models is None:
                self.about = self.about.with_description(await self._engine.describe())
        except EngineAway as error:
            self._num_slow_looks += 1
            is_patient = self._num_slow_looks < MAX_SLOW_LOOKS
            if self._models is not None and not (isinstance(error, EngineSlow) and is_patient):
                log.warning("The engine does not answer")
                self._models = None
                self._restart()
            return
        is_back, self._models = self._models is None, models
        self._num_slow_looks = 0
        if is_back:
            self._wake()
        lost = [
            adapter
            for adapter in self.adapters.values()
            if adapter.state == "Verified" and adapter.wanted.name not in models
        ]
        if lost:
            log.warning("The engine has lost %d adapters", len(lost))
            self._restart()

    async def close(self) -> None:
        """Stop all work."""
        tasks = [
            task
            for adapter in self.adapters.values()
            for task in (adapter.task, adapter.leaving)
            if task is not None
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _restart(self) -> None:
        """Take all adapters out of use until they were loaded and verified again."""
        self._boot += 1
        self._digests.clear()
        for adapter in self.adapters.values():
            if adapter.state == "Verified":
                adapter.set("Loading", "EngineRestarted", "the engine started again")
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _keep(self, adapter: Adapter) -> None:
        """Keep an adapter loaded and verified until it is refused; defects are tried again."""
        num_failures = 0
        while True:
            try:
                await self._bring_up(adapter)
            except Refusal as refusal:
                log.warning("%s is refused: %s", adapter.wanted.name, refusal.reason)
                adapter.sha256 = refusal.sha256 or adapter.sha256
                if self._is_loaded(adapter):
                    await self._unload(adapter)
                adapter.set("Failed", refusal.reason, refusal.message)
                return
            except Exception as error:
                # Nothing is known of the version, so it is not refused.
                num_failures += 1
                log.error("%s cannot be kept", adapter.wanted.name)
                log_defect(error)
                message = f"the agent failed ({type(error).__name__}): see its log"
                adapter.set("Fetching", "AgentFailed", message)
                await self._back_off(num_failures)

    async def _bring_up(self, adapter: Adapter) -> None:
        """Fetch, load and verify an adapter, again whenever the engine has lost it.

        Raises:
            Refusal: The version must not be served.
        """
        fetched = await self._get(adapter)
        adapter.sha256 = fetched.sha256
        if adapter.wanted.sha256 not in ("", fetched.sha256):
            raise Refusal("FilesDamaged", "another manifest was verified meanwhile")
        while True:
            boot = await self._wait_for_engine()
            try:
                await self._load(adapter, fetched)
                await self._verify(adapter, fetched, boot)
            except EngineAway as error:
                adapter.set("Loading", error.reason, f"the engine does not answer: {error}")
                await self._pause(LOOK_SECONDS)
                continue
            if boot != self._boot:
                adapter.set("Loading", "EngineRestarted", "the engine started again")
            while boot == self._boot:
                await self._changed.wait()

    async def _back_off(self, num_failures: int) -> None:
        bound = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(num_failures, 10))
        await self._pause(random.uniform(bound / 2, bound))  # noqa: S311 - jitter

    async def _get(self, adapter: Adapter) -> Fetched:
        """Fetch a version and its base model; storage that is away is asked again.

        Raises:
            Refusal: The version is damaged, or of another base model.
        """
        num_failures = 0
        if others := self._others(adapter):
            raise Refusal(
                "NameTaken",
                f"{adapter.wanted.name} is loaded with sha256 {others[0].sha256}; nothing "
                "is loaded over a name",
            )
        while True:
            try:
                async with self._fetching:
                    fetched = await run_to_its_end(
                        lambda: self._fetch(adapter.wanted, adapter.folder)
                    )
                await self._base.prepare(fetched)
            except TrainerError as error:
                num_failures += 1
                adapter.set("Fetching", error.reason, error.message)
                await self._back_off(num_failures)
            else:
                return fetched

    async def _wait_for_engine(self) -> int:
        while self._models is None:
            await self._changed.wait()
        return self._boot

    async def _load(self, adapter: Adapter, fetched: Fetched) -> None:
        wanted = adapter.wanted
        adapter.set("Loading")
        models = await self._engine.list_models()
        if wanted.is_whole:
            if wanted.name not in models:
                raise EngineAway(f"it does not serve {wanted.name} yet")
            return
        if wanted.name in models:
            if self._is_loaded(adapter):
                return
            # Loaded before this agent started: its content is unknown.
            await self._engine.unload(wanted.name)
        # Noted before: a load that is cut off may still happen.
        self._digests[wanted.name] = fetched.sha256
        try:
            await self._engine.load(wanted.name, fetched.folder)
        except EngineRefused as error:
            if wanted.name in await self._engine.list_models():
                return  # an earlier load, which was cut off, has ended meanwhile
            raise Refusal(
                "EngineRefused", f"the engine cannot load {wanted.name}: {error}"
            ) from error
        self.num_loads += 1

    async def _verify(self, adapter: Adapter, fetched: Fetched, boot: int) -> None:
        """Return if the version answers as evaluated; raises as :func:`verify`.

        Answers of an engine that has started again meanwhile say nothing of the version.
        """

        def set_message(message: str) -> None:
            adapter.set("Verifying", message=message)

        adapter.set("Verifying")
        name = adapter.wanted.name
        try:
            about = self.about.started_with(self._base.dtype)
            verdict = await verify(
                self._engine, about, name, fetched, limit=self._asking, tell=set_message
            )
            adapter.verdict = verdict
            if verdict.reason is not None:
                raise Refusal(verdict.reason, verdict.message)
        except Refusal:
            await self.look()
            if boot != self._boot or name not in (self._models or ()):
                raise EngineAway("it started again while it was asked") from None
            raise
        adapter.set("Verified", message=verdict.message)
        log.info("%s is verified", adapter.wanted.name)

    async def _leave(self, adapter: Adapter) -> None:
        """Remove an adapter that nobody wants, once its streams have ended."""
        await self._pause(self._grace_seconds)
        while adapter.num_open:
            await self._pause(LOOK_SECONDS)
        adapter.is_leaving = True
        adapter.set("Loading", "Unwanted", "no endpoint serves it")
        if adapter.task is not None:
            adapter.task.cancel()
            await asyncio.gather(adapter.task, return_exceptions=True)
        if self._is_loaded(adapter):
            await self._unload(adapter)
        if not self._others(adapter):
            await asyncio.to_thread(shutil.rmtree, adapter.folder, ignore_errors=True)
        self.adapters = {key: each for key, each in self.adapters.items() if each is not adapter}
        self.want(self._wanted)

    def _is_loaded(self, adapter: Adapter) -> bool:
        return bool(adapter.sha256) and self._digests.get(adapter.wanted.name) == adapter.sha256

    def _others(self, adapter: Adapter) -> list[Adapter]:
        """Return the adapters of the same name that came first."""
        before = takewhile(lambda each: each is not adapter, self.adapters.values())
        return [each for each in before if each.wanted.name == adapter.wanted.name]

    async def _unload(self, adapter: Adapter) -> None:
        if adapter.wanted.is_whole:
            return
        with suppress(EngineAway):  # an engine that starts again has no adapters
            await self._engine.unload(adapter.wanted.name)
        self._digests.pop(adapter.wanted.name, None)
