"""The documents of a prepared data set.

They are part of the manifest and do not differ between two runs over the same input.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.v1alpha1.spec.dataset import Dataset
from finetune_trainer.data.prepared import REPORT_NAME
from finetune_trainer.data.report import DatasetReport
from finetune_trainer.data.responses import RESPONSES_NAME
from finetune_trainer.data.rows import Side
from finetune_trainer.prepare.report.card import CARD_NAME, render_card
from finetune_trainer.prepare.report.page import PAGE_NAME, render_page
from finetune_trainer.prepare.report.samples import Decode, read_samples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CLEANING_ACTIONS = ("Redact", "Drop", "Refuse")
"""Values of ``dataset.privacy.action`` after which no row holds personal data that was found."""


def write_documents(folder: Path, dataset: Dataset, report: DatasetReport, decode: Decode) -> None:
    """Write ``report.json``, ``report.html`` and ``README.md`` beside the rows.

    ``decode`` is of the model's tokenizer.
    """
    reason = explain_hidden_rows(dataset)
    samples = [] if reason else read_samples(folder, decode)
    texts = {
        REPORT_NAME: report.model_dump_json(by_alias=True, indent=1) + "\n",
        PAGE_NAME: render_page(report, samples, reason_hidden=reason, lists=find_lists(folder)),
        CARD_NAME: render_card(report),
    }
    for name, text in texts.items():
        # A label or a file's name may hold half of a surrogate pair.
        (folder / name).write_bytes(text.encode("utf-8", "backslashreplace"))


def find_lists(folder: Path) -> list[str]:
    """Return the names of the files beside the sides that list rows in full, of those with any."""
    others = {RESPONSES_NAME, *(f"{side}.jsonl" for side in Side)}
    return sorted(
        path.name
        for path in folder.glob("*.jsonl")
        if path.name not in others and path.stat().st_size
    )


def explain_hidden_rows(dataset: Dataset) -> str:
    """Return why no row may be shown on the page; nothing if some may."""
    action = dataset.privacy.action
    if action in CLEANING_ACTIONS:
        return ""
    return (
        "No rows are shown on this page, because personal data was not taken out of them "
        f"(dataset.privacy.action {action}). They are in train.jsonl beside it; `finetune data "
        "inspect` shows some on your own terminal."
    )


def make_decode(tokenizer: PreTrainedTokenizerBase) -> Decode:
    """Return the decoder of tokens, control tokens included."""

    def decode(ids: object) -> str:
        text: str = tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    return decode
