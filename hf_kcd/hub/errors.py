"""Errors of the Hub, each as one line that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import errors

_KINDS = {"model": "model repository", "dataset": "data set repository"}
_LOGIN = "(hf auth login, HF_TOKEN)"
# What huggingface_hub raises, what we raise, and in which words; a subclass stands before its base.
_MESSAGES = {
    errors.HFValidationError: (ValueError, "cannot exist: write user/name, as in 'me/my-name'."),
    errors.OfflineModeIsEnabled: (
        ConnectionError,
        "cannot be {doing} offline and is not whole in the cache: unset HF_HUB_OFFLINE, or fetch it once before.",
    ),
    errors.GatedRepoError: (PermissionError, f"has terms to accept: do so on its page, then log in {_LOGIN}."),
    errors.RevisionNotFoundError: (FileNotFoundError, "does not have that revision: give a branch, tag or commit."),
    errors.RepositoryNotFoundError: (
        FileNotFoundError,
        f"does not exist, or is private and hidden from you: check the name, and log in if it is private {_LOGIN}.",
    ),
    errors.RemoteEntryNotFoundError: (FileNotFoundError, "lacks a file: {reason}"),
    errors.LocalTokenNotFoundError: (PermissionError, f"cannot be {{doing}} without a login: log in {_LOGIN}."),
}


@contextmanager
def hub_errors(repo_id: str, repo_type: str, revision: str | None, doing: str) -> Iterator[None]:
    """Turn errors of huggingface_hub into one line: what is wrong with which repository, and what to do.

    Args:
        repo_id, repo_type, revision: The repository, "model" or "dataset", and its branch, tag or commit, if any.
        doing: What the block does to the repository: "read" or "written to".

    Raises:
        ValueError, FileNotFoundError, PermissionError: For an invalid id, what is missing, and a missing login or right.
        ConnectionError, OSError: For what may pass (no connection, rate limits, the server's failures), and the rest.
    """
    try:
        yield
    except (RuntimeError, OSError, errors.HTTPError, errors.HFValidationError, errors.EntryNotFoundError) as error:
        causes = [*_causes(error)]
        # huggingface_hub wraps what goes wrong with a large file in a RuntimeError.
        if isinstance(error, RuntimeError) and not any(isinstance(cause, errors.HTTPError) for cause in causes):
            raise
        # The error may follow from an earlier request, whose answer says why.
        known = [found for cause in causes if (found := _message(cause, doing)) is not None]
        kind, message = known[0] if known else (OSError, f"could not be {doing}: {_one_line(error)}")
        raise kind(f"The {repository_text(repo_id, repo_type, revision)} {message}") from error


def _message(error: BaseException, doing: str) -> tuple[type[Exception], str] | None:
    for cls, (kind, message) in _MESSAGES.items():
        if isinstance(error, cls):
            return kind, message.format(doing=doing, reason=_one_line(error))
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return PermissionError, f"may not be {doing} with this login ({status}): use a token with that right {_LOGIN}."
    if status == 429:
        return ConnectionError, f"could not be {doing}: the Hub asks for fewer requests (429). Try again later."
    if status is not None and status >= 500:
        return ConnectionError, f"could not be {doing}: the Hub failed with {status}. Try again later."
    if status is not None:
        return OSError, f"could not be {doing}: the Hub refused with {status}: {_one_line(error)}"
    if isinstance(error, errors.HTTPError | ConnectionError):
        reason = f"the connection to the Hub failed or broke ({_one_line(error)})"
        return ConnectionError, f"could not be {doing}: {reason}. Check it and try again."
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def repository_text(repo_id: str, repo_type: str, revision: str | None) -> str:
    return f"{_KINDS[repo_type]} {repo_id!r}" + (f" at revision {revision!r}" if revision else "")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
