"""Response ids, which fronts make and every front can check without storage. Pure.

An id is ``<time>-<random>-<proof>``: the time tells where its answer is stored, and the proof is an
HMAC under the token that all fronts of a namespace share. It covers the endpoint, so that an id
opens nothing of another one, and whether the answer was to be captured.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime

from finetune_trainer.traffic.places import id_time

_PROOF_CHARACTERS = 10


@dataclass(frozen=True, slots=True)
class Secret:
    """Keys that are derived from the serving token, each for one purpose."""

    token: str

    def make_id(self, whose: str, time: datetime, *, is_captured: bool) -> str:
        """Return a new id for an answer of an endpoint, ``whose`` is ``<namespace>/<name>``."""
        begin = f"{id_time(time)}-{secrets.token_hex(11)}"
        return f"{begin}-{self._proof(whose, begin, is_captured)}"

    def has_captured(self, whose: str, response_id: str) -> bool | None:
        """Tell whether an endpoint's answer was to be captured; None if the id is not its own."""
        begin, _, proof = response_id.rpartition("-")
        for is_captured in (True, False):
            if hmac.compare_digest(proof, self._proof(whose, begin, is_captured)):
                return is_captured
        return None

    def hash_person(self, whose: str, name: str) -> str:
        """Return the keyed hash of a user or sender of an endpoint."""
        return self._digest(f"person\0{whose}\0{name}")[:32]

    def _proof(self, whose: str, begin: str, is_captured: bool) -> str:
        return self._digest(f"id\0{whose}\0{begin}\0{is_captured:d}")[:_PROOF_CHARACTERS]

    def _digest(self, text: str) -> str:
        key, message = self.token.encode(), text.encode("utf-8", "surrogatepass")
        return hmac.digest(key, message, "sha256").hex()
