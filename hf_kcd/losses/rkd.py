"""Relational knowledge distillation: distances and angles between the points of a batch (Park et al., 2019)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .common import check_embeddings, product, unit, widen

# Smaller squared distances count as this and give no gradient.
_LEAST_SQUARED_DISTANCE = 1e-12


def rkd_loss(
    student_embedding: Tensor, teacher_embedding: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> Tensor:
    """Compute the smooth L1 differences of distances, in units of their batch mean, and of angles of triplets, weighted.

    Args:
        student_embedding, teacher_embedding: [B, D_s] and [B, D_t].
        distance_weight: Weight of the mean over the B^2 pairs.
        angle_weight: Weight of the mean over the B^3 cosines. Memory is B^2 (B + D) numbers a side.

    Returns:
        A scalar; 0 for one point.

    Source: Park et al., "Relational Knowledge Distillation", CVPR 2019; means as in the authors' code.
    """
    check_embeddings(student_embedding, teacher_embedding)
    student, teacher = widen(student_embedding, teacher_embedding.detach())
    distances, angles = map(F.smooth_l1_loss, _relations(student), _relations(teacher))
    return distance_weight * distances + angle_weight * angles


def _relations(embedding: Tensor) -> tuple[Tensor, Tensor]:
    # Direct differences, not products: equal rows are then exactly 0 apart.
    differences = embedding[None] - embedding[:, None]
    distances = differences.square().sum(-1).clamp_min(_LEAST_SQUARED_DISTANCE).sqrt()
    num_points = len(embedding)
    distances = distances * (1 - torch.eye(num_points, dtype=distances.dtype, device=distances.device))
    mean = distances.sum() / max(num_points * (num_points - 1), 1)
    directions = unit(differences)
    # A single point has no distance to others: the mean is 0.
    return distances / mean.clamp_min(_LEAST_SQUARED_DISTANCE**0.5), product(directions, directions.mT)
