"""Networks: the CIFAR networks, registered in timm; loading and saving of any network; and what each one provides."""

from . import cifar  # noqa: F401  (registers the networks in timm)
from .configuration import ImageConfig, image_config, label_names, network_name
from .loading import load_model
from .outputs import ModelOutputs, OutputReader, read_outputs
from .probe import STAGES, Layers
from .reference import convert_reference_state_dict
from .saving import save_model
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
    "label_names",
    "load_model",
    "network_name",
    "read_outputs",
    "save_model",
]
