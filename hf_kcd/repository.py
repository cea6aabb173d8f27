"""Repositories of the Hub as this package reads them: named files out of one commit, and errors as one clear line."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

_KINDS = {"model": "model repository", "dataset": "data set repository"}


def fetch_files(
    repo_id: str,
    required: Sequence[str],
    optional: Sequence[str] = (),
    *,
    repo_type: str = "model",
    revision: str | None = None,
    force: bool = False,
) -> Path:
    """Fetch files of a repository, all out of one commit, into the cache of the Hub; offline they are taken from there.

    Args:
        repo_id: Such as "me/my-mask", or with a revision "me/my-mask@v1".
        required: Names of files that have to be there.
        optional: Names of files that are fetched where they are there.
        repo_type: "model" or "dataset".
        revision: Branch, tag or commit; the main branch without it.
        force: Fetch anew what the cache has. Files that do not have their checksum are fetched anew in any case.

    Returns:
        The folder of the cache that holds them.

    Raises:
        FileNotFoundError: When there is no such repository or revision, or when it lacks a required file.
        PermissionError: When it may not be read.
        ConnectionError: When the Hub cannot be reached, or breaks off, and the cache does not have the files.
    """
    import huggingface_hub
    from huggingface_hub import errors

    if revision is None:
        repo_id, _, named = repo_id.partition("@")
        revision = named or None
    names = [*required, *optional]
    # What came damaged stays in the cache under its right name: it is fetched once more before it is given up.
    for anew in (force, True):
        fetch = partial(
            huggingface_hub.snapshot_download, repo_id, repo_type=repo_type, revision=revision, allow_patterns=names
        )
        with hub_errors(repo_id, repo_type, revision, "read"):
            try:
                folder = Path(fetch(force_download=anew))
            except errors.HTTPError as error:
                # An answer is no matter of the connection; when that is refused huggingface_hub looks into the cache itself.
                if isinstance(error, errors.HfHubHTTPError):
                    raise
                try:
                    folder = Path(fetch(local_files_only=True))
                except errors.LocalEntryNotFoundError:
                    raise error from None
                # Older versions hand out what came before it broke.
                if not all((folder / name).is_file() for name in required):
                    raise
        damaged = [name for name in names if (folder / name).is_file() and not _is_whole(folder / name)]
        if not damaged:
            break
    else:
        raise ConnectionError(
            f"{' and '.join(damaged)} of the {_name(repo_id, repo_type, revision)} came damaged twice: try again later."
        )
    missing = [name for name in required if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"The {_name(repo_id, repo_type, revision)} has no {' and no '.join(missing)}.")
    return folder


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
        worded = _worded(cause, errors, _name(repo_id, repo_type, revision), doing)
        if worded is not None:
            return worded
    return OSError(f"The {_name(repo_id, repo_type, revision)} could not be {doing}: {_one_line(error)}")


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


def _is_whole(path: Path) -> bool:
    """Compare a file of the cache with the checksum that is its name there: git's for small files, SHA-256 for large ones."""
    checksum = path.resolve().name
    if len(checksum) not in (40, 64) or not set(checksum) <= set("0123456789abcdef"):
        return True  # A system without links keeps files under their own names.
    digest = hashlib.sha256() if len(checksum) == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest() == checksum


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _name(repo_id: str, repo_type: str, revision: str | None) -> str:
    return f"{_KINDS[repo_type]} {repo_id!r}" + (f" at revision {revision!r}" if revision else "")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__
