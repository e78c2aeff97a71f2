"""The one thread that computes: requests wait in a queue, and are answered in batches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from finetune_trainer.serve.engine.batch import Batch, Reply
from finetune_trainer.serve.engine.model import Served, ServedModel

MAX_REPLIES = 16
"""Requests that are answered at once."""
MAX_BATCH = 8
"""Requests that go through the model together."""
MAX_BATCH_TOKENS = 8192
"""Tokens of the prompts of one batch, with padding."""


class Worker:
    """Computes answers, and loads and unloads adapters between them.

    A request that waits longest decides whose batch is next. Batches take turns.

    Args:
        model: The model; no other thread may use it afterwards.
    """

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._leaving: set[str] = set()
        self._waiting: list[Reply] = []
        self._batches: list[Batch] = []
        self._commands: list[tuple[str, Callable[[], None], Future[None]]] = []
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def names(self) -> dict[str, Served]:
        """What requests may name, at this moment."""
        return {k: v for k, v in self._model.served.copy().items() if k not in self._leaving}

    def submit(self, reply: Reply) -> None:
        """Queue a request."""
        with self._changed:
            self._waiting.append(reply)
            self._changed.notify()

    def load(self, name: str, folder: Path) -> Future[None]:
        """Load an adapter; the future raises ``RequestError`` if it is refused."""
        return self._command(name, lambda: self._model.load_adapter(name, folder))

    def unload(self, name: str) -> Future[None]:
        """Unload an adapter once its requests have ended; new ones are refused at once."""
        if name == self._model.base_name:
            return self._command(name, lambda: self._model.unload_adapter(name))
        self._leaving.add(name)
        return self._command(name, lambda: self._unload(name))

    def stop(self) -> None:
        """End the thread. Requests that have not ended fail."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join()

    def _command(self, name: str, run: Callable[[], None]) -> Future[None]:
        future: Future[None] = Future()
        with self._changed:
            self._commands.append((name, run, future))
            self._changed.notify()
        return future

    def _unload(self, name: str) -> None:
        try:
            self._model.unload_adapter(name)
        finally:
            self._leaving.discard(name)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._is_stopping or self._waiting or self._commands or self._batches
                )
                if self._is_stopping:
                    break
                self._admit()
            self._run_commands()
            for batch in list(self._batches):
                self._advance(batch)
        for reply in self._replies:
            reply.fail("the server stops")
        for _, _, future in self._commands:
            future.cancel()

    @property
    def _replies(self) -> list[Reply]:
        return [*self._waiting, *(reply for batch in self._batches for reply in batch.replies)]

    def _admit(self) -> None:
        """Make a batch of the request that waits longest and others to the same model."""
        self._waiting = [reply for reply in self._waiting if not reply.future.done()]
        room = min(MAX_BATCH, MAX_REPLIES - sum(len(batch.replies) for batch in self._batches))
        chosen: list[Reply] = []
        for reply in self._waiting:
            if reply.served is not self._waiting[0].served:
                continue
            width = max(len(each.prompt) for each in (*chosen, reply))
            is_full = chosen and width * (len(chosen) + 1) > MAX_BATCH_TOKENS
            if len(chosen) >= room or is_full:
                break
            chosen.append(reply)
        if chosen:
            self._waiting = [reply for reply in self._waiting if reply not in chosen]
            self._batches.append(Batch(chosen))

    def _run_commands(self) -> None:
        """Run what no request in progress stands in the way of, in order."""
        with self._changed:
            busy = {reply.served.name for reply in self._replies}
            ready = [each for each in self._commands if each[0] not in busy]
            self._commands = [each for each in self._commands if each[0] in busy]
        for _, run, future in ready:
            if not future.set_running_or_notify_cancel():
                continue  # who asked has left
            try:
                run()
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(None)

    def _advance(self, batch: Batch) -> None:
        try:
            with self._model.use(batch.served) as model:
                batch.advance(model)
        except Exception as error:
            # The other batches go on; a lack of memory ends when these requests leave.
            for reply in batch.replies:
                reply.fail(f"generation failed: {type(error).__name__}: {error}")
            batch.replies = []
        if not batch.replies:
            self._batches.remove(batch)
