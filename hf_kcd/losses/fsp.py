"""Flow of solution procedure: the flow from one network stage's channels to the next one's (Yim et al., 2017)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor
from torch.nn import functional as F

from .common import as_map, check_counts, check_maps, product, same_size, total, widen


def fsp_loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """Compute the mean squared difference of the flow matrices of consecutive network stages, summed over the pairs.

    A flow matrix is the mean over positions of the products of two stages' channels; the larger of the two maps is
    average-pooled to the smaller.

    Args:
        student_features: At least two maps [B, C, H, W] or vectors [B, C], from shallow to deep.
        teacher_features: As many maps, of the same channels and any size.

    Returns:
        A scalar.

    Source: Yim et al., "A Gift from Knowledge Distillation", CVPR 2017, Eq. 1-2.
    """
    check_counts(student_features, teacher_features)
    if len(student_features) < 2:
        raise ValueError("One map was given. The flow goes from one stage to the next: give at least two.")
    for stage, (student, teacher) in enumerate(zip(student_features, teacher_features, strict=True)):
        check_maps(student, teacher, f"stage {stage}", same_channels=True)
    flows = zip(_flows(student_features), _flows([feature.detach() for feature in teacher_features]), strict=True)
    return total([F.mse_loss(student, teacher) for student, teacher in (widen(*pair) for pair in flows)])


def _flows(features: Sequence[Tensor]) -> list[Tensor]:
    features = widen(*map(as_map, features))
    return [_flow(*same_size(*pair)) for pair in pairwise(features)]


def _flow(lower: Tensor, upper: Tensor) -> Tensor:
    return product(upper.flatten(2), lower.flatten(2).mT) / (lower.shape[2] * lower.shape[3])
