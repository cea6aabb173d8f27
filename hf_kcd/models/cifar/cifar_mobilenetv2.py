"""The CIFAR MobileNetV2 at half width, as RepDistiller trains it.

Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", with ReLU instead of ReLU6, an expansion
convolution in the first block too, and an unscaled last convolution.
"""

from functools import partial
from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from .network import CIFAR_CFG, CifarNetwork, NetworkStage, build_network, convolution_and_norm, relu_, stem_or_tail

# Expansion, channels at full width, blocks, stride, and whether the stage's output is a feature.
_STAGES = (
    (1, 16, 1, 1, False),
    (6, 24, 2, 1, True),
    (6, 32, 3, 2, True),
    (6, 64, 4, 2, False),
    (6, 96, 3, 1, True),
    (6, 160, 3, 2, False),
    (6, 320, 1, 1, True),
)


class InvertedResidual(nn.Module):
    """A 1x1 convolution to more channels, a depthwise 3x3 one, and a linear 1x1 one back, with a shortcut if it fits."""

    def __init__(self, in_width: int, out_width: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = in_width * expansion
        self.conv1, self.bn1 = convolution_and_norm(in_width, width, 1)
        self.conv2, self.bn2 = convolution_and_norm(width, width, 3, stride, groups=width)
        self.conv3, self.bn3 = convolution_and_norm(width, out_width, 1)
        self.has_shortcut = stride == 1 and in_width == out_width

    def forward(self, x: Tensor) -> Tensor:
        out = relu_(self.bn1(self.conv1(x)))
        out = relu_(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return x + out if self.has_shortcut else out


class CifarMobileNetV2(CifarNetwork):
    """A MobileNetV2 for 32x32 images; `width` multiplies the channels of the stem and the network stages."""

    linear_std = 0.01

    def __init__(self, width: float, in_chans: int = 3, **head: Any) -> None:
        stem = stem_or_tail(1, in_chans, int(32 * width), 3, stride=2)
        stages = [
            NetworkStage(partial(InvertedResidual, expansion=expansion), number, int(base * width), *rest)
            for expansion, base, number, *rest in _STAGES
        ]
        tail = stem_or_tail(2, int(320 * width), 1280, 1)
        super().__init__(stem, stages, tail, first_stage=0, in_chans=in_chans, **head)

    def forward_stage(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run one network stage; no activation ends a block, so the output is also the pre-activation."""
        for block in getattr(self, name):
            x = self.run_block(block, x)
        return x, x


default_cfgs = generate_default_cfgs({"cifar_mobilenetv2_half": {**CIFAR_CFG, "pool_size": (2, 2)}})


@register_model
def cifar_mobilenetv2_half(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    return build_network(CifarMobileNetV2, "cifar_mobilenetv2_half", pretrained, width=0.5, **kwargs)
