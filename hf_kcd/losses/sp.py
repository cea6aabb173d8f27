"""Similarity-preserving distillation: which points of a batch are similar (Tung and Mori, 2019)."""

from torch import Tensor

from .common import product, unit, widen


def sp_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Compute ||G_t - G_s||_F^2 / B^2, G the products of the points' features, its rows divided by their length.

    Args:
        student_feature, teacher_feature: [B, ...], maps or embeddings of any shapes.

    Returns:
        A scalar; 0 for one point.

    Source: Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019.
    """
    shapes = list(student_feature.shape), list(teacher_feature.shape)
    if min(map(len, shapes)) < 2 or shapes[0][0] != shapes[1][0]:
        raise ValueError(f"Features have shapes {shapes[0]} and {shapes[1]}. Both must be [B, ...], B the same.")
    student, teacher = widen(student_feature.flatten(1), teacher_feature.detach().flatten(1))
    return (_similarity(student) - _similarity(teacher)).square().mean()


def _similarity(feature: Tensor) -> Tensor:
    return unit(product(feature, feature.mT))
