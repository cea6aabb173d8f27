"""The wide ResNets of CIFAR: pre-activation blocks in three stages, as RepDistiller trains them.

Zagoruyko and Komodakis, "Wide residual networks", section 2, without dropout.
"""

from typing import Any

from timm.models import generate_default_cfgs
from torch import Tensor, nn

from .cifar_network import (
    CIFAR_CFG,
    CifarNetwork,
    Stage,
    convolution,
    register_variant,
    relu,
    relu_,
    shortcut_is_needed,
)


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
        self.conv1 = convolution(in_width, out_width, 3, stride)
        self.bn2 = nn.BatchNorm2d(out_width)
        self.conv2 = convolution(out_width, out_width, 3)
        self.shortcut = None
        if shortcut_is_needed(in_width, out_width, stride):
            self.shortcut = convolution(in_width, out_width, 1, stride)

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
        num_blocks = (depth - 4) // 6
        super().__init__(
            stem={"conv1": convolution(in_chans, 16, 3)},
            stages=[
                Stage(PreActivationBlock, num_blocks, base * width, stride)
                for base, stride in ((16, 1), (32, 2), (64, 2))
            ],
            tail={"bn1": nn.BatchNorm2d(64 * width)},
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
        )

    def initialise(self, module: nn.Module) -> None:
        """Start as every CIFAR network, and the linear layer without bias."""
        super().initialise(module)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def forward_taps(self, x: Tensor, last: int | None = None) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Run everything before the pooling: features are raw sums, pre-activations what the next layer makes of them.

        A pre-activation is the first normalisation of the following stage, the last of them that of the tail, so with
        `last` there is one less.
        """
        features, normalisations = [], []
        if self._stem:
            x = self.conv1(x)
            features.append(x)
        for name in self.stages_until(last):
            first, *others = getattr(self, name)
            x, normalised = self.run_block(first, x)
            for block in others:
                x, _ = self.run_block(block, x)
            features.append(x)
            normalisations.append(normalised)
        if self._tail and last is None:
            normalisations.append(self.bn1(x))
            x = relu(normalisations[-1])
        # The first one normalises the stem, which is no stage.
        return x, features, normalisations[1:]


_VARIANTS: dict[str, dict[str, Any]] = {
    "cifar_wrn_16_2": {"depth": 16, "width": 2},
    "cifar_wrn_40_1": {"depth": 40, "width": 1},
    "cifar_wrn_40_2": {"depth": 40, "width": 2},
}
default_cfgs = generate_default_cfgs(dict.fromkeys(_VARIANTS, CIFAR_CFG))
for _name, _architecture in _VARIANTS.items():
    register_variant(__name__, CifarWideResNet, _name, **_architecture)
