"""Proves on the model itself that examples of one flattened row do not see each other.

Learned positions, ALiBi, convolutions and recurrent states leak where rotary attention does not.
The probe runs two short examples through the model at the start of training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_trainer.errors import UserError

if TYPE_CHECKING:
    from trl import SFTTrainer

PROBE_TOKENS = 16
"""Longest example of the probe: a leak shows at once, and sliding windows are longer."""

INFLUENCE_TOLERANCE = 1e-5
"""Most that another example may move float32 logits, in their standard deviations.

The order of sums may differ. In bfloat16 rounding looks like a leak, so no logit may move.
"""

POSITION_TOLERANCE = {False: 1e-3, True: 0.1}
"""Largest L2 error against the logits of the example alone, relative to their spread, by whether
they are bfloat16.

Both lengths may run on different kernels. SmolLM2-135M in bfloat16: two kernels differ by 0.02 to
0.03, and by 0.12 in the worst logit. An example that sees its neighbour differs by 0.6 to 1.1.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Isolation:
    """Result of the probe; ``reason`` is empty if a flattened row is exact."""

    is_exact: bool
    reason: str


def judge_isolation(
    flattened: torch.Tensor, disturbed: torch.Tensor, alone: torch.Tensor, *, is_bfloat16: bool
) -> Isolation:
    """Compare the logits of an example behind another one, behind a third one, and alone.

    Args:
        flattened: Logits of the example behind its neighbour, (tokens, vocab).
        disturbed: The same behind another neighbour of the same length.
        alone: The same without a neighbour.
        is_bfloat16: The model computes in bfloat16.
    """
    scale = float(alone.float().std()) or 1.0
    influence = float((flattened - disturbed).abs().max()) / scale
    shift = float((flattened - alone).square().mean().sqrt()) / scale
    if not influence <= (0.0 if is_bfloat16 else INFLUENCE_TOLERANCE):
        return Isolation(
            is_exact=False, reason=f"one example moves another's logits by {influence:.2g} sigma"
        )
    if not shift <= POSITION_TOLERANCE[is_bfloat16]:
        return Isolation(
            is_exact=False, reason=f"an example's logits are not its own ({shift:.2g} sigma off)"
        )
    return Isolation(is_exact=True, reason="")


class IsolationProbe(TrainerCallback):  # type: ignore[misc]
    """Keeps rows flattened only if the probe shows that this is exact; else pads.

    All ranks call the model alike and agree on the verdict. ``tell`` gets a message on rank 0 when
    padding is used.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._trainer: SFTTrainer | None = None

    def attach(self, trainer: SFTTrainer) -> None:
        """Name the trainer whose model and collator are probed."""
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Probe, and pad where examples would see each other.

        Raises:
            UserError: ``method.packing`` is On and packing is not exact for this model.
        """
        trainer = self._trainer
        if trainer is None or not getattr(trainer.data_collator, "padding_free", False):
            return
        found = agree(probe_isolation(trainer, is_bfloat16=args.bf16), args.device)
        if found.is_exact:
            return
        name = trainer.model.config.model_type
        if args.packing:
            raise UserError(
                "PackingNotExact",
                f"method.packing On: {name} does not keep packed examples apart ({found.reason}), "
                "so training would not be what the data says; use Auto or Off",
            )
        trainer.data_collator.padding_free = False
        trainer.padding_free = False
        if state.is_world_process_zero:
            self._tell(
                f"micro batches are padded: {name} does not keep examples of one flattened row "
                f"apart ({found.reason})"
            )


def probe_isolation(trainer: SFTTrainer, *, is_bfloat16: bool) -> Isolation:
    """Run two short examples, alone and together, through the trainer's collator.

    Source: Kundu et al. 2024 (arXiv 2407.09105).
    """
    first, second = _two_examples(trainer.train_dataset)
    model = trainer.model_wrapped
    was_training = model.training
    model.eval()
    try:
        size = len(second)
        flattened = _logits(trainer, [first, second])[-size:]
        disturbed = _logits(trainer, [_changed(first), second])[-size:]
        alone = _logits(trainer, [second])[-size:]
    except torch.OutOfMemoryError:
        raise
    except (ValueError, ImportError, NotImplementedError, TypeError, RuntimeError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        return Isolation(is_exact=False, reason=f"it refuses flattened rows: {first_line}")
    finally:
        model.train(was_training)
    return judge_isolation(flattened, disturbed, alone, is_bfloat16=is_bfloat16)


def agree(found: Isolation, device: torch.device) -> Isolation:
    """Return the strictest verdict of all ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return found
    vote = torch.tensor([int(found.is_exact)], device=device)
    dist.all_reduce(vote, op=dist.ReduceOp.MIN)
    if found.is_exact and not vote.item():
        return Isolation(is_exact=False, reason="another rank found it")
    return found


def _two_examples(dataset: Any) -> tuple[list[int], list[int]]:
    rows = [list(dataset[i]["input_ids"][:PROBE_TOKENS]) for i in range(min(2, len(dataset)))]
    return rows[0], rows[-1]


def _changed(ids: Sequence[int]) -> list[int]:
    # Other tokens of the same row: every one of them is in the vocabulary.
    turned = [*ids[1:], ids[0]]
    return turned if turned != list(ids) else [token - 1 if token else 1 for token in ids]


def _logits(trainer: SFTTrainer, rows: list[list[int]]) -> torch.Tensor:
    batch = trainer.data_collator([{"input_ids": ids, "labels": ids} for ids in rows])
    del batch["labels"]
    device = trainer.args.device
    inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    with torch.no_grad(), trainer.compute_loss_context_manager():
        output = trainer.model_wrapped(**inputs, use_cache=False)
    logits: torch.Tensor = output.logits[0].float()
    return logits
