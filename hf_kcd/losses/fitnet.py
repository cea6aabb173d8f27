"""Hints: the student's feature regresses the teacher's (FitNets, Romero et al., 2015)."""

from torch import Tensor
from torch.nn import functional as F

from .common import match_maps


def hint_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Compute the mean squared difference of two features.

    Args:
        student_feature: [B, C, H, W] or [B, C], the regressor's output.
        teacher_feature: [B, C, H', W'] or [B, C]. The larger map is average-pooled.

    Returns:
        A scalar: the mean over all entries, as in the published tables (the paper sums, halved).

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, Eq. 3.
    """
    return F.mse_loss(*match_maps(student_feature, teacher_feature, "feature", same_channels=True))
