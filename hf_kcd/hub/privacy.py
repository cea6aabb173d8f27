"""What may leave this machine: no pickles, no tokens, no paths of its folders."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .secrets import holds_secret

_TEXTS = {".json", ".md", ".yaml"}
_ALLOWED = _TEXTS | {".safetensors", ".parquet", ".png"}
# A machine's path within a text has three parts, or two under a folder that machines have; `/m/01g317` is a class's name.
# What follows a word or a slash (prose, web addresses) does not count.
_ROOTS = "data|datasets|etc|home|kaggle|media|mnt|nfs|opt|private|root|run|scratch|srv|tmp|Users|usr|var|Volumes|work|workspace"
_PATH = re.compile(
    rf"""(?:^|(?<=[\s"'`=(\[{{,;:<>|]))(?:/(?:(?:{_ROOTS})/|[\w.@+-]+/[\w.@+-]+/)[^\s"'`,;)\]}}<>|]*"""
    r"""|file:/[^\s"'`]*|[A-Za-z]:\\[^\s"'`]*)"""
)
# A whole value is a path when it is absolute, starts at the user's folder, or is relative to the current one.
# A plain `recipes/x.yaml` says nothing about a machine.
_WHOLE_PATH = re.compile(r"(?:local-dir:|file:)?(?:[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[\\/])|.*/\.\./")


def without_folders(value: Any) -> Any:
    """Reduce paths in plain JSON to their last component, so that they do not show this machine's folders.

    A dict's "command" is read word by word; one that no shell accepts becomes None.
    """
    if isinstance(value, dict):
        return {key: _command(item) if key == "command" else without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return _last_component(value) if isinstance(value, str) else value


def _last_component(text: str) -> str:
    if _WHOLE_PATH.match(text):
        return re.split(r"[/\\]", text.rstrip("/\\"))[-1] or "."
    return _PATH.sub(lambda found: _last_component(found[0]), text)


def _command(command: Any) -> Any:
    if not isinstance(command, str):
        return without_folders(command)
    try:
        words = [word.partition("=") for word in shlex.split(command)]
    except ValueError:
        return None
    last = _last_component
    return shlex.join(f"{option}={last(value)}" if sign else last(option) for option, sign, value in words)


def check_folder(folder: str | Path) -> list[tuple[str, int]]:
    """Check that a folder holds nothing that should not leave this machine.

    Returns:
        The name and the size in bytes of every file, sorted by name.

    Raises:
        ValueError: For a link, a file of a kind that we do not publish (a pickle), a token, or a path of this machine.
        FileNotFoundError: When the folder is missing or empty.
    """
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    if not files:
        raise FileNotFoundError(f"{folder} holds no files to upload.")
    for path in files:
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"{name} is a link or not a plain file: only plain files are uploaded.")
        if path.suffix not in _ALLOWED:
            kinds = ", ".join(sorted(_ALLOWED))
            raise ValueError(f"{name} is not of a kind that is uploaded ({kinds}): remove it from the folder.")
        for text in _texts(path):
            _check_text(name, text)
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files]


def _texts(path: Path) -> Iterator[str]:
    """Read a text file, or the metadata of tensors, a table or a picture."""
    if path.suffix in _TEXTS:
        yield path.read_text(encoding="utf-8")
    elif path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                yield json.dumps(file.metadata() or {})
        except SafetensorError as error:
            raise ValueError(f"{path.name} is not a whole safetensors file: {error}") from error
    elif path.suffix == ".png":
        from PIL import Image

        try:
            with Image.open(path) as image:
                image.load()  # Text may follow the pixels.
                yield from map(str, image.info.values())
        except OSError as error:
            raise ValueError(f"{path.name} is not a whole picture: draw it again (hf-kcd plot RUN_FOLDER).") from error
    else:
        import pyarrow.parquet

        for key, value in (pyarrow.parquet.read_metadata(path).metadata or {}).items():
            yield f"{key!r} {value!r}"


def _check_text(name: str, text: str) -> None:
    if holds_secret(text):
        raise ValueError(f"{name} holds a token: remove it, and revoke it if anybody else has seen it.")
    if found := _PATH.search(text):
        raise ValueError(f"{name} holds {found[0]!r}, a folder of this machine: remove it before uploading.")
