"""Nearly equal prompts of a whole data set: candidates by signature, each judged by its words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_trainer.prepare.duplicates.bands import find_candidates
from finetune_trainer.prepare.duplicates.cores import Cores, write_cores
from finetune_trainer.prepare.duplicates.signatures import count_shingles, sign_texts
from finetune_trainer.prepare.duplicates.similarity import (
    MAX_TEXTS,
    Prompt,
    Vocabulary,
    compare_prompts,
    count_words,
    is_same_question,
    read_prompt,
)
from finetune_trainer.prepare.rows.prompt_file import PromptFile
from finetune_trainer.prepare.workers import Workers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_KEPT_PROMPTS = 20_000
PIECE_PAIRS = 5000
NUM_PIECES_ALONE = 4
"""So many pieces are judged here, before other processes are asked."""


@dataclass(frozen=True, kw_only=True)
class NearPairs:
    """Pairs of nearly equal prompts.

    Attributes:
        pairs: Indexes of the prompts, the smaller one first, shape ``(n, 2)``, ascending.
        scores: Equal share of the two, at least the threshold.
        same_question: Whether they are equal word by word, except slips.
        two_frames: Whether each has a different frame of most prompts of its side: they may be two
            tasks on one text.
    """

    pairs: NDArray[np.int64]
    scores: NDArray[np.float64]
    same_question: NDArray[np.bool_]
    two_frames: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, kept: NDArray[np.bool_]) -> NearPairs:
        """Return some of the pairs."""
        return NearPairs(
            pairs=self.pairs[kept],
            scores=self.scores[kept],
            same_question=self.same_question[kept],
            two_frames=self.two_frames[kept],
        )


def no_pairs() -> NearPairs:
    """Return the pairs of a data set that is not searched."""
    import numpy as np

    return NearPairs(
        pairs=np.zeros((0, 2), dtype=np.int64),
        scores=np.zeros(0),
        same_question=np.zeros(0, dtype=bool),
        two_frames=np.zeros(0, dtype=bool),
    )


def find_near_pairs(
    num_prompts: int,
    prompts: PromptFile,
    sample: Sequence[int],
    *,
    threshold: float,
    folder: Path,
    workers: Workers,
    sides: Sequence[NDArray[np.int64]] = (),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> NearPairs:
    """Find the pairs of nearly equal prompts, or of prompts with nearly equal cores.

    Args:
        num_prompts: Distinct prompts, at least two, in an order that their content decides.
        prompts: Their normalised texts.
        sample: Indexes of the prompts that :func:`draw_sample` chose for counting.
        threshold: Least equal share of two prompts, between 0 and 1.
        folder: Scratch folder.
        workers: Sign prompts, search and judge candidates.
        sides: Indexes of the prompts of each side.
        on_progress: Called now and then with the judged candidates and their number.
    """
    import numpy as np

    read = prompts.open()
    vocabulary = count_words(read(index).decode() for index in sample)
    cores = write_cores(num_prompts, prompts, sides, folder)
    found = _propose(num_prompts, prompts, sample, folder, workers)
    if cores:
        found += _propose(num_prompts, cores.texts, sample, folder, workers)
    codes = np.unique(np.concatenate([pairs[:, 0] * num_prompts + pairs[:, 1] for pairs in found]))
    candidates = np.stack(np.divmod(codes, num_prompts), axis=1)
    settings = Judging(
        prompts=prompts, cores=cores, vocabulary=folder / "words.json", threshold=threshold
    )
    settings.vocabulary.write_text(vocabulary.to_json(), encoding="utf-8")
    return _judge_all(candidates, settings, workers, on_progress)


def _propose(
    num_texts: int, texts: PromptFile, sample: Sequence[int], folder: Path, workers: Workers
) -> list[NDArray[np.int64]]:
    read = texts.open()
    signatures = sign_texts(
        texts,
        num_texts,
        count_shingles(read(index) for index in sample),
        num_counted=len(sample),
        folder=folder,
        workers=workers,
    )
    return [find_candidates(path, workers) for path in signatures]


def draw_sample(num_prompts: int, order: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """Return the indexes of at most ``MAX_TEXTS`` prompts, those with the smallest digests."""
    import numpy as np

    if num_prompts <= MAX_TEXTS:
        return np.arange(num_prompts)
    return np.sort(np.argsort(order, kind="stable")[:MAX_TEXTS])


@dataclass(frozen=True, kw_only=True, slots=True)
class Judging:
    """Settings for judging candidates in another process.

    ``cores`` is None where each prompt is its own; ``vocabulary`` is a file.
    """

    prompts: PromptFile
    cores: Cores | None
    vocabulary: Path
    threshold: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judged:
    """Which of a piece's candidates are near: their places in it, scores, and sameness."""

    num_candidates: int
    kept: list[int]
    scores: list[float]
    same: list[bool]


def prepare_judging(settings: Judging) -> Callable[[NDArray[np.int64]], _Judged]:
    """Return the function that judges candidates, pairs of indexes."""
    read = settings.prompts.open()
    vocabulary = Vocabulary.from_json(settings.vocabulary.read_text(encoding="utf-8"))

    read_core = settings.cores.texts.open() if settings.cores else read
    may_compare = settings.cores.open() if settings.cores else None

    @lru_cache(maxsize=_KEPT_PROMPTS)
    def prompt(index: int) -> Prompt:
        return read_prompt(read(index).decode(), vocabulary)

    @lru_cache(maxsize=_KEPT_PROMPTS)
    def core(index: int) -> Prompt:
        return read_prompt(read_core(index).decode(), vocabulary)

    def judge(pairs: NDArray[np.int64]) -> _Judged:
        judged = _Judged(num_candidates=len(pairs), kept=[], scores=[], same=[])
        for number, (first, second) in enumerate(pairs.tolist()):
            a, b = prompt(first), prompt(second)
            score = compare_prompts(a, b, vocabulary)
            if score < settings.threshold and may_compare and may_compare(first, second):
                score = compare_prompts(core(first), core(second), vocabulary)
            if score >= settings.threshold:
                judged.kept.append(number)
                judged.scores.append(score)
                judged.same.append(is_same_question(a, b, vocabulary))
        return judged

    return judge


def _judge_all(
    candidates: NDArray[np.int64],
    settings: Judging,
    workers: Workers,
    on_progress: Callable[[int, int], None],
) -> NearPairs:
    import numpy as np

    pieces = (
        candidates[start : start + PIECE_PAIRS] for start in range(0, len(candidates), PIECE_PAIRS)
    )
    kept: list[int] = []
    scores: list[float] = []
    same: list[bool] = []
    done = 0
    for judged in workers.map_in_order(
        prepare_judging, settings, pieces, num_alone=NUM_PIECES_ALONE
    ):
        kept += [done + number for number in judged.kept]
        scores += judged.scores
        same += judged.same
        done += judged.num_candidates
        on_progress(done, len(candidates))
    pairs = candidates[kept] if kept else no_pairs().pairs
    cores = settings.cores
    return NearPairs(
        pairs=pairs,
        scores=np.array(scores, dtype=np.float64),
        same_question=np.array(same, dtype=bool),
        two_frames=cores.have_two_frames(pairs) if cores else np.zeros(len(pairs), dtype=bool),
    )
