"""One message for every name that is not known: the name, the nearest valid ones, and all of them."""

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, name: object, valid: Iterable[str]) -> ValueError:
    """Build the error for a name that is in no registry.

    Args:
        kind: What was looked up, in the singular ("method", "value").
        name: What was asked for.
        valid: The names that exist.

    Returns:
        A `ValueError`, to be raised by the caller.
    """
    valid = sorted(valid)
    nearest = difflib.get_close_matches(str(name).lower(), valid, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(close) for close in nearest)}? " if nearest else ""
    return ValueError(f"Unknown {kind} {name!r}. {hint}Valid: {', '.join(valid)}.")
