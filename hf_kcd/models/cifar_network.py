"""What the CIFAR networks share: stem, stages, tail and head under timm's interface, and their registration in timm."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import create_classifier
from timm.models import build_model_with_cfg, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
"""The pretrained configuration of a CIFAR network; mean and std are RepDistiller's, of CIFAR-100."""


@dataclass(frozen=True)
class Stage:
    """A run of blocks, of which only the first may change channels and size.

    Args:
        block: Makes a block from (channels in, channels out, stride).
        num_blocks: How many.
        width: Channels of its output.
        stride: Stride of the first block.
        is_feature: Whether its output is one of the network's features.
    """

    block: Callable[[int, int, int], nn.Module]
    num_blocks: int
    width: int
    stride: int
    is_feature: bool = True


class CifarNetwork(nn.Module):
    """Stem, stages of blocks, tail, global average pooling and one linear layer, under timm's interface.

    A family gives its modules here, and says how they are run where `forward_stem`, `forward_stage` and `forward_tail`
    do not fit it: a block that ends in a ReLU leaves it to `forward_stage`, so that what the ReLU gets can be handed
    out.

    Args:
        stem: The modules before the stages, by name; without any, the first stage makes the first feature.
        stages: The stages, kept as `layer<number>`.
        tail: The modules between the last stage and the pooling, by name; the last of them is a normalisation.
        num_classes: Outputs of the linear layer; 0 for none.
        in_chans: Channels of the image.
        global_pool: timm's name of the pooling; "" for none.
        first_stage: Number of the first stage.
    """

    def __init__(
        self,
        stem: Mapping[str, nn.Module],
        stages: Sequence[Stage],
        tail: Mapping[str, nn.Module],
        num_classes: int,
        in_chans: int,
        global_pool: str,
        first_stage: int = 1,
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
            self._add_feature(width, reduction, self._stem[-1])
        for number, stage in enumerate(stages, start=first_stage):
            name = f"layer{number}"
            # A list and no nn.Sequential: between its blocks a network does what `forward_stage` says.
            self.add_module(name, nn.ModuleList(_blocks(stage, width)))
            self._stages.append(name)
            width, reduction = stage.width, reduction * stage.stride
            if stage.is_feature:
                self._add_feature(width, reduction, name)
        for name, module in tail.items():
            self.add_module(name, module)
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = getattr(self, self._tail[-1]).num_features if tail else width
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool)
        self.apply(self.initialise)

    def _add_feature(self, width: int, reduction: int, module: str) -> None:
        self.feature_info.append({"num_chs": width, "reduction": reduction, "module": module})

    def initialise(self, module: nn.Module) -> None:
        """Give one module its start values: normal over the fan-out for a convolution, PyTorch's for all others."""
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward_stem(self, x: Tensor) -> Tensor:
        """Compute the first feature."""
        return relu_(self.bn1(self.conv1(x)))

    def forward_stage(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run the blocks of one stage, each followed by a ReLU.

        Returns:
            The stage's output, and its pre-activation: what the last ReLU got.
        """
        *inner, last = getattr(self, name)
        for block in inner:
            x = relu_(self.run_block(block, x))
        preactivation = self.run_block(last, x)
        return relu(preactivation), preactivation

    def forward_tail(self, x: Tensor) -> Tensor:
        """Compute what is pooled from the last stage's output, in a network that has a tail."""
        return relu_(self.bn2(self.conv2(x)))

    def run_block(self, block: nn.Module, x: Tensor) -> Any:
        """Run one block, keeping only its input for the backward pass when gradient checkpointing is on."""
        return _run_twice(block, x) if self.grad_checkpointing and self.training else block(x)

    def forward_taps(self, x: Tensor, last: int | None = None) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Run everything before the pooling, once, and hand out what was met on the way.

        Args:
            x: Images [B, in_chans, H, W].
            last: Position of the feature to stop at; None runs all.

        Returns:
            What is pooled (stopped early, the last feature); the features f0, f1, ... from shallow to deep, of the
            sizes in `feature_info`; the pre-activations of f1, f2, ..., each of its feature's shape.
        """
        features, preactivations = [], []
        if self._stem:
            x = self.forward_stem(x)
            features.append(x)
        feature_modules = [info["module"] for info in self.feature_info]
        for name in self.stages_until(last):
            x, preactivation = self.forward_stage(name, x)
            if name in feature_modules:
                if features:
                    preactivations.append(preactivation)
                features.append(x)
        if self._tail and last is None:
            x = self.forward_tail(x)
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
        """Compute what is pooled and the features (timm's interface).

        Args:
            x: Images [B, in_chans, H, W].
            indices: Which of the features: the last n, a list of positions, or None for all.
            norm: Without effect: the features are handed out as they are.
            stop_early: Run nothing behind the last feature asked for.
            output_fmt: "NCHW" only.
            intermediates_only: Return the features alone.

        Returns:
            `(final, features)`, or the features alone, from shallow to deep.

        Raises:
            ValueError: For another `output_fmt`.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}: a convolutional network has 'NCHW' only.")
        positions, last = feature_take_indices(len(self.feature_info), indices)
        final, features, _ = self.forward_taps(x, last if stop_early else None)
        features = [feature for position, feature in enumerate(features) if position in positions]
        return features if intermediates_only else (final, features)

    def prune_intermediate_layers(
        self, indices: int | list[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the features asked for do not need (timm's interface).

        Args:
            indices: Which of the features to keep: the last n, a list of positions, or None for all.
            prune_norm: Drop the tail, which no feature needs.
            prune_head: Drop the tail and the head.

        Returns:
            The positions of the features asked for.
        """
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
        """Drop everything up to a feature: the network then takes that feature in the place of an image.

        Args:
            position: Position of the feature, not the last.
        """
        dropped = self.stages_until(position)
        for name in self._stem + dropped:
            delattr(self, name)
        self.in_chans = self.feature_info[position]["num_chs"]
        self.feature_info = self.feature_info[position + 1 :]
        self._stem, self._stages = [], self._stages[len(dropped) :]

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute what is pooled, [B, num_features, H', W']."""
        return self.forward_taps(x)[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify; with `pre_logits` stop at the embedding [B, num_features]."""
        x = self.global_pool(x)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits [B, num_classes] of images [B, in_chans, H, W]."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh linear layer, started as the family starts it, in place of the present one.

        Args:
            num_classes: Its outputs; 0 for none.
            global_pool: timm's name of the pooling; None keeps the present one.
        """
        like = next(self.parameters())
        if global_pool is None:
            global_pool = self.global_pool.pool_type
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool)
        self.initialise(self.fc)
        self.fc.to(device=like.device, dtype=like.dtype)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass instead of keeping what they computed."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Say which parameters lie at the same depth (timm's interface, for learning rates by layer).

        Args:
            coarse: By stage instead of by block.

        Returns:
            Patterns of parameter names; tail and head, which match none, are the deepest.
        """
        groups = {"stem": rf"^(?:{'|'.join(self._stem)})\."} if self._stem else {}
        return {**groups, "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}


def register_variant(module_name: str, network: type[CifarNetwork], name: str, **architecture: Any) -> None:
    """Register one network in timm under `name`, and put its entry function into its module as timm's files do.

    Args:
        module_name: The module it belongs to, with the `default_cfgs` that timm reads.
        network: Its class.
        name: Its name in timm.
        **architecture: What distinguishes it: arguments of the class.
    """

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        # No indices are all features.
        features = {"out_indices": None, "feature_cls": "getter"}
        return build_model_with_cfg(network, name, pretrained, feature_cfg=features, **architecture, **kwargs)

    create.__name__ = create.__qualname__ = name
    create.__module__ = module_name
    create.__doc__ = f"Make a {name}."
    setattr(sys.modules[module_name], name, create)
    register_model(create)


def convolution(
    in_width: int, out_width: int, kernel_size: int, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    """Make a convolution that keeps the size of its input, up to the stride."""
    padding = kernel_size // 2
    return nn.Conv2d(in_width, out_width, kernel_size, stride, padding, groups=groups, bias=bias)


def convolution_and_norm(
    number: int, in_width: int, out_width: int, kernel_size: int, stride: int = 1
) -> dict[str, nn.Module]:
    """Make the `conv<number>` and `bn<number>` of a stem or a tail."""
    conv = convolution(in_width, out_width, kernel_size, stride)
    return {f"conv{number}": conv, f"bn{number}": nn.BatchNorm2d(out_width)}


def shortcut_is_needed(in_width: int, out_width: int, stride: int) -> bool:
    """Say whether a block's input has another shape than its output."""
    return stride != 1 or in_width != out_width


def start_linear_near_zero(module: nn.Module) -> None:
    """Start a linear layer with standard deviation 0.01 and no bias, and leave every other module."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


def relu(x: Tensor) -> Tensor:
    """ReLU that leaves its input as it is, for inputs that are handed out."""
    return F.relu(x)


def relu_(x: Tensor) -> Tensor:
    """ReLU in place, for inputs that nobody else sees."""
    return F.relu(x, inplace=True)


def _blocks(stage: Stage, in_width: int) -> list[nn.Module]:
    first = stage.block(in_width, stage.width, stage.stride)
    return [first] + [stage.block(stage.width, stage.width, 1) for _ in range(stage.num_blocks - 1)]


# torch.compile cannot trace the contexts: in a compiled network these blocks run eagerly.
@torch.compiler.disable
def _run_twice(block: nn.Module, x: Tensor) -> Any:
    # The second run is for the gradient alone: the running statistics have had this batch already.
    contexts = lambda: (nullcontext(), _frozen_statistics(block))  # noqa: E731
    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


@contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
