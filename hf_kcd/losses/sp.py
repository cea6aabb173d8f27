"""Similarity-preserving distillation: which points of a batch are similar (Tung and Mori, 2019)."""

from torch import Tensor

from .common import product, unit, widen


def sp_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Compute ||G_t - G_s||_F^2 / B^2, G the products of the points' features, its rows divided by their length.

    Args:
        student_feature: [B, ...], a map or an embedding of any shape.
        teacher_feature: [B, ...], of any shape; receives no gradient.

    Returns:
        A scalar, float32 or float64; 0 for one point.

    Raises:
        ValueError: When the two are not of the same points.

    Source: Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019.
    """
    shapes = list(student_feature.shape), list(teacher_feature.shape)
    if min(map(len, shapes)) < 2 or shapes[0][0] != shapes[1][0]:
        raise ValueError(
            f"Student feature has shape {shapes[0]} and teacher feature {shapes[1]}. Both must be [B, ...], B the same."
        )
    student, teacher = widen(student_feature.flatten(1), teacher_feature.detach().flatten(1))
    return (_similarity(student) - _similarity(teacher)).square().mean()


def _similarity(feature: Tensor) -> Tensor:
    return unit(product(feature, feature.mT))
