"""Errors and warnings with one wording: names that do not exist or mean two things, and numbers that are not whole."""

import difflib
import re
import warnings
from collections.abc import Iterable
from pathlib import Path


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
    nearest = near_names(name, valid)
    hint = f"Did you mean {' or '.join(repr(close) for close in nearest)}? " if nearest else ""
    return ValueError(f"Unknown {kind} {name!r}. {hint}Valid: {', '.join(valid)}.")


def near_names(name: object, valid: Iterable[str], at_most: int = 3) -> list[str]:
    """Find the names that were probably meant: a few letters away, or with all parts of the wrong one.

    Args:
        name: What was asked for.
        valid: The names that exist, those that are meant most often first.
        at_most: How many to return.

    Returns:
        The nearest first; empty when none is near.
    """
    word, valid = str(name).lower(), list(valid)
    close = difflib.get_close_matches(word, valid, n=at_most, cutoff=0.7)
    # Two swapped letters of a short name, which are too much for the cutoff: sdg.
    swapped = [other for other in valid if sorted(other.lower()) == sorted(word)]
    parts = [part for part in re.split(r"[\W_]+", word) if len(part) > 2]
    longer = [other for other in valid if parts and all(part in other.lower() for part in parts)]
    return list(dict.fromkeys([*close, *swapped, *longer]))[:at_most]


def warn_of_folder(kind: str, name: str) -> None:
    """Warn that a name which is known was taken although a file or folder is called so, too.

    Args:
        kind: What the name was taken for, in the singular ("data set", "network").
        name: The name, which wins.
    """
    if Path(name).exists():
        taken = f"{name!r} was taken for the {kind} of this name"
        warnings.warn(f"{taken}, not for what is in ./{name}: write ./{name} for that.", UserWarning, stacklevel=3)


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
