"""Uploads a folder to the Hub in one commit."""

import re
import time
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
from huggingface_hub.constants import REPOCARD_NAME
from huggingface_hub.errors import HTTPError
from huggingface_hub.repocard import metadata_load

from .errors import hub_errors
from .names import TAG
from .privacy import check_folder

_ATTEMPTS = 4
# In seconds; the Hub counts requests in windows of five minutes.
_LONGEST_WAIT = 300.0
# 412: somebody else's commit came first.
_TRANSIENT = (412, 429, 500, 502, 503, 504)
# The requests that huggingface_hub does not retry.
_NOT_RETRIED = re.compile(r"/api/repos/create|/branch/|/commit/")
# Only this package writes these files, so an upload without them deletes the ones of an earlier upload.
_OURS = ["plots/*.png", "data/points.parquet", "recipe.yaml", "results.json"]
_OURS += ["soft_labels.json", "soft_labels.safetensors"]


def full_name(repo_id: str, repo_type: str) -> str:
    """Complete a repository's name with the logged-in user's where it has no user; errors as for `upload`."""
    if "/" in repo_id:
        return repo_id
    with hub_errors(repo_id, repo_type, None, "written to"):
        return huggingface_hub.HfApi().get_full_repo_name(repo_id)


def upload(
    folder: str | Path,
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    commit_message: str,
) -> huggingface_hub.CommitInfo:
    """Upload a folder in one commit, after `check_folder`; create the repository if it does not exist.

    An interrupted upload changes no branch. Rate limits (429) and transient failures are retried.

    Args:
        folder, repo_type: The files; "model" or "dataset".
        repo_id: "me/my-student"; without a user's name, the repository of the logged-in user.
        private: Whether a new repository is private; None for the account's default.
        revision: Branch to commit to, created if it does not exist; default: the main branch.
        overwrite: Write over a repository that this package did not write.
        commit_message: Title of the commit.

    Returns:
        The commit, with its address.

    Raises:
        ValueError: When the folder may not be uploaded; nothing has been sent. Also for `private` onto a public repository,
            and for a repository that somebody filled otherwise, without `overwrite`.
        PermissionError: Without a login, or without the right to write.
        ConnectionError: When the Hub cannot be reached or the connection breaks.
    """
    names = [name for name, _ in check_folder(folder)]
    api = huggingface_hub.HfApi()
    with hub_errors(repo_id, repo_type, revision, "written to"):
        for attempt in range(_ATTEMPTS):
            # Start over each time: a request may have succeeded although its answer was lost.
            try:
                repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
                if revision is not None:
                    api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
                repository = {"repo_id": repo_id, "repo_type": repo_type, "revision": revision}
                there = files_to_replace(repo_id, repo_type, revision, private, overwrite)
                old = sorted(name for name in there - set(names) if any(fnmatch(name, pattern) for pattern in _OURS))
                operations = [huggingface_hub.CommitOperationAdd(name, Path(folder) / name) for name in names]
                operations += map(huggingface_hub.CommitOperationDelete, old)
                # Not upload_folder: with Xet it makes several commits.
                return api.create_commit(**repository, operations=operations, commit_message=commit_message)
            except HTTPError as error:
                if (seconds := _seconds_to_wait(error, attempt)) is None:
                    raise
                time.sleep(seconds)


def files_to_replace(
    repo_id: str, repo_type: str, revision: str | None, private: bool | None, overwrite: bool = False
) -> set[str]:
    """List the files of a repository; a ValueError when it is public against `private`, or not ours without `overwrite`."""
    api, repository = huggingface_hub.HfApi(), {"repo_id": repo_id, "repo_type": repo_type, "revision": revision}
    if private and not api.repo_info(repo_id, repo_type=repo_type).private:
        raise ValueError(
            f"{repo_id} exists and is public, and private makes new repositories private only: change it on its page, or "
            "choose another name."
        )
    files = set(api.list_repo_files(**repository))
    if overwrite or not files - {".gitattributes"}:
        return files
    tags = None
    if REPOCARD_NAME in files:
        tags = (metadata_load(api.hf_hub_download(filename=REPOCARD_NAME, **repository)) or {}).get("tags")
    if not isinstance(tags, list) or TAG not in tags:
        raise ValueError(
            f"{repo_id} holds files that hf_kcd did not write ({', '.join(sorted(files)[:3])}): choose another repository, or "
            "pass overwrite=True (--overwrite) to replace its card, configuration and weights."
        )
    return files


def _seconds_to_wait(error: HTTPError, attempt: int) -> float | None:
    """Return the seconds before another attempt; None if another one is of no use."""
    response = getattr(error, "response", None)
    request = error.request if response is None else response.request
    transient = response is None or response.status_code in _TRANSIENT
    if attempt == _ATTEMPTS - 1 or not transient or not _NOT_RETRIED.search(str(request.url)):
        return None
    asked = "" if response is None else response.headers.get("Retry-After", "")
    return min(float(asked), _LONGEST_WAIT) if asked.isdigit() else 2.0**attempt
