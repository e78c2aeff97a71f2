"""Keeps the wanted versions in the engine: fetched, loaded, verified, and unloaded in the end."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from finetune_api.protocol.serving import OUTLIVES_SECONDS, AdapterState
from finetune_trainer.errors import TrainerError
from finetune_trainer.serve.agent.asking import AboutEngine, repeat, verify
from finetune_trainer.serve.agent.base import BASE_NAME, Base
from finetune_trainer.serve.agent.bounds import Refusal
from finetune_trainer.serve.agent.engine import Engine, EngineAway, EngineRefused, EngineSlow
from finetune_trainer.serve.agent.fetching import Fetched, run_to_its_end
from finetune_trainer.serve.agent.wanted import Key, Wanted
from finetune_trainer.serve.logs import log_defect
from finetune_trainer.serve.verification import NUM_QUESTIONS, Answer, Verdict

LOOK_SECONDS = 1.0
"""Time between two looks at the engine."""
MAX_SLOW_LOOKS = 6
"""After so many looks in a row without an answer in time, the engine counts as away."""
SILENT_SECONDS = 30.0
"""After so long without an answer the engine is asked for one token."""
FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 30.0
RETRY_SECONDS = 5.0
"""Time before a version is asked again in which a fault was found; it doubles each time."""
MAX_RETRY_SECONDS = 600.0
NUM_FETCHED_TOGETHER = 2
NUM_ASKED_TOGETHER = 8
NUM_ASKED_BESIDE_TRAFFIC = 1
NUM_ASKED_FIRST = 10
"""Questions that a version is asked before it answers again, if this agent has verified it before.
The others are asked beside traffic."""
MAX_SLOW_TRIES = 5
"""After so many tries in a row that brought no answer in time, a version is given up until the
engine starts again."""

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
        fetched: Its files and questions.
        answers: Its answers to these since the engine started.
        num_failures: How often a fault of the version was found.
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
    fetched: Fetched | None = None
    answers: dict[int, Answer] = field(default_factory=dict, repr=False)
    num_failures: int = 0
    num_open: int = 0
    is_leaving: bool = False
    task: asyncio.Task[None] | None = field(default=None, repr=False)
    leaving: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def is_coming(self) -> bool:
        """Whether its verification goes on, and waits for the engine alone."""
        is_held = self.state == "Fetching" or self.reason == "NoFreeSlot"
        is_held = bool(self.reason) and is_held
        return self.state not in ("Verified", "Failed") and not (is_held or self.num_failures)

    def is_of(self, wanted: Wanted) -> bool:
        """Whether it is the version that is wanted, as far as that says which one."""
        is_read = not self.sha256 or wanted.sha256 in ("", self.sha256)
        return is_read and self.wanted.agrees_with(wanted)

    def set(self, state: AdapterState, reason: str = "", message: str = "") -> None:
        """Set the state with what is to know of it.

        A fault that was found twice stays in the report until the version is verified.
        """
        if self.num_failures > 1 and state not in ("Verified", "Failed"):
            return
        self.state, self.reason, self.message = state, reason, message


@dataclass(frozen=True, kw_only=True, slots=True)
class _Other:
    """A model beside one that is loaded, with what it answered before."""

    name: str
    fetched: Fetched
    answers: Mapping[int, Answer]


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
        grace_seconds: float = OUTLIVES_SECONDS,
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
        self._asking_beside = asyncio.Semaphore(NUM_ASKED_BESIDE_TRAFFIC)
        self._changed = asyncio.Event()
        self._boot = 0
        self._models: frozenset[str] | None = None
        self._num_slow_looks = 0
        self._answered_at = time.monotonic()
        self._paused: list[Adapter] = []
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
    def is_engine_hung(self) -> bool:
        """Whether the engine has not answered in time for several looks in a row."""
        return self._num_slow_looks >= MAX_SLOW_LOOKS

    @property
    def is_ready(self) -> bool:
        """Whether a version that has traffic can be asked here, or none has traffic yet.

        While another one is on its way, its requests are better answered by other pods. One that
        failed, or that waits for its storage, keeps nobody from the others.
        """
        asked = [each for each in self.adapters.values() if each.wanted.has_traffic]
        has_answers = not asked or any(each.state == "Verified" for each in asked)
        return (
            self.is_known
            and self.is_engine_ready
            and has_answers
            and not any(each.is_coming for each in asked)
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
            await self._ask_if_silent(models)
        except EngineSlow:
            self._num_slow_looks += 1
            if self._models is not None and self._num_slow_looks >= MAX_SLOW_LOOKS:
                log.warning("The engine does not answer in time")
                self._models = None
                self._paused = [a for a in self.adapters.values() if a.state == "Verified"]
                for adapter in self._paused:
                    adapter.set("Loading", "EngineSlow", "the engine does not answer in time")
            return
        except EngineAway:
            if self._models is not None or self._paused:
                log.warning("The engine does not answer")
                self._models = None
                self._restart()
            return
        is_back, self._models = self._models is None, models
        self._num_slow_looks = 0
        self._resume(models)
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

    def note_answer(self) -> None:
        """Note that the engine has answered a request just now."""
        self._answered_at = time.monotonic()

    async def _ask_if_silent(self, models: frozenset[str]) -> None:
        """Ask an engine that has answered nothing for a while for one token.

        Raises:
            EngineSlow: It gave none, and has answered nothing else meanwhile. It hangs.
            EngineAway: It cannot be reached.
        """
        began = time.monotonic()
        if not models or began - self._answered_at < SILENT_SECONDS:
            return
        try:
            await self._engine.ask_one_token(min(models))
        except EngineSlow:
            if self._answered_at >= began:
                return
            self._num_slow_looks = MAX_SLOW_LOOKS
            raise
        self.note_answer()

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

    def _resume(self, models: frozenset[str]) -> None:
        """Use adapters of a slow engine again that it still has, so that it has not started again.

        Load makes an engine slow. To load and ask everything again would make more load.
        """
        paused, self._paused = [each for each in self._paused if not each.is_leaving], []
        if any(a.wanted.is_whole or a.wanted.name not in models for a in paused):
            self._restart()
            return
        for adapter in paused:
            adapter.set("Verified", message=adapter.verdict.message if adapter.verdict else "")

    def _restart(self) -> None:
        """Take all adapters out of use until they were loaded and verified again."""
        self._boot += 1
        self.note_answer()  # an engine that starts has time for its first token
        self._digests.clear()
        self._paused = []
        for adapter in self.adapters.values():
            if adapter.state == "Verified":
                adapter.set("Loading", "EngineRestarted", "the engine started again")
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _keep(self, adapter: Adapter) -> None:
        """Keep an adapter loaded and verified.

        Nothing is given up: a fault may be this pod's, such as a damaged copy, and it may pass.
        """
        num_failures = 0
        while True:
            try:
                await self._bring_up(adapter)
            except Refusal as refusal:
                log.warning("%s is refused: %s", adapter.wanted.name, refusal.reason)
                adapter.sha256 = refusal.sha256 or adapter.sha256
                if self._is_loaded(adapter):
                    await self._unload(adapter)
                adapter.num_failures += 1
                adapter.set("Failed", refusal.reason, refusal.message)
                doubled = RETRY_SECONDS * 2.0 ** min(adapter.num_failures - 1, 10)
                await self._pause(min(MAX_RETRY_SECONDS, doubled))
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
        adapter.fetched = fetched
        asked, num_slow = -1, 0
        while True:
            await self._let_go_ahead(adapter)
            boot = await self._wait_for_engine()
            if boot != asked:
                asked, num_slow, adapter.answers = boot, 0, {}
            num_known = len(adapter.answers)
            try:
                await self._load_and_verify(adapter, fetched, boot)
            except EngineSlow as error:
                num_slow = 1 if len(adapter.answers) > num_known else num_slow + 1
                if adapter.state != "Verified" and self._give_up(adapter, error, num_slow):
                    await self._wait_for_restart(boot)
                else:
                    await self._back_off(num_slow)
                continue
            except EngineAway as error:
                if adapter.state != "Verified":
                    text = f"the engine does not answer: {error}"
                    adapter.set("Loading", error.reason, text)
                await self._pause(LOOK_SECONDS)
                continue
            if boot != self._boot:
                adapter.set("Loading", "EngineRestarted", "the engine started again")
            await self._wait_for_restart(boot)

    async def _wait_for_restart(self, boot: int) -> None:
        while boot == self._boot:
            await self._changed.wait()

    def _give_up(self, adapter: Adapter, error: EngineSlow, num_tries: int) -> bool:
        """Say how often a version was tried; return whether that was often enough."""
        number = len(adapter.fetched.questions) if adapter.fetched else 0
        text = (
            f"try {num_tries}: {error}; {len(adapter.answers)} of {number} questions are answered"
        )
        is_over = num_tries >= MAX_SLOW_TRIES
        remedy = "; it is tried again when the engine starts again" if is_over else ""
        adapter.set("Failed" if is_over else "Loading", "EngineSlow", text + remedy)
        return is_over

    async def _let_go_ahead(self, adapter: Adapter) -> None:
        """Wait until the versions that have traffic are verified, if this one has none."""
        while not adapter.wanted.has_traffic and any(
            each.is_coming for each in self.adapters.values() if each.wanted.has_traffic
        ):
            await self._pause(LOOK_SECONDS)

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

    async def _load_and_verify(self, adapter: Adapter, fetched: Fetched, boot: int) -> None:
        """Load a version, ask it, and return when all questions are answered as evaluated.

        A version that this agent has verified before answers after the first questions again. One
        that is new must also leave the base and a neighbour as they were.
        """
        if adapter.state == "Verified":
            await self._verify(adapter, fetched, boot)
        elif adapter.verdict is not None:
            await self._load(adapter, fetched)
            await self._verify(adapter, fetched, boot, number=NUM_ASKED_FIRST)
            await self._verify(adapter, fetched, boot)
        else:
            others = await self._ask_others(adapter, fetched)
            await self._load(adapter, fetched)
            await self._verify(adapter, fetched, boot, others=others)

    async def _ask_others(self, adapter: Adapter, fetched: Fetched) -> list[_Other]:
        """Return what others answer that the load of an adapter must not change."""
        others: list[_Other] = []
        if adapter.wanted.is_whole:
            return others
        with suppress(EngineRefused):
            answers = await repeat(self._engine, BASE_NAME, fetched, {})
            others.append(_Other(name=BASE_NAME, fetched=fetched, answers=answers))
        near = next((each for each in self.adapters.values() if each.state == "Verified"), None)
        if near is not None and near.fetched is not None:
            others.append(_Other(name=near.wanted.name, fetched=near.fetched, answers=near.answers))
        return others

    async def _verify(
        self,
        adapter: Adapter,
        fetched: Fetched,
        boot: int,
        *,
        number: int = NUM_QUESTIONS,
        others: Sequence[_Other] = (),
    ) -> None:
        """Return if the version answers as evaluated; raises as :func:`verify`.

        Fewer questions than all refuse nothing. Answers of an engine that has started again
        meanwhile say nothing of the version.
        """

        def set_message(message: str) -> None:
            if adapter.state == "Verifying":
                adapter.set("Verifying", message=message)

        is_beside = adapter.state == "Verified"
        if not is_beside:
            adapter.set("Verifying")
        name = adapter.wanted.name
        try:
            verdict = await verify(
                self._engine,
                self.about.started_with(self._base.dtype),
                name,
                fetched,
                adapter.answers,
                number=number,
                limit=self._asking_beside if is_beside else self._asking,
                tell=set_message,
            )
            if number >= len(fetched.questions):
                adapter.verdict = verdict
                if verdict.reason is not None:
                    raise Refusal(verdict.reason, verdict.message)
            for other in others:
                with suppress(EngineRefused):
                    await repeat(self._engine, other.name, other.fetched, other.answers)
        except Refusal:
            await self.look()
            if boot != self._boot or name not in (self._models or ()):
                raise EngineAway("it started again while it was asked") from None
            raise
        if verdict.reason is None and adapter.state != "Loading":
            adapter.num_failures = 0
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
