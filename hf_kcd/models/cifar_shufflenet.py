"""The ShuffleNets of CIFAR, the first and the second, as RepDistiller trains them: with a 1x1 stem of stride 1.

Zhang et al., "ShuffleNet: an extremely efficient convolutional neural network for mobile devices", with 3 groups; Ma
et al., "ShuffleNet V2: practical guidelines for efficient CNN architecture design", at width 1.
"""

from functools import partial

import torch
import torch.nn.functional as F
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from .cifar_network import (
    CIFAR_CFG,
    CifarNetwork,
    Stage,
    convolution,
    convolution_and_norm,
    register_variant,
    relu,
    relu_,
)

_STEM_WIDTH = 24


class GroupedUnit(nn.Module):
    """The unit of the first ShuffleNet, up to its ReLU: grouped 1x1 convolutions about a depthwise one, and a shortcut.

    Args:
        in_width: Channels of the input.
        out_width: Channels of the output.
        stride: With 2 the shortcut is the averaged input beside the other channels, with 1 the input, added.
        groups: Groups of the 1x1 convolutions.
    """

    def __init__(self, in_width: int, out_width: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        computed = out_width - in_width if stride == 2 else out_width
        width = computed // 4
        # The few channels of the stem are not grouped (section 3.2 of the paper).
        self.groups = 1 if in_width == _STEM_WIDTH else groups
        self.conv1 = convolution(in_width, width, 1, groups=self.groups)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride, groups=width)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, computed, 1, groups=groups)
        self.bn3 = nn.BatchNorm2d(computed)

    def forward(self, x: Tensor) -> Tensor:
        """Compute what the ReLU gets."""
        out = relu_(self.bn1(self.conv1(x)))
        if self.groups > 1:
            out = F.channel_shuffle(out, self.groups)
        out = relu_(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.stride == 2:
            return torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1)
        return out + x


class SplitUnit(nn.Module):
    """The unit of the second ShuffleNet at stride 1, up to ReLU and shuffle: half of the channels pass, half do not.

    Args:
        width: Channels of input and output.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = convolution(half, half, 1)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = convolution(half, half, 3, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = convolution(half, half, 1)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the half that has been through a ReLU, by passing it on, and the half that has it still to come."""
        passed, out = x.chunk(2, dim=1)
        out = relu_(self.bn1(self.conv1(out)))
        out = self.bn2(self.conv2(out))
        return passed, self.bn3(self.conv3(out))


class DownsamplingUnit(nn.Module):
    """The unit of the second ShuffleNet at stride 2, up to ReLU and shuffle: two branches make a half each.

    Args:
        in_width: Channels of the input.
        out_width: Channels of the output.
    """

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        half = out_width // 2
        self.conv1 = convolution(in_width, in_width, 3, stride=2, groups=in_width)
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv2 = convolution(in_width, half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = convolution(in_width, half, 1)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = convolution(half, half, 3, stride=2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = convolution(half, half, 1)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the half that has been through its ReLU, and the half that has it still to come."""
        left = self.bn1(self.conv1(x))
        left = relu_(self.bn2(self.conv2(left)))
        right = relu_(self.bn3(self.conv3(x)))
        right = self.bn4(self.conv4(right))
        return left, self.bn5(self.conv5(right))


class CifarShuffleNet(CifarNetwork):
    """A first ShuffleNet for 32x32 images; its pre-activations are what the last ReLU of each stage gets.

    Args:
        num_blocks: Units of each stage.
        widths: Channels of each stage.
        groups: Groups of the 1x1 convolutions.
        num_classes, in_chans, global_pool: As in `CifarNetwork`.
    """

    def __init__(
        self,
        num_blocks: tuple[int, ...],
        widths: tuple[int, ...],
        groups: int,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        super().__init__(
            stem=convolution_and_norm(1, in_chans, _STEM_WIDTH, 1),
            stages=[
                Stage(partial(GroupedUnit, groups=groups), number, width, stride=2)
                for number, width in zip(num_blocks, widths, strict=True)
            ],
            tail={},
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
        )

    def initialise(self, module: nn.Module) -> None:
        """Leave PyTorch's start values, as the reference does."""


class CifarShuffleNetV2(CifarNetwork):
    """A second ShuffleNet for 32x32 images.

    Its pre-activations are what the last ReLU of each stage gets, in the order of the feature's channels: the
    reference hands them out before the shuffle, so that its channel c is not that of the feature.

    Args:
        num_blocks: Units of each stage.
        widths: Channels of each stage and of the last convolution.
        num_classes, in_chans, global_pool: As in `CifarNetwork`.
    """

    def __init__(
        self,
        num_blocks: tuple[int, ...],
        widths: tuple[int, ...],
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        *stage_widths, last_width = widths
        super().__init__(
            stem=convolution_and_norm(1, in_chans, _STEM_WIDTH, 1),
            stages=[
                Stage(_v2_unit, number, width, stride=2)
                for number, width in zip(num_blocks, stage_widths, strict=True)
            ],
            tail=convolution_and_norm(2, stage_widths[-1], last_width, 1),
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
        )

    def initialise(self, module: nn.Module) -> None:
        """Leave PyTorch's start values, as the reference does."""

    def forward_stage(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run the units of one stage, with a ReLU on the half that has it still to come and a shuffle after each."""
        *inner, last = getattr(self, name)
        for unit in inner:
            activated, computed = self.run_block(unit, x)
            x = _join_halves(activated, relu_(computed))
        # Through a second ReLU the first half comes unchanged.
        preactivation = _join_halves(*self.run_block(last, x))
        return relu(preactivation), preactivation


def _join_halves(left: Tensor, right: Tensor) -> Tensor:
    return F.channel_shuffle(torch.cat([left, right], dim=1), 2)


def _v2_unit(in_width: int, out_width: int, stride: int) -> nn.Module:
    return DownsamplingUnit(in_width, out_width) if stride == 2 else SplitUnit(out_width)


default_cfgs = generate_default_cfgs(
    {name: {**CIFAR_CFG, "pool_size": (4, 4)} for name in ("cifar_shufflenetv1", "cifar_shufflenetv2")}
)
register_variant(
    __name__, CifarShuffleNet, "cifar_shufflenetv1", num_blocks=(4, 8, 4), widths=(240, 480, 960), groups=3
)
register_variant(__name__, CifarShuffleNetV2, "cifar_shufflenetv2", num_blocks=(4, 8, 4), widths=(116, 232, 464, 1024))
