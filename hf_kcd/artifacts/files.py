"""Files that are either whole or absent: written under a temporary name, then renamed."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

# Read once: reading sets it for a moment, also for other threads.
os.umask(_UMASK := os.umask(0o077))
# Names of what is being written end so. Only a process that was killed leaves one behind.
_SUFFIX = ".hf_kcd_part"
_ALMOST_FULL = 2**24  # bytes
_ARCHIVE = ("inline_container", "PytorchStreamWriter", "iostream")
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces it when the block ends without an error."""
    path = Path(path)
    with _write_errors(path):
        handle, name = tempfile.mkstemp(_SUFFIX, f".{path.name}.", path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_UMASK)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which replaces it whole when the block ends without an error."""
    path = Path(path)
    with _write_errors(path):
        temporary = Path(tempfile.mkdtemp(_SUFFIX, f".{path.name}.", path.parent))
        try:
            os.chmod(temporary, 0o777 & ~_UMASK)
            yield temporary
            if path.exists():
                old = Path(tempfile.mkdtemp(_SUFFIX, f".{path.name}.old.", path.parent))
                os.replace(path, old / "old")
                os.replace(temporary, path)
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def refuse_links(folder: str | Path, names: Iterable[str]) -> None:
    """Refuse files below a folder that are links or lie behind one: they may lead to files that are not the folder's."""
    for name in names:
        path = Path(folder)
        for part in Path(name).parts:
            path = path / part
            if path.is_symlink():
                raise ValueError(f"{path} is a link, which is not followed: put the file itself there.")


def sweep_temporaries(folder: str | Path) -> None:
    """Remove what killed processes left half written in a folder and below; nobody else may be writing there."""
    for path in Path(folder).rglob(f".*{_SUFFIX}"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN and infinities are a ValueError."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | Path, name: str | None = None) -> Any:
    """Read a JSON file, which errors call `name`, by default its path; anything else is a ValueError."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    # ValueError includes bytes that are not text, and integers of thousands of digits; RecursionError is deep nesting.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name or path} is not a JSON file ({error}): make or fetch it again.") from error


def sha256_of(path: str | Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors and string metadata as one safetensors file, whole or not at all; tied ones under each of their names."""
    with atomic_file(path) as temporary:
        plain: dict[str, torch.Tensor] = {}
        written = set()
        for name, tensor in tensors.items():
            values = tensor.detach().cpu().contiguous()
            # The format refuses shared memory, and every reader expects every name.
            plain[name] = values.clone() if values.untyped_storage().data_ptr() in written else values
            written.add(plain[name].untyped_storage().data_ptr())
        try:
            save_file(plain, temporary, metadata=dict(metadata or {}))
        except SafetensorError as error:
            raise OSError(str(error)) from error


def load_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors by name, on the CPU, and its metadata; a damaged one is a ValueError."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}): fetch it again.") from error


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        message = f"Cannot write {path}: {error.strerror or error}. {advice_on(error, path.parent)}".rstrip()
        raise type(error)(error.errno, message) if error.errno else OSError(message) from error


def is_write_error(error: BaseException) -> bool:
    """Return whether an error comes from the file system; torch.save reports those as RuntimeErrors of its archive."""
    return isinstance(error, OSError) or any(word in str(error) for word in _ARCHIVE)


def advice_on(error: BaseException, folder: str | Path) -> str:
    """Say what to do about an error of writing into a folder, where its cause is known; empty otherwise."""
    code = error.errno if isinstance(error, OSError) else None
    # safetensors gives the system's words alone, and torch.save not even those: then the disk itself says.
    full = os.strerror(errno.ENOSPC) in str(error) or code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if code is None and not full and is_write_error(error) and Path(folder).is_dir():
        full = shutil.disk_usage(folder).free < _ALMOST_FULL
    if full:
        return "Free some space, or choose a folder on another disk."
    if code in _NOT_WRITABLE:
        return "Choose a folder that can be written."
    return ""
