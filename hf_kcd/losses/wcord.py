"""Wasserstein contrastive representation distillation, its global and its local part (Chen et al., 2021).

Both formulas are FROM MEMORY: neither the paper nor code of its authors was available. "Ours" marks our own choices.
"""

import math

import torch
from torch import Tensor

from .common import check_embeddings, product, unit, widen


def wcord_global_loss(critic_scores: Tensor, negative_weight: float | None = None) -> Tensor:
    """Compute M E[g | negative] - E[g | positive], the dual form of the Wasserstein distance with a critic g.

    Args:
        critic_scores: g of the own point first, then of M negatives, [B, M + 1]. The critic must be 1-Lipschitz (spectral
            normalization) and, unless `negative_weight` is 1, bounded: adding a constant changes the loss by (M - 1) times
            that constant, so that it could fall without end.
        negative_weight: Weight of the mean over the negatives; None for their number M, as in the paper (from memory).

    Returns:
        A scalar, which both critic and student minimize. It may be negative.

    Source: Chen et al., "Wasserstein Contrastive Representation Distillation", CVPR 2021, global contrastive transfer.
    """
    if critic_scores.ndim != 2 or critic_scores.shape[1] < 2:
        raise ValueError(f"Critic scores have shape {list(critic_scores.shape)}. Give [B, M + 1], with M at least 1.")
    (scores,) = widen(critic_scores)
    weight = scores.shape[1] - 1 if negative_weight is None else negative_weight
    return weight * scores[:, 1:].mean() - scores[:, 0].mean()


def wcord_local_loss(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    regularization: float = 0.05,
    num_iterations: int = 50,
    *,
    detach_teacher: bool = True,
) -> Tensor:
    """Compute the cost of transporting the batch's student embeddings to its teacher embeddings, the primal form.

    Moving one embedding to another costs 1 - cos. The plan comes from Sinkhorn's iterations and is a constant of the
    backward pass: at the optimum a small change of it does not change the regularized cost.

    Args:
        student_embedding, teacher_embedding: [B, D], both in the common space.
        regularization, num_iterations: Weight of the plan's entropy, above 0, in units of the cost (0 to 2), and Sinkhorn
            iterations. Both ours; a smaller weight is closer to the exact distance and needs more iterations.
        detach_teacher: False to train a projection of the teacher's embedding too.

    Returns:
        A scalar between 0 and 2.

    Source: Chen et al., "Wasserstein Contrastive Representation Distillation", CVPR 2021, local contrastive transfer;
    Cuturi, "Sinkhorn Distances", NeurIPS 2013.
    """
    check_embeddings(student_embedding, teacher_embedding, same_width=True)
    if not regularization > 0:
        raise ValueError(f"regularization is {regularization}. Give a number above 0, such as 0.05.")
    if num_iterations < 1:
        raise ValueError(f"num_iterations is {num_iterations}. Give at least 1; 50 suffice for the default.")
    student, teacher = widen(student_embedding, teacher_embedding.detach() if detach_teacher else teacher_embedding)
    cost = 1 - product(unit(student), unit(teacher).mT)
    return (_transport_plan(cost.detach(), regularization, num_iterations) * cost).sum()


def _transport_plan(cost: Tensor, regularization: float, num_iterations: int) -> Tensor:
    # In logarithms: exp(-cost / regularization) may underflow.
    gain = -cost / regularization
    log_mass = -math.log(len(cost))
    columns = torch.zeros_like(gain[0])
    for _ in range(num_iterations):
        rows = log_mass - (gain + columns).logsumexp(1)
        columns = log_mass - (gain + rows[:, None]).logsumexp(0)
    return (gain + rows[:, None] + columns).exp()
