"""Downloads named files of a Hub repository, all from one commit, and checks them against their checksums."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from .errors import hub_errors, repository_text


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
            f"{' and '.join(damaged)} of the {repository_text(repo_id, repo_type, revision)} came damaged twice: try again later."
        )
    missing = [name for name in required if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"The {repository_text(repo_id, repo_type, revision)} has no {' and no '.join(missing)}."
        )
    return folder


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
