"""Losses of predictions: cross-entropy, knowledge distillation (Hinton et al., 2015), mutual learning (Zhang et al., 2018)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .common import check_logits, check_temperature, divergence, soften, total


def cross_entropy_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross-entropy with the labels, averaged over the batch.

    Args:
        logits: [B, C].
        labels: [B] int64.

    Returns:
        A scalar.
    """
    return F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), labels)


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """Compute T^2 * KL(softmax(z_t / T) || softmax(z_s / T)), summed over classes and averaged over the batch.

    Args:
        student_logits, teacher_logits: [B, C].
        temperature: T, above 0. T^2 keeps the size of the gradient when T changes.

    Returns:
        A scalar, finite for finite logits.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2.
    """
    check_logits(student_logits, teacher_logits)
    check_temperature(temperature)
    return divergence(soften(student_logits, temperature), soften(teacher_logits.detach(), temperature), temperature)


def dml_loss(logits: Tensor, peer_logits: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    """Compute the mean over the other peers j of T^2 KL(p_j || p), averaged over the batch; CE is not included.

    Args:
        logits: [B, C], of the peer that learns.
        peer_logits: [B, C] for each other peer, at least one; receive no gradient.
        temperature: T, above 0; the paper's is 1.

    Returns:
        A scalar.

    Source: Zhang et al., "Deep Mutual Learning", CVPR 2018; the mean of the case of several peers.
    """
    if len(peer_logits) == 0:
        raise ValueError("No logits of a peer were given. Mutual learning needs at least one other network.")
    return total([kd_loss(logits, peer, temperature) for peer in peer_logits]) / len(peer_logits)
