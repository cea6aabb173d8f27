"""Uploading a folder to the Hub: every file is looked at first, and all of them go up in one commit or none does."""

import json
import re
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from .errors import hub_errors
from .local_paths import MACHINE_PATH

if TYPE_CHECKING:
    import huggingface_hub

_ATTEMPTS = 4
# In seconds; the Hub counts requests in windows of five minutes.
_LONGEST_WAIT = 300.0
# 412: somebody else's commit was being made.
_PASSING = (412, 429, 500, 502, 503, 504)
# What huggingface_hub does not try again by itself.
_TRIED_ONCE = re.compile(r"/api/repos/create|/branch/|/commit/")
_TEXTS = {".json", ".md", ".yaml"}
_ALLOWED = _TEXTS | {".safetensors", ".parquet", ".png"}
# The Hub's tokens, those of the services that a run is most likely to be logged in to, and a password in an address.
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}|gh[opsu]_[A-Za-z0-9]{30,}|github_pat_\w{20,}|"
    r"wandb_v1_[A-Za-z0-9_]{20,}|sk-(?:\w+-){0,2}[A-Za-z0-9]{20,})|://[^\s/:@]+:[^\s/@]+@"
)
# What only this package writes: an upload without them deletes those of an earlier one. Files that people added stay.
_OURS = [
    "plots/*.png",
    "data/points.parquet",
    "recipe.yaml",
    "results.json",
    "soft_labels.json",
    "soft_labels.safetensors",
]


def check_folder(folder: str | Path) -> list[tuple[str, int]]:
    """Make sure that a folder holds nothing that should not leave this machine.

    Args:
        folder: The folder.

    Returns:
        Name in the repository and size in bytes of every file, in order.

    Raises:
        ValueError: When a file is of a kind that is not published (pickles above all), a link, holds a token or the path of
            a folder of this machine, naming the file and what was found.
        FileNotFoundError: When the folder is missing or empty.
    """
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    if not files:
        raise FileNotFoundError(f"{folder} holds no files to upload.")
    for path in files:
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"{name} is a link or no plain file: only files themselves are uploaded.")
        if path.suffix not in _ALLOWED:
            raise ValueError(
                f"{name} is not of a kind that is uploaded ({', '.join(sorted(_ALLOWED))}): leave it out of the folder."
            )
        for text in _texts(path):
            _check_text(name, text)
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files]


def full_name(repo_id: str, repo_type: str) -> str:
    """Put the name of the user who is logged in before a repository's own, where it is given alone.

    Args:
        repo_id: Such as "me/my-student" or "my-student".
        repo_type: "model" or "dataset".

    Raises:
        PermissionError: Without a login.
        ConnectionError: When the Hub could not be reached.
    """
    import huggingface_hub

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
    commit_message: str,
) -> "huggingface_hub.CommitInfo":
    """Upload a folder in one commit; the repository is made where it does not exist.

    An upload that is interrupted leaves the repository's branches as they were: files that went up before the commit belong to
    none. Where the Hub asks for fewer requests (429) or fails for a moment, it is waited for and tried again.

    Args:
        folder: What is uploaded, after `check_folder`.
        repo_id: Such as "me/my-student"; without a user's name the one that is logged in.
        repo_type: "model" or "dataset".
        private: Whether a new repository is private; None for the account's own default.
        revision: Branch to commit to, made where it does not exist; the main one without it.
        commit_message: Of the commit.

    Returns:
        The commit, with its address.

    Raises:
        ValueError: When the folder may not be uploaded; nothing has been sent.
        PermissionError: Without a login, or without the right to write.
        ConnectionError: When the Hub could not be reached or broke off.
    """
    import huggingface_hub
    from huggingface_hub.errors import HTTPError

    names = [name for name, _ in check_folder(folder)]
    api = huggingface_hub.HfApi()
    with hub_errors(repo_id, repo_type, revision, "written to"):
        for attempt in range(_ATTEMPTS):
            # All of it anew each time: what a request whose answer was lost has done already is then not done again.
            try:
                repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
                if revision is not None:
                    api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
                repository = {"repo_id": repo_id, "repo_type": repo_type, "revision": revision}
                operations = [huggingface_hub.CommitOperationAdd(name, Path(folder) / name) for name in names]
                operations += [
                    huggingface_hub.CommitOperationDelete(name)
                    for name in api.list_repo_files(**repository)
                    if name not in names and any(fnmatch(name, pattern) for pattern in _OURS)
                ]
                # Not upload_folder, which makes several commits of what it sends through Xet.
                return api.create_commit(**repository, operations=operations, commit_message=commit_message)
            except HTTPError as error:
                if attempt == _ATTEMPTS - 1 or not _may_pass(error):
                    raise
                time.sleep(_seconds_to_wait(error, attempt))


def _may_pass(error: Exception) -> bool:
    response = getattr(error, "response", None)
    request = error.request if response is None else response.request
    tried_once = _TRIED_ONCE.search(str(request.url)) is not None
    return tried_once and (response is None or response.status_code in _PASSING)


def _seconds_to_wait(error: Exception, attempt: int) -> float:
    response = getattr(error, "response", None)
    asked = "" if response is None else response.headers.get("Retry-After", "")
    return min(float(asked), _LONGEST_WAIT) if asked.isdigit() else 2.0**attempt


def _texts(path: Path) -> Iterator[str]:
    """Read what a file says in words: a text itself, the metadata of tensors, of a table and of a picture."""
    if path.suffix in _TEXTS:
        yield path.read_text()
    elif path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                yield json.dumps(file.metadata() or {})
        except SafetensorError as error:
            raise ValueError(f"{path.name} is no whole safetensors file: {error}") from error
    elif path.suffix == ".png":
        from PIL import Image

        try:
            with Image.open(path) as image:
                # Text may stand behind the pixels, too.
                image.load()
                yield from map(str, image.info.values())
        except OSError as error:
            raise ValueError(f"{path.name} is no whole picture: draw it again (hf-kcd plot RUN_FOLDER).") from error
    elif path.suffix == ".parquet":
        import pyarrow.parquet

        for key, value in (pyarrow.parquet.read_metadata(path).metadata or {}).items():
            yield f"{key!r} {value!r}"


def _check_text(name: str, text: str) -> None:
    import huggingface_hub

    token = huggingface_hub.get_token()
    if _TOKEN.search(text) or (token and token in text):
        raise ValueError(f"{name} holds a token: take it out, and revoke it if it has been anywhere else.")
    found = MACHINE_PATH.search(text)
    if found:
        raise ValueError(f"{name} holds {found[0]!r}, a folder of this machine: take it out before it is uploaded.")
