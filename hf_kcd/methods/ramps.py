"""How the weight of a loss rises over the epochs."""


def warm_up(epoch: float, warmup_epochs: float) -> float:
    """Compute the share of a weight that rises from 0 in a straight line.

    Args:
        epoch: Epochs trained so far, with fraction.
        warmup_epochs: Epochs after which it is there whole; 0 for at once.
    """
    return min(1.0, epoch / warmup_epochs) if warmup_epochs else 1.0
