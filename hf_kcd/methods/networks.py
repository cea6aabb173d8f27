"""Untrained copies of the student or the teacher, which train along."""

import timm
from torch import nn

from ..models import ModelSpec, image_config


def untrained_network(spec: ModelSpec) -> nn.Module:
    """Create a fresh network with the architecture, classes and channels of a spec.

    Raises:
        ValueError: When timm's name alone does not make it for these images.
    """
    network = timm.create_model(spec.name, num_classes=spec.num_classes, in_chans=spec.input_size[0])
    own_size = image_config(network).input_size
    # A network that is bound to a size keeps it, whatever its configuration says.
    network.pretrained_cfg.update(input_size=spec.input_size, mean=spec.mean, std=spec.std)
    if image_config(network).input_size != spec.input_size or network.head_hidden_size != spec.embedding_dim:
        raise ValueError(
            f"Another {spec.name} for images of {spec.input_size[1]} x {spec.input_size[2]} cannot be made: by its name it is "
            f"for {own_size[1]} x {own_size[2]} with an embedding of {network.head_hidden_size}. Use a network that was created "
            "with its own defaults."
        )
    return network
