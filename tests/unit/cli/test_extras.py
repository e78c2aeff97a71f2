"""What is missing is named before a command begins, with the command that installs it."""

from __future__ import annotations

import pytest

from finetune_cli.errors import CliError
from finetune_cli.extras import DATA_MODULES, TRAINER_MODULES, require_trainer


@pytest.mark.slow
@pytest.mark.parametrize("modules", [DATA_MODULES, TRAINER_MODULES])
def test_nothing_is_said_where_nothing_is_missing(modules: tuple[str, ...]) -> None:
    require_trainer(modules)


def test_missing_libraries_are_named_with_the_remedy() -> None:
    with pytest.raises(CliError) as caught:
        require_trainer(("json", "not_installed_here"), to="looking at data")
    assert caught.value.message == (
        "looking at data needs not_installed_here: pip install 'finetune-operator[trainer]' "
        "(or run it on a cluster: finetune submit)"
    )


def test_looking_at_data_needs_no_torch() -> None:
    assert "torch" not in DATA_MODULES
