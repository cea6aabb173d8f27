"""Untrained copies of the student or the teacher, which train along."""

import timm
import torch
from torch import nn

from ..models import ModelSpec, image_config
from ..models.lending import lent


def untrained_network(spec: ModelSpec) -> nn.Module:
    """Create a fresh network with the architecture, classes and channels of a spec."""
    network = timm.create_model(spec.name, num_classes=spec.num_classes, in_chans=spec.input_size[0])
    own_size = image_config(network).input_size
    # A network that is bound to a size keeps it, whatever its configuration says.
    network.pretrained_cfg.update(input_size=spec.input_size, mean=spec.mean, std=spec.std)
    fits = image_config(network).input_size == spec.input_size and network.head_hidden_size == spec.embedding_dim
    if not fits or not takes(network, spec.input_size):
        raise ValueError(
            f"Another {spec.name} for images of {spec.input_size[1]} x {spec.input_size[2]} cannot be made: the name gives one for "
            f"{own_size[1]} x {own_size[2]}, embedding {network.head_hidden_size}. Use a network with its own defaults, or one "
            "that takes images of any size."
        )
    return network


def takes(network: nn.Module, size: tuple[int, int, int]) -> bool:
    """Return whether a network runs on an image of a size: channels, height and width."""
    weight = next(network.parameters())
    if weight.is_meta:
        return True
    try:
        with torch.no_grad(), lent(network):
            network.eval()(torch.zeros(1, *size, dtype=weight.dtype, device=weight.device))
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True
