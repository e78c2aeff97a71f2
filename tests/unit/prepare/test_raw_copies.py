"""Copies of the sources, which nobody has redacted, are for the user alone and do not stay."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from finetune_api.messages.messages import parse_job
from finetune_api.protocol.trainer import RAW_COPIES, Stage, resolve_job
from finetune_trainer.context import StageContext
from finetune_trainer.errors import UserError
from finetune_trainer.prepare.fetching import fetch_sources
from finetune_trainer.prepare.stage import prepare
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.run import BaseModel
from kit.cases.spec_cases import minimal_job


class MissingModel(BaseModel):
    """A base model that cannot be found; it notes the modes of the copies made so far."""

    modes: tuple[int, ...] = ()

    def fetch(self, *, include_weights: bool = True) -> tuple[Path, str]:
        self.modes = modes_below(self.cache_dir.parent / "work" / RAW_COPIES)
        raise UserError("ModelNotFound", "there is no such model")


def modes_below(folder: Path) -> tuple[int, ...]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return tuple(path.stat().st_mode & 0o777 for path in [folder, *files])


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "call +49 30 901820", "completion": "yes"}\n')
    file.chmod(0o644)
    body = minimal_job()
    body["spec"]["dataset"] = {"sources": [{"uri": f"file://{file}"}]}
    body["spec"]["output"] = {"uri": f"file://{tmp_path / 'out'}"}
    return StageContext(
        job=resolve_job(parse_job(body), namespace="default", uid="u"),
        emit=EventEmitter(Stage.PREPARE, stream=io.StringIO()),
        work_dir=tmp_path / "work",
        cache_dir=tmp_path / "cache",
    )


def test_raw_copies_are_private(context: StageContext) -> None:
    (files,) = fetch_sources(context.storage, context.workspace)
    assert files[0].path.is_relative_to(context.work_dir / RAW_COPIES)
    assert modes_below(context.work_dir / RAW_COPIES) == (0o700, 0o600)


def test_raw_copies_are_removed_when_preparing_fails(context: StageContext) -> None:
    context.model = model = MissingModel(storage=context.storage, cache_dir=context.cache_dir)
    with pytest.raises(UserError, match="no such model"):
        prepare(context)
    assert model.modes == (0o700, 0o600)
    assert not (context.work_dir / RAW_COPIES).exists()
