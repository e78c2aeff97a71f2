"""Response ids, which name their endpoint, so that a front finds it without storage. Pure.

An id is ``<time>-<random>-<check>``: the time tells where its answer is stored, 88 random bits are
what nobody guesses, and the check tells whose it is and whether it was to be captured. It needs no
key, so ids outlive every token. It proves nothing: the row in the storage of the endpoint does.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import datetime

from finetune_trainer.traffic.places import id_time

_CHECK_CHARACTERS = 10


def make_id(whose: str, time: datetime, *, is_captured: bool) -> str:
    """Return a new id for an answer of an endpoint, ``whose`` is ``<namespace>/<name>``."""
    begin = f"{id_time(time)}-{secrets.token_hex(11)}"
    return f"{begin}-{_check(whose, begin, is_captured)}"


def was_captured(whose: str, response_id: str, token: str) -> bool | None:
    """Tell whether an endpoint's answer was to be captured; None if the id is not its own.

    Ids from before this format have a check that needs the ``token`` between front and servers.
    """
    begin, _, check = response_id.rpartition("-")
    for is_captured in (True, False):
        if check in (_check(whose, begin, is_captured), _check(whose, begin, is_captured, token)):
            return is_captured
    return None


def _check(whose: str, begin: str, is_captured: bool, token: str | None = None) -> str:
    text = f"id\0{whose}\0{begin}\0{is_captured:d}".encode()
    digest = hashlib.sha256(text) if token is None else hmac.new(token.encode(), text, "sha256")
    return digest.hexdigest()[:_CHECK_CHARACTERS]
