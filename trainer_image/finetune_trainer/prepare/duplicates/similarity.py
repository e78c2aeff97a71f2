"""Judges whether two prompts are nearly equal, by their differences. Pure.

Words are weighted by their rarity in the data. Prompts of one template with another name or number
are not alike; the same question with a slip, filler words or another order is.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MAX_TEXTS = 100_000
"""Texts whose words are counted; more would not change the weights."""

_RARE = 2
_RARER = 20
"""A slip of the pen is in at most two texts, or twenty times as rare as the word that was meant."""
_FRAME_WORDS = 8
"""Words at either end of a prompt that may be a frame: a greeting, "could you tell me"."""
_MIN_BEGINNING = 2
_FRAME_DISCOUNT = 0.25
_FRAME_TEXTS = 5
_FRAME_SHARE = 0.001
_FRAME_COMMON = 0.002
_DISTINCT_WEIGHT = math.log(100)
"""A number or symbol that differs counts at least as much as a word of one text in a hundred."""
_MIN_FIELDS = 3
_WORDS_PER_FIELD = 8

# A number with its points and commas; a word with its apostrophes and combining marks; a sign with
# a meaning. Scripts without blanks are taken by the character.
_TOKEN = re.compile(
    r"\d+(?:[.,:]\d+)*"
    r"|[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
    r"|[^\W_](?:[^\W_]|[\u0300-\u036f\u0591-\u05c7\u0610-\u065f\u0900-\u0dff]|'(?=[^\W_]))*"
    r"|(?<![^\W_])-(?=\d)|(?<=\s)-(?=\s)|(?<=\d)-"
    r"|[+*/<>=%^&|~$€£¥#@]"
)
_FIELDS = tuple(map(re.compile, (r"\w ?\[", r"[\w\"'] ?:(?!//)", r"[\w\"'] ?=(?!=)", r"<[^/<>]+>")))


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """Frequencies of words and frames in a data set.

    ``words`` and ``frames`` (beginnings ``^``, ends ``$``) map to numbers of texts.
    """

    num_texts: int
    words: Mapping[str, int]
    frames: frozenset[tuple[str, ...]]

    def to_json(self) -> str:
        """Return it as text."""
        frames = sorted(map(list, self.frames))
        return json.dumps([self.num_texts, dict(self.words), frames], ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        """Inverse of :meth:`to_json`."""
        num_texts, words, frames = json.loads(text)
        return cls(num_texts=num_texts, words=words, frames=frozenset(map(tuple, frames)))

    def weight(self, word: str) -> float:
        """Return a word's weight: 0 for one in every text, more for a rarer one."""
        return math.log(max(1.0, self.num_texts / self.words.get(word, 1)))

    def may_be_slip(self, a: str, b: str) -> bool:
        """Whether one of two words is so rare that it may be a slip of the other."""
        first, second = self.words.get(a, 1), self.words.get(b, 1)
        return min(first, second) <= max(_RARE, max(first, second) // _RARER)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A prompt, ready to be judged.

    Attributes:
        words: Its words, numbers and meaningful signs, in their order.
        counts: Their counts.
        beginning: Words of a beginning that many prompts share.
        end: Words of an end that many prompts share.
        num_fields: Fields, where the prompt is a record (``name[x], area[y]``, JSON); else 0.
    """

    words: tuple[str, ...]
    counts: Counter[str]
    beginning: frozenset[str]
    end: frozenset[str]
    num_fields: int


def split_words(text: str) -> list[str]:
    """Return the words of a normalised text."""
    return _TOKEN.findall(text)


def count_words(texts: Iterable[str]) -> Vocabulary:
    """Count words and frames of distinct normalised prompts, at most :data:`MAX_TEXTS`."""
    num_texts = 0
    words: Counter[str] = Counter()
    frames: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        num_texts += 1
        found = split_words(text)
        words.update(set(found))
        frames.update(_frames_of(found))
        if num_texts % 20_000 == 0:  # long frames of long texts are mostly unique
            frames = Counter({frame: n for frame, n in frames.items() if n > num_texts // 20_000})
    needed = max(_FRAME_TEXTS, _FRAME_SHARE * num_texts)
    return Vocabulary(
        num_texts=num_texts,
        words={word: number for word, number in words.items() if number > 1},
        frames=frozenset(frame for frame, number in frames.items() if number >= needed),
    )


def read_prompt(text: str, vocabulary: Vocabulary) -> Prompt:
    """Take a normalised prompt apart."""
    words = split_words(text)
    num_fields = max(len(field.findall(text)) for field in _FIELDS)
    is_record = num_fields >= _MIN_FIELDS and len(words) <= _WORDS_PER_FIELD * num_fields
    return Prompt(
        words=tuple(words),
        counts=Counter(words),
        beginning=_find_frame(words, "^", vocabulary),
        end=_find_frame(words, "$", vocabulary),
        num_fields=num_fields if is_record else 0,
    )


def compare_prompts(a: Prompt, b: Prompt, vocabulary: Vocabulary) -> float:
    """Return how much of two prompts is the same, between 0 and 1.

    It is the weight of the words in common over the weight of all words of both, where

    - a slip in a word (one letter more, less, other, or two exchanged) is no difference if one of
      the two words is rare, nor is a blank more or less;
    - words of a frame count a quarter, and so do all words around the whole other prompt;
    - numbers and signs that differ count as rare words;
    - of two records, the share of fields without a difference is taken instead, unless one has
      all words of the other and as many fields: then it stands in a frame.
    """
    shared = a.counts & b.counts
    weight = vocabulary.weight
    common = sum(weight(word) * number for word, number in shared.items())
    left_a, left_b = _leftover(a, shared), _leftover(b, shared)
    if left_a and left_b and len(left_a) + len(left_b) <= _most_left(a, b):
        for ours, theirs in _match_slips(left_a, left_b, vocabulary):
            common += min(weight(ours), weight(theirs))
        if "".join(left_a) == "".join(left_b):
            common += sum(map(weight, left_a))
            left_a, left_b = [], []
    same_fields = a.num_fields == b.num_fields and not (left_a and left_b)
    if a.num_fields and b.num_fields and not same_fields:
        num_fields = max(a.num_fields, b.num_fields)
        differing = max(len(left_a), len(left_b))
        return max(0.0, (num_fields - differing) / (num_fields + differing))
    if not left_a and not left_b:
        return 1.0
    frame_a, frame_b = a.beginning, b.beginning
    if not left_b and contains(a, b):
        frame_a = frozenset(left_a)
    elif not left_a and contains(b, a):
        frame_b = frozenset(left_b)
    elif not (left_a and left_b):  # words in exchange for others are no farewell
        frame_a, frame_b = frame_a | a.end, frame_b | b.end
    cost = _cost(left_a, frame_a, vocabulary) + _cost(left_b, frame_b, vocabulary)
    return common / (common + cost) if common > 0 else 0.0


def contains(outer: Prompt, inner: Prompt) -> bool:
    """Whether a prompt has all of another one in a row, with more before or after it."""
    size = len(inner.words)
    return any(
        outer.words[start : start + size] == inner.words
        for start in range(len(outer.words) - size + 1)
    )


def weigh_shared(a: Prompt, b: Prompt, vocabulary: Vocabulary) -> float:
    """Return the weight of the words that two prompts have in common, in any order."""
    return sum(vocabulary.weight(word) * n for word, n in (a.counts & b.counts).items())


def is_same_question(a: Prompt, b: Prompt, vocabulary: Vocabulary) -> bool:
    """Whether two prompts are equal word by word, except slips: one cannot have two labels."""
    if len(a.words) != len(b.words):
        return "".join(a.words) == "".join(b.words)
    return all(
        ours == theirs or _is_slip(ours, theirs, vocabulary)
        for ours, theirs in zip(a.words, b.words, strict=True)
    )


def _most_left(a: Prompt, b: Prompt) -> int:
    """Return how many words may be left over of two prompts that differ by slips and frames."""
    return 2 * _FRAME_WORDS + (len(a.words) + len(b.words)) // 8


def _leftover(prompt: Prompt, shared: Counter[str]) -> list[str]:
    if len(shared) == len(prompt.counts) and shared == prompt.counts:
        return []
    remaining = dict(shared)
    left = []
    for word in prompt.words:
        if remaining.get(word):
            remaining[word] -= 1
        else:
            left.append(word)
    return left


def _match_slips(
    left_a: list[str], left_b: list[str], vocabulary: Vocabulary
) -> list[tuple[str, str]]:
    pairs = []
    for ours in list(left_a):
        for theirs in left_b:
            # A slip seldom changes both ends of a word.
            is_like = ours[0] == theirs[0] or ours[-1] == theirs[-1]
            if is_like and _is_slip(ours, theirs, vocabulary):
                pairs.append((ours, theirs))
                left_a.remove(ours)
                left_b.remove(theirs)
                break
    return pairs


def _is_slip(a: str, b: str, vocabulary: Vocabulary) -> bool:
    """Whether one word is the other with one letter more, less, other, or two exchanged."""
    shorter, longer = (len(a), len(b)) if len(a) < len(b) else (len(b), len(a))
    if longer - shorter > 1 or shorter < 3 or not (a.isalpha() and b.isalpha()):
        return False
    start = 0
    while start < shorter and a[start] == b[start]:
        start += 1
    end = 0
    while end < shorter - start and a[-1 - end] == b[-1 - end]:
        end += 1
    rest_a, rest_b = a[start : len(a) - end], b[start : len(b) - end]
    if len(rest_a) == len(rest_b) == 2 and rest_a == rest_b[::-1]:
        # Two exchanged letters are a slip even where they make a word: form, from.
        return shorter >= 4 or vocabulary.may_be_slip(a, b)
    is_like = longer >= 4 and len(rest_a) <= 1 and len(rest_b) <= 1
    return is_like and vocabulary.may_be_slip(a, b)


def _cost(left: list[str], frame: frozenset[str], vocabulary: Vocabulary) -> float:
    floor = min(_DISTINCT_WEIGHT, math.log(max(2, vocabulary.num_texts)))
    cost = 0.0
    for word in left:
        weight = vocabulary.weight(word)
        if not word[0].isalpha():
            cost += max(weight, floor)
        else:
            cost += weight * _FRAME_DISCOUNT if word in frame else weight
    return cost


def _frames_of(words: list[str]) -> Iterable[tuple[str, ...]]:
    most = min(_FRAME_WORDS, len(words) - 1)
    for size in range(1, most + 1):
        if size >= _MIN_BEGINNING:
            yield ("^", *words[:size])
        yield ("$", *words[-size:])


def _find_frame(words: list[str], place: str, vocabulary: Vocabulary) -> frozenset[str]:
    """Return the words of the longest beginning or end that many prompts share."""
    longest: tuple[str, ...] = ()
    for frame in _frames_of(words):
        if frame[0] == place and frame in vocabulary.frames:
            longest = frame[1:]
    least = max(_FRAME_TEXTS, _FRAME_COMMON * vocabulary.num_texts)
    return frozenset(word for word in longest if vocabulary.words.get(word, 1) >= least)
