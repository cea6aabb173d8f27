"""VID: the teacher's maps are likely under Gaussians that the student predicts (Ahn et al., CVPR 2019)."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..losses import vid_loss
from ..models import ModelOutputs, ModelSpec
from .base import Batch
from .pairing import pair_stages, select_maps
from .registry import register_method
from .term import TermMethod

_FIRST_VARIANCE = 5.0
_LEAST_VARIANCE = 1e-5


@register_method("vid")
class VID(TermMethod):
    """CE + 1 x the mean of ((mu(f_s) - f_t)^2 / s^2 + log s^2) / 2, summed over the stages; it may be negative.

    mu is three 1x1 convolutions of the teacher's width, s^2 one variance for each channel; both are trained. A student's
    map that is the larger is pooled behind mu (before it in RepDistiller's code; in no published pair is it larger).

    Args:
        student, teacher, num_points: As in `TermMethod`.
        weight: Weight of the likelihoods.
        **class_weights: What `TermMethod` takes besides.
    """

    student_reads = frozenset({"logits", "features"})
    teacher_reads = frozenset({"logits", "features"})

    def __init__(
        self,
        student: ModelSpec,
        teacher: ModelSpec,
        num_points: int,
        *,
        weight: float = 1.0,
        **class_weights: Any,
    ) -> None:
        super().__init__(student, teacher, num_points, weight=weight, **class_weights)
        self.pairs = pair_stages(student, teacher)
        self.means = nn.ModuleList(_mean_network(ours.channels, theirs.channels) for ours, theirs in self.pairs)
        # softplus of it and the least variance make the first variance.
        first = math.log(math.expm1(_FIRST_VARIANCE - _LEAST_VARIANCE))
        self.log_scales = nn.ParameterList(torch.full((theirs.channels,), first) for _, theirs in self.pairs)

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        maps = zip(*select_maps(self.pairs, student.features, teacher.features), strict=True)
        predictions = zip(self.means, self.log_scales, maps, strict=True)
        return sum(vid_loss(mean(ours), log_scale, theirs) for mean, log_scale, (ours, theirs) in predictions)


def _mean_network(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 1, bias=False),
    )
