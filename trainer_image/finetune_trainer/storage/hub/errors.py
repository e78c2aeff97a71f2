"""Translates huggingface_hub's exceptions, with remedies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from finetune_trainer.errors import StorageError, TrainerError, UserError


@contextmanager
def translating(uri: str, token: str) -> Iterator[None]:
    """Turn the library's exceptions into ours; ``token`` says in words which token was used."""
    from httpx2 import HTTPError

    try:
        yield
    # Its errors are HTTPErrors, OSErrors (offline, disk) or ValueErrors (names).
    except (HTTPError, OSError, ValueError) as error:
        raise translate(error, uri, token) from error


def translate(error: Exception, uri: str, token: str) -> TrainerError:
    """Choose class, reason and words for an exception of huggingface_hub."""
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            return UserError(
                "ModelGated",
                f"{uri} is gated, and {token} has no access to it. Accept its terms on the Hub and "
                "put a token of that account into the Secret as HF_TOKEN.",
            )
        case errors.RepositoryNotFoundError():
            return UserError(
                "ModelNotFound",
                f"There is no repository {uri} that {token} may see. Check organisation and name; "
                "a private repository needs HF_TOKEN in the Secret.",
            )
        case errors.RevisionNotFoundError():
            return UserError(
                "RevisionNotFound",
                f"{uri} names a branch, tag or commit that does not exist. Check the revision.",
            )
        case errors.HFValidationError():
            return UserError("InvalidUri", f"{uri} is not a name the Hub can have: {error}.")
        case errors.OfflineModeIsEnabled():
            return UserError(
                "Offline",
                f"{uri} is not in the cache and HF_HUB_OFFLINE forbids asking the Hub. Unset it, "
                "or put the model into a folder or bucket and name that.",
            )
        case errors.HfHubHTTPError() if error.response is not None:
            return translate_status(error.response.status_code, uri, token)
    return StorageError(
        "Unreachable",
        f"Cannot ask the Hub for {uri}: {error or type(error).__name__}. Check the network and "
        "HF_ENDPOINT; on a node without internet use an s3:// or file:// copy of the model.",
    )


def translate_status(status: int, uri: str, token: str) -> TrainerError:
    """Choose class, reason and words for an HTTP status of the Hub."""
    if status in (401, 403):
        return UserError(
            "AccessDenied",
            f"The Hub refused {uri} (HTTP {status}) for {token}. Check that the token is valid and "
            "its account has access.",
        )
    if status == 404:
        return UserError("ModelNotFound", f"The Hub has no {uri} (HTTP 404). Check the name.")
    return StorageError(
        "Unreachable", f"The Hub answered {uri} with HTTP {status}. Try again later."
    )
