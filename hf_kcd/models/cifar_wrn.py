"""The wide ResNets of CIFAR: pre-activation blocks in three stages, as RepDistiller trains them.

Zagoruyko and Komodakis, "Wide residual networks", section 2, without dropout.
"""

from typing import Any

from timm.models import generate_default_cfgs
from torch import Tensor, nn

from .cifar_network import CIFAR_CFG, CifarNetwork, register_variant, relu, relu_, shortcut_is_needed


class PreActivationBlock(nn.Module):
    """Normalisation and ReLU before each of two 3x3 convolutions; a change of shape is made after the first of them.

    Args:
        in_width: Channels of the input.
        out_width: Channels of the output.
        stride: Stride of the first convolution and of the shortcut.
    """

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = nn.Conv2d(in_width, out_width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_width)
        self.conv2 = nn.Conv2d(out_width, out_width, 3, padding=1, bias=False)
        self.shortcut = None
        if shortcut_is_needed(in_width, out_width, stride):
            self.shortcut = nn.Conv2d(in_width, out_width, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the output and, on the way, the normalised input: the pre-activation of the stage before."""
        normalised = self.bn1(x)
        activated = relu(normalised)
        out = self.conv2(relu_(self.bn2(self.conv1(activated))))
        return out + (x if self.shortcut is None else self.shortcut(activated)), normalised


class CifarWideResNet(CifarNetwork):
    """A wide ResNet for 32x32 images.

    Args:
        depth: Number of layers, 6n + 4.
        width: How many times wider than 16, 32, 64 channels the stages are.
        num_classes, in_chans, global_pool: As in `CifarNetwork`.
    """

    def __init__(
        self, depth: int, width: int, num_classes: int = 100, in_chans: int = 3, global_pool: str = "avg"
    ) -> None:
        widths = (16, 16 * width, 32 * width, 64 * width)
        super().__init__(PreActivationBlock, (depth - 4) // 6, widths, widths[-1], num_classes, in_chans, global_pool)
        if num_classes:
            nn.init.zeros_(self.fc.bias)

    def forward_taps(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Run the network up to the pooling: features are raw outputs, pre-activations the next normalisation."""
        x = self.conv1(x)
        features, normalisations = [x], []
        for stage in (self.layer1, self.layer2, self.layer3):
            for position, block in enumerate(stage):
                x, normalised = self.run_block(block, x)
                if position == 0:
                    normalisations.append(normalised)
            features.append(x)
        normalisations.append(self.bn1(x))
        # The first one normalises the stem, which is no stage.
        return relu(normalisations[-1]), features, normalisations[1:]


_VARIANTS: dict[str, dict[str, Any]] = {
    "cifar_wrn_16_2": {"depth": 16, "width": 2},
    "cifar_wrn_40_1": {"depth": 40, "width": 1},
    "cifar_wrn_40_2": {"depth": 40, "width": 2},
}
default_cfgs = generate_default_cfgs(dict.fromkeys(_VARIANTS, CIFAR_CFG))
for _name, _architecture in _VARIANTS.items():
    register_variant(__name__, CifarWideResNet, _name, **_architecture)
