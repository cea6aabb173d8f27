"""Learning rates as functions of epochs, so that shrinking epochs do not shift them."""

import math
from collections.abc import Callable, Sequence

from ..errors import unknown_name

SCHEDULES = ("multistep", "cosine", "constant")


def learning_rate_factor(
    schedule: str, num_epochs: int, decay_epochs: Sequence[float], decay_rate: float, warmup_epochs: float
) -> Callable[[float], float]:
    """Return the factor on the base learning rate as a function of the epochs trained.

    "multistep" multiplies by `decay_rate` after each of `decay_epochs`, counted from 1 as in the papers; "cosine" is half a
    cosine from the end of the linear warm-up to 0 at `num_epochs`; "constant" stays.
    """
    if schedule not in SCHEDULES:
        raise unknown_name("learning rate schedule", schedule, SCHEDULES)
    if not 0 <= warmup_epochs < num_epochs:
        raise ValueError(f"warmup_epochs is {warmup_epochs}: give a number from 0 to below the {num_epochs} epochs.")
    decay_epochs = sorted(decay_epochs)
    if schedule == "multistep" and decay_epochs and not 0 < decay_epochs[0] <= decay_epochs[-1] < num_epochs:
        raise ValueError(
            f"lr_decay_epochs {decay_epochs} do not all lie inside the {num_epochs} epochs of training: give others, or leave "
            "them out to decay after 5/8, 6/8 and 7/8 of the training."
        )

    def factor(epoch: float) -> float:
        warm = min(1.0, epoch / warmup_epochs) if warmup_epochs else 1.0
        if schedule == "multistep":
            return warm * decay_rate ** sum(epoch >= decay for decay in decay_epochs)
        if schedule == "cosine":
            progress = max(0.0, epoch - warmup_epochs) / (num_epochs - warmup_epochs)
            return warm * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
        return warm

    return factor


def default_decay_epochs(num_epochs: int) -> list[float]:
    """Return the usual decay epochs, 150, 180 and 210 of 240, for another number of epochs."""
    return [num_epochs * eighths / 8 for eighths in (5, 6, 7)]
