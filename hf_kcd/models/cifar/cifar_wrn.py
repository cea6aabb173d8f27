"""The CIFAR wide ResNets: pre-activation blocks in three network stages, as RepDistiller trains them.

Zagoruyko and Komodakis, "Wide residual networks", section 2, without dropout.
"""

from typing import Any

import torch.nn.functional as F
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from .network import CIFAR_CFG, CifarNetwork, NetworkStage, build_network, convolution, relu_


class PreActivationBlock(nn.Module):
    """Normalization and ReLU before each of two 3x3 convolutions; a shortcut convolution starts after the first ReLU."""

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = convolution(in_width, out_width, 3, stride)
        self.bn2 = nn.BatchNorm2d(out_width)
        self.conv2 = convolution(out_width, out_width, 3)
        self.shortcut = None
        if stride != 1 or in_width != out_width:
            self.shortcut = convolution(in_width, out_width, 1, stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the output, and the normalized input: the pre-activation of the stage before."""
        normalized = self.bn1(x)
        activated = F.relu(normalized)
        out = self.conv2(relu_(self.bn2(self.conv1(activated))))
        return out + (x if self.shortcut is None else self.shortcut(activated)), normalized


class CifarWideResNet(CifarNetwork):
    """A wide ResNet of 6n + 4 layers for 32x32 images; `width` multiplies the channels 16, 32, 64 of its network stages."""

    def __init__(self, depth: int, width: int, in_chans: int = 3, **head: Any) -> None:
        stem, tail = {"conv1": convolution(in_chans, 16, 3)}, {"bn1": nn.BatchNorm2d(64 * width)}
        sizes = [((depth - 4) // 6, base * width, stride) for base, stride in ((16, 1), (32, 2), (64, 2))]
        stages = [NetworkStage(PreActivationBlock, *size) for size in sizes]
        super().__init__(stem, stages, tail, in_chans=in_chans, **head)

    def initialize(self, module: nn.Module) -> None:
        super().initialize(module)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def forward_taps(self, x: Tensor, last: int | None = None) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Run everything before the pooling; features are the raw sums.

        A pre-activation is the first normalization of the next stage, or of the tail. With `last` there is one fewer.
        """
        features, normalizations = [], []
        if self._stem:
            x = self.conv1(x)
            features.append(x)
        for name in self.stages_until(last):
            first, *others = getattr(self, name)
            x, normalized = self.run_block(first, x)
            for block in others:
                x, _ = self.run_block(block, x)
            features.append(x)
            normalizations.append(normalized)
        if self._tail and last is None:
            normalizations.append(self.bn1(x))
            x = F.relu(normalizations[-1])
        # The first one normalizes the stem, which is not a stage.
        return x, features, normalizations[1:]


default_cfgs = generate_default_cfgs(
    {"cifar_wrn_16_2": CIFAR_CFG, "cifar_wrn_40_1": CIFAR_CFG, "cifar_wrn_40_2": CIFAR_CFG}
)


@register_model
def cifar_wrn_16_2(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    return build_network(CifarWideResNet, "cifar_wrn_16_2", pretrained, depth=16, width=2, **kwargs)


@register_model
def cifar_wrn_40_1(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    return build_network(CifarWideResNet, "cifar_wrn_40_1", pretrained, depth=40, width=1, **kwargs)


@register_model
def cifar_wrn_40_2(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    return build_network(CifarWideResNet, "cifar_wrn_40_2", pretrained, depth=40, width=2, **kwargs)
