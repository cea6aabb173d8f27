"""Networks: those of CIFAR registered in timm, how any is loaded and saved, and what it hands out."""

from . import (  # noqa: F401  (registers the networks in timm)
    cifar_mobilenetv2,
    cifar_resnet,
    cifar_shufflenet,
    cifar_vgg,
    cifar_wrn,
)
from .anatomy import STAGES, Layers
from .configuration import ImageConfig, image_config, network_name
from .loading import load_model, save_model
from .outputs import ModelOutputs, OutputReader, read_outputs
from .reference import convert_reference_state_dict
from .spec import ModelSpec

__all__ = [
    "STAGES",
    "ImageConfig",
    "Layers",
    "ModelOutputs",
    "ModelSpec",
    "OutputReader",
    "convert_reference_state_dict",
    "image_config",
    "load_model",
    "network_name",
    "read_outputs",
    "save_model",
]
