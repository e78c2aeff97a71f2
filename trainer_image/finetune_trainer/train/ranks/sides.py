"""The sides of the data set as a rank sees them: mapped from files, or encoded preferences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.prepared import REPORT_NAME
from finetune_trainer.data.report import DatasetReport
from finetune_trainer.data.rows import Side, read_rows
from finetune_trainer.data.token_files import mapped_file
from finetune_trainer.train.ranks.handover import WorkerPlan
from finetune_trainer.train.recipe.recipe import DataShape
from finetune_trainer.train.recipe.shape import shape_of_preferences, shape_of_train_split
from finetune_trainer.train.recipe.validation import draw_measured_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from finetune_trainer.train.ranks.preference import Preferred


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedSplits:
    """The sides as token ids and labels; supervised rows are mapped from files."""

    train: Dataset | list[Preferred]
    validation: Dataset | list[Preferred]
    shape: DataShape

    @property
    def has_validation(self) -> bool:
        """Whether there is anything to validate on."""
        return len(self.validation) > 0

    def limit_validation(self, num_rows: int, *, seed: int) -> EncodedSplits:
        """Return the sides with so many validation rows, the same ones for every attempt."""
        if num_rows >= len(self.validation):
            return self
        drawn = draw_measured_rows(len(self.validation), num_rows, seed=seed)
        if isinstance(self.validation, list):
            return replace(self, validation=[self.validation[index] for index in drawn])
        return replace(self, validation=self.validation.select(drawn))


def open_splits(plan: WorkerPlan, job: ResolvedJob) -> EncodedSplits:
    """Map the sides that training looks at; ``prepare`` has encoded them."""
    from datasets import Dataset

    folder = Path(plan.dataset_dir)
    report = DatasetReport.model_validate_json((folder / REPORT_NAME).read_bytes())
    return EncodedSplits(
        train=Dataset.from_file(str(mapped_file(folder, Side.TRAIN))),
        validation=Dataset.from_file(str(mapped_file(folder, Side.VALIDATION))),
        shape=shape_of_train_split(job, report),
    )


def encode_splits(
    plan: WorkerPlan, job: ResolvedJob, tokenizer: PreTrainedTokenizerBase
) -> EncodedSplits:
    """Read and encode preferences. Raise ``DataError`` if no training row keeps an answer."""
    from finetune_trainer.model.chat_format import read_format
    from finetune_trainer.model.encoding import make_encoder
    from finetune_trainer.train.ranks.preference import encode_preferences

    folder = Path(plan.dataset_dir)
    encoder = make_encoder(job, tokenizer, read_format(folder))
    train, validation = (
        encode_preferences(
            encoder,
            read_rows(folder / f"{name}.jsonl"),
            objective=job.spec.method.objective,
            side=side,
            seed=job.spec.hyperparameters.seed,
        )
        for name, side in (("train", "training"), ("validation", "validation"))
    )
    lengths, measured = ([len(each.input_ids) for each in side] for side in (train, validation))
    shape = shape_of_preferences(lengths, measured)
    return EncodedSplits(train=train, validation=validation, shape=shape)
