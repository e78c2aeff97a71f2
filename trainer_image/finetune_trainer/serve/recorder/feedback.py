"""Feedback on captured answers, and the answers themselves, in the shapes of OpenAI's API."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from aiohttp import web

from finetune_trainer.serve.bodies import parse_body
from finetune_trainer.serve.errors import Refused, json_response
from finetune_trainer.serve.handover import Reach
from finetune_trainer.serve.proxy import read_body
from finetune_trainer.serve.recorder.listing import Choice, list_drawn, list_page
from finetune_trainer.serve.recorder.places import Place
from finetune_trainer.serve.recorder.retention import Keeper, no_answer, now
from finetune_trainer.serve.recorder.scrubbing import scrub_text
from finetune_trainer.serve.recorder.shapes import completion_of, entry_of, messages_of
from finetune_trainer.storage import ObjectStore
from finetune_trainer.traffic.drawn import REVIEW, is_review
from finetune_trainer.traffic.places import (
    PURGING,
    feedback_key,
    feedback_prefix,
    read_id,
    time_of_entry,
    who_of_entry,
)
from finetune_trainer.traffic.reading import is_deleted, read_feedback
from finetune_trainer.traffic.rows import Exchange, Feedback, read_rating, write_feedback

COMPLETIONS = "/v1/chat/completions"
FEEDBACK = "/v1/feedback"
MAX_CORRECTION = 64 * 1024
MAX_REASON = 4 * 1024
MAX_FIELDS = 16
MAX_LISTED = 100
VERSION_HEADER = "x-finetune-version"
RATING_HEADER = "x-finetune-rating"
USER_HEADER = "x-finetune-user"
_FIELDS = frozenset(("rating", "correction", "reason"))
_FILTER = re.compile(r"metadata\[([^\]]{1,64})\]\Z")


@dataclass(frozen=True, slots=True)
class Asker:
    """Somebody who asks about the captured answers of an endpoint.

    Attributes:
        name: Digest of the key, or the address where none is asked for.
        senders: Keyed hashes of the name: that of new rows, then those of older ones.
    """

    place: Place
    name: str
    senders: tuple[str, ...]
    reach: Reach

    def reaches(self, row: Exchange) -> bool:
        """Whether an answer is one that the asker may see."""
        return self.reach is Reach.ALL or row.sender in self.senders


class FeedbackDesk:
    """Answers requests about the captured answers of an endpoint."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def answer(self, request: web.BaseRequest, asker: Asker) -> web.StreamResponse:
        """Answer a request of somebody who may use the endpoint.

        Raises:
            Refused: There is no such answer, a field is wrong, or the storage is away.
        """
        path, method, place = request.path, request.method, asker.place
        if (method, path) == ("GET", COMPLETIONS):
            return json_response(await self._list(asker, request.query))
        if (method, path) == ("DELETE", COMPLETIONS):
            return json_response(await self._delete_user(asker, request.query.get("user", "")))
        if (method, path) == ("POST", FEEDBACK):
            fields = parse_body(await read_body(request))
            given = fields.get("id")
            row = await self._find(asker, given if isinstance(given, str) else "")
            entry = await self._write(asker, row, fields)
            return _with_facts(json_response(entry_of(entry)), row, entry)
        about, _, rest = path.removeprefix(f"{COMPLETIONS}/").partition("/")
        match (method, rest):
            case ("GET", ""):
                row = await self._find(asker, about)
                return json_response(await self._show(place, row))
            case ("GET", "messages"):
                return json_response(messages_of(await self._find(asker, about)))
            case ("POST", ""):
                metadata = _metadata(parse_body(await read_body(request)))
                row = await self._find(asker, about)
                entry = await self._write(asker, row, metadata)
                return _with_facts(json_response(await self._show(place, row)), row, entry)
            case ("DELETE", ""):
                await self._keeper.delete_answer(place, await self._find_deletable(asker, about))
                gone = {"object": "chat.completion.deleted", "id": about, "deleted": True}
                return json_response(gone)
        raise Refused(404, "unknown_url", "No such URL.")

    async def _find(self, asker: Asker, given: str) -> Exchange:
        row = await self._keeper.find(asker.place, _read_id(given))
        if not asker.reaches(row):
            raise no_answer()
        return row

    async def _find_deletable(self, asker: Asker, given: str) -> str:
        """Return the id of an answer that may be deleted, or whose deletion has not ended.

        Clients repeat a deletion that was answered with 503, and no reader finds the answer then.
        """
        response_id = _read_id(given)
        purging = PURGING + response_id
        if await self._keeper.ask(lambda store: store.exists(purging), asker.place):
            return response_id
        return (await self._find(asker, given)).id

    async def _show(self, place: Place, row: Exchange) -> dict[str, Any]:
        entries = await self._keeper.ask(lambda store: read_feedback(store, row.id), place)
        return completion_of(row, entries)

    async def _write(self, asker: Asker, row: Exchange, fields: Mapping[str, Any]) -> Feedback:
        if asker.reach is not Reach.ALL:
            # Nobody else was asked about answers.
            fields = {name: value for name, value in fields.items() if name != REVIEW}
        # Texts are long, and looking through them takes a while.
        entry = await asyncio.to_thread(read_entry, fields, row, asker.senders[0], now())

        def work(store: ObjectStore) -> Feedback | None:
            kept = _after_earlier(store, entry)
            store.write_bytes(feedback_key(kept), write_feedback(kept))
            if not is_deleted(store, row):
                return kept
            store.delete(feedback_key(kept))  # the answer was deleted in between
            return None

        written = await self._keeper.ask(work, asker.place)
        if written is None:
            raise no_answer()
        self._keeper.note(asker.place, row.time)
        return written

    async def _list(self, asker: Asker, query: Mapping[str, str]) -> dict[str, Any]:
        limit = query.get("limit") or "20"
        if not limit.isdecimal() or not 1 <= int(limit) <= MAX_LISTED:
            raise _wrong("limit", f"a number from 1 to {MAX_LISTED}")
        if query.get("order", "desc") != "desc":
            raise _wrong("order", "desc: the newest answers come first")
        if query.get("drawn") and asker.reach is not Reach.ALL:
            message = "Only editors' keys list the answers that were drawn."
            raise Refused(403, "not_an_editor", message)
        after = read_id(query["after"]) if query.get("after") else None
        if query.get("after") and after is None:
            raise _wrong("after", "the id of an answer")
        wanted = {
            found.group(1): value for name, value in query.items() if (found := _FILTER.match(name))
        }
        pending = self._keeper.spool.rows_of(asker.place.endpoint)
        choice = Choice(after=after, wanted=wanted, reaches=asker.reaches)
        list_some = list_drawn if query.get("drawn") else list_page
        page = await self._keeper.ask(
            lambda store: list_some(store, pending, choice, limit=int(limit)), asker.place
        )
        shown = [completion_of(row, entries) for row, entries in page.rows]
        return {
            "object": "list",
            "data": shown,
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
            "has_more": page.has_more,
        }

    async def _delete_user(self, asker: Asker, user: str) -> dict[str, Any]:
        if asker.reach is Reach.OWN:
            message = "Only editors' keys delete all answers of a user."
            raise Refused(403, "not_an_editor", message)
        if not user:
            raise _wrong("user", "the user whose answers are to be deleted")
        place, people = asker.place, self._keeper.people
        await self._keeper.ask(lambda store: people.share(store, place.endpoint), place)
        whose = people.hashes(place.endpoint, place.whose, user)
        if asker.reach is not Reach.ALL:
            senders = people.hashes(place.endpoint, place.whose, asker.name)
            whose = tuple(map(".".join, zip(whose, senders, strict=True)))
        number = await self._keeper.delete_user(place, *whose)
        return {"object": "user.deleted", "user": user, "deleted": number > 0, "rows": number}


def read_entry(fields: Mapping[str, Any], row: Exchange, who: str, time: datetime) -> Feedback:
    """Return an entry without personal data.

    Raises:
        Refused: A field has a wrong value.
    """
    try:
        rating = read_rating(fields.get("rating"))
    except ValueError:
        raise _wrong("rating", "up or down") from None
    others = {name: value for name, value in fields.items() if name not in (*_FIELDS, "id")}
    if len(others) > MAX_FIELDS:
        raise _wrong("metadata", f"an object with at most {MAX_FIELDS} fields")
    for name, value in others.items():
        if not isinstance(value, str) or len(name) > 64 or len(value) > 512:
            raise _wrong(name[:64], "a text of at most 512 characters")
    return Feedback(
        id=row.id,
        time=time,
        endpoint=row.endpoint,
        version=row.version,
        sha256=row.sha256,
        who=who,
        rating=rating,
        correction=_text(fields, "correction", MAX_CORRECTION),
        reason=_text(fields, "reason", MAX_REASON),
        metadata={scrub_text(name): scrub_text(value) for name, value in others.items()} or None,
    )


def _read_id(given: str) -> str:
    response_id = read_id(given)
    if response_id is None:
        raise no_answer()
    return response_id


def _after_earlier(store: ObjectStore, entry: Feedback) -> Feedback:
    """Return an entry with a time after all of the same person, whatever clocks say."""
    earlier = [
        time_of_entry(info.key)
        for info in store.list(feedback_prefix(entry.id))
        if who_of_entry(info.key) == entry.who
    ]
    if not earlier or max(earlier) < entry.time:
        return entry
    return replace(entry, time=max(earlier) + timedelta(milliseconds=1))


def _text(fields: Mapping[str, Any], name: str, longest: int) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > longest:
        raise _wrong(name, f"a text of at most {longest} characters")
    return scrub_text(value.rstrip()) or None


def _metadata(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = fields.get("metadata") or {}
    if not isinstance(metadata, dict) or fields.keys() - {"metadata"}:
        raise _wrong("metadata", "the only field, and an object with texts")
    return metadata


def _with_facts(answer: web.Response, row: Exchange, entry: Feedback) -> web.Response:
    """Tell the front what it counts."""
    answer.headers[VERSION_HEADER] = str(row.version)
    answer.headers[RATING_HEADER] = "" if is_review(entry) else entry.rating or ""
    answer.headers[USER_HEADER] = row.user or row.id
    return answer


def _wrong(name: str, wanted: str) -> Refused:
    return Refused(400, "invalid_value", f"`{name}` must be {wanted}.", param=name)
