"""Files that are either whole or absent: written under a temporary name, then renamed."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its place when the block ends without an error.

    Args:
        path: The file to write; its folder is made.

    Yields:
        The path to write to.

    Raises:
        OSError: With the path and the cause, when it cannot be written (full disk, read-only folder).
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` that takes its place when the block ends without an error.

    Args:
        path: The folder to write; one that exists is replaced whole.

    Yields:
        The folder to write into.

    Raises:
        OSError: With the path and the cause, when it cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        os.chmod(temporary, 0o777 & ~_umask())
        yield temporary
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            os.replace(path, old / "old")
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all.

    Raises:
        ValueError: When it holds NaN or an infinity, which JSON does not know.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text)


def read_json(path: str | Path, name: str | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        name: What errors call it; its path without it.

    Raises:
        ValueError: When it is no JSON, with the path.
        FileNotFoundError: When it does not exist.
    """
    try:
        return json.loads(Path(path).read_text())
    # ValueError: also bytes that are no text, and integers of thousands of digits; RecursionError: nested beyond reason.
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{name or path} is not a JSON file ({error}). It was cut short or overwritten: fetch it again."
        ) from error


def read_description(
    path: str | Path,
    kind: str,
    latest: int,
    not_one: str,
    *,
    name: str | None = None,
    required: Collection[str] = (),
    again: str = "Fetch it again.",
) -> dict[str, Any]:
    """Read the JSON file by which an artefact of this package says what it is, of a kind and in a format that are known.

    Args:
        path: The file.
        kind: What its `type` has to be.
        latest: The newest `format_version` that is read.
        not_one: What an error says of a file of another kind, behind its name.
        name: What errors call the file; its path without it.
        required: Keys that it has to have.
        again: What an error tells people to do about a damaged one.

    Raises:
        ValueError: When it is damaged, of another kind, or of a newer format.
        FileNotFoundError: When it does not exist.
    """
    name = name or str(path)
    description = read_json(path, name)
    if not isinstance(description, dict) or description.get("type") != kind:
        raise ValueError(f"{name} {not_one}")
    version = description.get("format_version")
    if isinstance(version, int) and version > latest:
        writer = description.get("library_version")
        written = f", written by hf_kcd {writer}" if writer else ""
        raise ValueError(
            f"{name} has format version {version}{written}; this hf_kcd reads up to version {latest}. Upgrade hf_kcd."
        )
    missing = sorted(set(required) - set(description))
    if version != latest or missing:
        raise ValueError(
            f"{name} is damaged: format version {version!r}, missing {', '.join(missing) or 'nothing'}. {again}"
        )
    return description


def refuse_control_characters(value: Any, name: str) -> None:
    """Refuse plain JSON values of a stranger's file with text in them that drives a terminal when it is printed.

    Args:
        value: What the file holds; new lines and tabs are none of them.
        name: What the error calls the file.

    Raises:
        ValueError: When there is such text.
    """
    # As JSON writes them: all but printable ASCII is escaped, a new line as \n.
    if re.search(r"(?<!\\)(?:\\\\)*\\(?:u00(?:[0189]|7f)|[bf])", json.dumps(value)):
        raise ValueError(f"{name} holds control characters, which are no text. Fetch it again, or leave it alone.")


def sha256_of(path: str | Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors and string metadata as one safetensors file, whole or not at all."""
    with atomic_file(path) as temporary:
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        try:
            save_file(contiguous, temporary, metadata=dict(metadata or {}))
        except SafetensorError as error:
            raise OSError(str(error)) from error


def load_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a safetensors file.

    Returns:
        Its tensors by name, on the CPU, and its metadata.

    Raises:
        ValueError: When it is no safetensors file or cut short, with the path.
        FileNotFoundError: When it does not exist.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}). It was cut short or is of another kind: fetch it again."
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _cannot_write(path: Path, error: OSError) -> OSError:
    message = (
        f"Cannot write {path}: {error.strerror or error}. Free some space or choose a folder that can be written."
    )
    return type(error)(error.errno, message) if error.errno else OSError(message)
