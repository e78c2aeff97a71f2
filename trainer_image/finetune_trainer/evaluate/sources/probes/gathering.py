"""All probes of a job: packs and attacks, as its ``evaluation`` asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.general_texts import fetch_texts
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.evaluate.questions import Question, with_prompt
from finetune_trainer.evaluate.sources.probes import attacks, packs
from finetune_trainer.evaluate.sources.probes.probe import Probes, join
from finetune_trainer.evaluate.train_side import read_stored_train_split
from finetune_trainer.model.chat_format import read_format
from finetune_trainer.model.encoding import ChatTokenizer
from finetune_trainer.run import RunStorage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MIN_TOKENS = 512
"""Texts of this length are read whole, as all passages of the pack; rows as far as training."""


def gather_probes(
    job: ResolvedJob,
    storage: RunStorage,
    work_dir: Path,
    load_tokenizer: Callable[[], PreTrainedTokenizerBase],
    prepared: Prepared,
    questions: Sequence[Question],
) -> Probes:
    """Return all that both models are asked beyond the held-out rows; nothing if that is off.

    Args:
        job: The effective job.
        storage: The run's.
        work_dir: The run's scratch folder on this node.
        load_tokenizer: Loads the tokenizer of the models.
        prepared: The run's data set.
        questions: The held-out questions.

    Raises:
        UserError: The general texts of the user's own cannot be used.
        StorageError: Storage failed.
    """
    wanted, seed = job.spec.evaluation, job.spec.dataset.split.seed
    if wanted.forgetting is None and wanted.safety is None:
        return Probes()
    encoder = ChatTokenizer(
        load_tokenizer(),
        read_format(prepared.folder),
        # Rows count by their last answer alone: it is what an attack goes on with.
        loss="Completion",
        max_tokens=max(MIN_TOKENS, job.spec.hyperparameters.max_sequence_length),
    )
    parts = []
    if wanted.forgetting is not None:
        own = wanted.forgetting.texts
        texts = fetch_texts(own.uri, storage.access(), seed=seed) if own else packs.general_texts()
        parts.append(packs.forgetting(encoder, texts))
    if wanted.safety is not None:
        rows, problem = read_stored_train_split(storage.output, job, work_dir, prepared.digest)
        known = (
            attacks.unread(wanted.safety.canaries, problem)
            if problem
            else attacks.memorisation(encoder, rows, wanted.safety.canaries, seed=seed)
        )
        parts += [packs.safety(encoder), known, attacks.bias(encoder, with_prompt(questions))]
    return join(parts)
