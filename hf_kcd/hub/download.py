"""Downloads named files of a Hub repository, all from one commit, and verifies their checksums."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors

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
    """Fetch files of one commit into the Hub's cache; offline they come from the cache.

    Args:
        repo_id: "me/my-mask", or with a revision "me/my-mask@v1".
        required: Names of files that must exist.
        optional: Names of files to fetch if they exist.
        repo_type, revision: "model" or "dataset"; branch, tag or commit (default: the main branch).
        force: Download cached files again. Damaged files are downloaded again in any case.

    Returns:
        The folder in the cache.

    Raises:
        FileNotFoundError: When the repository, the revision or a required file does not exist.
        PermissionError: When reading it is not allowed.
        ConnectionError: When the connection fails and the cache lacks the files, or they keep arriving damaged.
    """
    if revision is None:
        repo_id, _, named = repo_id.partition("@")
        revision = named or None
    text, names = repository_text(repo_id, repo_type, revision), [*required, *optional]
    options = {"repo_id": repo_id, "repo_type": repo_type, "revision": revision, "allow_patterns": names}
    # A damaged file stays in the cache under its right name, so it needs a forced second download.
    for forced in (force, True):
        with hub_errors(repo_id, repo_type, revision, "read"):
            folder = _snapshot(required, force_download=forced, **options)
        damaged = [name for name in names if (folder / name).is_file() and not _is_whole(folder / name)]
        if not damaged:
            break
    else:
        raise ConnectionError(f"{' and '.join(damaged)} of the {text} came damaged twice: try again later.")
    if missing := [name for name in required if not (folder / name).is_file()]:
        raise FileNotFoundError(f"The {text} has no {' and no '.join(missing)}.")
    return folder


def _snapshot(required: Sequence[str], **options: Any) -> Path:
    """Download a snapshot, or take it from the cache if the connection breaks and the cache is whole."""
    try:
        return Path(huggingface_hub.snapshot_download(**options))
    except errors.HTTPError as error:
        # The Hub answered: this is not a matter of the connection. If refused, huggingface_hub reads the cache itself.
        if isinstance(error, errors.HfHubHTTPError):
            raise
        options |= {"force_download": False, "local_files_only": True}
        try:
            folder = Path(huggingface_hub.snapshot_download(**options))
        except errors.LocalEntryNotFoundError:
            raise error from None
        # Older versions return a folder with the files that arrived before the break.
        if not all((folder / name).is_file() for name in required):
            raise
        return folder


def _is_whole(path: Path) -> bool:
    """Compare a cached file with the checksum in its name: git's for small files, SHA-256 for large ones."""
    checksum = path.resolve().name
    if len(checksum) not in (40, 64) or not set(checksum) <= set("0123456789abcdef"):
        return True  # Systems without links keep the plain names.
    digest = hashlib.sha256() if len(checksum) == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest() == checksum
