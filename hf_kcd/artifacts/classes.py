"""The classes of two things that meet (data sets, networks, masks, soft labels): their names are compared here."""

import logging
import re
from collections.abc import Sequence

Names = Sequence[str]

_logger = logging.getLogger(__name__)
_NUM_SHOWN = 8
# Names that only count: 0, 1, 2, or LABEL_0 of transformers.
_COUNTED = re.compile(r"(?:LABEL_)?(\d+)")


def class_positions(names: Names | None, wanted: Names | None, who: str, whose: str) -> list[int] | None:
    """Find each class of `wanted` among `names`, both in the order of their labels.

    With the result, `logits[:, positions]` brings logits over `names` into the order of `wanted`, and `positions[label]`
    turns a label of `wanted` into one of `names`.

    Args:
        names, wanted: Names of the classes; None where there are none.
        who, whose: What has these names, for messages ("teacher", "training set").

    Returns:
        One position for each class of `wanted`. None where nothing is to do: equal lists, or one that is missing or only
        counts (0, 1, 2, or LABEL_0), whose order is then assumed to be the other's; a line of the log says so.

    Raises:
        ValueError: When the names differ by more than their order, with both lists.
    """
    if names is None and wanted is None:
        return None
    if names is not None and wanted is not None:
        own, others = _by_number(names, wanted)
        if own == others:
            return None
        if len(own) == len(set(own)) == len(others) and set(own) == set(others):
            _logger.info("The %s has the classes of the %s in another order: they are matched by name.", who, whose)
            place = {name: position for position, name in enumerate(own)}
            return [place[name] for name in others]
        if len(names) != len(wanted) or not (_only_count(names) or _only_count(wanted)):
            raise ValueError(_difference(names, wanted, who, whose))
    unnamed, named = (who, whose) if names is None or (wanted is not None and _only_count(names)) else (whose, who)
    _logger.warning(
        "The %s has no class names: its classes are assumed to be in the order of the %s.",
        unnamed,
        f"{named} ({_shortened(wanted if unnamed == who else names)})",
    )
    return None


def _by_number(*lists: Names) -> list[list[str | int]]:
    """The names as they are; as numbers where all are: sorted as words, 10 comes before 2, and LABEL_2 means 2."""
    found = [[_COUNTED.fullmatch(name) for name in names] for names in lists]
    if all(all(matches) for matches in found):
        return [[int(match[1]) for match in matches if match] for matches in found]
    return [list(names) for names in lists]


def _only_count(names: Names) -> bool:
    """Whether names are no more than the numbers of the classes, in their order."""
    found = [_COUNTED.fullmatch(name) for name in names]
    return all(match and int(match[1]) == number for number, match in enumerate(found))


def _difference(names: Names, wanted: Names, who: str, whose: str) -> str:
    lists = f"{who} {len(names)} ({_shortened(names)}), {whose} {len(wanted)} ({_shortened(wanted)})"
    sides = {
        who: [name for name in names if name not in wanted],
        whose: [name for name in wanted if name not in names],
    }
    only = [f"Only the {side} has {_shortened(own)}. " for side, own in sides.items() if own]
    fault = "".join(only) or "A name occurs twice. "
    names_are_in = "label_names of a network's config.json or pretrained_cfg, ClassLabel of a data set"
    return (
        f"Classes differ: {lists}. {fault}Take what was made for these classes, or correct the names ({names_are_in})."
    )


def _shortened(names: Names) -> str:
    return ", ".join(names[:_NUM_SHOWN]) + (", …" if len(names) > _NUM_SHOWN else "")
