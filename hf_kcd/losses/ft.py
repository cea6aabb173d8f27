"""Factor transfer: a paraphrase of the teacher's last map, translated from the student's (Kim et al., 2018)."""

from torch import Tensor
from torch.nn import functional as F

from .common import match_maps, unit


def ft_loss(student_factor: Tensor, teacher_factor: Tensor, *, channel_mean: bool = True) -> Tensor:
    """Compute the mean absolute difference of the normalized factors.

    Args:
        student_factor: [B, C_s, H, W], from the translator.
        teacher_factor: [B, C_t, H', W'], from the paraphraser. The larger is average-pooled.
        channel_mean: True takes the mean of squares over the channels before normalizing, as in the code of the published
            tables, whose weight is 200; False normalizes the whole factor, as in the paper, and needs equal channels.

    Returns:
        A scalar.

    Source: Kim et al., "Paraphrasing Complex Network: Network Compression via Factor Transfer", NeurIPS 2018, with p = 1.
    """
    factors = match_maps(student_factor, teacher_factor, "factor", same_channels=not channel_mean)
    student, teacher = (unit((f.square().mean(1) if channel_mean else f).flatten(1)) for f in factors)
    return F.l1_loss(student, teacher)
