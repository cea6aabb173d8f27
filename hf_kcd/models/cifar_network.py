"""What the CIFAR networks share: timm's interface over a stem and three stages, and their registration in timm."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch.nn.functional as F
from timm.layers import create_classifier
from timm.models import build_model_with_cfg, register_model
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
"""The pretrained configuration of every CIFAR network; mean and std are RepDistiller's, of CIFAR-100."""

REDUCTIONS = (1, 1, 2, 4)
"""Stride of the stem and of the three stages with respect to the image."""


class CifarNetwork(nn.Module):
    """A 3x3 stem, three stages of blocks, global average pooling and one linear layer, under timm's interface.

    A subclass says in `forward_taps` in which order stem, normalisation and blocks are run.

    Args:
        block: Makes a block from (channels in, channels out, stride).
        num_blocks: Blocks in each stage.
        widths: Channels of the stem and of the three stages.
        norm_width: Channels of the one batch normalisation outside the blocks.
        num_classes: Outputs of the linear layer; 0 for none.
        in_chans: Channels of the image.
        global_pool: timm's name of the pooling; "" for none.
    """

    def __init__(
        self,
        block: Callable[[int, int, int], nn.Module],
        num_blocks: int,
        widths: Sequence[int],
        norm_width: int,
        num_classes: int,
        in_chans: int,
        global_pool: str,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = widths[-1]
        self.grad_checkpointing = False

        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(norm_width)
        self.layer1 = _stage(block, num_blocks, widths[0], widths[1], stride=1)
        self.layer2 = _stage(block, num_blocks, widths[1], widths[2], stride=2)
        self.layer3 = _stage(block, num_blocks, widths[2], widths[3], stride=2)
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool)
        self.feature_info = [
            {"num_chs": width, "reduction": reduction, "module": module}
            for width, reduction, module in zip(
                widths, REDUCTIONS, ("conv1", "layer1", "layer2", "layer3"), strict=True
            )
        ]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_taps(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Run everything before the pooling, once, and hand out what was met on the way.

        Args:
            x: Images [B, C, H, W].

        Returns:
            What is pooled; the features f0 (stem), f1, f2, f3 (stages); the pre-activations of f1, f2, f3.
        """
        raise TypeError(f"{type(self).__name__} defines no forward_taps: a CIFAR network says there how it is run.")

    def run_block(self, block: nn.Module, x: Tensor) -> Any:
        """Run one block, keeping only its input for the backward pass when gradient checkpointing is on."""
        if not (self.grad_checkpointing and self.training):
            return block(x)
        # The second run is for the gradient alone: the running statistics have had this batch already.
        contexts = lambda: (nullcontext(), _frozen_statistics(block))  # noqa: E731
        return checkpoint(block, x, use_reentrant=False, context_fn=contexts)

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
            x: Images [B, C, H, W].
            indices: Which of the four features: the last n, a list of positions, or None for all.
            norm: Without effect: the features are handed out as they are.
            stop_early: Without effect: the network is always run to its end.
            output_fmt: "NCHW" only.
            intermediates_only: Return the features alone.

        Returns:
            `(final, features)`, or the features alone.

        Raises:
            ValueError: For another `output_fmt`.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}: a convolutional network has 'NCHW' only.")
        final, features, _ = self.forward_taps(x)
        features = [features[position] for position in _positions(indices)]
        return features if intermediates_only else (final, features)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the head, which features do not need (timm's interface); stages stay.

        Returns:
            The positions of the features asked for.
        """
        if prune_head:
            self.reset_classifier(0, "")
        return _positions(indices)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute what is pooled, [B, num_features, H/4, W/4]."""
        return self.forward_taps(x)[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify; with `pre_logits` stop at the embedding [B, num_features]."""
        x = self.global_pool(x)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits [B, num_classes] of images [B, C, H, W]."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh linear layer in place of the present one.

        Args:
            num_classes: Its outputs; 0 for none.
            global_pool: timm's name of the pooling; None keeps the present one.
        """
        device, dtype = self.conv1.weight.device, self.conv1.weight.dtype
        if global_pool is None:
            global_pool = self.global_pool.pool_type
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool)
        self.fc.to(device=device, dtype=dtype)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass instead of keeping what they computed."""
        self.grad_checkpointing = enable


def register_variant(module_name: str, network: type[CifarNetwork], name: str, **architecture: Any) -> None:
    """Register one network in timm under `name`, and put its entry function into its module as timm's files do.

    Args:
        module_name: The module it belongs to, with the `default_cfgs` that timm reads.
        network: Its class.
        name: Its name in timm.
        **architecture: What distinguishes it: arguments of the class.
    """

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        features = {"out_indices": tuple(range(len(REDUCTIONS))), "feature_cls": "getter"}
        return build_model_with_cfg(network, name, pretrained, feature_cfg=features, **architecture, **kwargs)

    create.__name__ = create.__qualname__ = name
    create.__module__ = module_name
    create.__doc__ = f"Make a {name}."
    setattr(sys.modules[module_name], name, create)
    register_model(create)


def shortcut_is_needed(in_width: int, out_width: int, stride: int) -> bool:
    """Say whether a block's input has another shape than its output."""
    return stride != 1 or in_width != out_width


def relu(x: Tensor) -> Tensor:
    """ReLU that leaves its input as it is, for inputs that are handed out."""
    return F.relu(x)


def relu_(x: Tensor) -> Tensor:
    """ReLU in place, for inputs that nobody else sees."""
    return F.relu(x, inplace=True)


def _positions(indices: int | list[int] | None) -> list[int]:
    every = range(len(REDUCTIONS))
    if indices is None:
        return list(every)
    return list(every[-indices:]) if isinstance(indices, int) else [every[index] for index in indices]


def _stage(
    block: Callable[[int, int, int], nn.Module], num_blocks: int, in_width: int, out_width: int, stride: int
) -> nn.ModuleList:
    # A list and no nn.Sequential: between its blocks a network does what `forward_taps` says.
    blocks = [block(in_width, out_width, stride)]
    return nn.ModuleList(blocks + [block(out_width, out_width, 1) for _ in range(num_blocks - 1)])


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
