"""UNIX: how much of another image is mixed into each image of a batch, by the rank of its uncertainty (Xu et al., 2020)."""

import torch
from torch import Tensor


def unix_mask(num_rows: int, base: int, steepness: float = 10.0, strength: float = 1.0) -> Tensor:
    """Compute the mixing weight per rank, lambda * sigmoid(w (r / n - m)) with m = (2b - 1) / (2n).

    The most uncertain image has rank 0 and is mixed least; the weight is lambda / 2 half-way between ranks b - 1 and b.
    Row r becomes (1 - mask_r) x_rank(r) + mask_r x_random(r).

    Args:
        num_rows: n, images of the batch.
        base: b, images that stay nearly unmixed, between 0 and n.
        steepness: w; towards infinity the first b stay unmixed and the others get lambda.
        strength: lambda, 0 to 1; the authors draw it from Beta(1, 1) for each batch.

    Returns:
        [n] float32, on the CPU: not decreasing, between 0 and lambda.

    Source: Xu et al., "Computation-Efficient Knowledge Distillation via Uncertainty-Aware Mixup", 2020, and its code.
    """
    if num_rows < 1 or not 0 <= base <= num_rows:
        raise ValueError(f"base is {base} of {num_rows} rows. Give at least one row, and a base up to their number.")
    if not steepness >= 0:
        raise ValueError(f"steepness is {steepness}. Give a number that is not negative; the authors' runs use 10.")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}. Give a mixing weight between 0 and 1.")
    ranks = torch.arange(num_rows, dtype=torch.float32)
    return strength * torch.sigmoid(steepness * (ranks - (2 * base - 1) / 2) / num_rows)
