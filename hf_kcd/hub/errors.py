"""Errors of the Hub, each worded as one clear line that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

_KINDS = {"model": "model repository", "dataset": "data set repository"}


@contextmanager
def hub_errors(repo_id: str, repo_type: str, revision: str | None, doing: str) -> Iterator[None]:
    """Raise what goes wrong between here and the Hub within the block as `hub_error` words it.

    Args:
        repo_id: The repository.
        repo_type: "model" or "dataset".
        revision: Branch, tag or commit, where one was asked for.
        doing: What cannot be done to it then: "read", "written to".
    """
    from huggingface_hub import errors

    try:
        yield
    except RuntimeError as error:
        # What goes wrong with a large file comes wrapped.
        if not any(isinstance(cause, errors.HTTPError) for cause in _causes(error)):
            raise
        raise hub_error(error, repo_id, repo_type, revision, doing) from error
    except (OSError, errors.HTTPError, errors.HFValidationError, errors.EntryNotFoundError) as error:
        raise hub_error(error, repo_id, repo_type, revision, doing) from error


def hub_error(error: Exception, repo_id: str, repo_type: str, revision: str | None, doing: str) -> Exception:
    """Word an error of the Hub in one line: what is wrong with which repository, and what to do.

    Args:
        error: What huggingface_hub raised.
        repo_id: The repository.
        repo_type: "model" or "dataset".
        revision: Branch, tag or commit, where one was asked for.
        doing: What cannot be done to it then: "read", "written to".

    Returns:
        A ValueError for a name that is none, a FileNotFoundError for what does not exist, a PermissionError, a
        ConnectionError for all that may pass, and an OSError for the disk of this machine.
    """
    from huggingface_hub import errors

    # What was asked for may have failed because of a request before it, whose answer says why.
    for cause in _causes(error):
        worded = _worded(cause, errors, repository_text(repo_id, repo_type, revision), doing)
        if worded is not None:
            return worded
    return OSError(f"The {repository_text(repo_id, repo_type, revision)} could not be {doing}: {_one_line(error)}")


def _worded(error: BaseException, errors, name: str, doing: str) -> Exception | None:
    if isinstance(error, errors.HFValidationError):
        return ValueError(
            f"The {name} cannot exist: a repository's id is a user's name and its own, as in 'me/my-name'."
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return ConnectionError(
            f"The {name} cannot be {doing} offline and is not whole in the cache: unset HF_HUB_OFFLINE, or fetch it once before."
        )
    if isinstance(error, errors.GatedRepoError):
        return PermissionError(
            f"The {name} asks for its terms to be accepted: do so on its page, then log in (hf auth login)."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError(f"The {name} does not have that revision: give a branch, tag or commit of it.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return FileNotFoundError(
            f"The {name} does not exist, or is private and not yours to see: check the name, and log in (hf auth login, "
            "HF_TOKEN) where it is private."
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return FileNotFoundError(f"The {name} lacks a file: {_one_line(error)}")
    if isinstance(error, errors.LocalTokenNotFoundError):
        return PermissionError(f"The {name} cannot be {doing} without a login: hf auth login, or set HF_TOKEN.")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return PermissionError(
            f"The {name} may not be {doing} with this login ({status}): use a token with that right (hf auth login, HF_TOKEN)."
        )
    if status == 429:
        return ConnectionError(
            f"The {name} could not be {doing}: the Hub asks for fewer requests (429). Try again later."
        )
    if status is not None and status >= 500:
        return ConnectionError(f"The {name} could not be {doing}: the Hub failed with {status}. Try again later.")
    if status is not None:
        return OSError(f"The {name} could not be {doing}: the Hub refused with {status}: {_one_line(error)}")
    if isinstance(error, errors.HTTPError | ConnectionError):
        return ConnectionError(
            f"The {name} could not be {doing}: the connection to the Hub failed or broke ({_one_line(error)}). Check it and try "
            "again."
        )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def repository_text(repo_id: str, repo_type: str, revision: str | None) -> str:
    return f"{_KINDS[repo_type]} {repo_id!r}" + (f" at revision {revision!r}" if revision else "")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__
