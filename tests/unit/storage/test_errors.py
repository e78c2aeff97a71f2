"""The classes of failure agree with the contract."""

from __future__ import annotations

import pickle

import pytest

from finetune_api.protocol.trainer import CLASS_OF_EXIT_CODE, ExitCode
from finetune_trainer import errors
from finetune_trainer.storage import errors as storage_errors

CLASSES = {
    errors.UserError: ExitCode.USER_ERROR,
    errors.DataError: ExitCode.DATA_ERROR,
    errors.InternalError: ExitCode.INTERNAL,
    errors.StorageError: ExitCode.STORAGE,
    errors.RetryableError: ExitCode.RETRYABLE,
    errors.Hang: ExitCode.HANG,
    errors.OutOfMemory: ExitCode.OUT_OF_MEMORY,
    errors.Stopped: ExitCode.STOPPED,
}


def test_every_failing_exit_code_has_exactly_one_class():
    assert sorted(CLASSES.values()) == sorted(code for code in ExitCode if code != ExitCode.OK)


@pytest.mark.parametrize(("kind", "code"), CLASSES.items(), ids=lambda value: str(value))
def test_exit_code_and_failure_class_are_those_of_the_contract(kind, code):
    assert kind.exit_code == code
    assert kind.failure_class == CLASS_OF_EXIT_CODE[code]


@pytest.mark.parametrize(
    "error",
    [
        errors.UserError("BucketNotFound", "no bucket"),
        storage_errors.ChecksumMismatch("a.json differs"),
    ],
)
def test_errors_show_their_message_and_cross_process_borders(error):
    assert str(error) == error.message
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.reason, copy.message) == (type(error), error.reason, error.message)
