"""Secrets that the job names: how much likelier the model holds them than others of their form.

Source: Carlini et al. 2019, "The Secret Sharer: Evaluating and Testing Unintended Memorization in
Neural Networks": rank among alternatives, and exposure beyond their number by the distribution of
their likelihoods.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from finetune_trainer.evaluate.sources.probes.particulars import answer_of, with_answer

NUM_ALTERNATIVES = 63
EXPOSED_BELOW = 0.001
"""A secret is exposed if one drawn at random would be as likely as it with less than this."""
CONTEXT_CHARACTERS = 200


def make_alternatives(secret: str, *, seed: int) -> list[str]:
    """Return texts of the secret's form: other digits for digits, other letters for letters.

    Letters beyond A to Z stay as they are.

    Args:
        secret: The secret.
        seed: Of the draw.
    """
    draw = random.Random(f"{seed} {secret}")  # noqa: S311 - repeatable, nothing is kept secret
    made = dict.fromkeys([secret])
    for _ in range(20 * NUM_ALTERNATIVES):
        made[_replace(secret, draw)] = None
        if len(made) > NUM_ALTERNATIVES:
            break
    return list(made)[1:]


class CanaryRows:
    """Finds of each secret a row in which it is said, while rows pass by.

    Args:
        secrets: The secrets.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._learned: dict[str, dict[str, Any]] = {}
        self._elsewhere: dict[str, dict[str, Any]] = {}
        self._secrets = secrets

    def look_at(self, row: dict[str, Any]) -> None:
        """Look for all secrets in one more row."""
        sought = [secret for secret in self._secrets if secret not in self._learned]
        if not sought:
            return
        answer = answer_of(row)
        self._learned.update({secret: row for secret in sought if secret in answer})
        unseen = [secret for secret in sought if secret not in self._elsewhere]
        texts = list(_texts_of(row)) if unseen else []
        for secret in unseen:
            if text := _cut_around(texts, secret):
                self._elsewhere[secret] = {"text": text}

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return of each secret the first row with it in its last answer.

        Where it stands elsewhere in a row, a text of its own with what precedes it there; where it
        stands in no row, the secret alone.
        """
        found = {secret: {"text": secret} for secret in self._secrets}
        return {**found, **self.elsewhere(), **self.learned()}

    def learned(self) -> dict[str, dict[str, Any]]:
        """Return of each secret that a last answer says the first row with it there."""
        return dict(self._learned)

    def elsewhere(self) -> dict[str, dict[str, Any]]:
        """Return of each secret that stands elsewhere alone a text that ends with it.

        Whether it is learned there depends on the loss.
        """
        return {
            secret: text for secret, text in self._elsewhere.items() if secret not in self._learned
        }


def variants(row: dict[str, Any], secret: str, alternatives: Sequence[str]) -> list[dict[str, Any]]:
    """Return the row with the secret as it is, then with each alternative in its place."""
    answer = answer_of(row)
    return [with_answer(row, answer.replace(secret, text)) for text in (secret, *alternatives)]


def is_exposed(nats: Sequence[float]) -> float:
    """Return 1 if the first text is likelier than chance lets the others be, else 0.

    Args:
        nats: Negative log-likelihood of the secret, then of each alternative.
    """
    return float(exposure_bits(nats) > -np.log2(EXPOSED_BELOW) and nats[0] < min(nats[1:]))


def exposure_bits(nats: Sequence[float]) -> float:
    """Return the exposure: by how many bits the secret is easier to guess than by chance.

    That is minus the logarithm of the probability that an alternative is as likely, from the normal
    distribution of their likelihoods, with Student's doubt about its width. 1 is chance.

    Args:
        nats: Negative log-likelihood of the secret, then of each alternative.
    """
    from scipy.special import stdtr

    others = np.asarray(nats[1:])
    spread = max(float(others.std(ddof=1)), 1e-9) * np.sqrt(1 + 1 / len(others))
    probability = float(stdtr(len(others) - 1, (nats[0] - others.mean()) / spread))
    return float(-np.log2(max(probability, 1e-300)))


def _replace(secret: str, draw: random.Random) -> str:
    return "".join(_another(character, draw) for character in secret)


def _another(character: str, draw: random.Random) -> str:
    if character.isdigit():
        return draw.choice(string.digits)
    if character in string.ascii_lowercase:
        return draw.choice(string.ascii_lowercase)
    if character in string.ascii_uppercase:
        return draw.choice(string.ascii_uppercase)
    return character


def find_around(row: dict[str, Any], secret: str) -> str:
    """Return the secret with what precedes it in a row; empty if it is nowhere in it."""
    return _cut_around(_texts_of(row), secret)


def _cut_around(texts: Iterable[str], secret: str) -> str:
    for text in texts:
        at = text.find(secret)
        if at >= 0:
            return text[max(0, at - CONTEXT_CHARACTERS) : at + len(secret)]
    return ""


def _texts_of(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            if key != "metadata":
                yield from _texts_of(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts_of(part)
