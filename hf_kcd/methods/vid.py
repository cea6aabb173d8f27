"""VID: the teacher's maps are likely under Gaussians that the student predicts."""

import math

import torch
from torch import Tensor, nn

from ..losses import vid_loss
from ..models import ModelOutputs
from .base import Batch, register_method
from .stages import StageMethod

_FIRST_VARIANCE = 5.0
_LEAST_VARIANCE = 1e-5


@register_method("vid")
class VID(StageMethod):
    """CE + the mean of ((mu(f_s) - f_t)^2 / s^2 + log s^2) / 2, summed over the network stages; it may be negative.

    mu is three 1x1 convolutions of the teacher's width, s^2 a variance per channel; both train. A larger student's map is
    pooled after mu (RepDistiller pools before it; in no published pair is the student's map larger).
    """

    paper = "Ahn et al., CVPR 2019"

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.means = nn.ModuleList(_mean_network(ours.channels, theirs.channels) for ours, theirs in self.pairs)
        # The variance is softplus of this plus the least variance.
        first = math.log(math.expm1(_FIRST_VARIANCE - _LEAST_VARIANCE))
        self.log_scales = nn.ParameterList(torch.full((theirs.channels,), first) for _, theirs in self.pairs)

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        predictions = zip(self.means, self.log_scales, *self.stages(student, teacher), strict=True)
        return sum(vid_loss(mean(ours), log_scale, theirs) for mean, log_scale, ours, theirs in predictions)


def _mean_network(in_channels: int, out_channels: int) -> nn.Sequential:
    widths = in_channels, out_channels, out_channels
    first, second, third = (nn.Conv2d(width, out_channels, 1, bias=False) for width in widths)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
