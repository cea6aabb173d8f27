"""What the CIFAR networks share: stem, network stages, tail and head under timm's interface."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import create_classifier
from timm.models import build_model_with_cfg
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..recomputation import frozen_statistics

CIFAR_CFG = {
    "num_classes": 100,
    "input_size": (3, 32, 32),
    "pool_size": (8, 8),
    "interpolation": "bilinear",
    "crop_pct": 1.0,
    "mean": (0.5071, 0.4867, 0.4408),
    "std": (0.2675, 0.2565, 0.2761),
    "first_conv": "conv1",
    "classifier": "fc",
}
"""timm's pretrained configuration of a CIFAR network; mean and std are RepDistiller's for CIFAR-100."""


@dataclass(frozen=True)
class NetworkStage:
    """A row of `width` channels; only its first block may change channels and size."""

    # From input channels, output channels and stride.
    block: Callable[[int, int, int], nn.Module]
    num_blocks: int
    width: int
    stride: int
    is_feature: bool = True

    def make_blocks(self, in_width: int) -> list[nn.Module]:
        first = self.block(in_width, self.width, self.stride)
        return [first] + [self.block(self.width, self.width, 1) for _ in range(self.num_blocks - 1)]


class CifarNetwork(nn.Module):
    """Stem, network stages, tail, global average pooling and one linear layer, under timm's interface.

    A family passes stem, `layer<number>` stages from `first_stage` on, and tail, and overrides `forward_stage` or
    `forward_taps` where it differs. Blocks leave their last ReLU to `forward_stage`: methods read the ReLU's input.
    """

    linear_std: float | None = None  # of the linear layer's initial weights; None for PyTorch's default

    def __init__(
        self,
        stem: Mapping[str, nn.Module],
        stages: Sequence[NetworkStage],
        tail: Mapping[str, nn.Module],
        first_stage: int = 1,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.grad_checkpointing = False
        self.feature_info: list[dict[str, Any]] = []
        self._stem, self._stages, self._tail = list(stem), [], list(tail)

        width, reduction = in_chans, 1
        for name, module in stem.items():
            self.add_module(name, module)
        if stem:
            width, reduction = self.conv1.out_channels, self.conv1.stride[0]
            self.feature_info.append({"num_chs": width, "reduction": reduction, "module": self._stem[-1]})
        for number, stage in enumerate(stages, start=first_stage):
            name = f"layer{number}"
            # Not an nn.Sequential: `forward_stage` also acts between the blocks.
            self.add_module(name, nn.ModuleList(stage.make_blocks(width)))
            self._stages.append(name)
            width, reduction = stage.width, reduction * stage.stride
            if stage.is_feature:
                self.feature_info.append({"num_chs": width, "reduction": reduction, "module": name})
        for name, module in tail.items():
            self.add_module(name, module)
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = getattr(self, self._tail[-1]).num_features if tail else width
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool)
        self.apply(self.initialize)

    def initialize(self, module: nn.Module) -> None:
        """Initialize one module: normal over the fan-out for convolutions, and by `linear_std` for the linear layer."""
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and self.linear_std is not None:
            nn.init.normal_(module.weight, std=self.linear_std)
            nn.init.zeros_(module.bias)

    def forward_stage(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run one network stage; return its output and its pre-activation, the input of the last ReLU."""
        *inner, last = getattr(self, name)
        for block in inner:
            x = relu_(self.run_block(block, x))
        preactivation = self.run_block(last, x)
        return F.relu(preactivation), preactivation

    def run_block(self, block: nn.Module, x: Tensor) -> Any:
        """Run one block; with gradient checkpointing, keep only its input for the backward pass."""
        return _run_twice(block, x) if self.grad_checkpointing and self.training else block(x)

    def forward_taps(self, x: Tensor, last: int | None = None) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Run everything before the pooling once, or up to the feature at position `last`, on images [B, C, H, W].

        Return the input of the pooling (the last feature when stopped early); the features f0, f1, ...; and the
        pre-activations of f1, f2, ..., each of its feature's shape.
        """
        features, preactivations = [], []
        if self._stem:
            x = relu_(self.bn1(self.conv1(x)))
            features.append(x)
        feature_modules = [info["module"] for info in self.feature_info]
        for name in self.stages_until(last):
            x, preactivation = self.forward_stage(name, x)
            if name in feature_modules:
                if features:
                    preactivations.append(preactivation)
                features.append(x)
        if self._tail and last is None:
            x = relu_(self.bn2(self.conv2(x)))
        return x, features, preactivations

    def stages_until(self, last: int | None) -> list[str]:
        """Name the stages up to the feature at position `last`, or all of them."""
        if last is None:
            return self._stages
        module = self.feature_info[last]["module"]
        return self._stages[: self._stages.index(module) + 1] if module in self._stages else []

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Compute the input of the pooling and the features (timm's interface; `norm` has no effect)."""
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}: a convolutional network has 'NCHW' only.")
        positions, last = feature_take_indices(len(self.feature_info), indices)
        final, features, _ = self.forward_taps(x, last if stop_early else None)
        features = [feature for position, feature in enumerate(features) if position in positions]
        return features if intermediates_only else (final, features)

    def prune_intermediate_layers(
        self, indices: int | list[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop everything that the requested features do not need (timm's interface); return their positions."""
        positions, last = feature_take_indices(len(self.feature_info), indices)
        kept = self.stages_until(last)
        if prune_head or kept != self._stages or (prune_norm and self._tail):
            for name in self._stages[len(kept) :] + self._tail:
                delattr(self, name)
            self._stages, self._tail = kept, []
            self.feature_info = self.feature_info[: last + 1]
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
            self.reset_classifier(0, "")
        return positions

    def prune_shallow_layers(self, position: int) -> None:
        """Drop everything up to the feature at `position` (not the last), which becomes the network's input."""
        dropped = self.stages_until(position)
        for name in self._stem + dropped:
            delattr(self, name)
        self.in_chans = self.feature_info[position]["num_chs"]
        self.feature_info = self.feature_info[position + 1 :]
        self._stem, self._stages = [], self._stages[len(dropped) :]

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the input of the pooling, [B, num_features, H', W']."""
        return self.forward_taps(x)[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify; with `pre_logits` stop at the embedding [B, num_features]."""
        x = self.global_pool(x)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits [B, num_classes] of images [B, in_chans, H, W]."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the linear layer by a fresh one, initialized as its family does; None keeps the pooling."""
        like = next(self.parameters())
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=pool_type)
        self.initialize(self.fc)
        self.fc.to(device=like.device, dtype=like.dtype)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Group parameters by depth (timm's interface); tail and head match no pattern, so they count as the deepest."""
        groups = {"stem": rf"^(?:{'|'.join(self._stem)})\."} if self._stem else {}
        return {**groups, "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}


def build_network(network: type[CifarNetwork], name: str, pretrained: bool, **kwargs: Any) -> CifarNetwork:
    """Build a network as timm's entry points do; `features_only` gives all features by default."""
    features = {"out_indices": None, "feature_cls": "getter"}
    return build_model_with_cfg(network, name, pretrained, feature_cfg=features, **kwargs)


def convolution(in_width: int, out_width: int, kernel_size: int, stride: int = 1, **options: Any) -> nn.Conv2d:
    """Make a convolution that keeps the size of its input, up to the stride."""
    return nn.Conv2d(in_width, out_width, kernel_size, stride, kernel_size // 2, **{"bias": False, **options})


def convolution_and_norm(
    in_width: int, out_width: int, kernel_size: int, stride: int = 1, **options: Any
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Make a `convolution` and its batch normalization."""
    return convolution(in_width, out_width, kernel_size, stride, **options), nn.BatchNorm2d(out_width)


def stem_or_tail(number: int, in_width: int, out_width: int, kernel_size: int, **options: Any) -> dict[str, nn.Module]:
    """Make `conv<number>` and `bn<number>`."""
    conv, norm = convolution_and_norm(in_width, out_width, kernel_size, **options)
    return {f"conv{number}": conv, f"bn{number}": norm}


def relu_(x: Tensor) -> Tensor:
    """Apply ReLU in place, where nobody else reads the input."""
    return F.relu(x, inplace=True)


# torch.compile cannot trace the contexts: in a compiled network these blocks run eagerly.
@torch.compiler.disable
def _run_twice(block: nn.Module, x: Tensor) -> Any:
    # The second run is only for the gradient: the running statistics have already seen this batch.
    contexts = lambda: (nullcontext(), frozen_statistics(block.modules()))  # noqa: E731
    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)
