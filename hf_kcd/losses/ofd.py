"""The overhaul of feature distillation: a partial distance to margin-rectified features (Heo et al., 2019)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .common import match_stages, widen


def ofd_loss(
    student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], margins: Sequence[Tensor]
) -> Tensor:
    """Compute the partial squared distance of the student's features to the teacher's margin-rectified ones.

    The target is max(t, m). If the teacher's neuron is off (t not above 0), a student below the target costs nothing. The
    sum over channels and positions is averaged over the batch; a stage counts half of the next deeper one. The method's
    weight (1/1000 on CIFAR, 1/10000 on ImageNet) is not included.

    Args:
        student_features: Features [B, C, H, W] or [B, C], from shallow to deep, through their connectors.
        teacher_features: As many pre-activations of the same channels. The larger map of a pair is average-pooled first.
        margins: m of each stage, [C], not positive, from `ofd_margins`.

    Returns:
        A scalar.

    Source: Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019.
    """
    pairs = match_stages(student_features, teacher_features, same_channels=True)
    shapes = [list(margin.shape) for margin in margins]
    if shapes != [[student.shape[1]] for student, _ in pairs]:
        maps = [list(student.shape) for student, _ in pairs]
        raise ValueError(f"Margins have shapes {shapes}, maps {maps}. Give one margin per channel of each stage.")
    losses = []
    for (student, teacher), margin in zip(pairs, margins, strict=True):
        target = teacher.maximum(margin.detach().to(teacher.dtype)[:, None, None])
        counts = (teacher > 0) | (student > target)
        losses.append((student - target).where(counts, 0.0).square().sum((1, 2, 3)).mean())
    return sum(loss / 2 ** (len(losses) - 1 - stage) for stage, loss in enumerate(losses))


def ofd_margins(weight: Tensor, bias: Tensor) -> Tensor:
    """Compute the margins of a teacher's channels from the batch norm before their activation.

    The margin is the mean of what the activation cuts off, for a Gaussian with the batch norm's mean b and deviation |w|:
    b - |w| phi(b / |w|) / Phi(-b / |w|). If hardly anything is cut off (Phi at most 0.001) it is -3 |w|.

    Args:
        weight, bias: w and b, [C].

    Returns:
        [C], not positive, float32 or float64, without gradient.

    Source: Heo et al., 2019; -3 |w| as in the authors' code.
    """
    deviation, mean = widen(weight.detach().abs(), bias.detach())
    ratio = mean / deviation.clamp_min(torch.finfo(deviation.dtype).tiny)
    log_below = torch.special.log_ndtr(-ratio)
    # In logarithms: far to the right density and distribution underflow, but their quotient is about b / |w|.
    hazard = (-ratio.square() / 2 - math.log(2 * math.pi) / 2 - log_below).exp()
    return torch.where(log_below > math.log(1e-3), mean - deviation * hazard, -3 * deviation)
