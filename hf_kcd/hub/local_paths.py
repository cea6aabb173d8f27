"""Folders of this machine, taken out of what others are to read: of a path that leads through them its last part stays."""

import re
import shlex
from typing import Any

# A folder that is most likely one of a machine, within any text: of three parts, or of two under a folder that machines have
# (`/m/01g317` is the name of a class). On the web a slash stands before it, in prose a word does.
_ROOTS = "data|datasets|etc|home|kaggle|media|mnt|nfs|opt|private|root|run|scratch|srv|tmp|Users|usr|var|Volumes|work|workspace"
MACHINE_PATH = re.compile(
    rf"""(?:^|(?<=[\s"'`=(\[{{,;:<>|]))(?:/(?:(?:{_ROOTS})/|[\w.@+-]+/[\w.@+-]+/)[^\s"'`,;)\]}}<>|]*"""
    r"""|file:/[^\s"'`]*|[A-Za-z]:\\[^\s"'`]*)"""
)
# Absolute, from the user's folder, or relative to where a command was typed; a plain `recipes/x.yaml` says nothing of a machine.
_LEADS_THROUGH_FOLDERS = re.compile(r"(?:local-dir:|file:)?(?:[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[\\/])|.*/\.\./")


def without_folders(value: Any) -> Any:
    """Take the folders of this machine out of plain JSON values.

    Args:
        value: Strings, numbers, and lists and dicts of them; a dict's "command" is read word by word.

    Returns:
        The same with the last part of each path in its place.
    """
    if isinstance(value, dict):
        return {
            key: _command(item) if key == "command" and isinstance(item, str) else without_folders(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return _last_part(value) if isinstance(value, str) else value


def _last_part(text: str) -> str:
    if _LEADS_THROUGH_FOLDERS.match(text):
        return re.split(r"[/\\]", text.rstrip("/\\"))[-1] or "."
    return MACHINE_PATH.sub(lambda found: _last_part(found[0]), text)


def _command(command: str) -> str | None:
    try:
        words = shlex.split(command)
    except ValueError:
        # No shell would take it, so nobody can type it again.
        return None
    return shlex.join(_word(word) for word in words)


def _word(word: str) -> str:
    option, sign, value = word.partition("=")
    return f"{option}={_last_part(value)}" if sign else _last_part(word)
