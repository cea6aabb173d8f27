"""Activation boundaries: which neurons are on, with a margin (Heo et al., 2019)."""

from collections.abc import Sequence

from torch import Tensor

from .common import match_stages


def ab_loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], margin: float = 1.0) -> Tensor:
    """Compute the squared hinge by which the student's pre-activations miss the teacher's signs, over the network stages.

    An entry costs max(m + s, 0)^2 if the teacher's is not above 0, and max(m - s, 0)^2 otherwise. The sum over channels
    and positions, averaged over the batch, counts 3/1000; a stage counts half of the next deeper one.

    Args:
        student_features: Pre-activations [B, C, H, W] or [B, C], from shallow to deep, through their connectors.
        teacher_features: As many, of the same channels. The larger map of a pair is average-pooled first.
        margin: m, not negative.

    Returns:
        A scalar.

    Source: Heo et al., "Knowledge Transfer via Distillation of Activation Boundaries", AAAI 2019; weights of RepDistiller.
    """
    losses = []
    for student, teacher in match_stages(student_features, teacher_features, same_channels=True):
        missed = (margin + student.where(teacher <= 0, -student)).clamp_min(0)
        losses.append(missed.square().sum((1, 2, 3)).mean())
    return 3 / 1000 * sum(loss / 2 ** (len(losses) - 1 - stage) for stage, loss in enumerate(losses))
