"""Cross-entropy with the labels, in a precision that holds it."""

import torch
from torch.nn import functional as F


def cross_entropy_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute the cross-entropy with the labels, averaged over the batch.

    Args:
        logits: [B, C], any floating dtype; half precisions are computed in float32, float64 stays float64.
        labels: [B] int64.

    Returns:
        A scalar, float32 or float64.
    """
    return F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), labels)
