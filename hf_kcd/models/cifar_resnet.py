"""The ResNets of CIFAR: post-activation basic blocks in three stages, as RepDistiller trains them.

He et al., "Deep residual learning for image recognition", section 4.2; the x4 widths are those of Tian et al.,
"Contrastive representation distillation". Parameters carry RepDistiller's names.
"""

from typing import Any

from timm.models import generate_default_cfgs
from torch import Tensor, nn

from .cifar_network import CIFAR_CFG, CifarNetwork, register_variant, relu, relu_, shortcut_is_needed


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, up to their sum: the ReLU after it is the network's.

    Args:
        in_width: Channels of the input.
        out_width: Channels of the output.
        stride: Stride of the first convolution and of the shortcut.
    """

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, out_width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_width)
        self.conv2 = nn.Conv2d(out_width, out_width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_width)
        self.downsample = None
        if shortcut_is_needed(in_width, out_width, stride):
            self.downsample = nn.Sequential(
                nn.Conv2d(in_width, out_width, 1, stride=stride, bias=False), nn.BatchNorm2d(out_width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the sum before the ReLU."""
        out = relu_(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return out + (x if self.downsample is None else self.downsample(x))


class CifarResNet(CifarNetwork):
    """A ResNet for 32x32 images.

    Args:
        depth: Number of layers, 6n + 2.
        widths: Channels of the stem and of the three stages.
        num_classes, in_chans, global_pool: As in `CifarNetwork`.
    """

    def __init__(
        self,
        depth: int,
        widths: tuple[int, int, int, int],
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        super().__init__(BasicBlock, (depth - 2) // 6, widths, widths[0], num_classes, in_chans, global_pool)

    def forward_taps(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Run the network up to the pooling: features after a stage's last ReLU, pre-activations before it."""
        x = relu_(self.bn1(self.conv1(x)))
        features, preactivations = [x], []
        for stage in (self.layer1, self.layer2, self.layer3):
            for block in stage:
                total = self.run_block(block, x)
                x = relu(total)
            features.append(x)
            preactivations.append(total)
        return x, features, preactivations


_NARROW, _WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
_VARIANTS: dict[str, dict[str, Any]] = {
    "cifar_resnet8": {"depth": 8, "widths": _NARROW},
    "cifar_resnet20": {"depth": 20, "widths": _NARROW},
    "cifar_resnet56": {"depth": 56, "widths": _NARROW},
    "cifar_resnet8x4": {"depth": 8, "widths": _WIDE},
    "cifar_resnet32x4": {"depth": 32, "widths": _WIDE},
}
default_cfgs = generate_default_cfgs(dict.fromkeys(_VARIANTS, CIFAR_CFG))
for _name, _architecture in _VARIANTS.items():
    register_variant(__name__, CifarResNet, _name, **_architecture)
