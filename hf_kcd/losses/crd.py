"""Contrastive representation distillation: telling a point from others (Tian et al., 2020)."""

from torch import Tensor

from .common import widen

_EPSILON = 1e-7
# Scores below this count as this: where they underflow, the loss stays finite.
_LEAST_SCORE = 1e-30


def crd_loss(student_scores: Tensor, teacher_scores: Tensor, num_points: int) -> Tensor:
    """Compute the noise-contrastive loss, summed over the K negatives and averaged over the batch, and add both sides.

    One side is -log(P_0 / (P_0 + K/N + 1e-7)) - sum_k log((K/N) / (P_k + K/N + 1e-7)).

    Args:
        student_scores, teacher_scores: P = exp(m . e / tau) / Z of one network's embedding with the other's memory,
            [B, K + 1], the own point first, K at least 1. Both receive a gradient, for the projection of each side.
            Compute them in float32: exp(1 / 0.07) is beyond half precision.
        num_points: N, of the whole training set.

    Returns:
        A scalar.

    Source: Tian et al., "Contrastive Representation Distillation", ICLR 2020, Eq. 18, and the authors' code.
    """
    if student_scores.shape != teacher_scores.shape or student_scores.ndim != 2 or student_scores.shape[1] < 2:
        shapes = f"{list(student_scores.shape)} and {list(teacher_scores.shape)}"
        raise ValueError(f"Scores have shapes {shapes}. Both must be [B, K + 1], K >= 1.")
    if num_points < 1:
        raise ValueError(f"num_points is {num_points}. Give the number of points of the whole training set.")
    student, teacher = widen(student_scores, teacher_scores)
    return _contrast(student, num_points) + _contrast(teacher, num_points)


def _contrast(scores: Tensor, num_points: int) -> Tensor:
    noise = (scores.shape[1] - 1) / num_points
    positive = ((noise + _EPSILON) / scores[:, 0].clamp_min(_LEAST_SCORE)).log1p()
    negatives = ((scores[:, 1:] + _EPSILON) / noise).log1p()
    return (positive + negatives.sum(1)).mean()
