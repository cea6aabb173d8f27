"""Untrained copies of the student or the teacher, which train along."""

import timm
from torch import nn

from ..models import ModelSpec, image_config


def untrained_network(spec: ModelSpec) -> nn.Module:
    """Create a fresh network with the architecture, classes and channels of a spec."""
    network = timm.create_model(spec.name, num_classes=spec.num_classes, in_chans=spec.input_size[0])
    own_size = image_config(network).input_size
    # A network that is bound to a size keeps it, whatever its configuration says.
    network.pretrained_cfg.update(input_size=spec.input_size, mean=spec.mean, std=spec.std)
    if image_config(network).input_size != spec.input_size or network.head_hidden_size != spec.embedding_dim:
        raise ValueError(
            f"Another {spec.name} for images of {spec.input_size[1]} x {spec.input_size[2]} cannot be made: the name gives one for "
            f"{own_size[1]} x {own_size[2]}, embedding {network.head_hidden_size}. Use a network with its own defaults."
        )
    return network
