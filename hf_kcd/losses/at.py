"""Attention transfer: where the networks look (Zagoruyko and Komodakis, 2017)."""

from collections.abc import Sequence

from torch import Tensor

from .common import match_stages, total, unit


def at_loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """Compute the mean squared difference of normalized attention maps, summed over the network stages.

    An attention map is the mean of the squared feature over the channels, divided by its Euclidean length.

    Args:
        student_features: Maps [B, C_s, H, W], from shallow to deep.
        teacher_features: As many maps [B, C_t, H', W']. The larger map of a pair is average-pooled first.

    Returns:
        A scalar: the mean over batch and positions, as in the published tables (the paper takes lengths of differences).

    Source: Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, Eq. 2.
    """
    pairs = match_stages(student_features, teacher_features)
    return total([(_attention(student) - _attention(teacher)).square().mean() for student, teacher in pairs])


def _attention(feature: Tensor) -> Tensor:
    return unit(feature.square().mean(1).flatten(1))
