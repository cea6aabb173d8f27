"""Networks: those of CIFAR registered in timm, how any is loaded and saved, and what it hands out."""

from . import cifar_resnet, cifar_wrn  # noqa: F401  (registers the networks in timm)
from .checkpoints import convert_reference_state_dict
from .loading import load_model, save_model
from .outputs import ModelOutputs, ModelSpec, read_outputs

__all__ = ["ModelOutputs", "ModelSpec", "convert_reference_state_dict", "load_model", "read_outputs", "save_model"]
