"""The CIFAR ShuffleNets V1 and V2, as RepDistiller trains them: with a 1x1 stem of stride 1.

Zhang et al., "ShuffleNet: an extremely efficient convolutional neural network for mobile devices", with 3 groups; Ma
et al., "ShuffleNet V2: practical guidelines for efficient CNN architecture design", at width 1.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from .network import CIFAR_CFG, CifarNetwork, NetworkStage, build_network, convolution_and_norm, relu_, stem_or_tail

_STEM_WIDTH = 24


class GroupedUnit(nn.Module):
    """The unit of ShuffleNet V1, up to its ReLU: a depthwise convolution between grouped 1x1 ones, and a shortcut.

    At stride 1 the shortcut adds the input; at stride 2 it appends the averaged input as further channels.
    """

    def __init__(self, in_width: int, out_width: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        computed = out_width - in_width if stride == 2 else out_width
        width = computed // 4
        # The few channels of the stem are not grouped (section 3.2 of the paper).
        self.groups = 1 if in_width == _STEM_WIDTH else groups
        self.conv1, self.bn1 = convolution_and_norm(in_width, width, 1, groups=self.groups)
        self.conv2, self.bn2 = convolution_and_norm(width, width, 3, stride, groups=width)
        self.conv3, self.bn3 = convolution_and_norm(width, computed, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        out = relu_(self.bn1(self.conv1(x)))
        if self.groups > 1:
            out = F.channel_shuffle(out, self.groups)
        out = relu_(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.stride == 2:
            return torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1)
        return out + x


class SplitUnit(nn.Module):
    """The unit of ShuffleNet V2 at stride 1, up to ReLU and shuffle: one half of the channels passes unchanged."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1, self.bn1 = convolution_and_norm(half, half, 1)
        self.conv2, self.bn2 = convolution_and_norm(half, half, 3, groups=half)
        self.conv3, self.bn3 = convolution_and_norm(half, half, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the half that needs no ReLU (it passed unchanged), and the half that still needs one."""
        passed, out = x.chunk(2, dim=1)
        out = relu_(self.bn1(self.conv1(out)))
        out = self.bn2(self.conv2(out))
        return passed, self.bn3(self.conv3(out))


class DownsamplingUnit(nn.Module):
    """The unit of ShuffleNet V2 at stride 2, up to ReLU and shuffle: two branches compute one half each."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        half = out_width // 2
        self.conv1, self.bn1 = convolution_and_norm(in_width, in_width, 3, stride=2, groups=in_width)
        self.conv2, self.bn2 = convolution_and_norm(in_width, half, 1)
        self.conv3, self.bn3 = convolution_and_norm(in_width, half, 1)
        self.conv4, self.bn4 = convolution_and_norm(half, half, 3, stride=2, groups=half)
        self.conv5, self.bn5 = convolution_and_norm(half, half, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the half that has had its ReLU, and the half that still needs one."""
        left = self.bn1(self.conv1(x))
        left = relu_(self.bn2(self.conv2(left)))
        right = relu_(self.bn3(self.conv3(x)))
        right = self.bn4(self.conv4(right))
        return left, self.bn5(self.conv5(right))


class CifarShuffleNet(CifarNetwork):
    """A ShuffleNet V1 for 32x32 images; its pre-activations are the inputs of the last ReLU of each network stage."""

    def __init__(
        self, num_blocks: tuple[int, ...], widths: tuple[int, ...], groups: int, in_chans: int = 3, **head: Any
    ) -> None:
        unit = partial(GroupedUnit, groups=groups)
        stages = [NetworkStage(unit, *stage, stride=2) for stage in zip(num_blocks, widths, strict=True)]
        super().__init__(stem_or_tail(1, in_chans, _STEM_WIDTH, 1), stages, tail={}, in_chans=in_chans, **head)

    def initialize(self, module: nn.Module) -> None:
        """Keep PyTorch's default, as the reference does."""


class CifarShuffleNetV2(CifarNetwork):
    """A ShuffleNet V2 for 32x32 images.

    Its pre-activations are the inputs of the last ReLU of each network stage, in the order of the feature's channels;
    the reference returns them before the shuffle. The last of `widths` is the last convolution's.
    """

    def __init__(self, num_blocks: tuple[int, ...], widths: tuple[int, ...], in_chans: int = 3, **head: Any) -> None:
        stem, tail = stem_or_tail(1, in_chans, _STEM_WIDTH, 1), stem_or_tail(2, *widths[-2:], 1)
        stages = [NetworkStage(_v2_unit, *stage, stride=2) for stage in zip(num_blocks, widths[:-1], strict=True)]
        super().__init__(stem, stages, tail, in_chans=in_chans, **head)

    def initialize(self, module: nn.Module) -> None:
        """Keep PyTorch's default, as the reference does."""

    def forward_stage(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        *inner, last = getattr(self, name)
        for unit in inner:
            activated, computed = self.run_block(unit, x)
            x = _join_halves(activated, relu_(computed))
        # A second ReLU leaves the first half unchanged.
        preactivation = _join_halves(*self.run_block(last, x))
        return F.relu(preactivation), preactivation


def _join_halves(left: Tensor, right: Tensor) -> Tensor:
    return F.channel_shuffle(torch.cat([left, right], dim=1), 2)


def _v2_unit(in_width: int, out_width: int, stride: int) -> nn.Module:
    return DownsamplingUnit(in_width, out_width) if stride == 2 else SplitUnit(out_width)


_CFG = {**CIFAR_CFG, "pool_size": (4, 4)}
default_cfgs = generate_default_cfgs({"cifar_shufflenetv1": _CFG, "cifar_shufflenetv2": _CFG})


@register_model
def cifar_shufflenetv1(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    architecture = {"num_blocks": (4, 8, 4), "widths": (240, 480, 960), "groups": 3}
    return build_network(CifarShuffleNet, "cifar_shufflenetv1", pretrained, **architecture, **kwargs)


@register_model
def cifar_shufflenetv2(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    architecture = {"num_blocks": (4, 8, 4), "widths": (116, 232, 464, 1024)}
    return build_network(CifarShuffleNetV2, "cifar_shufflenetv2", pretrained, **architecture, **kwargs)
