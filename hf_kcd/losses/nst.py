"""Neuron selectivity transfer: the distribution of the channels' activation patterns (Huang and Wang, 2017)."""

from collections.abc import Sequence

from torch import Tensor

from .common import match_stages, product, total, unit


def nst_loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """Compute the squared maximum mean discrepancy between the channels of both networks, summed over the network stages.

    The kernel is polynomial, (a . b)^2 on channel maps of unit length; the mean is over batch and pairs of channels.

    Args:
        student_features: Maps [B, C_s, H, W], from shallow to deep.
        teacher_features: As many maps [B, C_t, H', W']. The larger map of a pair is average-pooled first.

    Returns:
        A scalar.

    Source: Huang and Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017, polynomial
    kernel with d = 2, c = 0.
    """
    pairs = match_stages(student_features, teacher_features)
    return total([_discrepancy(unit(student.flatten(2)), unit(teacher.flatten(2))) for student, teacher in pairs])


def _discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    num_student, num_teacher, positions = student.shape[1], teacher.shape[1], student.shape[2]
    # The mean of (a . b)^2 over channels is a product of both networks' [HW, HW] matrices of second moments: the discrepancy
    # is their squared distance. With more positions than channels, pairs of channels cost less.
    if positions * (num_student + num_teacher) <= num_student**2 + num_teacher**2 + num_student * num_teacher:
        return (_moments(student) - _moments(teacher)).square().sum((1, 2)).mean()
    return _kernel(student, student) + _kernel(teacher, teacher) - 2 * _kernel(student, teacher)


def _moments(channels: Tensor) -> Tensor:
    return product(channels.mT, channels) / channels.shape[1]


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return product(first, second.mT).square().mean()
