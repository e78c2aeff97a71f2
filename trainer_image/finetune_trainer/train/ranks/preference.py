"""Learning from preferences: builds TRL's trainers for DPO and KTO, and ORPO on DPO's.

Rows are tokenised by the encoder of supervised training. The reference model is the tuned one
without its adapter. Dropout is off, as in TRL.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.rows import other_answer
from finetune_trainer.errors import DataError
from finetune_trainer.model.encoding import IGNORED, ChatTokenizer
from finetune_trainer.train.ranks.callbacks.divergence import WatchedSteps
from finetune_trainer.train.ranks.sft import silence, training_arguments
from finetune_trainer.train.ranks.validation import ExactValidation, LoraPlus
from finetune_trainer.train.recipe.recipe import Recipe

if TYPE_CHECKING:
    from transformers import TrainingArguments


@dataclass(frozen=True, kw_only=True, slots=True)
class Preferred:
    """One training example.

    ``answer_ids`` are of the better answer of a pair, ``other_ids`` of the worse one; None for an
    answer with a verdict. ``is_wanted`` is the verdict; True for a pair.
    """

    prompt_ids: list[int]
    answer_ids: list[int]
    other_ids: list[int] | None
    is_wanted: bool

    @property
    def input_ids(self) -> list[int]:
        """All tokens of one forward pass."""
        if self.other_ids is None:
            # KTO reads each prompt with its own answer and with another row's.
            return 2 * [*self.prompt_ids, *self.answer_ids]
        return [*self.prompt_ids, *self.answer_ids, *self.prompt_ids, *self.other_ids]


def encode_preferences(
    encoder: ChatTokenizer, rows: Iterable[dict[str, Any]], *, objective: str, side: str, seed: int
) -> list[Preferred]:
    """Encode all rows of a side without those of which an answer was cut away entirely.

    For KTO pairs become two answers with a verdict each, and the rows are shuffled: KTO compares
    each row with its neighbours in the batch.

    Raises:
        DataError: No row is left.
    """
    examples: list[Preferred] = []
    count = 0
    for row in rows:
        count += 1
        sides = [_split(encoder, row)]
        if "rejected" in row:
            sides.append(_split(encoder, other_answer(row)))
        if any(not answer for _, answer in sides):
            continue
        if objective == "KTO":
            verdicts = [True, False] if len(sides) == 2 else [row["label"]]
            examples += [
                Preferred(prompt_ids=prompt, answer_ids=answer, other_ids=None, is_wanted=verdict)
                for (prompt, answer), verdict in zip(sides, verdicts, strict=True)
            ]
        else:
            examples.append(_pair(sides[0], sides[1]))
    if count and not examples:
        raise DataError(
            "AllRowsTooLong",
            f"all {count} {side} rows are cut before one of their answers begins; raise "
            "hyperparameters.maxSequenceLength or shorten the prompts",
        )
    if objective == "KTO":
        random.Random(seed).shuffle(examples)  # noqa: S311 - an order, not a secret
    return examples


def build_config(
    job: ResolvedJob, recipe: Recipe, output_dir: Path, *, has_validation: bool
) -> TrainingArguments:
    """Build the training arguments; must run before the model is loaded."""
    preference = job.spec.method.preference
    arguments = training_arguments(job, recipe, output_dir, has_validation=has_validation)
    beta = float(preference.beta)
    if job.spec.method.objective == "KTO":
        return KTOConfig(
            **arguments,
            beta=beta,
            desirable_weight=float(preference.desirable_weight),
            undesirable_weight=float(preference.undesirable_weight),
            max_length=None,
            train_sampling_strategy="sequential",
        )
    return DPOConfig(**arguments, beta=beta, max_length=None)


def build_trainer(
    *,
    job: ResolvedJob,
    config: TrainingArguments,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lora: LoraConfig | None,
    train: list[Preferred],
    validation: list[Preferred],
    callbacks: list[TrainerCallback],
) -> ExactValidation:
    """Build the trainer over tokenised examples."""
    kinds = {"DPO": PairTrainer, "ORPO": OddsRatioTrainer, "KTO": KtoTrainer}
    micro = config.per_device_train_batch_size
    trainer = kinds[job.spec.method.objective](
        model=model,
        args=config,
        train_dataset=_dataset(train, micro),
        eval_dataset=_dataset(validation, micro) if validation else None,
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=callbacks,
    )
    trainer.set_lora_plus_ratio(job.spec.hyperparameters.lora_plus_ratio)
    silence(trainer)
    return trainer


class PairTrainer(ExactValidation, LoraPlus, WatchedSteps, DPOTrainer):  # type: ignore[misc]
    """DPO over tokenised pairs."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def weigh(self, batch: dict[str, torch.Tensor]) -> int:
        """Return the number of pairs: the loss is their mean."""
        return len(batch["input_ids"]) // 2


class OddsRatioTrainer(PairTrainer):
    """ORPO: likelihood of the better answer, and its odds against the worse one.

    TRL's own trainer tokenises by itself, otherwise than evaluation. Source: Hong et al. 2024,
    "ORPO", equations 6 and 7.
    """

    def _compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool
    ) -> torch.Tensor:
        assert not return_outputs
        mode = "train" if self.model.training else "eval"
        mask_2BT = inputs["completion_mask"]
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=inputs["input_ids"].masked_fill(mask_2BT == 0, IGNORED),
            use_cache=False,
            fused_lm_head=True,
        )
        sums = outputs.log_probs.sum(dim=1)
        counts = mask_2BT[:, 1:].sum(dim=1)
        chosen, rejected = (sums / counts).clamp(max=-1e-6).chunk(2)
        log_odds = chosen - rejected - torch.log1p(-chosen.exp()) + torch.log1p(-rejected.exp())
        chosen_sums, _ = sums.chunk(2)
        chosen_counts, _ = counts.chunk(2)
        likelihood = -chosen_sums.sum() / chosen_counts.sum()
        self._note(mode, inputs, chosen.detach(), rejected.detach())
        loss: torch.Tensor = likelihood - self.beta * functional.logsigmoid(log_odds).mean()
        return loss

    def _note(
        self,
        mode: str,
        inputs: dict[str, torch.Tensor],
        chosen: torch.Tensor,
        rejected: torch.Tensor,
    ) -> None:
        gather = self.accelerator.gather
        found = {
            "rewards/chosen": self.beta * chosen,
            "rewards/rejected": self.beta * rejected,
            "rewards/accuracies": (chosen > rejected).float(),
            "rewards/margins": self.beta * (chosen - rejected),
            "logps/chosen": chosen,
            "logps/rejected": rejected,
        }
        for name, values in found.items():
            self._metrics[mode][name].append(gather(values).mean().item())
        if mode == "train":
            self._total_train_tokens += int(gather(inputs["attention_mask"].sum()).sum().item())
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]


class KtoTrainer(ExactValidation, LoraPlus, WatchedSteps, KTOTrainer):  # type: ignore[misc]
    """KTO over tokenised answers with a verdict."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def weigh(self, batch: dict[str, torch.Tensor]) -> int:
        """Return the number of answers: the loss is their mean."""
        return len(batch["label"])


def _split(encoder: ChatTokenizer, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Return the tokens before the answer, and those of the answer; none if it is cut away."""
    (example,) = encoder.encode_row(row)
    start = example.spans[0][0] if example.has_answer else len(example.input_ids)
    return example.input_ids[:start], example.input_ids[start:]


def _pair(better: tuple[list[int], list[int]], worse: tuple[list[int], list[int]]) -> Preferred:
    # Where tokens merge over the end of the prompt, one of the two answers begins earlier.
    size = min(len(better[0]), len(worse[0]))
    return Preferred(
        prompt_ids=better[0][:size],
        answer_ids=[*better[0][size:], *better[1]],
        other_ids=[*worse[0][size:], *worse[1]],
        is_wanted=True,
    )


def _dataset(examples: list[Preferred], micro_batch_size: int) -> Dataset:
    columns: dict[str, list[Any]] = {"prompt_ids": [e.prompt_ids for e in examples]}
    if examples[0].other_ids is not None:
        columns["chosen_ids"] = [e.answer_ids for e in examples]
        columns["rejected_ids"] = [e.other_ids for e in examples]
        return Dataset.from_dict(columns)
    answers = [e.answer_ids for e in examples]
    columns["completion_ids"] = answers
    columns["label"] = [e.is_wanted for e in examples]
    # Each prompt with its neighbour's answer, by which KTO measures its drift.
    columns["KL_completion_ids"] = [
        shifted
        for start in range(0, len(answers), micro_batch_size)
        for batch in [answers[start : start + micro_batch_size]]
        for shifted in [batch[-1], *batch[:-1]]
    ]
    return Dataset.from_dict(columns)
