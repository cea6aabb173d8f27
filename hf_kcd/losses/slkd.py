"""SLKD: learning from a teacher and from self-learning teachers, which learn at the same time (Liu et al., 2023)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .common import check_labels, check_logits, check_temperature, divergence, soften
from .kd import cross_entropy_loss, kd_loss


def slkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    self_learning_logits: Sequence[Tensor],
    labels: Tensor,
    alpha: float = 0.1,
    temperature: float = 4.0,
    fusion: float | Sequence[float] = 0.5,
    teacher_weight: float = 1.0,
    self_learning_weight: float = 3.0,
) -> Tensor:
    """Compute the student's total, lambda L(T, S) + eta L(SL, S), each L = alpha CE + (1 - alpha) T^2 KL.

    The self-learning teachers' softened probabilities are fused into one target, rho p_1 + (1 - rho) p_2.

    Args:
        student_logits, teacher_logits: [B, C].
        self_learning_logits: [B, C] for each self-learning teacher, at least one; receive no gradient from here.
        labels: [B] int64.
        alpha: Weight of the cross-entropy inside each loss; not in the paper, 0.1 is the field's.
        temperature: tau, above 0.
        fusion: rho, the first one's weight of two, or the weights of all, with sum 1; ignored for one. Not in the paper.
        teacher_weight, self_learning_weight: lambda and eta.

    Returns:
        A scalar.

    Source: Liu et al., "Improving Knowledge Distillation via Transferring Learning Ability", 2023, Eq. 1, 3, 6, 7. The
    text fuses probabilities, Eq. 6 outputs: here probabilities. T^2 is Hinton's; the paper does not mention it.
    """
    weights = _fusion_weights(fusion, len(self_learning_logits))
    for logits in self_learning_logits:
        check_logits(student_logits, logits)
    check_labels(labels, len(student_logits))
    check_temperature(temperature)
    from_teacher = kd_loss(student_logits, teacher_logits, temperature)
    # In logarithms, so that no probability underflows.
    weighted = zip(self_learning_logits, weights, strict=True)
    logs = [soften(logits.detach(), temperature) + math.log(weight) for logits, weight in weighted if weight > 0]
    from_self_learning = divergence(soften(student_logits, temperature), torch.stack(logs).logsumexp(0), temperature)
    cross_entropy = (teacher_weight + self_learning_weight) * alpha * cross_entropy_loss(student_logits, labels)
    return cross_entropy + (1 - alpha) * (teacher_weight * from_teacher + self_learning_weight * from_self_learning)


def _fusion_weights(fusion: float | Sequence[float], number: int) -> list[float]:
    if number == 0:
        raise ValueError("No logits of a self-learning teacher were given. Give at least one's; the paper has two.")
    weights = list(fusion) if isinstance(fusion, Sequence) else [fusion, 1 - fusion] if number > 1 else [1.0]
    if len(weights) != number or min(weights) < 0 or not math.isclose(sum(weights), 1, rel_tol=1e-6):
        raise ValueError(f"fusion is {fusion}. Give {number} weights, none negative, adding up to 1.")
    return weights
