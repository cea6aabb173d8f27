"""Probabilistic knowledge transfer: the probability of choosing one point next to another (Passalis and Tefas, 2018)."""

from torch import Tensor

from .common import check_embeddings, product, unit, widen

# Keeps the logarithm finite for opposite embeddings, with probability 0; the authors' value.
_EPSILON = 1e-7


def pkt_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Compute the mean over i, j of p_t log(p_t / p_s), p_ij the cosine similarity (1 + cos) / 2, rows summing to 1.

    Args:
        student_embedding, teacher_embedding: [B, D_s] and [B, D_t].

    Returns:
        A scalar: the mean over B^2 entries, to which the weight of 30,000 belongs; 0 for one point.

    Source: Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018,
    with the cosine kernel; 1e-7 in the logarithm and the mean over B^2 as in the authors' code.
    """
    check_embeddings(student_embedding, teacher_embedding)
    student, teacher = map(_probabilities, widen(student_embedding, teacher_embedding.detach()))
    return (teacher * ((teacher + _EPSILON) / (student + _EPSILON)).log()).mean()


def _probabilities(embedding: Tensor) -> Tensor:
    directions = unit(embedding)
    # Rounding may leave a cosine below -1, and a probability below 0.
    similarity = ((product(directions, directions.mT) + 1) / 2).clamp_min(0)
    return similarity / similarity.sum(1, keepdim=True)
