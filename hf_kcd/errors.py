"""Errors with one wording in the whole package: names that do not exist, and numbers that are not whole."""

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


def whole_number(name: str, value: object, at_least: int = 1, hint: str = "") -> int:
    """Require a whole number that is large enough.

    Args:
        name: The option's name, for the error.
        value: What was given; a float such as 2.0 counts.
        at_least: The least number that is allowed.
        hint: What to add to the error.

    Raises:
        ValueError: With the name, the value and the least number.
    """
    if not isinstance(value, int | float) or not float(value).is_integer() or value < at_least:
        raise ValueError(f"{name} is {value!r}: give a whole number of at least {at_least}. {hint}".rstrip())
    return int(value)
