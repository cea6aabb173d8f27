"""One run a folder: while a process trains into a folder, another one is refused."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from .files import read_json, sweep_temporaries, write_json

_LOCK_NAME, _OWNER_NAME = ".lock", ".running.json"


class FolderInUse(ValueError):
    """Another process trains into the folder."""


@contextmanager
def hold_folder(folder: str | Path) -> Iterator[None]:
    """Hold a run's folder for this process until the block ends.

    The system releases the folder of a process that dies, also by SIGKILL. What a dead process left half written goes.

    Raises:
        FolderInUse: When another process holds it; the message names its host, process and start.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # One lock a path in this process: a trainer holds the folder again inside a command that holds it.
    lock = FileLock(folder / _LOCK_NAME, timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise FolderInUse(
            f"{folder} is in use: {_owner(folder)} trains into it. Choose another output_dir, or stop that run."
        ) from None
    try:
        if lock.lock_counter == 1:
            sweep_temporaries(folder)
            started = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(
                folder / _OWNER_NAME, {"host": socket.gethostname(), "process": os.getpid(), "started": started}
            )
        yield
    finally:
        if lock.lock_counter == 1:
            # The folder may be gone, which another error tells.
            with suppress(OSError):
                (folder / _OWNER_NAME).unlink()
        lock.release()


def state_of(folder: str | Path) -> str:
    """Say in a few words what an unfinished run is doing: running, with its process, or interrupted."""
    folder = Path(folder)
    if not folder.is_dir():
        return "there is no such folder"
    lock = folder / _LOCK_NAME
    if lock.is_file():
        try:
            with FileLock(lock, timeout=0, is_singleton=False):
                pass
        except Timeout:
            return f"the run still goes on ({_owner(folder)})"
    if any(folder.glob("checkpoint-*")):
        return "the run was interrupted: add --resume to its command to go on"
    return "the run is not finished, or its folder is another one"


def _owner(folder: Path) -> str:
    try:
        owner = read_json(folder / _OWNER_NAME)
        return f"process {owner['process']} on {owner['host']}, since {owner['started']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
