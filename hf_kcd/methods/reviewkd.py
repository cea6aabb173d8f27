"""ReviewKD: every stage of the student, fused with the deeper ones, matches the teacher's."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..losses import hcl_loss
from ..models import ModelOutputs
from .adapters import AdapterNorm
from .base import Batch, check_weights, register_method, warm_up
from .stages import StageMethod


@register_method("reviewkd")
class ReviewKD(StageMethod):
    """CE + 5 min(epoch / 20, 1) x the hierarchical context loss of the fused stages and the embedding.

    The student's features are compared with the teacher's pre-activations, as in the authors' code. Per pair on CIFAR-100
    the weight is 5 for the pairs of wrn_40_2 and resnet32x4, but 8 for resnet32x4 -> shufflenetv2; 0.6 for resnet56 ->
    resnet20; 1 for resnet110 -> resnet32 and on ImageNet, which has no warm-up. The epoch counts with its fraction.

    Args:
        warmup_epochs: Epochs in which the weight rises from 0; 0 for none.
        max_fusion_channels: Most channels of the fused maps; they have as many as the student's embedding.
    """

    paper = "Chen et al., CVPR 2021"
    student_reads = frozenset({"logits", "embedding", "features"})
    teacher_reads = frozenset({"logits", "embedding", "preactivations"})
    weight = 5.0

    def __init__(self, *args, warmup_epochs: float = 20.0, max_fusion_channels: int = 512, **options) -> None:
        super().__init__(*args, **options)
        check_weights(warmup_epochs=warmup_epochs)
        self.warmup_epochs = warmup_epochs
        ours, theirs = self.student_spec.embedding_dim, self.teacher_spec.embedding_dim
        width = min(max_fusion_channels, ours)
        self.fusions = nn.ModuleList(Fusion(one.channels, width, other.channels, True) for one, other in self.pairs)
        self.fusions.append(Fusion(ours, width, theirs, False))

    def ramp(self) -> float:
        return warm_up(self.epoch, self.warmup_epochs)

    def term(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> Tensor:
        # The embedding is the deepest level.
        networks = zip(self.stages(student, teacher), (student, teacher), strict=True)
        ours, theirs = ([*maps, out.embedding[:, :, None, None]] for maps, out in networks)
        reviewed, deeper = [], None
        for fusion, one, other in reversed(list(zip(self.fusions, ours, theirs, strict=True))):
            output, deeper = fusion(one, deeper, other.shape[2:])
            reviewed.insert(0, output)
        return hcl_loss(reviewed, theirs)


class Fusion(nn.Module):
    """Fuses a map with the deeper fused map, by two attention maps, and brings the result to the teacher's shape."""

    def __init__(self, in_channels: int, width: int, out_channels: int, has_deeper: bool) -> None:
        super().__init__()
        self.reduce = _convolution(in_channels, width, 1)
        self.attention = nn.Conv2d(2 * width, 2, 1) if has_deeper else None
        self.expand = _convolution(width, out_channels, 3)

    def forward(self, x: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Return the map to compare, [B, out_channels, *size], and the fused map, [B, width, *size], of x and the deeper."""
        x = self.reduce(x)
        if self.attention is not None:
            deeper = _resized(deeper, x.shape[2:])
            attention = self.attention(torch.cat([x, deeper], 1)).sigmoid()
            x = attention[:, :1] * x + attention[:, 1:] * deeper
        fused = _resized(x, size)
        return self.expand(fused), fused


def _convolution(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, AdapterNorm(out_channels))


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    if size[0] < x.shape[2]:
        return F.adaptive_avg_pool2d(x, size)
    return x if x.shape[2:] == size else F.interpolate(x, size, mode="nearest")
