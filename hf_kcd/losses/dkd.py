"""Decoupled knowledge distillation: the target class and the others weighted separately (Zhao et al., 2022)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .common import check_labels, check_logits, check_temperature, divergence, scale_logits


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """Compute alpha * TCKD + beta * NCKD, each times T^2 and averaged over the batch.

    TCKD is the divergence of the pairs (p_y, 1 - p_y), NCKD that of the softmax over the other classes, 0 with two classes.

    Args:
        student_logits, teacher_logits: [B, C], C at least 2.
        labels: [B] int64.
        alpha, beta: Weights of the target class and of the others; on CIFAR-100 beta is 8, 6 or 2 by pair.
        temperature: T, above 0.

    Returns:
        A scalar, finite for finite logits.

    Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, Eq. 7.
    """
    check_logits(student_logits, teacher_logits)
    num_rows, num_classes = student_logits.shape
    if num_classes < 2:
        raise ValueError("Logits have one class. Decoupling needs another class than the label's: give at least two.")
    check_labels(labels, num_rows)
    check_temperature(temperature)

    label = labels[:, None]
    others = torch.arange(num_classes - 1, device=labels.device)
    others = others + (others >= label)

    def decouple(logits: Tensor) -> tuple[Tensor, Tensor]:
        scaled = scale_logits(logits, temperature)
        rest = scaled.gather(1, others)
        # p_y = sigmoid(lead): both of the pair stay exact if one of them underflows.
        lead = scaled.gather(1, label) - rest.logsumexp(1, keepdim=True)
        return F.logsigmoid(torch.cat([lead, -lead], 1)), rest.log_softmax(1)

    student, teacher = decouple(student_logits), decouple(teacher_logits.detach())
    target, other = (divergence(ours, theirs, temperature) for ours, theirs in zip(student, teacher, strict=True))
    return alpha * target + beta * other
