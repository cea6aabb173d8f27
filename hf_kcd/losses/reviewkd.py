"""The hierarchical context loss of knowledge review (Chen et al., 2021)."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from .common import match_stages, total


def hcl_loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """Compute the mean squared difference of maps at their own size and pooled to 4, 2 and 1, summed over the network stages.

    The coarser levels have weights 1/2, 1/4, 1/8 and exist if the map is larger; the weights of a stage are normalized to 1.

    Args:
        student_features: Fused maps [B, C, H, W] or vectors [B, C], from shallow to deep.
        teacher_features: As many, of the same channels. The larger map of a pair is average-pooled first.

    Returns:
        A scalar.

    Source: Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021; weights as in the authors' code.
    """
    pairs = match_stages(student_features, teacher_features, same_channels=True)
    return total([_hierarchy(student - teacher) for student, teacher in pairs])


def _hierarchy(difference: Tensor) -> Tensor:
    # Pooling is linear, so pooling the difference is enough.
    loss, weight, total = difference.square().mean(), 1.0, 1.0
    for size in (4, 2, 1):
        if size < min(difference.shape[2:]):
            weight /= 2
            total += weight
            loss = loss + weight * F.adaptive_avg_pool2d(difference, size).square().mean()
    return loss / total
